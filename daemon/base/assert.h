// SPDX-License-Identifier: Apache-2.0
// Assertions that stay on in production: a broken invariant of our own ends the process, and its supervisor starts it
// again. Never used for what a client or the world did; those are error codes and Results.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace iokv {

[[noreturn]] inline void assertion_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "iokvd: assertion failed at %s:%d: %s\n", file, line, expression);
  std::abort();
}

}  // namespace iokv

#define IOKV_ASSERT(expression) \
  (static_cast<bool>(expression) ? void(0) : ::iokv::assertion_failed(#expression, __FILE__, __LINE__))
