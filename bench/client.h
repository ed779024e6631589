// SPDX-License-Identifier: Apache-2.0
// What the measuring programs share: a connection that ends with its scope, the clock, prompts, and order statistics.
// A failure ends the process with one line: there is nothing to measure then.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "iokv/iokv.h"

namespace bench {

inline uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

inline int require(int result, const char* what) {
  if (result >= 0) return result;
  std::fprintf(stderr, "%s: %s\n", what, iokv_strerror(result));
  std::exit(1);
}

class Client {
 public:
  Client(const char* socket_path, const char* name, uint64_t spin_ns) {
    iokv_connect_options options{};
    options.struct_size = sizeof(options);
    options.socket_path = socket_path;
    options.name = name;
    options.timeout_ns = -1;
    options.spin_ns = spin_ns;
    iokv_error_detail detail{};
    detail.struct_size = sizeof(detail);
    if (iokv_connect(&options, &handle_, &detail) != 0) {
      std::fprintf(stderr, "%s: %s\n", socket_path, detail.message);
      std::exit(1);
    }
    info_.struct_size = sizeof(info_);
    require(iokv_get_info(handle_, &info_), "iokv_get_info");
  }
  ~Client() { iokv_disconnect(handle_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  iokv_client* get() const { return handle_; }
  const iokv_info& info() const { return info_; }

  // Submits what was placed and hands every completion to `take` until nothing is outstanding.
  template <typename Take>
  void drain(const Take& take) {
    iokv_completion completions[256];
    require(iokv_submit(handle_), "iokv_submit");
    while (iokv_outstanding(handle_) > 0) {
      const int count = require(iokv_reap(handle_, completions, 256, -1), "iokv_reap");
      for (int i = 0; i < count; ++i) {
        require(completions[i].result, "operation");
        take(completions[i]);
      }
    }
  }
  void drain() {
    drain([](const iokv_completion&) {});
  }

 private:
  iokv_client* handle_ = nullptr;
  iokv_info info_{};
};

// Tokens that differ from seed to seed; which ones does not matter to speed.
inline std::vector<int32_t> prompt(uint32_t tokens, uint32_t seed, uint32_t vocabulary) {
  std::vector<int32_t> made(tokens);
  for (uint32_t i = 0; i < tokens; ++i) {
    made[i] = static_cast<int32_t>((uint64_t{seed} * 7919 + uint64_t{i} * 104729 + uint64_t{i} * i) % vocabulary);
  }
  return made;
}

// The smallest value that `percent` of the values do not exceed. Reorders them; 0 when there are none.
inline uint64_t percentile(std::vector<uint64_t>& values, double percent) {
  if (values.empty()) return 0;
  const auto rank = static_cast<size_t>(percent / 100 * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(rank), values.end());
  return values[rank];
}

}  // namespace bench
