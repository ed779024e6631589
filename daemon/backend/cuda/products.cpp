// SPDX-License-Identifier: Apache-2.0
// See products.h. cuBLASLt thinks in columns: a row-major y [rows, columns] is its [columns, rows], and so is x; a
// weight [n, k] is its [k, n], transposed.
#include "daemon/backend/cuda/products.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "daemon/backend/cuda/kernels.h"

namespace iokv::cuda {
namespace {

// Rows that the kernel of a batch-invariant product is chosen for: decoding is bound by reading the weights at any
// number up to some 200, and from then on larger tiles pay.
constexpr uint32_t kInvariantRows = 256;
// Ways that are remembered; a step's number of rows makes one for each of a layer's products. Some 500 bytes each.
constexpr size_t kMostWays = 8192;
// No kernel of cuBLASLt asks for a larger one.
constexpr uint32_t kBestAlignment = 16;
constexpr int kAnswers = 16;

uint32_t alignment_of(const void* pointer, size_t stride_bytes) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(pointer) | stride_bytes | kBestAlignment;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

template <typename Value>
cublasStatus_t set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const Value& value) {
  return cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value);
}

class Preference {
 public:
  Preference() : created_(cublasLtMatmulPreferenceCreate(&preference_)) {}
  ~Preference() {
    if (preference_ != nullptr) (void)cublasLtMatmulPreferenceDestroy(preference_);
  }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  cublasStatus_t created() const { return created_; }
  cublasLtMatmulPreference_t get() const { return preference_; }
  template <typename Value>
  cublasStatus_t set(cublasLtMatmulPreferenceAttributes_t attribute, const Value& value) {
    return cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof value);
  }

 private:
  cublasLtMatmulPreference_t preference_ = nullptr;
  cublasStatus_t created_;
};

bool splits_sums(const cublasLtMatmulAlgo_t& algorithm) {
  int32_t splits = 1;
  uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
  size_t written = 0;
  if (cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &splits, sizeof splits, &written) !=
          CUBLAS_STATUS_SUCCESS ||
      cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme,
                                           &written) != CUBLAS_STATUS_SUCCESS) {
    return true;
  }
  return splits > 1 || scheme != CUBLASLT_REDUCTION_SCHEME_NONE;
}

}  // namespace

Result<std::unique_ptr<Products>> Products::make(DType compute, bool batch_invariant) {
  std::unique_ptr<Products> products(new Products(compute, batch_invariant));
  IOKV_CUDA_TRY(cublasLtCreate(&products->handle_));
  return products;
}

Products::~Products() {
  ways_.clear();
  if (handle_ != nullptr) (void)cublasLtDestroy(handle_);
}

void Products::multiply(cudaStream_t stream, const Scratch& scratch, const GemmArgs& args, const void* weight,
                        Failure& failure) {
  if (failure.happened()) return;
  auto found = way_for(shape_of(args, weight));
  if (!found) return failure.note(std::move(found.failure()));
  const Way& way = **found;
  const float* bias = args.bias == nullptr ? nullptr : args.bias + args.first_column;
  if (way.bias == Bias::element) {
    IOKV_ASSERT(args.columns <= kMostColumns);
    if (!failure.check("bias", launch_convert(stream, compute_, bias, scratch.bias, args.columns))) return;
  }
  if (way.bias == Bias::f32 || way.bias == Bias::element) {
    const void* pointer = way.bias == Bias::f32 ? bias : scratch.bias;
    if (!failure.check("bias", set(way.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, pointer))) return;
  }
  const float one = 1, zero = 0;
  const float* beta = args.output == GemmOutput::add_f32 ? &one : &zero;
  if (!failure.check("cublasLtMatmul", cublasLtMatmul(handle_, way.operation, &one, weight, way.weight, args.x, way.x, beta,
                                                      args.y, way.y, args.y, way.y, &way.algorithm, scratch.workspace,
                                                      kWorkspaceBytes, stream))) {
    return;
  }
  if (way.bias == Bias::after) {
    const DType type = args.output == GemmOutput::store ? compute_ : DType::f32;
    failure.check("bias", launch_add_bias(stream, type, args.y, args.y_stride, bias, args.rows, args.columns));
  }
}

Products::Shape Products::shape_of(const GemmArgs& args, const void* weight) const {
  const size_t element_bytes = size_of(compute_), y_bytes = args.output == GemmOutput::store ? element_bytes : 4;
  Shape shape;
  shape.outputs = args.weight->n;
  shape.columns = args.columns;
  shape.rows = args.rows;
  shape.k = args.weight->k;
  shape.y_stride = args.y_stride;
  shape.x_alignment = alignment_of(args.x, shape.k * element_bytes);
  shape.weight_alignment = alignment_of(weight, shape.k * element_bytes);
  shape.y_alignment = alignment_of(args.y, args.y_stride * y_bytes);
  shape.output = args.output;
  shape.bias = args.bias != nullptr;
  return shape;
}

size_t Products::ShapeHash::operator()(const Shape& shape) const {
  size_t hash = 0;
  const uint32_t words[] = {shape.outputs, shape.columns, shape.rows, shape.k, shape.y_stride,
                            shape.x_alignment << 16 | shape.weight_alignment << 8 | shape.y_alignment,
                            static_cast<uint32_t>(shape.output) * 2 + (shape.bias ? 1u : 0u)};
  for (uint32_t word : words) hash = (hash ^ word) * 0x9e3779b97f4a7c15u + (hash >> 29);
  return hash;
}

Result<const Products::Way*> Products::way_for(const Shape& shape) {
  if (auto found = ways_.find(shape); found != ways_.end()) return &found->second;
  if (ways_.size() >= kMostWays) ways_.clear();
  IOKV_TRY_ASSIGN(const Kernel kernel, choose(shape));
  IOKV_TRY_ASSIGN(Way way, describe(shape, kernel.bias));
  way.algorithm = kernel.algorithm;
  return &ways_.emplace(shape, std::move(way)).first->second;
}

Result<Products::Kernel> Products::choose(const Shape& shape) {
  if (!batch_invariant_) return ask(shape);
  // The same for every number of rows and every range of outputs.
  Shape weight = shape;
  weight.columns = shape.outputs;
  weight.rows = kInvariantRows;
  weight.y_stride = (shape.outputs + 7) / 8 * 8;
  if (auto found = kernels_.find(weight); found != kernels_.end()) return found->second;
  IOKV_TRY_ASSIGN(const Kernel kernel, ask(weight));
  kernels_.emplace(weight, kernel);
  return kernel;
}

// The first way to treat the bias for which there is a kernel.
Result<Products::Kernel> Products::ask(const Shape& shape) const {
  constexpr std::array<Bias, 1> kWithout = {Bias::none};
  constexpr std::array<Bias, 3> kWith = {Bias::f32, Bias::element, Bias::after};
  const std::span<const Bias> ways = shape.bias ? std::span<const Bias>(kWith) : std::span<const Bias>(kWithout);
  Preference preference;
  IOKV_CUDA_TRY(preference.created());
  IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes));
  IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.weight_alignment));
  IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.x_alignment));
  IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.y_alignment));
  IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.y_alignment));
  if (batch_invariant_) {
    const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
    IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, none));
  }
  for (Bias bias : ways) {
    // An f32 result takes an f32 bias and no other.
    if (bias == Bias::element && shape.output != GemmOutput::store) continue;
    IOKV_TRY_ASSIGN(const Way way, describe(shape, bias));
    std::array<cublasLtMatmulHeuristicResult_t, kAnswers> answers{};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, way.operation, way.weight, way.x, way.y, way.y,
                                                                 preference.get(), kAnswers, answers.data(), &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) continue;
    IOKV_CUDA_TRY(status);
    for (int i = 0; i < count; ++i) {
      const auto& answer = answers[static_cast<size_t>(i)];
      if (answer.state != CUBLAS_STATUS_SUCCESS || (batch_invariant_ && splits_sums(answer.algo))) continue;
      return Kernel{answer.algo, bias};
    }
  }
  return error("cuBLASLt has no kernel for a product of " + std::to_string(shape.rows) + " x " + std::to_string(shape.k) +
               " with " + std::to_string(shape.columns) + " x " + std::to_string(shape.k));
}

Result<Products::Way> Products::describe(const Shape& shape, Bias bias) const {
  Way way;
  way.bias = bias;
  const cudaDataType_t y_type = shape.output == GemmOutput::store ? element() : CUDA_R_32F;
  IOKV_CUDA_TRY(cublasLtMatmulDescCreate(&way.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  IOKV_CUDA_TRY(set(way.operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T));
  if (bias == Bias::f32 || bias == Bias::element) {
    const auto type = static_cast<int32_t>(bias == Bias::f32 ? CUDA_R_32F : element());
    IOKV_CUDA_TRY(set(way.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS));
    IOKV_CUDA_TRY(set(way.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type));
  }
  IOKV_CUDA_TRY(cublasLtMatrixLayoutCreate(&way.weight, element(), shape.k, shape.columns, shape.k));
  IOKV_CUDA_TRY(cublasLtMatrixLayoutCreate(&way.x, element(), shape.k, shape.rows, shape.k));
  IOKV_CUDA_TRY(cublasLtMatrixLayoutCreate(&way.y, y_type, shape.columns, shape.rows, shape.y_stride));
  return way;
}

Products::Way::~Way() {
  if (operation != nullptr) (void)cublasLtMatmulDescDestroy(operation);
  for (cublasLtMatrixLayout_t layout : {weight, x, y}) {
    if (layout != nullptr) (void)cublasLtMatrixLayoutDestroy(layout);
  }
}

Products::Way::Way(Way&& other) noexcept
    : operation(std::exchange(other.operation, nullptr)),
      weight(std::exchange(other.weight, nullptr)),
      x(std::exchange(other.x, nullptr)),
      y(std::exchange(other.y, nullptr)),
      algorithm(other.algorithm),
      bias(other.bias) {}

}  // namespace iokv::cuda
