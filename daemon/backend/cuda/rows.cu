// SPDX-License-Identifier: Apache-2.0
// Kernels that treat rows by themselves: embedding, norms, rotary embedding with K,V stored, activations, and what
// products need beside cuBLAS. All of them are bound by memory.
#include "daemon/backend/cuda/element.cuh"
#include "daemon/backend/cuda/launch.cuh"

namespace iokv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kAll = 0xffffffffu;

unsigned blocks_of(size_t items, size_t of_a_block) { return static_cast<unsigned>((items + of_a_block - 1) / of_a_block); }

// Enough blocks for any device to be busy; kernels with this many stride over the rest.
constexpr size_t kMostBlocks = 4096;

unsigned striding_blocks(size_t items) {
  const size_t blocks = (items + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

// The sum over all threads of the block, in one order, for all of them.
__device__ float block_sum(float value) {
  __shared__ float sums[kThreads / 32];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAll, value, distance);
  __syncthreads();  // what an earlier sum left has been read
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) total += sums[i];
  return total;
}

// ---- embed ----------------------------------------------------------------------------------------------------------

template <typename T>
__global__ void __launch_bounds__(kThreads) embed(EmbedLaunch launch, const __grid_constant__ Table table) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  const EmbedRow row = entries<EmbedRow>(table)[blockIdx.x];
  const T* token = static_cast<const T*>(launch.table) + size_t{row.token} * launch.columns;
  const T* position = static_cast<const T*>(launch.positions) + size_t{row.position} * launch.columns;
  float* hidden = launch.hidden + size_t{blockIdx.x} * launch.columns;
  for (uint32_t i = threadIdx.x; i < launch.columns; i += kThreads) {
    float value = Element<T>::wide(token[i]) * launch.scale;
    if (launch.positions != nullptr) value += Element<T>::wide(position[i]);
    hidden[i] = value;
  }
}

// ---- norm -----------------------------------------------------------------------------------------------------------

// A row's columns are a thread's four at a time, every kThreads · 4th; up to kEach times they stay in registers.
template <typename T, bool kLayer, bool kAdd, int kEach>
__global__ void __launch_bounds__(kThreads) norm_fours(NormArgs args) {
  let_next_kernel_begin();
  const auto columns = static_cast<float>(args.columns);
  auto column = [](int i) { return (static_cast<uint32_t>(i) * kThreads + threadIdx.x) * 4; };
  auto there = [&](int i) { return column(i) < args.columns; };
  auto load = [](const float* from) { return *reinterpret_cast<const float4*>(from); };
  // Weights do not change: they are asked for before x is there.
  float4 weight[kEach], bias[kEach], x[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (!there(i)) continue;
    weight[i] = load(args.weight + column(i));
    bias[i] = args.bias != nullptr ? load(args.bias + column(i)) : float4{};
  }
  wait_for_earlier_kernels();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    x[i] = there(i) ? load(args.x + size_t{blockIdx.x} * args.columns + column(i)) : float4{};
    sum += (x[i].x + x[i].y) + (x[i].z + x[i].w);
  }
  const float mean = kLayer ? block_sum(sum) / columns : 0.0f;
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (!there(i)) continue;
    x[i].x -= mean, x[i].y -= mean, x[i].z -= mean, x[i].w -= mean;
    squares += (x[i].x * x[i].x + x[i].y * x[i].y) + (x[i].z * x[i].z + x[i].w * x[i].w);
  }
  const float factor = 1.0f / sqrtf(block_sum(squares) / columns + args.epsilon);
  T* y = static_cast<T*>(args.y) + size_t{blockIdx.x} * args.columns;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (!there(i)) continue;
    const float4 value = {x[i].x * factor * weight[i].x + bias[i].x, x[i].y * factor * weight[i].y + bias[i].y,
                          x[i].z * factor * weight[i].z + bias[i].z, x[i].w * factor * weight[i].w + bias[i].w};
    if constexpr (kAdd) {
      auto* sum = reinterpret_cast<float4*>(static_cast<float*>(args.y) + size_t{blockIdx.x} * args.columns + column(i));
      const float4 old = *sum;
      *sum = {old.x + value.x, old.y + value.y, old.z + value.z, old.w + value.w};
    } else {
      uint2 bits;
      bits.x = pack<T>(value.x, value.y);
      bits.y = pack<T>(value.z, value.w);
      *reinterpret_cast<uint2*>(y + column(i)) = bits;
    }
  }
}

// Of any width.
template <typename T, bool kLayer, bool kAdd>
__global__ void __launch_bounds__(kThreads) norm(NormArgs args) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  const float* x = args.x + size_t{blockIdx.x} * args.columns;
  T* y = static_cast<T*>(args.y) + size_t{blockIdx.x} * args.columns;
  const auto columns = static_cast<float>(args.columns);
  float mean = 0;
  if (kLayer) {
    float sum = 0;
    for (uint32_t i = threadIdx.x; i < args.columns; i += kThreads) sum += x[i];
    mean = block_sum(sum) / columns;
  }
  float squares = 0;
  for (uint32_t i = threadIdx.x; i < args.columns; i += kThreads) {
    const float from_mean = x[i] - mean;
    squares += from_mean * from_mean;
  }
  const float factor = 1.0f / sqrtf(block_sum(squares) / columns + args.epsilon);
  for (uint32_t i = threadIdx.x; i < args.columns; i += kThreads) {
    float value = (x[i] - mean) * factor * args.weight[i];
    if (args.bias != nullptr) value += args.bias[i];
    if constexpr (kAdd) {
      static_cast<float*>(args.y)[size_t{blockIdx.x} * args.columns + i] += value;
    } else {
      y[i] = Element<T>::narrow(value);
    }
  }
}

// The way depends on what a row is, not on how many there are.
template <typename T, bool kLayer, bool kAdd>
cudaError_t issue_norm_as(cudaStream_t stream, const NormArgs& args) {
  const uintptr_t sixteens = reinterpret_cast<uintptr_t>(args.x) | reinterpret_cast<uintptr_t>(args.weight) |
                             reinterpret_cast<uintptr_t>(args.bias);
  const bool fours = args.columns % 4 == 0 && sixteens % 16 == 0 && reinterpret_cast<uintptr_t>(args.y) % (kAdd ? 16 : 8) == 0;
  constexpr uint32_t kAtOnce = kThreads * 4;
  if (fours && args.columns <= 4 * kAtOnce) return launch(norm_fours<T, kLayer, kAdd, 4>, args.rows, kThreads, 0, stream, args);
  if (fours && args.columns <= 8 * kAtOnce) return launch(norm_fours<T, kLayer, kAdd, 8>, args.rows, kThreads, 0, stream, args);
  return launch(norm<T, kLayer, kAdd>, args.rows, kThreads, 0, stream, args);
}

template <typename T, bool kLayer>
cudaError_t issue_norm(cudaStream_t stream, const NormArgs& args) {
  return args.output == NormOutput::add_f32 ? issue_norm_as<T, kLayer, true>(stream, args)
                                            : issue_norm_as<T, kLayer, false>(stream, args);
}

// ---- activate -------------------------------------------------------------------------------------------------------

template <Activation kKind>
constexpr bool kGated = is_gated(kKind);

template <Activation kKind>
__device__ float activated(float x) {
  switch (kKind) {
    case Activation::relu: return x > 0 ? x : 0.0f;
    case Activation::gelu: return 0.5f * x * erfcf(x * -0.707106781f);
    case Activation::gelu_tanh:
    case Activation::gelu_tanh_glu: {
      // 0.5·(1 + tanh(u)) = 1 / (1 + e^(-2u)), u = sqrt(2/π)·(x + 0.044715·x³).
      const float u = 0.797884561f * (x + 0.044715f * x * x * x);
      return x / (1.0f + expf(-2.0f * u));
    }
    case Activation::silu_glu: return x / (1.0f + expf(-x));
  }
  return 0;
}

// An element of y depends on its own of x only, so that y may be x.
template <typename T, Activation kKind>
__global__ void __launch_bounds__(kThreads) activate(ActivateArgs args) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  const size_t total = size_t{args.rows} * args.columns;
  for (size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x; i < total; i += size_t{gridDim.x} * kThreads) {
    const size_t row = kGated<kKind> ? i / args.columns : 0;
    const size_t at = i + row * args.columns;
    float value = activated<kKind>(Element<T>::wide(x[at]));
    if (kGated<kKind>) value *= Element<T>::wide(x[at + args.columns]);
    y[i] = Element<T>::narrow(value);
  }
}

// As above, eight elements a thread: columns are a multiple of 8, rows are aligned.
template <typename T, Activation kKind>
__global__ void __launch_bounds__(kThreads) activate_eights(ActivateArgs args) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  const uint32_t eights = args.columns / 8;
  const size_t total = size_t{args.rows} * eights;
  for (size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x; i < total; i += size_t{gridDim.x} * kThreads) {
    const size_t row = i / eights, at = i % eights * 8;
    const T* from = x + row * args.columns * (kGated<kKind> ? 2 : 1) + at;
    Eight<T> value, up;
    value.load(from);
    if (kGated<kKind>) up.load(from + args.columns);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      value.values[e] = activated<kKind>(value.values[e]);
      if (kGated<kKind>) value.values[e] *= up.values[e];
    }
    value.store(y + row * args.columns + at);
  }
}

template <typename T, Activation kKind>
cudaError_t issue_activate(cudaStream_t stream, const ActivateArgs& args) {
  const size_t total = size_t{args.rows} * args.columns;
  const bool aligned = args.columns % 8 == 0 && reinterpret_cast<uintptr_t>(args.x) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(args.y) % 16 == 0;
  if (aligned) {
    return launch(activate_eights<T, kKind>, striding_blocks(total / 8), kThreads, 0, stream, args);
  }
  return launch(activate<T, kKind>, striding_blocks(total), kThreads, 0, stream, args);
}

// ---- cap -----------------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads) cap(CapArgs args) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  const size_t total = size_t{args.rows} * args.columns;
  for (size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x; i < total; i += size_t{gridDim.x} * kThreads) {
    args.x[i] = args.limit * tanhf(args.x[i] / args.limit);
  }
}

// ---- rope -----------------------------------------------------------------------------------------------------------

__device__ const RopeTableRun& run_of(const RopeTableRun* runs, uint32_t count, uint32_t item) {
  uint32_t low = 0, high = count;  // the last run that begins no later than the item
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (runs[middle].first_item <= item) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return runs[low];
}

// One rounding order for every path: K made again has the bits of K that was stored.
__device__ float2 rotated(float low, float high, float cosine, float sine) {
  return {__fmaf_rn(low, cosine, -__fmul_rn(high, sine)), __fmaf_rn(high, cosine, __fmul_rn(low, sine))};
}

// What each element of a head is multiplied with before it is rotated; nothing without kNormed.
template <bool kNormed>
struct HeadFactor {
  float factor;
  const float* weight;  // [d]
  __device__ float of(float value, uint32_t at) const {
    if constexpr (kNormed) return value * factor * weight[at];
    return value;
  }
};

// 1 / sqrt(mean(head²) + epsilon), for all threads of the warp.
template <typename T>
__device__ float norm_factor(const T* head, uint32_t d, float epsilon) {
  float squares = 0;
  for (uint32_t i = threadIdx.x % 32; i < d; i += 32) {
    const float value = Element<T>::wide(head[i]);
    squares = __fmaf_rn(value, value, squares);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) squares += __shfl_xor_sync(kAll, squares, distance);
  return 1.0f / sqrtf(squares / static_cast<float>(d) + epsilon);
}

// Unit `index` of to = from with its first 2·half elements rotated: eight pairs or eight elements behind them, or one.
// Pairs are read before they are written, so that to may be from.
template <typename T, bool kAligned, bool kNormed>
__device__ void rotate_head(const T* from, T* to, uint32_t d, uint32_t half, const float* cosines, const float* sines,
                            uint32_t index, HeadFactor<kNormed> factor) {
  if constexpr (kAligned) {
    const uint32_t i = index * 8;
    if (i < half) {
      Eight<T> low, high, a, b;
      low.load(from + i);
      high.load(from + half + i);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float2 pair = rotated(factor.of(low.values[e], i + e), factor.of(high.values[e], half + i + e),
                                    cosines[i + e], sines[i + e]);
        a.values[e] = pair.x;
        b.values[e] = pair.y;
      }
      a.store(to + i);
      b.store(to + half + i);
    } else {
      const uint32_t behind = i + half;  // elements 2·half and on are not rotated
      if constexpr (kNormed) {
        if (behind >= d) return;
        Eight<T> value;
        value.load(from + behind);
#pragma unroll
        for (int e = 0; e < 8; ++e) value.values[e] = factor.of(value.values[e], behind + e);
        value.store(to + behind);
        return;
      }
      if (behind < d && to != from) *reinterpret_cast<uint4*>(to + behind) = *reinterpret_cast<const uint4*>(from + behind);
    }
  } else {
    if (index < half) {
      const float2 pair = rotated(factor.of(Element<T>::wide(from[index]), index),
                                  factor.of(Element<T>::wide(from[half + index]), half + index), cosines[index],
                                  sines[index]);
      to[index] = Element<T>::narrow(pair.x);
      to[half + index] = Element<T>::narrow(pair.y);
    } else if (index + half < d && (kNormed || to != from)) {
      const T value = from[index + half];
      to[index + half] = kNormed ? Element<T>::narrow(factor.of(Element<T>::wide(value), index + half)) : value;
    }
  }
}

// A block of threads a row: its angles once, then its heads.
template <typename T, bool kAligned, bool kNormed>
__global__ void __launch_bounds__(kThreads) rope(RopeLaunch launch, const __grid_constant__ Table table) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  __shared__ float cosines[kLargestHeadDim / 2], sines[kLargestHeadDim / 2];
  const uint32_t item = blockIdx.x;
  const RopeTableRun run = run_of(entries<RopeTableRun>(table), launch.runs, item);
  const uint32_t in_run = item - run.first_item;
  const uint32_t row = run.first_row + in_run, position = run.first_position + in_run;
  const uint32_t d = launch.shape.head_dim, half = launch.half;
  for (uint32_t i = threadIdx.x; i < half; i += kThreads) {
    const float angle = static_cast<float>(position) * launch.frequencies[i];
    float sine, cosine;
    sincosf(angle, &sine, &cosine);
    cosines[i] = cosine * launch.attention_scale;
    sines[i] = sine * launch.attention_scale;
  }
  const bool stores = launch.k != nullptr && run.block != nullptr;
  const T* k = static_cast<const T*>(launch.k) + size_t{row} * launch.kv_stride;
  __shared__ float factors[kNormed ? kMostNormedHeads : 1];  // of the heads of q, then of k
  if constexpr (kNormed) {
    const T* q = static_cast<const T*>(launch.q) + size_t{row} * launch.q_stride;
    const uint32_t first = launch.q != nullptr ? 0 : launch.shape.heads;
    const uint32_t end = launch.shape.heads + (stores ? launch.shape.kv_heads : 0);
    for (uint32_t head = first + threadIdx.x / 32; head < end; head += kThreads / 32) {
      const T* from = head < launch.shape.heads ? q + head * d : k + (head - launch.shape.heads) * d;
      factors[head] = norm_factor(from, d, launch.norm.epsilon);
    }
  }
  __syncthreads();

  // Units of a head: pairs that are rotated, then what is copied, 8 or 1 elements at a time.
  constexpr uint32_t kElements = kAligned ? 8 : 1;
  const uint32_t units = (d - half) / kElements, copied = d / kElements;
  if (launch.q != nullptr && (half != 0 || kNormed)) {
    T* q = static_cast<T*>(launch.q) + size_t{row} * launch.q_stride;
    for (uint32_t i = threadIdx.x; i < launch.shape.heads * units; i += kThreads) {
      T* head = q + i / units * d;
      const HeadFactor<kNormed> factor{factors[kNormed ? i / units : 0], launch.norm.q_weight};
      rotate_head<T, kAligned>(head, head, d, half, cosines, sines, i % units, factor);
    }
  }
  if (!stores) return;
  const T* v = static_cast<const T*>(launch.v) + size_t{row} * launch.kv_stride;
  const uint32_t further = position / kBlockTokens - run.first_position / kBlockTokens;
  T* block = reinterpret_cast<T*>(static_cast<char*>(run.block) + further * run.block_stride_bytes);
  const uint32_t slot = position % kBlockTokens;
  for (uint32_t i = threadIdx.x; i < launch.shape.kv_heads * units; i += kThreads) {
    const uint32_t head = i / units;
    const HeadFactor<kNormed> factor{factors[kNormed ? launch.shape.heads + head : 0], launch.norm.k_weight};
    rotate_head<T, kAligned>(k + head * d, block + (size_t{head} * 2 * kBlockTokens + slot) * d, d, half, cosines, sines,
                             i % units, factor);
  }
  for (uint32_t i = threadIdx.x; i < launch.shape.kv_heads * copied; i += kThreads) {
    const uint32_t head = i / copied, at = i % copied * kElements;
    T* to = block + (size_t{head} * 2 * kBlockTokens + kBlockTokens + slot) * d + at;
    if constexpr (kAligned) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(v + head * d + at);
    } else {
      *to = v[head * d + at];
    }
  }
}

// ---- beside products ------------------------------------------------------------------------------------------------

template <typename T>
__global__ void __launch_bounds__(kThreads) convert(const float* from, T* to, size_t count) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  for (size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x; i < count; i += size_t{gridDim.x} * kThreads) {
    to[i] = Element<T>::narrow(from[i]);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) add_bias(T* y, uint32_t y_stride, const float* bias, uint32_t columns) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  T* row = y + size_t{blockIdx.y} * y_stride;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < columns; i += gridDim.x * kThreads) {
    if constexpr (sizeof(T) == 4) {
      row[i] += bias[i];
    } else {
      row[i] = Element<T>::narrow(Element<T>::wide(row[i]) + bias[i]);
    }
  }
}

__device__ uint32_t scrambled(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) fill_random(T* to, size_t count, uint32_t seed) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  for (size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x; i < count; i += size_t{gridDim.x} * kThreads) {
    const uint32_t bits = scrambled(static_cast<uint32_t>(i) ^ scrambled(seed));
    // A sign, 23 bits of fraction, and one of eight exponents.
    const float value = __uint_as_float((bits & 0x80000000u) | ((119 + (bits >> 28 & 7)) << 23) | (bits & 0x7fffffu));
    if constexpr (sizeof(T) == 4) {
      to[i] = value;
    } else {
      to[i] = Element<T>::narrow(value);
    }
  }
}

__global__ void __launch_bounds__(kThreads) count_differences(const uint32_t* a, const uint32_t* b, size_t count,
                                                              uint32_t* differences) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  uint32_t different = 0;
  for (size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x; i < count; i += size_t{gridDim.x} * kThreads) {
    different += a[i] != b[i] ? 1 : 0;
  }
  if (different != 0) atomicAdd_system(differences, different);
}

__global__ void __launch_bounds__(kThreads) read_host(uint4* to, const uint4* from, size_t count) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  for (size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x; i < count; i += size_t{gridDim.x} * kThreads) {
    to[i] = from[i];
  }
}

template <typename Word>
__global__ void __launch_bounds__(kThreads) hand_over(HandOverLaunch launch, const __grid_constant__ Table rows) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  const Word* from = static_cast<const Word*>(launch.from) + size_t{entries<uint32_t>(rows)[blockIdx.y]} * launch.pitch_words;
  Word* to = static_cast<Word*>(launch.to) + size_t{blockIdx.y} * launch.words;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < launch.words; i += gridDim.x * kThreads) to[i] = from[i];
}

}  // namespace

cudaError_t launch_hand_over(cudaStream_t stream, const HandOverLaunch& launch, const Table& rows) {
  const dim3 blocks((launch.words + kThreads - 1) / kThreads, launch.rows);
  return launch.sixteens ? cuda::launch(hand_over<uint4>, blocks, kThreads, 0, stream, launch, rows)
                         : cuda::launch(hand_over<uint32_t>, blocks, kThreads, 0, stream, launch, rows);
}

cudaError_t launch_embed(cudaStream_t stream, DType type, const EmbedLaunch& launch, const Table& rows) {
  return with_type(type, [&]<typename T>(T) {
    return cuda::launch(embed<T>, launch.rows, kThreads, 0, stream, launch, rows);
  });
}

cudaError_t launch_norm(cudaStream_t stream, DType type, const NormArgs& args) {
  return with_type(type, [&]<typename T>(T) {
    return args.kind == NormKind::layer ? issue_norm<T, true>(stream, args) : issue_norm<T, false>(stream, args);
  });
}

cudaError_t launch_activate(cudaStream_t stream, DType type, const ActivateArgs& args) {
  return with_type(type, [&]<typename T>(T) {
    switch (args.kind) {
      case Activation::relu: return issue_activate<T, Activation::relu>(stream, args);
      case Activation::gelu: return issue_activate<T, Activation::gelu>(stream, args);
      case Activation::gelu_tanh: return issue_activate<T, Activation::gelu_tanh>(stream, args);
      case Activation::silu_glu: return issue_activate<T, Activation::silu_glu>(stream, args);
      case Activation::gelu_tanh_glu: return issue_activate<T, Activation::gelu_tanh_glu>(stream, args);
    }
    return cudaErrorInvalidValue;
  });
}

cudaError_t launch_rope(cudaStream_t stream, DType type, const RopeLaunch& launch, const Table& runs) {
  return with_type(type, [&]<typename T>(T) {
    auto kernel = launch.norm.q_weight != nullptr ? (launch.aligned ? rope<T, true, true> : rope<T, false, true>)
                                                  : (launch.aligned ? rope<T, true, false> : rope<T, false, false>);
    return cuda::launch(kernel, launch.items, kThreads, 0, stream, launch, runs);
  });
}

cudaError_t launch_cap(cudaStream_t stream, const CapArgs& args) {
  const size_t total = size_t{args.rows} * args.columns;
  return cuda::launch(cap, striding_blocks(total), kThreads, 0, stream, args);
}

cudaError_t launch_convert(cudaStream_t stream, DType type, const float* from, void* to, size_t count) {
  return with_type(type, [&]<typename T>(T) {
    return cuda::launch(convert<T>, striding_blocks(count), kThreads, 0, stream, from, static_cast<T*>(to), count);
  });
}

cudaError_t launch_add_bias(cudaStream_t stream, DType type, void* y, uint32_t y_stride, const float* bias, uint32_t rows,
                            uint32_t columns) {
  // Rows beyond what a grid's second dimension holds come in further launches.
  constexpr uint32_t kGridRows = 65535;
  for (uint32_t first = 0; first < rows; first += kGridRows) {
    const uint32_t now = rows - first < kGridRows ? rows - first : kGridRows;
    const dim3 grid(blocks_of(columns, kThreads), now);
    const size_t at = size_t{first} * y_stride;
    auto issue = [&]<typename T>(T* to) {
      return cuda::launch(add_bias<T>, grid, kThreads, 0, stream, to + at, y_stride, bias, columns);
    };
    const cudaError_t issued = type == DType::f32   ? issue(static_cast<float*>(y))
                               : type == DType::f16 ? issue(static_cast<__half*>(y))
                                                    : issue(static_cast<__nv_bfloat16*>(y));
    if (issued != cudaSuccess) return issued;
  }
  return cudaSuccess;
}

cudaError_t launch_fill_random(cudaStream_t stream, DType type, void* to, size_t count, uint32_t seed) {
  auto issue = [&]<typename T>(T) {
    return cuda::launch(fill_random<T>, striding_blocks(count), kThreads, 0, stream, static_cast<T*>(to), count, seed);
  };
  return type == DType::f32 ? issue(0.0f) : with_type(type, issue);
}

cudaError_t launch_count_differences(cudaStream_t stream, const void* a, const void* b, size_t bytes,
                                     uint32_t* differences) {
  const size_t count = bytes / sizeof(uint32_t);
  return cuda::launch(count_differences, striding_blocks(count), kThreads, 0, stream, static_cast<const uint32_t*>(a),
                      static_cast<const uint32_t*>(b), count, differences);
}

cudaError_t launch_read_host(cudaStream_t stream, void* to, const void* from, size_t bytes) {
  const size_t count = (bytes + 15) / 16;
  return cuda::launch(read_host, striding_blocks(count), kThreads, 0, stream, static_cast<uint4*>(to),
                      static_cast<const uint4*>(from), count);
}

}  // namespace iokv::cuda
