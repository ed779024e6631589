// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/cuda/weight_matrix.h"

#include <algorithm>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "daemon/backend/cuda/kernels.h"

namespace iokv::cuda {

Result<std::unique_ptr<WeightMatrix>> WeightMatrix::make(uint32_t n, uint32_t k, DType type) {
  auto matrix = view(n, k, type, nullptr);
  matrix->owned_ = true;
  size_t bytes = 0;
  const bool too_many = __builtin_mul_overflow(size_t{n} * k, size_of(type), &bytes);
  const cudaError_t refused = too_many ? cudaErrorMemoryAllocation : cudaMalloc(&matrix->data_, bytes);
  if (refused != cudaSuccess) {
    (void)cudaGetLastError();  // it is dealt with here
    return device_error("a weight matrix", refused)
        .within("no device memory for " + std::to_string(n) + " x " + std::to_string(k) + " weights");
  }
  matrix->stored_bytes = bytes;
  return matrix;
}

std::unique_ptr<WeightMatrix> WeightMatrix::view(uint32_t n, uint32_t k, DType type, void* data) {
  auto matrix = std::make_unique<WeightMatrix>();
  matrix->n = n;
  matrix->k = k;
  matrix->data_ = data;
  matrix->element_bytes_ = size_of(type);
  matrix->owned_ = false;
  return matrix;
}

WeightMatrix::~WeightMatrix() {
  if (owned_ && data_ != nullptr) (void)cudaFree(data_);
}

WeightLoader::WeightLoader(int device, DType type) : device_(device), type_(type) {
  const uint32_t lanes = std::clamp(std::thread::hardware_concurrency(), 1u, kMostLanes);
  for (uint32_t i = 0; i < lanes; ++i) lanes_.push_back(std::make_unique<Lane>());
}

WeightLoader::~WeightLoader() = default;

WeightLoader::Lane::~Lane() {
  for (cudaEvent_t event : crossed) {
    if (event != nullptr) (void)cudaEventDestroy(event);
  }
  if (device != nullptr) (void)cudaFree(device);
  if (pinned != nullptr) (void)cudaFreeHost(pinned);
  if (stream != nullptr) (void)cudaStreamDestroy(stream);
}

Result<std::unique_ptr<Matrix>> WeightLoader::load(uint32_t n, uint32_t k, const RowSource& source) {
  IOKV_ASSERT(n > 0 && k > 0);
  if (k > kHalfBytes / sizeof(float)) return error("rows of " + std::to_string(k) + " weights are not supported");
  IOKV_TRY_ASSIGN(auto matrix, WeightMatrix::make(n, k, type_));
  const auto rows_at_once = static_cast<uint32_t>(kHalfBytes / sizeof(float) / k);
  const uint32_t pieces = (n - 1) / rows_at_once + 1;
  const size_t lanes = std::min<size_t>(lanes_.size(), pieces);
  std::atomic<uint64_t> next_row{0};
  std::vector<std::optional<Error>> failures(lanes);
  auto run = [&](size_t index) {
    Status filled = fill(*lanes_[index], *matrix, source, rows_at_once, next_row);
    if (!filled) failures[index] = std::move(filled.failure());
  };
  std::vector<std::thread> threads;
  try {
    for (size_t i = 1; i < lanes; ++i) threads.emplace_back(run, i);
  } catch (const std::system_error&) {
    // Fewer do it too.
  }
  run(0);
  for (std::thread& thread : threads) thread.join();
  for (std::optional<Error>& failure : failures) {
    if (failure) return std::move(*failure);
  }
  return std::unique_ptr<Matrix>(std::move(matrix));
}

Status WeightLoader::pack(uint32_t n, uint32_t k, const RowSource& source, void* to) {
  IOKV_TRY_ASSIGN(auto matrix, load(n, k, source));
  const auto& packed = static_cast<const WeightMatrix&>(*matrix);
  IOKV_CUDA_TRY(cudaMemcpy(to, packed.data(), packed.stored_bytes, cudaMemcpyDeviceToHost));
  return {};
}

Status WeightLoader::open(Lane& lane) const {
  IOKV_CUDA_TRY(cudaSetDevice(device_));
  if (lane.crossed[1] != nullptr) return {};
  IOKV_CUDA_TRY(cudaStreamCreateWithFlags(&lane.stream, cudaStreamNonBlocking));
  IOKV_CUDA_TRY(cudaHostAlloc(reinterpret_cast<void**>(&lane.pinned), 2 * kHalfBytes, cudaHostAllocDefault));
  IOKV_CUDA_TRY(cudaMalloc(reinterpret_cast<void**>(&lane.device), 2 * kHalfBytes));
  for (cudaEvent_t& event : lane.crossed) IOKV_CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return {};
}

// Takes rows until there are none left. Returns when all that it took are in the matrix.
Status WeightLoader::fill(Lane& lane, WeightMatrix& matrix, const RowSource& source, uint32_t rows_at_once,
                          std::atomic<uint64_t>& next_row) const {
  IOKV_TRY(open(lane));
  for (uint32_t half = 0;; half ^= 1) {
    // Relaxed: rows are handed out, nothing else is; the matrix is handed over by joining.
    const uint64_t taken = next_row.fetch_add(rows_at_once, std::memory_order_relaxed);
    if (taken >= matrix.n) break;
    const auto first = static_cast<uint32_t>(taken);
    const uint32_t rows = std::min(rows_at_once, matrix.n - first);
    const size_t offset = half * (kHalfBytes / sizeof(float)), count = size_t{rows} * matrix.k;
    IOKV_CUDA_TRY(cudaEventSynchronize(lane.crossed[half]));
    for (uint32_t i = 0; i < rows; ++i) source.read_row(first + i, lane.pinned + offset + size_t{i} * matrix.k);
    IOKV_CUDA_TRY(cudaMemcpyAsync(lane.device + offset, lane.pinned + offset, count * sizeof(float), cudaMemcpyHostToDevice,
                                  lane.stream));
    IOKV_CUDA_TRY(cudaEventRecord(lane.crossed[half], lane.stream));
    void* to = static_cast<char*>(matrix.data()) + size_t{first} * matrix.k * size_of(type_);
    IOKV_CUDA_TRY(launch_convert(lane.stream, type_, lane.device + offset, to, count));
  }
  IOKV_CUDA_TRY(cudaStreamSynchronize(lane.stream));
  return {};
}

}  // namespace iokv::cuda
