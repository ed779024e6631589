// SPDX-License-Identifier: Apache-2.0
// The one clock of the daemon: CLOCK_MONOTONIC, which clients' deadlines are in as well. Code that decides anything by
// time (conductor.h) is told the time and does not call this.
#pragma once

#include <ctime>

#include <cstdint>

namespace iokv {

inline uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace iokv
