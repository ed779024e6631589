// SPDX-License-Identifier: Apache-2.0
// Queue::host of a GPU: threads of the host that attend (daemon/backend/host/host_lane.h), and the words of pinned memory
// through which they and the streams wait for each other, without the thread that issues. A stream writes a word when it has
// come to it, the lane stores the number of each ticket in another; both ways take some µs. The executor's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include <cuda.h>

#include "daemon/backend/backend.h"
#include "daemon/backend/cuda/device_error.h"
#include "daemon/backend/host/host_lane.h"

namespace iokv::cuda {

class HostQueue {
 public:
  // Threads on these CPUs, one each. Error: the device's streams cannot wait for words, or a thread cannot be started.
  static Result<std::unique_ptr<HostQueue>> make(int device, DType compute, std::span<const int> cpus);
  ~HostQueue();
  HostQueue(const HostQueue&) = delete;
  HostQueue& operator=(const HostQueue&) = delete;

  uint32_t threads() const { return lane_->threads(); }
  void attend(const AttendArgs& args) { lane_->attend(args); }
  uint64_t record() { return recorded_ = lane_->record(); }
  // What is issued to the lane later begins when the stream has come to where it is now.
  void wait_for(cudaStream_t stream, Failure& failure);
  // What is issued to the stream later begins when the ticket has been reached.
  void make_wait(cudaStream_t stream, uint64_t ticket, Failure& failure);

  bool reached(uint64_t ticket) const { return lane_->reached(ticket); }
  uint64_t recorded() const { return recorded_; }
  uint64_t reached_ns(uint64_t ticket) const { return ticket == 0 ? 0 : lane_->reached_ns(ticket); }
  // The device is lost: nobody waits for it any more, and a stream that waits for the lane is let go.
  void abandon() { lane_->abandon(); }

 private:
  HostQueue() = default;
  Status open(int device);
  bool check(const char* what, CUresult result, Failure& failure) const;

  // Of the driver, found at run time: nothing links it.
  using StreamValue = CUresult (*)(CUstream, CUdeviceptr, cuuint32_t, unsigned);
  using ErrorName = CUresult (*)(CUresult, const char**);
  StreamValue write_value_ = nullptr, wait_value_ = nullptr;
  ErrorName error_name_ = nullptr;

  uint32_t* words_ = nullptr;  // pinned; what a stream has come to at 0, the lane's tickets kApart further
  static constexpr size_t kApart = 64;
  uint32_t handed_ = 0;        // latest value that a stream was told to write
  uint64_t recorded_ = 0;
  std::unique_ptr<HostLane> lane_;
};

}  // namespace iokv::cuda
