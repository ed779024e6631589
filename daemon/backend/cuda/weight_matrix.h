// SPDX-License-Identifier: Apache-2.0
// Weight matrices, row-major [n, k] of the compute type in device memory, and the loader that fills them: a few threads
// read rows as f32 into pinned memory; the device converts what has crossed the link. The loading thread calls it.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/backend/cuda/device_error.h"

namespace iokv::cuda {

class WeightMatrix final : public Matrix {
 public:
  // Not filled.
  static Result<std::unique_ptr<WeightMatrix>> make(uint32_t n, uint32_t k, DType type);
  // Of the caller's memory.
  static std::unique_ptr<WeightMatrix> view(uint32_t n, uint32_t k, DType type, void* data);
  ~WeightMatrix() override;

  void* data() const { return data_; }
  const void* row(uint32_t index) const { return static_cast<const char*>(data_) + size_t{index} * k * element_bytes_; }

 private:
  void* data_ = nullptr;
  size_t element_bytes_ = 0;
  bool owned_ = true;
};

class WeightLoader {
 public:
  // device: its number, for the threads.
  WeightLoader(int device, DType type);
  ~WeightLoader();
  WeightLoader(const WeightLoader&) = delete;
  WeightLoader& operator=(const WeightLoader&) = delete;

  Result<std::unique_ptr<Matrix>> load(uint32_t n, uint32_t k, const RowSource& source);
  // The same, brought back to host memory of as many bytes, pinned or not.
  Status pack(uint32_t n, uint32_t k, const RowSource& source, void* to);

 private:
  // Of f32 on its way, a thread's: twice as much, so that one half is filled while the other one crosses.
  static constexpr size_t kHalfBytes = size_t{2} << 20;
  // Reading rows of a mapped file and widening them is worth some threads, up to what feeds the link.
  static constexpr uint32_t kMostLanes = 12;

  struct Lane {
    cudaStream_t stream = nullptr;
    float* pinned = nullptr;
    float* device = nullptr;
    cudaEvent_t crossed[2] = {};
    ~Lane();
  };
  Status open(Lane& lane) const;
  Status fill(Lane& lane, WeightMatrix& matrix, const RowSource& source, uint32_t rows_at_once,
              std::atomic<uint64_t>& next_row) const;

  const int device_;
  const DType type_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace iokv::cuda
