// SPDX-License-Identifier: Apache-2.0
// Products of few rows, y = x·Wᵀ + b, which are bound by reading the weights: 16 outputs and 8 rows are a tile of
// m16n8k16, with the weights as its 16 rows, so that up to 8 rows of x cost what one costs. A block of threads brings a
// strip of 16 to 128 outputs through a ring of shared memory, all of k in turn, and goes on with its next strip without
// a pause; one block a multiprocessor holds enough bytes under way. Some warps bring, the others compute: an output is
// one chain of products, and whatever holds it up holds up the strip. The first weights are asked for while the kernel
// before this one still runs.
//
// Invariant: an output is one accumulator that takes k in steps of 16 from the first to the last (behind the last element
// there are zeros), then the bias and what y held. So its bits depend on its row and its weights alone: neither the
// number of rows, nor the strip, nor the device's size shows. products.h says what this order is for.
#include <algorithm>

#include "daemon/backend/cuda/instructions.cuh"
#include "daemon/backend/cuda/launch.cuh"

namespace iokv::cuda {
namespace {

constexpr int kWarps = 8, kLoaders = 4;          // that compute, and that bring
constexpr int kThreads = (kWarps + kLoaders) * 32;
constexpr int kDepth = 128;                      // of k, a stage of the ring
constexpr int kPitch = kDepth + 8;               // between rows of a stage: eight of them lie in different banks
constexpr int kVectors = kDepth / 8;             // 16 bytes each, of a row of a stage
constexpr int kRowsAtOnce = kLoaders * 32 / kVectors;
constexpr int kOutputs = 16;                     // of a tile
constexpr int kLeastStages = 3, kMostStages = 12;

static_assert(kRowsAtOnce == 8, "a pass of the loaders brings half a tile's weights, or eight rows of x");

__device__ inline void wait_for_stage(int outstanding) {
  switch (outstanding) {
    case 1: return wait_for_copies<1>();
    case 2: return wait_for_copies<2>();
    case 3: return wait_for_copies<3>();
    case 4: return wait_for_copies<4>();
    case 5: return wait_for_copies<5>();
    case 6: return wait_for_copies<6>();
    case 7: return wait_for_copies<7>();
    case 8: return wait_for_copies<8>();
    case 9: return wait_for_copies<9>();
    default: return wait_for_copies<10>();
  }
}
static_assert(kMostStages - 2 <= 10, "wait_for_stage knows them all");

// All threads, of both roles, have come here.
__device__ inline void meet() { asm volatile("barrier.sync 1, %0;" ::"n"(kThreads) : "memory"); }

// Elements at .. at + 7 of a row of k to shared memory, zeros from k on.
template <typename T>
__device__ inline void bring_vector(T* to, const T* row, uint32_t at, uint32_t k, bool aligned) {
  if (aligned) return copy_async(to, at < k ? row + at : row, at < k);
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) to[i] = at + i < k ? row[at + i] : Element<T>::narrow(0.0f);
}

// A place in the sequence of stages: a strip of outputs, and where in k.
struct Place {
  uint32_t strip, chunk;

  __device__ void advance(uint32_t chunks) {
    if (++chunk < chunks) return;
    chunk = 0;
    strip += gridDim.x;
  }
};

template <typename T>
__device__ inline float kept(const NarrowLaunch& launch, float sum, uint32_t row, uint32_t output) {
  float bias = 0;
  if (launch.bias != nullptr) {
    bias = launch.bias[output];
    if (launch.round_bias) bias = Element<T>::wide(Element<T>::narrow(bias));
  }
  if (launch.output != GemmOutput::add_f32) return launch.bias == nullptr ? sum : __fadd_rn(sum, bias);
  const float before = static_cast<const float*>(launch.y)[size_t{row} * launch.y_stride + output];
  if (launch.bias == nullptr) return __fadd_rn(sum, before);
  return launch.bias_last ? __fadd_rn(__fadd_rn(sum, before), bias) : __fadd_rn(__fadd_rn(sum, bias), before);
}

template <typename T>
__device__ inline void keep(const NarrowLaunch& launch, float sum, uint32_t row, uint32_t output) {
  if (row >= launch.rows || output >= launch.columns) return;
  const size_t at = size_t{row} * launch.y_stride + output;
  const float value = kept<T>(launch, sum, row, output);
  if (launch.output == GemmOutput::store) {
    static_cast<T*>(launch.y)[at] = Element<T>::narrow(value);
  } else {
    static_cast<float*>(launch.y)[at] = value;
  }
}

// What a warp multiplies in half a stage.
template <typename T, int kTogether>
struct Operands {
  static constexpr int kSteps = kDepth / 32;
  uint32_t a[kSteps][4], b[kTogether][kSteps / 2][4];

  __device__ void load(const T* a_row, const T* x_row) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) load_matrices(a[step], a_row + step * 16);
#pragma unroll
    for (int eight = 0; eight < kTogether; ++eight) {
#pragma unroll
      for (int two = 0; two < kSteps / 2; ++two) load_matrices(b[eight][two], x_row + eight * 8 * kPitch + two * 32);
    }
  }
  __device__ void multiply(float (&sums)[kTogether][4]) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int eight = 0; eight < kTogether; ++eight) {
        const uint32_t(&of)[4] = b[eight][step / 2];
        multiply_add<T>(sums[eight], a[step], of[step % 2 * 2], of[step % 2 * 2 + 1]);
      }
    }
  }
};

// kEights: of eight rows of x, as many as a stage holds. A warp has one tile of outputs, and kTogether of them.
template <typename T, int kEights, int kTogether>
__global__ void __launch_bounds__(kThreads, 1) narrow_product(NarrowLaunch launch) {
  extern __shared__ uint4 shared[];
  constexpr int kGroups = kEights / kTogether;
  T* ring = reinterpret_cast<T*>(shared);
  const int tiles = static_cast<int>(launch.tiles), stages = static_cast<int>(launch.stages);
  const int stage_elements = (tiles * kOutputs + kEights * 8) * kPitch;
  const uint32_t k = launch.k, chunks = (k + kDepth - 1) / kDepth;
  const uint32_t strip_outputs = launch.tiles * kOutputs, strips = (launch.columns + strip_outputs - 1) / strip_outputs;
  const uint32_t turns = (strips - blockIdx.x + gridDim.x - 1) / gridDim.x * chunks;  // the grid is no larger than strips
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;

  if (warp >= kWarps) {
    // A few instructions a copy, or the copies would wait for them. k is a multiple of 8 where they are 16 bytes long.
    const int loader = static_cast<int>(threadIdx.x) - kWarps * 32;
    const uint32_t row = static_cast<uint32_t>(loader / kVectors), column = static_cast<uint32_t>(loader % kVectors * 8);
    const T* x = static_cast<const T*>(launch.x) + size_t{row} * k;
    const T* weight = static_cast<const T*>(launch.weight) + size_t{row} * k;
    T* mine = ring + static_cast<int>(row) * kPitch + static_cast<int>(column);
    const size_t pass = size_t{kRowsAtOnce} * k;
    constexpr int kPass = kRowsAtOnce * kPitch;
    // Rows first + row of `count`, as many as there are of `limit`. Those that there are none of are left as they are: no
    // output is computed from others' weights or rows.
    auto bring = [&](T* to, const T* from, int count, uint32_t limit, uint32_t at) {
      const int there = min(count, limit > row ? static_cast<int>((limit - row + kRowsAtOnce - 1) / kRowsAtOnce) : 0);
      if (launch.aligned && at < k) {
        from += at;
        uint32_t shared_to = shared_address(to);
#pragma unroll 4
        for (int i = 0; i < there; ++i, from += pass, shared_to += kPass * sizeof(T)) copy_async(shared_to, from);
      } else {
        for (int i = 0; i < there; ++i) bring_vector(to + i * kPass, from + static_cast<size_t>(i) * pass, at, k, launch.aligned);
      }
    };
    auto bring_weights = [&](Place place, int stage) {
      const uint32_t first = place.strip * strip_outputs;
      bring(mine + stage * stage_elements, weight + size_t{first} * k, 2 * tiles, launch.columns - first,
            place.chunk * kDepth + column);
    };
    auto bring_rows = [&](Place place, int stage) {
      bring(mine + stage * stage_elements + tiles * kOutputs * kPitch, x, kEights, launch.rows,
            place.chunk * kDepth + column);
    };
    Place brought = {blockIdx.x, 0};
    for (int stage = 0; stage < stages - 1 && static_cast<uint32_t>(stage) < turns; ++stage) {
      bring_weights(brought, stage);
      brought.advance(chunks);
    }
    let_next_kernel_begin();
    wait_for_earlier_kernels();
    brought = {blockIdx.x, 0};
    for (int stage = 0; stage < stages - 1; ++stage) {
      if (static_cast<uint32_t>(stage) < turns) {
        bring_rows(brought, stage);
        brought.advance(chunks);
      }
      commit_copies();
    }
    int filled = stages - 1;
    for (uint32_t turn = 0; turn < turns; ++turn) {
      wait_for_stage(stages - 2);
      meet();  // this turn's stage is there, and the one before it may be filled again
      if (turn + static_cast<uint32_t>(stages) - 1 < turns) {
        bring_weights(brought, filled);
        bring_rows(brought, filled);
        brought.advance(chunks);
      }
      commit_copies();
      filled = filled + 1 == stages ? 0 : filled + 1;
    }
    return;
  }

  let_next_kernel_begin();
  wait_for_earlier_kernels();
  const int tile = warp % tiles, group = warp / tiles;
  const bool computes = group < kGroups;
  const T* a_row = ring + (tile * kOutputs + lane % 16) * kPitch + lane / 16 * 8;
  const T* x_row = ring + (tiles * kOutputs + group * kTogether * 8 + lane % 8) * kPitch + lane / 8 * 8;
  float sums[kTogether][4] = {};
  auto keep_strip = [&](uint32_t strip) {
    const uint32_t output = strip * strip_outputs + static_cast<uint32_t>(tile * kOutputs + lane / 4);
#pragma unroll
    for (int eight = 0; eight < kTogether; ++eight) {
      const uint32_t r = static_cast<uint32_t>((group * kTogether + eight) * 8 + lane % 4 * 2);
      keep<T>(launch, sums[eight][0], r, output);
      keep<T>(launch, sums[eight][1], r + 1, output);
      keep<T>(launch, sums[eight][2], r, output + 8);
      keep<T>(launch, sums[eight][3], r + 1, output + 8);
#pragma unroll
      for (float& sum : sums[eight]) sum = 0;
    }
  };
  // One half's operands are on their way while the other's are multiplied, from stage to stage too: a chain of products
  // hardly ever waits.
  Operands<T, kTogether> first_half, second_half;
  Place place = {blockIdx.x, 0};
  int stage = 0;
  for (uint32_t turn = 0; turn < turns; ++turn) {
    meet();
    if (computes) {
      const T* a = a_row + stage * stage_elements;
      const T* x = x_row + stage * stage_elements;
      first_half.load(a, x);
      if (turn > 0) second_half.multiply(sums);  // of the stage before
      if (turn > 0 && place.chunk == 0) keep_strip(place.strip - gridDim.x);
      second_half.load(a + kDepth / 2, x + kDepth / 2);
      first_half.multiply(sums);
    }
    place.advance(chunks);
    stage = stage + 1 == stages ? 0 : stage + 1;
  }
  if (!computes) return;
  second_half.multiply(sums);
  keep_strip(place.strip - gridDim.x);
}

// ---- launches -------------------------------------------------------------------------------------------------------

struct Device {
  cudaError_t asked = cudaSuccess;
  int multiprocessors = 0, shared_bytes = 0;  // of a block of threads
  Device() {
    int device = 0;
    asked = cudaGetDevice(&device);
    if (asked == cudaSuccess) asked = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (asked == cudaSuccess) asked = cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
};

uint32_t divided_up(uint32_t count, uint32_t by) { return (count + by - 1) / by; }

// Tiles of a strip: so many that the multiprocessor with the most of them has the least to bring. Weights come from
// memory, x of every strip again from the second-level cache, at 1.7 times the rate, together with the weights.
uint32_t choose_tiles(const Device& device, const NarrowLaunch& launch, uint32_t eights) {
  const uint32_t most = kWarps / std::max(1u, eights / 4);
  uint32_t chosen = 1;
  uint64_t least = UINT64_MAX;
  for (uint32_t tiles = 1; tiles <= most; ++tiles) {
    const uint32_t stage_bytes = (tiles * kOutputs + eights * 8) * kPitch * 2, outputs = tiles * kOutputs;
    if (stage_bytes * kLeastStages > static_cast<uint32_t>(device.shared_bytes) && tiles > 1) break;
    const uint32_t turns = divided_up(divided_up(launch.columns, outputs), static_cast<uint32_t>(device.multiprocessors));
    const uint64_t cost = turns * std::max<uint64_t>(10 * outputs, 6 * (outputs + launch.rows));
    if (cost > least) continue;
    least = cost;
    chosen = tiles;
  }
  return chosen;
}

const Device& device_here() {
  static const Device device;
  return device;
}

template <typename T, int kEights, int kTogether>
cudaError_t issue_groups(cudaStream_t stream, NarrowLaunch launch) {
  const Device& device = device_here();
  static const cudaError_t allowed = cudaFuncSetAttribute(
      narrow_product<T, kEights, kTogether>, cudaFuncAttributeMaxDynamicSharedMemorySize, device.shared_bytes);
  if (allowed != cudaSuccess) return allowed;
  const uint32_t stage_bytes = (launch.tiles * kOutputs + kEights * 8) * kPitch * 2;
  launch.stages = std::min<uint32_t>(static_cast<uint32_t>(device.shared_bytes) / stage_bytes, kMostStages);
  if (launch.stages < kLeastStages) return cudaErrorInvalidConfiguration;
  const uint32_t strips = divided_up(launch.columns, launch.tiles * kOutputs);
  const uint32_t blocks = std::min(strips, static_cast<uint32_t>(device.multiprocessors));
  return cuda::launch(narrow_product<T, kEights, kTogether>, blocks, kThreads, launch.stages * stage_bytes, stream, launch);
}

// As many warps as there are: one with four eights multiplies for as long as it takes to bring two stages of a narrow strip.
template <typename T, int kEights>
cudaError_t issue(cudaStream_t stream, const NarrowLaunch& args) {
  const Device& device = device_here();
  if (device.asked != cudaSuccess) return device.asked;
  NarrowLaunch launch = args;
  launch.tiles = choose_tiles(device, launch, kEights);
  const uint32_t groups = kWarps / launch.tiles;
  if constexpr (kEights <= 4) {
    if (groups >= kEights) return issue_groups<T, kEights, 1>(stream, launch);
  }
  if constexpr (kEights >= 4) {
    if (groups >= kEights / 2) return issue_groups<T, kEights, 2>(stream, launch);
  }
  return issue_groups<T, kEights, (kEights < 4 ? kEights : 4)>(stream, launch);
}

template <typename T>
cudaError_t issue(cudaStream_t stream, const NarrowLaunch& launch) {
  if (launch.rows <= 8) return issue<T, 1>(stream, launch);
  if (launch.rows <= 16) return issue<T, 2>(stream, launch);
  if (launch.rows <= 32) return issue<T, 4>(stream, launch);
  return issue<T, 8>(stream, launch);
}

}  // namespace

cudaError_t launch_narrow_product(cudaStream_t stream, DType type, const NarrowLaunch& launch) {
  const size_t x_bytes = size_t{launch.k} * 2, y_bytes = launch.y_stride * (launch.output == GemmOutput::store ? 2 : 4);
  for (uint32_t first = 0; first < launch.rows; first += kNarrowRows) {
    NarrowLaunch part = launch;
    part.rows = std::min(launch.rows - first, kNarrowRows);
    part.x = static_cast<const char*>(launch.x) + first * x_bytes;
    part.y = static_cast<char*>(launch.y) + first * size_t{y_bytes};
    const cudaError_t issued = type == DType::f16 ? issue<__half>(stream, part) : issue<__nv_bfloat16>(stream, part);
    if (issued != cudaSuccess) return issued;
  }
  return cudaSuccess;
}

}  // namespace iokv::cuda
