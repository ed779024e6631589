// SPDX-License-Identifier: Apache-2.0
// Attention over pieces of 64 tokens of paged K,V on tensor cores (mma.sync m16n8k16), for up to 16 query rows a warp.
// Decoding is bound by memory: a warp has the 32 KiB of a piece's head under way at once (d = 128, cp.async), six such
// warps a multiprocessor, and its products cost a tenth of that time however few of the 16 rows are used.
//
// Invariants
//  1. A row's result of a piece is a fixed sequence of operations (Piece), whatever rows share the warp: scores over d
//     in steps of 16, the largest over the visible tokens, weights rounded to the element type, their sum, the weighted
//     sum of V over tokens in steps of 16. Results are folded in position order (Softmax::fold). So neither the cut into
//     operations nor the choice of kernel shows.
//  2. K and V of tokens behind the last that a row of a warp or block of threads may see are zeros here, whatever the
//     memory holds, and so is what lies before a row's own token in a piece that has nothing else; scores past a row's own
//     position, or before its window, are replaced, not multiplied away.
//
// kLimited kernels know of windows, of capped scores (AttendLaunch::window, cap) and of rows that the host has a part in
// (divided); the others are what they were without.
#include <cmath>

#include "daemon/backend/cuda/element.cuh"
#include "daemon/backend/cuda/instructions.cuh"
#include "daemon/backend/cuda/launch.cuh"

namespace iokv::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kTokens = kBlockTokens;        // of a piece
constexpr int kTokenTiles = kTokens / 8;
constexpr int kRows = 16;                    // of a warp

static_assert(kBlockTokens == 64, "a piece is eight tiles of eight tokens");

__host__ __device__ constexpr uint32_t padded(uint32_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Rows of shared memory lie 16 bytes further apart than they are long: eight of them, as ldmatrix reads them, are in
// different banks, since D is a multiple of 16.
template <int D>
constexpr int kPitch = D + 8;
template <int D>
constexpr size_t kTileBytes = size_t{2} * kTokens * kPitch<D>;  // of a piece's K, or V

// ---- a row's state --------------------------------------------------------------------------------------------------

__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of a row: the sum of weights, relative to the largest score so far. Scores are in powers of two.
struct Softmax {
  float largest = -INFINITY, sum = 0;

  struct Factors {
    float old_part, new_part;
  };
  // What follows in position order; the weighted sums of V are folded by the factors.
  __device__ Factors fold(float new_largest, float new_sum) {
    const float top = fmaxf(largest, new_largest);
    const Factors factors = {power_of_two(largest - top), power_of_two(new_largest - top)};
    sum = __fmaf_rn(new_sum, factors.new_part, __fmul_rn(sum, factors.old_part));
    largest = top;
    return factors;
  }
};

__device__ inline float folded(float old_value, float new_value, Softmax::Factors factors) {
  return __fmaf_rn(new_value, factors.new_part, __fmul_rn(old_value, factors.old_part));
}

// Query row r of a span's KV head.
struct QueryRow {
  uint32_t row, head, position;

  __device__ QueryRow(const AttendLaunch& launch, const AttendTableSpan& span, uint32_t kv_head, uint32_t r) {
    const uint32_t group = launch.shape.heads / launch.shape.kv_heads, token = r / group;
    row = span.first_row + token;
    head = kv_head * group + r % group;
    position = span.first_position + token;
  }
  __device__ float* state(const AttendLaunch& launch) const {
    const size_t floats = padded(launch.shape.head_dim) + 16;  // attend_state_floats
    return launch.state + (size_t{row} * launch.shape.heads + head) * floats;
  }
  template <typename T>
  __device__ T* out(const AttendLaunch& launch) const {
    return static_cast<T*>(launch.out) + (size_t{row} * launch.shape.heads + head) * launch.shape.head_dim;
  }
};

// Tokens of a piece that a row at `position` may see; 0 or less: none.
__device__ inline int visible(uint32_t position, uint32_t piece) {
  return static_cast<int>(position) + 1 - static_cast<int>(piece * kTokens);
}

// Tokens of a piece that are not there but for a row's own at `position`.
template <bool kLimited>
__device__ inline int not_there(const AttendTableSpan& span, uint32_t position, uint32_t piece) {
  return kLimited && piece == span.own_piece ? static_cast<int>(position % kTokens) : 0;
}

// Tokens of a piece that lie before the window of a row at `position`, maybe more than a piece has, or are not there.
template <bool kLimited>
__device__ inline int hidden(const AttendLaunch& launch, const AttendTableSpan& span, uint32_t position, uint32_t piece) {
  if (!kLimited) return 0;
  if (launch.window == 0 || piece == span.own_piece) return not_there<kLimited>(span, position, piece);
  const uint32_t end = position + span.elsewhere + 1;
  return max(static_cast<int>(end) - static_cast<int>(launch.window) - static_cast<int>(piece * kTokens), 0);
}

// The first piece that a row at `position` sees something of.
template <bool kLimited>
__device__ inline uint32_t first_seen(const AttendLaunch& launch, const AttendTableSpan& span, uint32_t position) {
  if (!kLimited || launch.window == 0 || position + span.elsewhere < launch.window) return 0;
  return min((position + span.elsewhere + 1 - launch.window) / kTokens, span.own_piece);
}

// ---- copies to shared memory ----------------------------------------------------------------------------------------

// K or V of a piece's head, [64][d] in memory, [64][kPitch] here; zeros before token `begin`, from token `seen` and from
// element d on.
template <typename T, int D, int kCopiers>
__device__ inline void bring(T* to, const T* from, uint32_t d, int begin, int seen, bool aligned, int thread) {
  constexpr int kVectors = D / 8;
  if (aligned && begin == 0 && seen == kTokens && d == D) {
    // Nearly all of them: one instruction a copy.
    if constexpr (kCopiers % kVectors == 0) {
      constexpr int kAtOnce = kCopiers / kVectors;  // tokens
      const uint32_t shared_to = shared_address(to + thread / kVectors * kPitch<D> + thread % kVectors * 8);
      const T* mine = from + thread * 8;
#pragma unroll
      for (int token = 0; token < kTokens; token += kAtOnce) {
        copy_async(shared_to + static_cast<uint32_t>(token * kPitch<D> * 2), mine + token * D);
      }
      return;
    }
  }
  if (aligned) {
    for (int i = thread; i < kTokens * kVectors; i += kCopiers) {
      const int token = i / kVectors, at = i % kVectors * 8;
      const bool there = token >= begin && token < seen && at < static_cast<int>(d);
      copy_async(to + token * kPitch<D> + at, there ? from + token * d + at : from, there);
    }
  } else {
    for (int i = thread; i < kTokens * D; i += kCopiers) {
      const int token = i / D, at = i % D;
      const bool there = token >= begin && token < seen && at < static_cast<int>(d);
      to[token * kPitch<D> + at] = there ? from[token * d + at] : Element<T>::narrow(0.0f);
    }
  }
}

template <typename T>
__device__ inline const T* keys_of(const void* block, uint32_t kv_head, uint32_t d) {
  return static_cast<const T*>(block) + size_t{kv_head} * 2 * kTokens * d;
}

// ---- one piece ------------------------------------------------------------------------------------------------------

// Scores, then weights, of 16 rows and a piece, and what they weigh.
template <typename T, int D, bool kLimited>
struct Piece {
  float scores[kTokenTiles][4];
  uint32_t weights[kTokenTiles][2];   // pairs of tokens of row g, and of row g + 8
  float largest[2], sums[2];          // of rows g and g + 8

  // queries(step, a) gives A of 16 elements of d. What a step reads is asked for before the step ahead of it computes:
  // with two warps a scheduler nothing else hides how long that takes.
  template <typename Queries>
  __device__ void score(const Queries& queries, const T* keys, int lane) {
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[tile][i] = 0;
    }
    const T* row = keys + (lane / 16 * 8 + lane % 8) * kPitch<D> + lane / 8 % 2 * 8;
    uint32_t a[2][4], b[2][kTokenTiles / 2][4];
    auto load = [&](int step) {
      queries(step, a[step % 2]);
#pragma unroll
      for (int two = 0; two < kTokenTiles / 2; ++two) {
        load_matrices(b[step % 2][two], row + two * 16 * kPitch<D> + step * 16);
      }
    };
    load(0);
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      if (step + 1 < D / 16) load(step + 1);
#pragma unroll
      for (int two = 0; two < kTokenTiles / 2; ++two) {
        multiply_add<T>(scores[2 * two], a[step % 2], b[step % 2][two][0], b[step % 2][two][1]);
        multiply_add<T>(scores[2 * two + 1], a[step % 2], b[step % 2][two][2], b[step % 2][two][3]);
      }
    }
  }

  // unseen[i]..seen[i] - 1: visible tokens of rows g and g + 8.
  __device__ void weigh(const AttendLaunch& launch, const int (&unseen)[2], const int (&seen)[2], int lane) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = -INFINITY;
#pragma unroll
      for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float& score = scores[tile][2 * i + n];
          const int token = tile * 8 + lane % 4 * 2 + n;
          float scaled = __fmul_rn(score, launch.scale);
          bool there = token < seen[i];
          if constexpr (kLimited) {
            if (launch.cap != 0) scaled = __fmul_rn(launch.cap, tanhf(scaled));
            there = there && token >= unseen[i];
          }
          score = there ? scaled : -INFINITY;
          top = fmaxf(top, score);
        }
      }
      top = fmaxf(top, __shfl_xor_sync(kAll, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAll, top, 2));
      largest[i] = top;
      const float base = top == -INFINITY ? 0.0f : top;
      float sum = 0;
#pragma unroll
      for (int tile = 0; tile < kTokenTiles; ++tile) {
        weights[tile][i] = pack<T>(power_of_two(__fsub_rn(scores[tile][2 * i], base)),
                                   power_of_two(__fsub_rn(scores[tile][2 * i + 1], base)));
        const float2 rounded = unpack<T>(weights[tile][i]);
        sum += rounded.x + rounded.y;
      }
      sum += __shfl_xor_sync(kAll, sum, 1);
      sum += __shfl_xor_sync(kAll, sum, 2);
      sums[i] = sum;
    }
  }

  // use(n, values): columns 8n .. 8n + 7 of the weighted sums of V, as a thread has them of an accumulator.
  template <typename Use>
  __device__ void sum_values(const T* values, int lane, const Use& use) {
    // Pairs of tiles of 8 columns: as many chains of products that do not wait for each other.
    constexpr int kPairs = D / 16, kTogether = kPairs < 4 ? kPairs : 4, kSteps = kTokens / 16;
    constexpr int kTurns = (kPairs + kTogether - 1) / kTogether * kSteps;
    const T* row = values + lane % 16 * kPitch<D> + lane / 16 * 8;
    uint32_t b[2][kTogether][4];
    auto load = [&](int turn) {
      const int first = turn / kSteps * kTogether, step = turn % kSteps;
#pragma unroll
      for (int pair = 0; pair < kTogether; ++pair) {
        if (first + pair >= kPairs) continue;
        load_matrices_transposed(b[turn % 2][pair], row + step * 16 * kPitch<D> + (first + pair) * 16);
      }
    };
    float sums_of[2 * kTogether][4];
    load(0);
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const int first = turn / kSteps * kTogether, step = turn % kSteps;
      if (turn + 1 < kTurns) load(turn + 1);
      if (step == 0) {
#pragma unroll
        for (int n = 0; n < 2 * kTogether; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums_of[n][i] = 0;
        }
      }
      const uint32_t a[4] = {weights[2 * step][0], weights[2 * step][1], weights[2 * step + 1][0], weights[2 * step + 1][1]};
#pragma unroll
      for (int pair = 0; pair < kTogether; ++pair) {
        if (first + pair >= kPairs) continue;
        multiply_add<T>(sums_of[2 * pair], a, b[turn % 2][pair][0], b[turn % 2][pair][1]);
        multiply_add<T>(sums_of[2 * pair + 1], a, b[turn % 2][pair][2], b[turn % 2][pair][3]);
      }
      if (step + 1 < kSteps) continue;
#pragma unroll
      for (int n = 0; n < 2 * kTogether; ++n) {
        if (first + n / 2 < kPairs) use(2 * first + n, sums_of[n]);
      }
    }
  }
};

// ---- split: a warp a piece ------------------------------------------------------------------------------------------

template <typename T>
__device__ inline uint32_t query_pair(const T* row, uint32_t at, uint32_t d, bool pairs) {
  if (pairs && at < d) return *reinterpret_cast<const uint32_t*>(row + at);  // d is even
  const float low = at < d ? Element<T>::wide(row[at]) : 0.0f;
  const float high = at + 1 < d ? Element<T>::wide(row[at + 1]) : 0.0f;
  return pack<T>(low, high);
}

// Grid: pieces, KV heads, tiles of 16 query rows. partials of a span: [pieces][kv_heads · group · rows][padded d].
template <typename T, int D, bool kLimited>
__global__ void __launch_bounds__(32) attend_pieces(AttendLaunch launch, const __grid_constant__ Table table) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  extern __shared__ uint4 shared[];
  T* keys = reinterpret_cast<T*>(shared);
  T* values = keys + kTokens * kPitch<D>;
  const AttendTableSpan* spans = entries<AttendTableSpan>(table);
  const AttendItem item = reinterpret_cast<const AttendItem*>(spans + launch.spans)[blockIdx.x];
  const AttendTableSpan span = spans[item.span];
  const uint32_t d = launch.shape.head_dim, kv_head = blockIdx.y, group = launch.shape.heads / launch.shape.kv_heads;
  const uint32_t rows = span.rows * group, first = blockIdx.z * kRows, piece = span.first_piece + item.piece;
  if (first >= rows) return;
  const uint32_t end = min(first + kRows, rows);
  const int lane = static_cast<int>(threadIdx.x);
  const int seen = min(visible(span.first_position + (end - 1) / group, piece), kTokens);
  if (seen <= 0) return;  // merging does not look at it either
  if (hidden<kLimited>(launch, span, span.first_position + first / group, piece) >= kTokens) return;  // nor here
  const int begin = not_there<kLimited>(span, span.first_position, piece);

  const T* from = keys_of<T>(item.block, kv_head, d);
  bring<T, D, 32>(keys, from, d, begin, seen, launch.aligned, lane);
  commit_copies();
  bring<T, D, 32>(values, from + size_t{kTokens} * d, d, begin, seen, launch.aligned, lane);
  commit_copies();

  uint32_t queries[D / 16][4];
  int row_seen[2], row_unseen[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t r = first + static_cast<uint32_t>(lane / 4 + 8 * i);
    const bool there = r < rows;
    const QueryRow query(launch, span, kv_head, there ? r : first);
    row_seen[i] = there ? visible(query.position, piece) : 0;
    row_unseen[i] = hidden<kLimited>(launch, span, query.position, piece);
    const T* q = static_cast<const T*>(launch.q) + size_t{query.row} * launch.q_stride + query.head * d;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      const uint32_t at = static_cast<uint32_t>(step * 16 + lane % 4 * 2);
      queries[step][i] = there ? query_pair(q, at, d, launch.pairs) : 0;
      queries[step][2 + i] = there ? query_pair(q, at + 8, d, launch.pairs) : 0;
    }
  }

  Piece<T, D, kLimited> result;
  wait_for_copies<1>();
  __syncwarp();
  result.score(
      [&](int step, uint32_t(&a)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = queries[step][i];
      },
      keys, lane);
  result.weigh(launch, row_unseen, row_seen, lane);
  wait_for_copies<0>();
  __syncwarp();

  const size_t partials = size_t{launch.shape.kv_heads} * rows;  // of a piece
  const size_t partial = span.first_partial + item.piece * partials + size_t{kv_head} * rows + first;
  const uint32_t stride = padded(d);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t r = static_cast<uint32_t>(lane / 4 + 8 * i);
    if (lane % 4 != 0 || first + r >= rows) continue;
    reinterpret_cast<float2*>(launch.partial_sums)[partial + r] = make_float2(result.largest[i], result.sums[i]);
  }
  result.sum_values(values, lane, [&](int n, const float(&sums)[4]) {
    const uint32_t at = static_cast<uint32_t>(n * 8 + lane % 4 * 2);
    if (at >= stride) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t r = static_cast<uint32_t>(lane / 4 + 8 * i);
      if (first + r >= rows) continue;
      *reinterpret_cast<float2*>(launch.partials + (partial + r) * stride + at) = make_float2(sums[2 * i], sums[2 * i + 1]);
    }
  });
}

constexpr int kMergeWarps = 4;

// A warp a row and head: its results in position order, behind what earlier operations left.
template <typename T, bool kLimited>
__global__ void __launch_bounds__(kMergeWarps * 32) attend_merge(AttendLaunch launch, const __grid_constant__ Table table) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  const uint32_t index = blockIdx.x * kMergeWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t heads = launch.shape.heads, kv_heads = launch.shape.kv_heads, group = heads / kv_heads;
  const uint32_t d = launch.shape.head_dim, stride = padded(d);
  if (index >= launch.rows * heads) return;
  const AttendTableSpan* spans = entries<AttendTableSpan>(table);
  uint32_t low = 0, high = launch.spans;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (spans[middle].first_merged <= index / heads) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const AttendTableSpan span = spans[low];
  const uint32_t token = index / heads - span.first_merged, head = index % heads, kv_head = head / group;
  const uint32_t r = token * group + head % group, rows = span.rows * group;
  const QueryRow query(launch, span, kv_head, r);
  // Pieces that the row sees begin no later than it.
  const uint32_t reached = query.position / kTokens + 1;
  const uint32_t pieces = reached > span.first_piece ? min(span.pieces, reached - span.first_piece) : 0;
  const uint32_t begun = first_seen<kLimited>(launch, span, query.position);
  const uint32_t skipped = begun > span.first_piece ? begun - span.first_piece : 0;

  // Columns 4·lane .. + 3, and as many 128 further.
  constexpr int kParts = kLargestHeadDim / 128;
  Softmax softmax;
  float sums[kParts][4] = {};
  const bool has[kParts] = {lane * 4 < stride, lane * 4 + 128 < stride};
  if (span.first_piece > begun) {
    const float* state = query.state(launch);
    softmax.sum = state[stride];
    softmax.largest = state[stride + 1];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (!has[part]) continue;
      const float4 old = *reinterpret_cast<const float4*>(state + lane * 4 + part * 128);
      sums[part][0] = old.x, sums[part][1] = old.y, sums[part][2] = old.z, sums[part][3] = old.w;
    }
  }
  const size_t partials = size_t{kv_heads} * rows;
  size_t partial = span.first_partial + size_t{kv_head} * rows + r + skipped * partials;
#pragma unroll 4
  for (uint32_t piece = skipped; piece < pieces; ++piece, partial += partials) {
    const float2 of_piece = reinterpret_cast<const float2*>(launch.partial_sums)[partial];
    const Softmax::Factors factors = softmax.fold(of_piece.x, of_piece.y);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (!has[part]) continue;
      const float4 values = *reinterpret_cast<const float4*>(launch.partials + partial * stride + lane * 4 + part * 128);
      sums[part][0] = folded(sums[part][0], values.x, factors);
      sums[part][1] = folded(sums[part][1], values.y, factors);
      sums[part][2] = folded(sums[part][2], values.z, factors);
      sums[part][3] = folded(sums[part][3], values.w, factors);
    }
  }
  if (span.last != 0) {
    T* out = query.out<T>(launch);
    const float of_sum = __frcp_rn(softmax.sum);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t at = lane * 4 + part * 128 + i;
        if (at < d) out[at] = Element<T>::narrow(__fmul_rn(sums[part][i], of_sum));
      }
    }
    return;
  }
  float* state = query.state(launch);
  if (lane == 0) {
    state[stride] = softmax.sum;
    state[stride + 1] = softmax.largest;
  }
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if (!has[part]) continue;
    *reinterpret_cast<float4*>(state + lane * 4 + part * 128) =
        make_float4(sums[part][0], sums[part][1], sums[part][2], sums[part][3]);
  }
}

// ---- in sequence: a warp 16 rows ------------------------------------------------------------------------------------

// 64 query rows share what is brought; 32 where a piece of 256-wide heads would not leave room for more.
template <int D>
constexpr int kSequenceWarps = D <= 128 ? 4 : 2;

// K and V of one piece, and the queries. V comes while scores are computed and the next piece's K while V is summed:
// so little memory lets three blocks share a multiprocessor, whose warps wait for shuffles and exponentials in turn.
template <int D>
constexpr size_t kSequenceBytes = 2 * kTileBytes<D> + size_t{2} * kSequenceWarps<D> * kRows * kPitch<D>;
template <int D>
constexpr int kSequenceBlocks = D <= 128 ? 3 : 1;

// Grid: tiles of query rows, KV heads, spans.
template <typename T, int D, bool kLimited>
__global__ void __launch_bounds__(kSequenceWarps<D> * 32, kSequenceBlocks<D>)
    attend_sequence(AttendLaunch launch, const __grid_constant__ Table table) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  extern __shared__ uint4 shared[];
  constexpr int kTileRows = kSequenceWarps<D> * kRows, kThreads = kSequenceWarps<D> * 32;
  constexpr int kTile = kTokens * kPitch<D>;
  T* queries = reinterpret_cast<T*>(shared);
  T* keys = queries + kTileRows * kPitch<D>;
  T* values = keys + kTile;
  const AttendTableSpan* spans = entries<AttendTableSpan>(table);
  const AttendTableSpan span = spans[blockIdx.z];
  const void* const* blocks = reinterpret_cast<const void* const*>(spans + launch.spans) + span.first_address;
  const uint32_t d = launch.shape.head_dim, kv_head = blockIdx.y, group = launch.shape.heads / launch.shape.kv_heads;
  // The last rows see the most and begin first.
  const uint32_t rows = span.rows * group, first = (gridDim.x - 1 - blockIdx.x) * kTileRows;
  if (first >= rows) return;
  const uint32_t end = min(first + kTileRows, rows), last_position = span.first_position + (end - 1) / group;
  const uint32_t reached = last_position / kTokens + 1;
  const uint32_t pieces = reached > span.first_piece ? min(span.pieces, reached - span.first_piece) : 0;
  const uint32_t begun = first_seen<kLimited>(launch, span, span.first_position + first / group);  // by the first row
  const uint32_t skipped = begun > span.first_piece ? begun - span.first_piece : 0;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;

  // K of a piece, or V.
  auto bring_half = [&](T* to, uint32_t index, uint32_t half) {
    const int seen = min(visible(last_position, span.first_piece + index), kTokens);
    const int begin = not_there<kLimited>(span, span.first_position, span.first_piece + index);
    const T* from = keys_of<T>(blocks[index], kv_head, d) + size_t{half} * kTokens * d;
    bring<T, D, kThreads>(to, from, d, begin, seen, launch.aligned, thread);
    commit_copies();
  };
  const T* q = static_cast<const T*>(launch.q);
  if (launch.eights) {
    for (int i = thread; i < kTileRows * (D / 8); i += kThreads) {
      const uint32_t r = first + static_cast<uint32_t>(i / (D / 8)), at = static_cast<uint32_t>(i % (D / 8) * 8);
      const bool there = r < rows && at < d;
      const QueryRow query(launch, span, kv_head, there ? r : first);
      copy_async(queries + i / (D / 8) * kPitch<D> + at,
                 q + size_t{query.row} * launch.q_stride + query.head * d + (there ? at : 0), there);
    }
  } else {
    for (int i = thread; i < kTileRows * D; i += kThreads) {
      const uint32_t r = first + static_cast<uint32_t>(i / D), at = static_cast<uint32_t>(i % D);
      T value = Element<T>::narrow(0.0f);
      if (r < rows && at < d) {
        const QueryRow query(launch, span, kv_head, r);
        value = q[size_t{query.row} * launch.q_stride + query.head * d + at];
      }
      queries[i / D * kPitch<D> + at] = value;
    }
  }
  if (pieces > skipped) bring_half(keys, skipped, 0);  // the queries are of its group of copies

  // The state of rows g and g + 8 of the warp, in the layout of accumulators.
  Softmax softmax[2];
  float sums[D / 8][4] = {};
  int row_position[2];
  const uint32_t stride = padded(d);
  const uint32_t warp_first = first + static_cast<uint32_t>(warp * kRows);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t r = warp_first + static_cast<uint32_t>(lane / 4 + 8 * i);
    row_position[i] = -1;  // sees nothing
    if (r >= rows) continue;
    const QueryRow query(launch, span, kv_head, r);
    row_position[i] = static_cast<int>(query.position);
    if (span.first_piece <= first_seen<kLimited>(launch, span, query.position)) continue;
    const float* state = query.state(launch);
    softmax[i].sum = state[stride];
    softmax[i].largest = state[stride + 1];
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      const uint32_t at = static_cast<uint32_t>(n * 8 + lane % 4 * 2);
      if (at >= stride) continue;
      const float2 pair = *reinterpret_cast<const float2*>(state + at);
      sums[n][2 * i] = pair.x;
      sums[n][2 * i + 1] = pair.y;
    }
  }

  for (uint32_t index = skipped; index < pieces; ++index) {
    const int start = static_cast<int>((span.first_piece + index) * kTokens);
    const int seen[2] = {row_position[0] + 1 - start, row_position[1] + 1 - start};
    int unseen[2] = {0, 0};
    bool sees_row[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (seen[i] > 0) {
        unseen[i] = hidden<kLimited>(launch, span, static_cast<uint32_t>(row_position[i]), span.first_piece + index);
      }
      sees_row[i] = seen[i] > 0 && unseen[i] < kTokens;
    }
    const bool sees = __any_sync(kAll, sees_row[0] || sees_row[1]);
    wait_for_copies<0>();
    __syncthreads();  // everybody's copies of K, and V has been read
    bring_half(values, index, 1);
    Piece<T, D, kLimited> result;
    if (sees) {
      const T* query_row = queries + (warp * kRows + lane % 16) * kPitch<D> + lane / 16 * 8;
      result.score([&](int step, uint32_t(&a)[4]) { load_matrices(a, query_row + step * 16); }, keys, lane);
      result.weigh(launch, unseen, seen, lane);
    }
    wait_for_copies<0>();
    __syncthreads();  // everybody's copies of V, and K has been read
    if (index + 1 < pieces) bring_half(keys, index + 1, 0);
    if (!sees) continue;
    Softmax::Factors factors[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (sees_row[i]) factors[i] = softmax[i].fold(result.largest[i], result.sums[i]);
    }
    result.sum_values(values, lane, [&](int n, const float(&of_piece)[4]) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (!sees_row[i]) continue;
        sums[n][2 * i] = folded(sums[n][2 * i], of_piece[2 * i], factors[i]);
        sums[n][2 * i + 1] = folded(sums[n][2 * i + 1], of_piece[2 * i + 1], factors[i]);
      }
    });
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t r = warp_first + static_cast<uint32_t>(lane / 4 + 8 * i);
    if (r >= rows) continue;
    const QueryRow query(launch, span, kv_head, r);
    if (span.last != 0) {
      T* out = query.out<T>(launch);
      const float part = __frcp_rn(softmax[i].sum);
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        const uint32_t at = static_cast<uint32_t>(n * 8 + lane % 4 * 2);
        const float low = __fmul_rn(sums[n][2 * i], part), high = __fmul_rn(sums[n][2 * i + 1], part);
        if (launch.eights && at < d) {
          *reinterpret_cast<uint32_t*>(out + at) = pack<T>(low, high);
        } else {
          if (at < d) out[at] = Element<T>::narrow(low);
          if (at + 1 < d) out[at + 1] = Element<T>::narrow(high);
        }
      }
      continue;
    }
    float* state = query.state(launch);
    if (lane % 4 == 0) {
      state[stride] = softmax[i].sum;
      state[stride + 1] = softmax[i].largest;
    }
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      const uint32_t at = static_cast<uint32_t>(n * 8 + lane % 4 * 2);
      if (at < stride) *reinterpret_cast<float2*>(state + at) = make_float2(sums[n][2 * i], sums[n][2 * i + 1]);
    }
  }
}

// ---- rows that the host has a part in -------------------------------------------------------------------------------

// A warp a row and head: what the host has found of it, read over the link, with what is in the device's state.
template <typename T>
__global__ void __launch_bounds__(kMergeWarps * 32) merge_host(MergeLaunch launch, const __grid_constant__ Table table) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  const uint32_t index = blockIdx.x * kMergeWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t heads = launch.shape.heads, d = launch.shape.head_dim, stride = padded(d);
  if (index >= launch.rows * heads) return;
  const size_t row = entries<uint32_t>(table)[index / heads], head = index % heads, floats = stride + 16;
  const float* other = launch.other + size_t{index} * floats;
  const float* state = launch.state + (row * heads + head) * floats;
  // All of it is asked for at once: the way there and back is what it takes.
  float theirs[kLargestHeadDim / 32], own[kLargestHeadDim / 32];
  const float2 of_theirs = *reinterpret_cast<const float2*>(other + stride);
#pragma unroll
  for (int i = 0; i < kLargestHeadDim / 32; ++i) {
    const uint32_t at = lane + 32 * i;
    theirs[i] = at < d ? other[at] : 0.0f;
    own[i] = at < d ? state[at] : 0.0f;
  }
  Softmax softmax{state[stride + 1], state[stride]};
  constexpr float kLog2E = 1.44269504f;
  const Softmax::Factors factors = softmax.fold(of_theirs.y * kLog2E, of_theirs.x);
  const float part = __frcp_rn(softmax.sum);
  T* out = static_cast<T*>(launch.out) + (row * heads + head) * d;
#pragma unroll
  for (int i = 0; i < kLargestHeadDim / 32; ++i) {
    const uint32_t at = lane + 32 * i;
    if (at < d) out[at] = Element<T>::narrow(__fmul_rn(folded(own[i], theirs[i], factors), part));
  }
}

// ---- launches -------------------------------------------------------------------------------------------------------

template <int D>
struct Width {};

// Heads are computed in the next width of these, with zeros behind them.
template <typename Launch>
cudaError_t with_width(uint32_t head_dim, const Launch& launch) {
  if (head_dim <= 32) return launch(Width<32>());
  if (head_dim <= 64) return launch(Width<64>());
  if (head_dim <= 80) return launch(Width<80>());
  if (head_dim <= 96) return launch(Width<96>());
  if (head_dim <= 128) return launch(Width<128>());
  if (head_dim <= 192) return launch(Width<192>());
  return launch(Width<256>());
}

template <bool kValue>
struct Limited {};

// By the types of its arguments: the element, the width of heads, and whether windows or caps have to be looked at.
template <typename Launch>
cudaError_t with_kernel(DType type, const AttendLaunch& launch, const Launch& issue) {
  return with_width(launch.shape.head_dim, [&]<int D>(Width<D> width) {
    return with_type(type, [&]<typename T>(T element) {
      const bool limited = launch.window != 0 || launch.cap != 0 || launch.divided;
      return limited ? issue(element, width, Limited<true>()) : issue(element, width, Limited<false>());
    });
  });
}

template <typename Kernel>
cudaError_t allow_shared(Kernel kernel, size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

template <typename T, int D, bool kLimited>
cudaError_t issue_pieces(cudaStream_t stream, const AttendLaunch& launch, const Table& table) {
  constexpr size_t kBytes = 2 * kTileBytes<D>;
  static const cudaError_t allowed = allow_shared(attend_pieces<T, D, kLimited>, kBytes);
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(launch.items, launch.shape.kv_heads, launch.tiles);
  return cuda::launch(attend_pieces<T, D, kLimited>, grid, 32, kBytes, stream, launch, table);
}

template <typename T, int D, bool kLimited>
cudaError_t issue_sequence(cudaStream_t stream, const AttendLaunch& launch, const Table& table) {
  static const cudaError_t allowed = allow_shared(attend_sequence<T, D, kLimited>, kSequenceBytes<D>);
  if (allowed != cudaSuccess) return allowed;
  constexpr uint32_t kTileRows = kSequenceWarps<D> * kRows;
  const uint32_t tiles = (launch.tiles * kRows + kTileRows - 1) / kTileRows;
  const dim3 grid(tiles, launch.shape.kv_heads, launch.spans);
  return cuda::launch(attend_sequence<T, D, kLimited>, grid, kSequenceWarps<D> * 32, kSequenceBytes<D>, stream, launch, table);
}

}  // namespace

cudaError_t launch_attend_pieces(cudaStream_t stream, DType type, const AttendLaunch& launch, const Table& table) {
  return with_kernel(type, launch, [&]<typename T, int D, bool kLimited>(T, Width<D>, Limited<kLimited>) {
    return issue_pieces<T, D, kLimited>(stream, launch, table);
  });
}

cudaError_t launch_attend_merge(cudaStream_t stream, DType type, const AttendLaunch& launch, const Table& table) {
  const unsigned blocks = (launch.rows * launch.shape.heads + kMergeWarps - 1) / kMergeWarps;
  return with_type(type, [&]<typename T>(T) {
    auto kernel = launch.window != 0 ? attend_merge<T, true> : attend_merge<T, false>;
    return cuda::launch(kernel, blocks, kMergeWarps * 32, 0, stream, launch, table);
  });
}

cudaError_t launch_merge(cudaStream_t stream, DType type, const MergeLaunch& launch, const Table& rows) {
  const unsigned blocks = (launch.rows * launch.shape.heads + kMergeWarps - 1) / kMergeWarps;
  return with_type(type, [&]<typename T>(T) {
    return cuda::launch(merge_host<T>, blocks, kMergeWarps * 32, 0, stream, launch, rows);
  });
}

cudaError_t launch_attend_sequence(cudaStream_t stream, DType type, const AttendLaunch& launch, const Table& table) {
  return with_kernel(type, launch, [&]<typename T, int D, bool kLimited>(T, Width<D>, Limited<kLimited>) {
    return issue_sequence<T, D, kLimited>(stream, launch, table);
  });
}

}  // namespace iokv::cuda
