// SPDX-License-Identifier: Apache-2.0
// Products y = x·Wᵀ + b, summed in f32: of up to kNarrowRows rows by a kernel of ours (narrow_product.cu), of more by
// cuBLASLt. Which of its kernels computes a shape is asked once and remembered. One thread.
//
// Biases are f32 here. cuBLASLt adds them where it can in f32, else rounded to y's type; where it can do neither, a
// kernel of ours adds them behind the product.
//
// Batch invariance. The kernel of ours sums k in one order, whatever the number of rows or the range of outputs. With
// batch_invariant that order is the definition, and a kernel of cuBLASLt is used for more rows only if it gives the same
// bits: each is tried on random numbers before it is used for the first time, and those that sum otherwise (that split
// k, say) are passed over. What they do with the bias is found out in the same way, a matrix at a time. Where none
// agrees, the kernel of ours computes all rows, kNarrowRows at a time.
//
// What batch_invariant costs: nothing for few rows, and for many what the best kernel that agrees is slower than the best
// of all. On an H100 those that do not split k all agree, and for the products of OPT-6.7B's shape the fastest of them is
// the fastest of all, or within 1 % of it, from 128 to 4096 rows (where cuBLASLt would split k it was slower). Without
// it cuBLASLt chooses freely for more than kNarrowRows rows: a row's bits then depend on how many there are.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/backend/cuda/device_error.h"

namespace iokv::cuda {

struct NarrowLaunch;

class Products {
 public:
  // Takes some 25 MB of device memory with batch_invariant, to try kernels in.
  static Result<std::unique_ptr<Products>> make(DType compute, bool batch_invariant);
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // Device memory that products of one stream may use, and no other stream.
  struct Scratch {
    void* workspace = nullptr;   // [workspace_bytes()]
    void* bias = nullptr;        // [kMostColumns] of the compute type
  };
  // Kernels that do not split k need none.
  size_t workspace_bytes() const { return batch_invariant_ ? 0 : size_t{32} << 20; }
  static constexpr size_t kMostColumns = size_t{1} << 20;

  // weight: at output first_column of the matrix. With `beside` about half of the multiprocessors are left to what runs
  // beside it.
  void multiply(cudaStream_t stream, const Scratch& scratch, const GemmArgs& args, const void* weight, bool beside,
                Failure& failure);

 private:
  enum class Bias : uint8_t { none, f32, element, after };
  struct Shape {
    uint32_t outputs = 0;   // of the whole matrix
    uint32_t columns = 0, rows = 0, k = 0, y_stride = 0;
    uint32_t x_alignment = 0, weight_alignment = 0, y_alignment = 0;  // bytes
    GemmOutput output = GemmOutput::store;
    bool bias = false;
    bool beside = false;
    bool operator==(const Shape&) const = default;
  };
  struct ShapeHash {
    size_t operator()(const Shape& shape) const;
  };
  // Where it is open what to do with a bias: what the kernel of ours does.
  struct Order {
    bool round_bias = false, bias_last = false;
  };
  // How cuBLASLt computes a shape.
  struct Way {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t weight = nullptr, x = nullptr, y = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
    Bias bias = Bias::none;
    bool ours = false;      // there is no kernel of cuBLASLt that may be used

    Way() = default;
    ~Way();
    Way(Way&& other) noexcept;
    Way& operator=(Way&&) = delete;
  };
  struct Kernel {
    cublasLtMatmulAlgo_t algorithm{};
    Bias bias = Bias::none;
  };
  // With batch_invariant: a kernel, and whether it gives the bits of ours.
  struct Candidate {
    enum class Tried : uint8_t { not_yet, agrees, differs };
    explicit Candidate(const Kernel& named) : kernel(named) {}
    Kernel kernel;
    Tried tried = Tried::not_yet;
  };
  struct Operands {
    const void* weight = nullptr;
    const void* x = nullptr;
    const float* bias = nullptr;
    void* y = nullptr;
  };
  // Kernels are tried here, on a stream that is never behind anything.
  struct Trial {
    cudaStream_t stream = nullptr;
    std::byte* memory = nullptr;       // [kTrialBytes]
    uint32_t* differences = nullptr;   // pinned: the device counts there
    Scratch scratch;
    ~Trial();
  };

  Products(DType compute, bool batch_invariant) : compute_(compute), batch_invariant_(batch_invariant) {}
  Status open();
  Shape shape_of(const GemmArgs& args, const void* weight) const;
  static Shape whole_matrix(const Shape& shape, uint32_t rows);
  NarrowLaunch narrow(const Shape& shape, const Operands& operands, Order order) const;
  Result<Order> order_of(const Shape& shape);
  Result<Way*> way_for(const Shape& shape);
  Result<Way> describe(const Shape& shape, Bias bias) const;
  Result<Way> choose(const Shape& shape);
  Result<Way> way_of(const Shape& shape, const Kernel& kernel) const;
  Result<std::vector<Kernel>> ask(const Shape& shape) const;
  Result<bool> run(cudaStream_t stream, const Scratch& scratch, const Way& way, const Shape& shape, const Operands& operands);
  Result<bool> agrees(const Shape& shape, const Kernel& kernel, Order order);
  cudaDataType_t element() const { return compute_ == DType::f16 ? CUDA_R_16F : CUDA_R_16BF; }

  const DType compute_;
  const bool batch_invariant_;
  cublasLtHandle_t handle_ = nullptr;
  int32_t multiprocessors_ = 0;
  Trial trial_;
  std::unordered_map<Shape, Way, ShapeHash> ways_;
  std::unordered_map<Shape, std::vector<Candidate>, ShapeHash> candidates_;  // by matrix and about how many rows
  std::unordered_map<Shape, Order, ShapeHash> orders_;                       // by matrix
};

}  // namespace iokv::cuda
