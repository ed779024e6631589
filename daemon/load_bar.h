// SPDX-License-Identifier: Apache-2.0
// How far the weights are while they load: on a terminal a bar that is drawn again and again, with rate and time left;
// elsewhere a line of the log each second. The loading thread uses it.
#pragma once

#include <cstdint>
#include <string>

namespace iokv {

class LoadBar {
 public:
  // Of so many bytes that are read. terminal: whether standard error is one.
  LoadBar(uint64_t total_bytes, uint64_t begun_ns, bool terminal)
      : total_bytes_(total_bytes), begun_ns_(begun_ns), said_ns_(begun_ns), terminal_(terminal) {}
  ~LoadBar();
  LoadBar(const LoadBar&) = delete;
  LoadBar& operator=(const LoadBar&) = delete;

  // Says so when there is something new to see: ten times a second at most on a terminal, once in a log.
  void show(uint32_t percent, uint64_t now_ns);

  // "weights: [########------------] 42 % of 12.3 GiB, 1.2 GiB a second, 6 s left".
  static std::string text(uint32_t percent, uint64_t total_bytes, uint64_t elapsed_ns, bool bar);

 private:
  const uint64_t total_bytes_, begun_ns_;
  uint64_t said_ns_;
  const bool terminal_;
  bool drawn_ = false;  // the cursor is behind a bar
};

}  // namespace iokv
