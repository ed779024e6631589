// SPDX-License-Identifier: Apache-2.0
// cmocka in C++, with the headers that it needs before itself, and the seed of a random test: printed, and taken from
// IOKV_SEED to run a failure again. Included last: cmocka's macros (fail, skip) are words of the standard library.
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cstdio>
#include <cstdlib>
#include <random>

extern "C" {
#include <cmocka.h>
}

inline uint64_t test_seed() {
  const char* given = std::getenv("IOKV_SEED");
  uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("IOKV_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}
