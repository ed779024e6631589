// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/cuda/table_ring.h"

#include <cstring>

#include "daemon/base/assert.h"

namespace iokv::cuda {

Result<std::unique_ptr<TableRing>> TableRing::make(cudaStream_t stream) {
  std::unique_ptr<TableRing> ring(new TableRing(stream));
  void* pinned = nullptr;
  IOKV_CUDA_TRY(cudaHostAlloc(&pinned, kSegments * kLargestBytes, cudaHostAllocMapped));
  ring->pinned_ = static_cast<std::byte*>(pinned);
  IOKV_CUDA_TRY(cudaMalloc(&ring->device_, kLargestBytes));
  for (cudaEvent_t& event : ring->read_) {
    IOKV_CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    IOKV_CUDA_TRY(cudaEventRecord(event, stream));
  }
  return ring;
}

TableRing::~TableRing() {
  for (cudaEvent_t event : read_) {
    if (event != nullptr) (void)cudaEventDestroy(event);
  }
  if (device_ != nullptr) (void)cudaFree(device_);
  if (pinned_ != nullptr) (void)cudaFreeHost(pinned_);
}

const Table& TableRing::carry(const void* bytes, size_t size_bytes, Failure& failure) {
  IOKV_ASSERT(size_bytes <= kLargestBytes);
  table_.device = nullptr;
  if (size_bytes <= kInlineBytes) {
    std::memcpy(table_.bytes, bytes, size_bytes);
    return table_;
  }
  table_.device = device_;
  const size_t taken_bytes = (size_bytes + 15) / 16 * 16;
  if (used_bytes_ + taken_bytes > kLargestBytes) {
    // On to the next segment. What has read this one is in front of the event.
    if (!failure.check("cudaEventRecord", cudaEventRecord(read_[segment_], stream_))) return table_;
    segment_ = (segment_ + 1) % kSegments;
    used_bytes_ = 0;
    if (!failure.check("cudaEventSynchronize", cudaEventSynchronize(read_[segment_]))) return table_;
  }
  std::byte* at = pinned_ + segment_ * kLargestBytes + used_bytes_;
  std::memcpy(at, bytes, size_bytes);
  used_bytes_ += taken_bytes;
  failure.check("reading a table", launch_read_host(stream_, device_, at, size_bytes));
  return table_;
}

}  // namespace iokv::cuda
