// SPDX-License-Identifier: Apache-2.0
// A queue of the seam: a stream, and tickets as events out of a ring.
//
// Invariants
//  1. A ticket's event is used again kEvents records later, and not before the ticket has been reached; its time is read
//     first and kept for the latest Backend::kTimedTickets.
//  2. Tickets are reached in order: all up to reached_ have been seen to be.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/backend/cuda/device_clock.h"

namespace iokv::cuda {

class DeviceQueue {
 public:
  // The steps that are under way record some thousand tickets a queue. An event takes some 100 bytes.
  static constexpr uint64_t kEvents = 4096;

  // first: its kernels get multiprocessors before those of other queues that wait for some.
  static Result<std::unique_ptr<DeviceQueue>> make(DeviceClock& clock, Failure& failure, bool first = false);
  ~DeviceQueue();
  DeviceQueue(const DeviceQueue&) = delete;
  DeviceQueue& operator=(const DeviceQueue&) = delete;

  cudaStream_t stream() const { return stream_; }
  uint64_t recorded() const { return recorded_; }

  uint64_t record();
  // What is issued later begins after the other queue's ticket.
  void wait_for(DeviceQueue& other, uint64_t ticket);
  // Asks the device, unless it is known. With block returns true, or false when the device is lost.
  bool reached(uint64_t ticket, bool block);
  uint64_t reached_ns(uint64_t ticket);

 private:
  DeviceQueue(DeviceClock& clock, Failure& failure) : clock_(clock), failure_(failure) {}
  void retire(uint64_t ticket);
  cudaEvent_t event_of(uint64_t ticket) const { return events_[ticket % kEvents]; }

  DeviceClock& clock_;
  Failure& failure_;
  cudaStream_t stream_ = nullptr;
  std::vector<cudaEvent_t> events_;    // [kEvents]
  std::vector<uint64_t> times_ns_;     // [kTimedTickets]; 0: not read yet
  uint64_t recorded_ = 0, reached_ = 0;
};

}  // namespace iokv::cuda
