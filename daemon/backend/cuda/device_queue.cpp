// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/cuda/device_queue.h"

#include <algorithm>

#include "daemon/base/monotonic.h"

namespace iokv::cuda {
namespace {

// How long a wait looks for itself before it sleeps until the device's interrupt, which takes some 10 µs to arrive.
constexpr uint64_t kSpinNs = 50'000;

}  // namespace

Result<std::unique_ptr<DeviceQueue>> DeviceQueue::make(DeviceClock& clock, Failure& failure, bool first) {
  std::unique_ptr<DeviceQueue> queue(new DeviceQueue(clock, failure));
  int least = 0, greatest = 0;
  IOKV_CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  IOKV_CUDA_TRY(cudaStreamCreateWithPriority(&queue->stream_, cudaStreamNonBlocking, first ? greatest : least));
  queue->events_.assign(kEvents, nullptr);
  for (cudaEvent_t& event : queue->events_) IOKV_CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventBlockingSync));
  queue->times_ns_.assign(Backend::kTimedTickets, 0);
  return queue;
}

DeviceQueue::~DeviceQueue() {
  for (cudaEvent_t event : events_) {
    if (event != nullptr) (void)cudaEventDestroy(event);
  }
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}

uint64_t DeviceQueue::record() {
  // While the event is still that of the ticket before.
  if (recorded_ >= kEvents) retire(recorded_ + 1 - kEvents);
  const uint64_t ticket = ++recorded_;
  times_ns_[ticket % times_ns_.size()] = 0;
  if (!failure_.happened()) failure_.check("cudaEventRecord", cudaEventRecord(event_of(ticket), stream_));
  return ticket;
}

void DeviceQueue::retire(uint64_t ticket) {
  if (reached(ticket, true)) (void)reached_ns(ticket);
}

void DeviceQueue::wait_for(DeviceQueue& other, uint64_t ticket) {
  IOKV_ASSERT(ticket <= other.recorded_);
  if (&other == this || ticket <= other.reached_ || failure_.happened()) return;
  failure_.check("cudaStreamWaitEvent", cudaStreamWaitEvent(stream_, other.event_of(ticket), 0));
}

bool DeviceQueue::reached(uint64_t ticket, bool block) {
  IOKV_ASSERT(ticket <= recorded_);
  if (ticket <= reached_) return true;
  if (failure_.happened()) return false;
  const cudaEvent_t event = event_of(ticket);
  cudaError_t answer = cudaEventQuery(event);
  if (block && answer == cudaErrorNotReady) {
    const uint64_t end_ns = monotonic_ns() + kSpinNs;
    while (answer == cudaErrorNotReady && monotonic_ns() < end_ns) answer = cudaEventQuery(event);
    if (answer == cudaErrorNotReady) answer = cudaEventSynchronize(event);
  }
  if (answer == cudaErrorNotReady) return false;
  if (!failure_.check("waiting for the device", answer)) return false;
  reached_ = std::max(reached_, ticket);
  return true;
}

uint64_t DeviceQueue::reached_ns(uint64_t ticket) {
  IOKV_ASSERT(ticket <= recorded_);
  if (ticket == 0) return 0;
  uint64_t& time_ns = times_ns_[ticket % times_ns_.size()];
  // An event that has been used again has left its ticket's time.
  if (time_ns == 0 && recorded_ - ticket < kEvents) time_ns = clock_.time_ns(event_of(ticket), failure_);
  return time_ns;
}

}  // namespace iokv::cuda
