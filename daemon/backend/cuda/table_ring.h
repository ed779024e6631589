// SPDX-License-Identifier: Apache-2.0
// Carries arrays of the host to the kernels of one stream: small ones in a launch's parameters, larger ones through a
// ring of pinned memory that a kernel on the stream reads. The device's side is one buffer: the stream's order keeps the
// next table out of it until the last kernel that reads this one is done.
//
// Invariant: a segment of the ring is written again only after the event behind the last kernel that read it.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "daemon/backend/cuda/device_error.h"
#include "daemon/backend/cuda/kernels.h"

namespace iokv::cuda {

class TableRing {
 public:
  // Of a table: half a million block addresses, 32 million tokens of context in one operation.
  static constexpr size_t kLargestBytes = size_t{4} << 20;
  static constexpr size_t kSegments = 4;

  static Result<std::unique_ptr<TableRing>> make(cudaStream_t stream);
  ~TableRing();
  TableRing(const TableRing&) = delete;
  TableRing& operator=(const TableRing&) = delete;

  // The bytes are read before it returns. The table is good for launches on the stream until the next call.
  const Table& carry(const void* bytes, size_t size_bytes, Failure& failure);

 private:
  explicit TableRing(cudaStream_t stream) : stream_(stream) {}

  cudaStream_t stream_;
  std::byte* pinned_ = nullptr;                // [kSegments][kLargestBytes]
  void* device_ = nullptr;                     // [kLargestBytes]
  std::array<cudaEvent_t, kSegments> read_{};  // behind the last kernel that read the segment
  size_t segment_ = 0, used_bytes_ = 0;        // of the segment that is being filled
  Table table_;
};

}  // namespace iokv::cuda
