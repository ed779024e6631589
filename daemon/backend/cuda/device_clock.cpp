// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/cuda/device_clock.h"

#include "daemon/base/monotonic.h"

namespace iokv::cuda {
namespace {

constexpr uint64_t kAnchorNs = 1'000'000'000;
// An anchor's time lies between those taken before and after it, usually 10 µs apart; where the host was interrupted
// meanwhile, it is tried again.
constexpr uint64_t kCloseNs = 20'000;
constexpr int kTries = 5;

}  // namespace

Result<std::unique_ptr<DeviceClock>> DeviceClock::make() {
  std::unique_ptr<DeviceClock> clock(new DeviceClock());
  IOKV_CUDA_TRY(cudaStreamCreateWithFlags(&clock->stream_, cudaStreamNonBlocking));
  IOKV_CUDA_TRY(cudaEventCreate(&clock->anchor_));
  IOKV_TRY(clock->set_anchor());  // the first time is slow
  IOKV_TRY(clock->set_anchor());
  return clock;
}

DeviceClock::~DeviceClock() {
  if (anchor_ != nullptr) (void)cudaEventDestroy(anchor_);
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}

void DeviceClock::keep(Failure& failure) {
  if (failure.happened() || monotonic_ns() - anchor_ns_ < kAnchorNs) return;
  if (Status set = set_anchor(); !set) failure.note(std::move(set.failure()));
}

Status DeviceClock::set_anchor() {
  for (int i = 0; i < kTries; ++i) {
    const uint64_t before_ns = monotonic_ns();
    IOKV_CUDA_TRY(cudaEventRecord(anchor_, stream_));
    IOKV_CUDA_TRY(cudaEventSynchronize(anchor_));
    const uint64_t width_ns = monotonic_ns() - before_ns;
    anchor_ns_ = before_ns + width_ns / 2;
    if (width_ns < kCloseNs) break;
  }
  return {};
}

uint64_t DeviceClock::time_ns(cudaEvent_t event, Failure& failure) const {
  float ms = 0;
  if (failure.happened() || !failure.check("cudaEventElapsedTime", cudaEventElapsedTime(&ms, anchor_, event))) return 0;
  return anchor_ns_ + static_cast<uint64_t>(static_cast<int64_t>(static_cast<double>(ms) * 1e6));
}

}  // namespace iokv::cuda
