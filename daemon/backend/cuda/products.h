// SPDX-License-Identifier: Apache-2.0
// Products y = x·Wᵀ + b by cuBLASLt, in f32. Which kernel computes a shape is asked once and remembered. One thread.
//
// Biases are f32 here. cuBLASLt adds them where it can in f32, else rounded to y's type; where it can do neither, a
// kernel of ours adds them behind the product.
//
// Batch invariance. By default a kernel is chosen for each number of rows, and may split what is summed: a row's bits
// then depend on how many rows there are. With batch_invariant one kernel is chosen for a weight, for kInvariantRows
// rows and without a split, and computes every number of rows and every range of its outputs.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "daemon/backend/backend.h"
#include "daemon/backend/cuda/device_error.h"

namespace iokv::cuda {

class Products {
 public:
  static Result<std::unique_ptr<Products>> make(DType compute, bool batch_invariant);
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // Device memory that products of one stream may use, and no other stream.
  struct Scratch {
    void* workspace = nullptr;   // [kWorkspaceBytes]
    void* bias = nullptr;        // [kMostColumns] of the compute type
  };
  static constexpr size_t kWorkspaceBytes = size_t{64} << 20;
  static constexpr size_t kMostColumns = size_t{1} << 20;

  // weight: at output first_column of the matrix.
  void multiply(cudaStream_t stream, const Scratch& scratch, const GemmArgs& args, const void* weight, Failure& failure);

 private:
  enum class Bias : uint8_t { none, f32, element, after };
  struct Shape {
    uint32_t outputs = 0;   // of the whole matrix
    uint32_t columns = 0, rows = 0, k = 0, y_stride = 0;
    uint32_t x_alignment = 0, weight_alignment = 0, y_alignment = 0;  // bytes
    GemmOutput output = GemmOutput::store;
    bool bias = false;
    bool operator==(const Shape&) const = default;
  };
  struct ShapeHash {
    size_t operator()(const Shape& shape) const;
  };
  // How a shape is computed.
  struct Way {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t weight = nullptr, x = nullptr, y = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
    Bias bias = Bias::none;

    Way() = default;
    ~Way();
    Way(Way&& other) noexcept;
    Way& operator=(Way&&) = delete;
  };
  struct Kernel {
    cublasLtMatmulAlgo_t algorithm{};
    Bias bias = Bias::none;
  };

  Products(DType compute, bool batch_invariant) : compute_(compute), batch_invariant_(batch_invariant) {}
  Shape shape_of(const GemmArgs& args, const void* weight) const;
  Result<const Way*> way_for(const Shape& shape);
  Result<Way> describe(const Shape& shape, Bias bias) const;
  Result<Kernel> choose(const Shape& shape);
  Result<Kernel> ask(const Shape& shape) const;
  cudaDataType_t element() const { return compute_ == DType::f16 ? CUDA_R_16F : CUDA_R_16BF; }

  const DType compute_;
  const bool batch_invariant_;
  cublasLtHandle_t handle_ = nullptr;
  std::unordered_map<Shape, Way, ShapeHash> ways_;
  std::unordered_map<Shape, Kernel, ShapeHash> kernels_;  // with batch_invariant, by what does not depend on the batch
};

}  // namespace iokv::cuda
