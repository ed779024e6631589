// SPDX-License-Identifier: Apache-2.0
// See products.h. cuBLASLt thinks in columns: a row-major y [rows, columns] is its [columns, rows], and so is x; a
// weight [n, k] is its [k, n], transposed.
#include "daemon/backend/cuda/products.h"

#include <algorithm>
#include <array>
#include <bit>
#include <span>
#include <string>
#include <utility>

#include "daemon/backend/cuda/kernels.h"

namespace iokv::cuda {
namespace {

// Rows that kernels are tried for when it is found out what is done with a matrix's bias.
constexpr uint32_t kUsualRows = 256;
// Ways that are remembered; a step's number of rows makes one for each of a layer's products. Some 500 bytes each.
constexpr size_t kMostWays = 8192;
// No kernel of cuBLASLt asks for a larger one.
constexpr uint32_t kBestAlignment = 16;
constexpr int kAnswers = 16;

// A trial's operands: weights of up to 2048 outputs (512 where k is 16384: a few tiles of any kernel), up to 128 rows of
// x, and y twice. Where they are not all outputs they are a multiple of kTrialMultiple, as kernels expect of a matrix's.
constexpr size_t kTrialWeightBytes = size_t{16} << 20, kTrialRowBytes = size_t{4} << 20, kTrialOutputBytes = size_t{1} << 20;
constexpr uint32_t kTrialRows = 128, kTrialColumns = 2048, kTrialMultiple = 64;
constexpr size_t kTrialBiasBytes = kTrialColumns * sizeof(float);
constexpr size_t kTrialBytes = kTrialWeightBytes + kTrialRowBytes + 2 * kTrialOutputBytes + kTrialBiasBytes;
static_assert(kTrialRows * kTrialColumns * sizeof(float) <= kTrialOutputBytes);

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
  IOKV_TRY(products->open());
  return products;
}

Status Products::open() {
  IOKV_CUDA_TRY(cublasLtCreate(&handle_));
  int device = 0;
  IOKV_CUDA_TRY(cudaGetDevice(&device));
  IOKV_CUDA_TRY(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device));
  if (!batch_invariant_) return {};
  IOKV_CUDA_TRY(cudaStreamCreateWithFlags(&trial_.stream, cudaStreamNonBlocking));
  IOKV_CUDA_TRY(cudaMalloc(reinterpret_cast<void**>(&trial_.memory), kTrialBytes));
  IOKV_CUDA_TRY(cudaMalloc(&trial_.scratch.bias, kTrialColumns * size_of(compute_)));
  IOKV_CUDA_TRY(cudaHostAlloc(reinterpret_cast<void**>(&trial_.differences), sizeof(uint32_t), cudaHostAllocMapped));
  return {};
}

Products::Trial::~Trial() {
  if (stream != nullptr) (void)cudaStreamDestroy(stream);
  if (memory != nullptr) (void)cudaFree(memory);
  if (scratch.bias != nullptr) (void)cudaFree(scratch.bias);
  if (differences != nullptr) (void)cudaFreeHost(differences);
}

Products::~Products() {
  ways_.clear();
  if (handle_ != nullptr) (void)cublasLtDestroy(handle_);
}

void Products::multiply(cudaStream_t stream, const Scratch& scratch, const GemmArgs& args, const void* weight,
                        bool beside, Failure& failure) {
  if (failure.happened()) return;
  Shape shape = shape_of(args, weight);
  shape.beside = beside;
  const Operands operands = {weight, args.x, args.bias == nullptr ? nullptr : args.bias + args.first_column, args.y};
  if (args.rows > kNarrowRows) {
    auto way = way_for(shape);
    if (!way) return failure.note(std::move(way.failure()));
    if (!(*way)->ours) {
      auto taken = run(stream, scratch, **way, shape, operands);
      if (!taken) return failure.note(std::move(taken.failure()));
      if (*taken) return;
      if (!batch_invariant_) return failure.note(error("cuBLASLt does not take the kernel that it named"));
      (*way)->ours = true;
    }
  }
  auto order = order_of(shape);
  if (!order) return failure.note(std::move(order.failure()));
  failure.check("a product", launch_narrow_product(stream, compute_, narrow(shape, operands, *order)));
}

// false: it was named for another number of rows or outputs, and does not take these.
Result<bool> Products::run(cudaStream_t stream, const Scratch& scratch, const Way& way, const Shape& shape,
                     const Operands& operands) {
  if (way.bias == Bias::element) {
    IOKV_ASSERT(shape.columns <= kMostColumns);
    IOKV_CUDA_TRY(launch_convert(stream, compute_, operands.bias, scratch.bias, shape.columns));
  }
  if (way.bias == Bias::f32 || way.bias == Bias::element) {
    const void* pointer = way.bias == Bias::f32 ? operands.bias : scratch.bias;
    IOKV_CUDA_TRY(set(way.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, pointer));
  }
  const float one = 1, zero = 0;
  const float* beta = shape.output == GemmOutput::add_f32 ? &one : &zero;
  const cublasStatus_t status =
      cublasLtMatmul(handle_, way.operation, &one, operands.weight, way.weight, operands.x, way.x, beta, operands.y, way.y,
                     operands.y, way.y, &way.algorithm, scratch.workspace, workspace_bytes(), stream);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return false;
  if (status != CUBLAS_STATUS_SUCCESS) return device_error("cublasLtMatmul", status);
  if (way.bias == Bias::after) {
    const DType type = shape.output == GemmOutput::store ? compute_ : DType::f32;
    IOKV_CUDA_TRY(launch_add_bias(stream, type, operands.y, shape.y_stride, operands.bias, shape.rows, shape.columns));
  }
  return true;
}

NarrowLaunch Products::narrow(const Shape& shape, const Operands& operands, Order order) const {
  NarrowLaunch launch;
  launch.weight = operands.weight;
  launch.x = operands.x;
  launch.bias = operands.bias;
  launch.y = operands.y;
  launch.rows = shape.rows;
  launch.columns = shape.columns;
  launch.k = shape.k;
  launch.y_stride = shape.y_stride;
  launch.output = shape.output;
  launch.aligned = shape.x_alignment == kBestAlignment && shape.weight_alignment == kBestAlignment;
  launch.round_bias = order.round_bias;
  launch.bias_last = order.bias_last;
  return launch;
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
                            static_cast<uint32_t>(shape.output) * 4 + (shape.beside ? 2u : 0u) + (shape.bias ? 1u : 0u)};
  for (uint32_t word : words) hash = (hash ^ word) * 0x9e3779b97f4a7c15u + (hash >> 29);
  return hash;
}

Result<Products::Way*> Products::way_for(const Shape& shape) {
  if (auto found = ways_.find(shape); found != ways_.end()) return &found->second;
  if (ways_.size() >= kMostWays) ways_.clear();
  IOKV_TRY_ASSIGN(Way way, choose(shape));
  return &ways_.emplace(shape, std::move(way)).first->second;
}

// All outputs of a matrix, for that many rows, as aligned as can be.
Products::Shape Products::whole_matrix(const Shape& shape, uint32_t rows) {
  Shape whole = shape;
  whole.columns = shape.outputs;
  whole.rows = rows;
  whole.y_stride = (shape.outputs + 7) / 8 * 8;
  whole.x_alignment = whole.weight_alignment = shape.k % 8 == 0 ? kBestAlignment : 1;
  whole.y_alignment = kBestAlignment;
  return whole;
}

// The first kernel that may be used; where there is none, ours.
Result<Products::Way> Products::choose(const Shape& shape) {
  if (!batch_invariant_) {
    IOKV_TRY_ASSIGN(const std::vector<Kernel> kernels, ask(shape));
    return way_of(shape, kernels.front());
  }
  // About as many rows: a kernel's speed hardly changes within a power of two.
  Shape asked = whole_matrix(shape, std::bit_ceil(shape.rows));
  asked.x_alignment = shape.x_alignment;
  asked.weight_alignment = shape.weight_alignment;
  asked.y_alignment = shape.y_alignment;
  IOKV_TRY_ASSIGN(const Order order, order_of(shape));
  auto known = candidates_.find(asked);
  if (known == candidates_.end()) {
    IOKV_TRY_ASSIGN(const std::vector<Kernel> kernels, ask(asked));
    known = candidates_.emplace(asked, std::vector<Candidate>(kernels.begin(), kernels.end())).first;
  }
  for (Candidate& candidate : known->second) {
    if (candidate.tried == Candidate::Tried::not_yet) {
      IOKV_TRY_ASSIGN(const bool same, agrees(asked, candidate.kernel, order));
      candidate.tried = same ? Candidate::Tried::agrees : Candidate::Tried::differs;
    }
    if (candidate.tried == Candidate::Tried::agrees) return way_of(shape, candidate.kernel);
  }
  Way way;
  way.ours = true;
  return way;
}

Result<Products::Way> Products::way_of(const Shape& shape, const Kernel& kernel) const {
  IOKV_TRY_ASSIGN(Way way, describe(shape, kernel.bias));
  way.algorithm = kernel.algorithm;
  return way;
}

// The order in which a kernel of cuBLASLt treats the bias, if one agrees with ours in everything else.
Result<Products::Order> Products::order_of(const Shape& shape) {
  if (!batch_invariant_ || !shape.bias) return Order{};
  Shape asked = whole_matrix(shape, kUsualRows);
  asked.beside = false;
  if (auto found = orders_.find(asked); found != orders_.end()) return found->second;
  Order chosen;
  IOKV_TRY_ASSIGN(const std::vector<Kernel> kernels, ask(asked));
  bool found = false;
  for (size_t i = 0; i < kernels.size() && !found; ++i) {
    for (bool bias_last : {false, true}) {
      if (bias_last && shape.output != GemmOutput::add_f32) continue;
      const Order order{kernels[i].bias == Bias::element, bias_last};
      IOKV_TRY_ASSIGN(found, agrees(asked, kernels[i], order));
      if (!found) continue;
      chosen = order;
      break;
    }
  }
  orders_.emplace(asked, chosen);
  return chosen;
}

// Whether a kernel gives the bits of ours for some rows and outputs of random numbers.
Result<bool> Products::agrees(const Shape& asked, const Kernel& kernel, Order order) {
  const size_t row_bytes = asked.k * size_of(compute_);
  Shape shape = asked;
  shape.rows = static_cast<uint32_t>(std::min<size_t>(kTrialRows, kTrialRowBytes / row_bytes));
  shape.columns = static_cast<uint32_t>(std::min<size_t>({asked.outputs, kTrialColumns, kTrialWeightBytes / row_bytes}));
  if (shape.columns < asked.outputs) shape.columns -= shape.columns % kTrialMultiple;
  if (shape.rows == 0 || shape.columns == 0) return false;  // k is larger than any model's
  shape.y_stride = (shape.columns + 7) / 8 * 8;
  shape.x_alignment = shape.weight_alignment = asked.k % 8 == 0 ? kBestAlignment : 1;
  IOKV_TRY_ASSIGN(Way way, way_of(shape, kernel));

  std::byte* weight = trial_.memory;
  std::byte* x = weight + kTrialWeightBytes;
  std::byte* ys[2] = {x + kTrialRowBytes, x + kTrialRowBytes + kTrialOutputBytes};
  auto* bias = reinterpret_cast<float*>(ys[1] + kTrialOutputBytes);
  const cudaStream_t stream = trial_.stream;
  IOKV_CUDA_TRY(launch_fill_random(stream, compute_, weight, size_t{shape.columns} * shape.k, 1));
  IOKV_CUDA_TRY(launch_fill_random(stream, compute_, x, size_t{shape.rows} * shape.k, 2));
  IOKV_CUDA_TRY(launch_fill_random(stream, DType::f32, bias, shape.columns, 3));
  for (std::byte* y : ys) IOKV_CUDA_TRY(launch_fill_random(stream, DType::f32, y, kTrialOutputBytes / sizeof(float), 4));
  Operands operands = {weight, x, shape.bias ? bias : nullptr, ys[0]};
  IOKV_CUDA_TRY(launch_narrow_product(stream, compute_, narrow(shape, operands, order)));
  operands.y = ys[1];
  IOKV_TRY_ASSIGN(const bool taken, run(stream, trial_.scratch, way, shape, operands));
  if (!taken) return false;
  *trial_.differences = 0;
  IOKV_CUDA_TRY(launch_count_differences(stream, ys[0], ys[1], kTrialOutputBytes, trial_.differences));
  IOKV_CUDA_TRY(cudaStreamSynchronize(stream));
  return *trial_.differences == 0;
}

// Kernels for a shape, the fastest first; one at least unless they have to be batch-invariant. The first way to treat
// the bias for which there are any.
Result<std::vector<Products::Kernel>> Products::ask(const Shape& shape) const {
  constexpr std::array<Bias, 1> kWithout = {Bias::none};
  constexpr std::array<Bias, 3> kWith = {Bias::f32, Bias::element, Bias::after};
  const std::span<const Bias> ways = shape.bias ? std::span<const Bias>(kWith) : std::span<const Bias>(kWithout);
  Preference preference;
  IOKV_CUDA_TRY(preference.created());
  IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes()));
  IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.weight_alignment));
  IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.x_alignment));
  IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.y_alignment));
  IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.y_alignment));
  if (batch_invariant_) {
    const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
    IOKV_CUDA_TRY(preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, none));
  }
  std::vector<Kernel> kernels;
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
      kernels.push_back({answer.algo, bias});
    }
    if (!kernels.empty()) return kernels;
  }
  if (batch_invariant_) return kernels;
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
  if (shape.beside) {
    const int32_t half = std::max(1, multiprocessors_ / 2);
    IOKV_CUDA_TRY(set(way.operation, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, half));
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
      bias(other.bias),
      ours(other.ours) {}

}  // namespace iokv::cuda
