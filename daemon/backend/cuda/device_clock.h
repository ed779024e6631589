// SPDX-License-Identifier: Apache-2.0
// Times of events on the host's monotonic clock. An event's time is known relative to another event's; an anchor, whose
// time on the host was taken, is set anew every second: distances stay short enough for the milliseconds in f32 that
// CUDA gives (at 1 s, 60 ns), and clocks that run apart do not add up. The executor's thread.
#pragma once

#include <cstdint>
#include <memory>

#include "daemon/backend/cuda/device_error.h"

namespace iokv::cuda {

class DeviceClock {
 public:
  static Result<std::unique_ptr<DeviceClock>> make();
  ~DeviceClock();
  DeviceClock(const DeviceClock&) = delete;
  DeviceClock& operator=(const DeviceClock&) = delete;

  // Sets the anchor, unless it is young. Never between two times that are compared: the new one may be some µs off.
  void keep(Failure& failure);
  // Of an event that has been reached. Events of one queue have times in their order, as long as the anchor stays.
  uint64_t time_ns(cudaEvent_t event, Failure& failure) const;

 private:
  DeviceClock() = default;
  Status set_anchor();

  cudaStream_t stream_ = nullptr;  // of nothing else, so that it is never behind anything
  cudaEvent_t anchor_ = nullptr;
  uint64_t anchor_ns_ = 0;
};

}  // namespace iokv::cuda
