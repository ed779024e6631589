// SPDX-License-Identifier: Apache-2.0
// Points in time of CLOCK_MONOTONIC (read through the vDSO: no system call), and waiting until one.
#pragma once

#include <ctime>
#include <cstdint>
#include <limits>

namespace iokv {

inline constexpr int64_t kSecondNs = 1'000'000'000;

inline int64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kSecondNs + now.tv_nsec;
}

class Deadline {
 public:
  // timeout_ns < 0: never.
  static Deadline after(int64_t timeout_ns) {
    constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
    if (timeout_ns < 0) return Deadline(kNever);
    int64_t now = monotonic_ns();
    return Deadline(timeout_ns > kNever - now ? kNever : now + timeout_ns);
  }

  bool never() const { return at_ns_ == std::numeric_limits<int64_t>::max(); }
  int64_t left_ns() const {
    int64_t now = monotonic_ns();
    return now >= at_ns_ ? 0 : at_ns_ - now;
  }
  bool passed() const { return !never() && left_ns() == 0; }
  // For ppoll(2): NULL when it never comes.
  const timespec* left(timespec& storage) const {
    if (never()) return nullptr;
    int64_t ns = left_ns();
    storage = timespec{static_cast<time_t>(ns / kSecondNs), static_cast<long>(ns % kSecondNs)};
    return &storage;
  }

 private:
  explicit Deadline(int64_t at_ns) : at_ns_(at_ns) {}
  int64_t at_ns_;
};

}  // namespace iokv
