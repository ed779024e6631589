// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels compute and how they are launched: plain arguments, no owners. Launching returns the launch's
// error; a kernel's own comes later, with whatever asks the stream. Kernels of one row or query compute the same bits
// whatever else is in the launch.
//
// Tables. Arrays of the host travel as a Table: within the launch's own parameters where they are small, else in device
// memory that the launch's stream has filled before (table_ring.h). So no table ever waits behind the link's copies.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "daemon/backend/adjustments.h"
#include "daemon/backend/backend.h"

namespace iokv::cuda {

// The parameters of a launch may take 4 KiB on every architecture; this leaves 384 bytes for the others.
constexpr size_t kInlineBytes = 3712;

struct Table {
  const void* device = nullptr;  // null: the bytes are here
  alignas(16) unsigned char bytes[kInlineBytes];
};

// ---- rows (rows.cu) -------------------------------------------------------------------------------------------------

struct EmbedLaunch {
  const void* table = nullptr;      // [vocab, h] of T
  const void* positions = nullptr;  // [contexts, h] of T, or null
  float* hidden = nullptr;          // [rows, h]
  float scale = 1.0f;               // of the token's row
  uint32_t rows = 0, columns = 0;
};
struct EmbedRow {
  uint32_t token = 0, position = 0;  // of their tables
};
cudaError_t launch_embed(cudaStream_t stream, DType type, const EmbedLaunch& launch, const Table& rows);

cudaError_t launch_norm(cudaStream_t stream, DType type, const NormArgs& args);

cudaError_t launch_activate(cudaStream_t stream, DType type, const ActivateArgs& args);

// The most heads of q and of k together that are normalised each by itself.
constexpr uint32_t kMostNormedHeads = 1024;

struct RopeLaunch {
  KvShape shape;
  uint32_t half = 0;                    // rotary_dim / 2
  const float* frequencies = nullptr;   // [half], device
  float attention_scale = 1.0f;
  HeadNorm norm;
  void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  uint32_t q_stride = 0, kv_stride = 0;
  uint32_t items = 0, runs = 0;         // rows of all runs
  bool aligned = false;                 // every row of every head may be read and written 16 bytes at a time
};
struct RopeTableRun {
  uint32_t first_item = 0;              // rows of the runs before it
  uint32_t first_row = 0, first_position = 0, unused = 0;
  void* block = nullptr;
  uint64_t block_stride_bytes = 0;
};
cudaError_t launch_rope(cudaStream_t stream, DType type, const RopeLaunch& launch, const Table& runs);

cudaError_t launch_cap(cudaStream_t stream, const CapArgs& args);

// ---- products (rows.cu) ---------------------------------------------------------------------------------------------

// to[i] = T(from[i]).
cudaError_t launch_convert(cudaStream_t stream, DType type, const float* from, void* to, size_t count);
// y[row, column] += bias[column]; y is of T, or f32.
cudaError_t launch_add_bias(cudaStream_t stream, DType type, void* y, uint32_t y_stride, const float* bias, uint32_t rows,
                            uint32_t columns);
// Numbers of either sign and of sizes from 2^-8 to 1, the same for the same seed.
cudaError_t launch_fill_random(cudaStream_t stream, DType type, void* to, size_t count, uint32_t seed);
// *differences += words of 4 bytes that differ; it is device memory, or pinned memory of the host.
cudaError_t launch_count_differences(cudaStream_t stream, const void* a, const void* b, size_t bytes, uint32_t* differences);
// to = from, for tables: `from` is pinned host memory that the device reads, both 16-byte aligned.
cudaError_t launch_read_host(cudaStream_t stream, void* to, const void* from, size_t bytes);

// ---- products of few rows (narrow_product.cu) -----------------------------------------------------------------------

// Rows that read the weights once; more are computed so many at a time.
constexpr uint32_t kNarrowRows = 64;

// y[:, 0:columns] = x · weightᵀ + bias, as GemmArgs::output says; every array begins at its first element.
struct NarrowLaunch {
  const void* weight = nullptr;    // [columns, k] of T
  const void* x = nullptr;         // [rows, k] of T
  const float* bias = nullptr;     // [columns] or null
  void* y = nullptr;
  uint32_t rows = 0, columns = 0, k = 0, y_stride = 0;
  GemmOutput output = GemmOutput::store;
  bool aligned = false;            // rows of weight and x may be read 16 bytes at a time
  bool round_bias = false;         // to T before it is added
  bool bias_last = false;          // (sum + y) + bias, else (sum + bias) + y
  uint32_t tiles = 0, stages = 0;  // the launcher's own
};
cudaError_t launch_narrow_product(cudaStream_t stream, DType type, const NarrowLaunch& launch);

// ---- attention (attend.cu) ------------------------------------------------------------------------------------------

// The largest head that attention computes with.
constexpr uint32_t kLargestHeadDim = 256;

struct AttendLaunch {
  KvShape shape;
  float scale = 1.0f;          // scores are in powers of two
  uint32_t window = 0;         // tokens that a row sees; 0: all
  float cap = 0;               // scores become cap·tanh(score·scale); 0: score·scale
  const void* q = nullptr;
  uint32_t q_stride = 0;
  void* out = nullptr;
  float* state = nullptr;
  float* partials = nullptr;   // [partials][head dim padded to 16] sums of pieces, then as many (largest, sum of weights)
  float* partial_sums = nullptr;
  uint32_t spans = 0, items = 0;
  uint32_t tiles = 0;          // of 16 query rows, of the span with the most
  uint32_t rows = 0;           // of all spans, for merging
  bool aligned = false;        // blocks and heads may be read 16 bytes at a time
  bool divided = false;        // the host has a part in some rows
  bool pairs = false;          // pairs of queries may be read 4 bytes at a time
  bool eights = false;         // queries may be read, and results written, 16 bytes at a time
};
// A span of AttendArgs. Its query rows are r = (row - first_row)·group + (head % group), for each KV head.
struct AttendTableSpan {
  uint32_t first_row = 0, rows = 0;
  uint32_t first_position = 0;
  uint32_t first_piece = 0, pieces = 0;  // of this operation
  uint32_t last = 0;                     // 1: with them the span has all its pieces
  uint32_t first_address = 0;            // of its blocks (in sequence)
  uint32_t first_partial = 0;            // of its pieces' results (split)
  uint32_t first_merged = 0;             // rows of the spans before it
  // Of a row that the host has a part in: the piece that has its own token and nothing else, whose number says where the
  // row is here; the host's tokens, which lie between it and the piece before.
  uint32_t own_piece = UINT32_MAX, elsewhere = 0;
  uint32_t unused = 0;
};
// Split: a piece of a span.
struct AttendItem {
  const void* block = nullptr;
  uint32_t span = 0, piece = 0;          // piece counts within the operation
};
// The table: spans, then items (split) or addresses (in sequence).
//
// Split: every piece is computed by a warp of its own, for up to 16 query rows, and its result is left in `partials`;
// then the results of a row are merged in position order. In sequence: 16 query rows are a warp's for all pieces. Both
// give the same bits.
cudaError_t launch_attend_pieces(cudaStream_t stream, DType type, const AttendLaunch& launch, const Table& table);
cudaError_t launch_attend_merge(cudaStream_t stream, DType type, const AttendLaunch& launch, const Table& table);
cudaError_t launch_attend_sequence(cudaStream_t stream, DType type, const AttendLaunch& launch, const Table& table);

// MergeArgs; the table holds the rows.
struct MergeLaunch {
  KvShape shape;
  const float* state = nullptr;
  const float* other = nullptr;          // host memory that the device reads
  void* out = nullptr;
  uint32_t rows = 0;
};
cudaError_t launch_merge(cudaStream_t stream, DType type, const MergeLaunch& launch, const Table& rows);

// HandOverArgs; the table holds the rows.
struct HandOverLaunch {
  const void* from = nullptr;
  void* to = nullptr;                    // host memory that the device writes
  uint32_t rows = 0, words = 0, pitch_words = 0;  // of 4 bytes; of 16 where everything is aligned to that
  bool sixteens = false;
};
cudaError_t launch_hand_over(cudaStream_t stream, const HandOverLaunch& launch, const Table& rows);

// ---- sampling (sample.cu) -------------------------------------------------------------------------------------------

struct Draw {
  int32_t token = 0;
  float logprob = 0;
};
struct SampleTableRow {
  SampleParams params;
  uint32_t logits_row = 0;
  uint64_t position = 0;
  uint32_t first_adjustment = 0, adjustments = 0;  // in the table's second array
  uint32_t mask = kNoMask;                         // its first word in the table's third array
  uint32_t top = 0;
  static constexpr uint32_t kNoMask = UINT32_MAX;
};
struct SampleLaunch {
  float* logits = nullptr;          // [.., vocab]; those of a row with adjustments change while it is drawn, and no other row
                                    // of the launch reads them
  uint32_t vocab = 0;
  uint32_t rows = 0, adjustments = 0;  // lengths of the table's first two arrays
  float* originals = nullptr;       // [adjustments], device
  Draw* draws = nullptr;            // [rows], host memory that the device writes
  TokenLogprob* tops = nullptr;     // [rows][kMaxTopLogprobs], likewise
};
// The table: rows, Adjustments, words of masks.
cudaError_t launch_sample(cudaStream_t stream, const SampleLaunch& launch, const Table& table);

}  // namespace iokv::cuda
