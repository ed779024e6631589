// SPDX-License-Identifier: Apache-2.0
// The inner loops of the CPU backend, one table of them for each ISA and compute type. A kernel runs on one thread, on
// the part of an operation that the caller cut out for it, and allocates nothing.
//
// Invariants
//  1. An output element has one reduction order, whatever part of the operation a call covers.
//  2. The files that implement this are compiled for machines that may not be the one at hand. They use no inline
//     function of another header, whose copy the linker could otherwise pick for everybody; hence the plain pointers.
//
// "Element" is of the compute type: float, or bf16 as uint16_t.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace iokv::cpu {

// Columns (outputs) of a panel of a packed matrix. 2 AVX-512 vectors: with 12 rows that is 24 accumulators of 32
// registers, 14 loads for 24 multiply-adds, and one column range is a multiple of 16 = half a panel.
inline constexpr uint32_t kPanelColumns = 32;

// The inputs are summed in chunks of this many, one chain a chunk, the chunks in order: the rounding error grows with
// 256 + k/256 and not with k, and the totals cost 1 % of the multiply-adds.
inline constexpr uint32_t kChunkInputs = 256;

// A panel holds, for each input (f32) or pair of inputs (bf16), its 32 columns: [k][32] or [ceil(k/2)][32][2]. An odd
// k is padded with a zero.
constexpr size_t panel_elements(size_t k, bool pairs) { return (pairs ? (k + 1) / 2 * 2 : k) * kPanelColumns; }

// A panel of a quantised matrix holds, for each block of inputs, the scales of its 32 columns, their minima if there are
// any (f16 or f32), and the quants of each half of the columns. Of 4 bits they are words of 32 bits, a column's each, of 8
// inputs: nibble n of a word's low half is input 2n, of its high half input 2n + 1; what a nibble means a table gives. Of
// 8 bits they are numbers in two's complement: for each pair of inputs, for each column, both.
struct QuantPanels {
  uint32_t bits = 0;             // 4, 8; 0: a matrix of elements
  uint32_t block = 32;           // inputs
  uint32_t block_bytes = 0;      // of a panel
  uint32_t minima_offset = 0, quants_offset = 0;  // bytes into a block
  bool minima = false, halves = false;
  alignas(64) uint16_t table[32] = {};  // the 16 values as bf16, twice: a vector's worth of 16-bit words
};

enum class Store : uint8_t { element, f32, add_f32 };

// y[r, 0:columns] = x[r, :]·Wᵀ + bias for `columns` <= 32 columns of one panel.
struct GemmTile {
  const void* x = nullptr;  // [rows, k] elements
  size_t x_stride = 0;
  uint32_t rows = 0, k = 0;
  const void* panel = nullptr;  // at the panel's first column
  uint32_t begin = 0, columns = 0;  // of the panel; begin is 0 or 16
  const float* bias = nullptr;  // at the first of the columns, or null
  void* y = nullptr;            // at the first of the columns
  size_t y_stride = 0;
  Store store = Store::element;
  const QuantPanels* quants = nullptr;  // of a quantised matrix
  const float* x_sums = nullptr;        // [rows, k / block], what sum_blocks gives; where there are minima
};

// The query rows of consecutive tokens of one sequence that read one KV head, over the pieces (blocks of 64 tokens)
// first_piece..end_piece - 1.
struct AttendUnit {
  const void* q = nullptr;  // at the first token's first head of the group
  size_t q_stride = 0;      // elements between tokens
  void* out = nullptr;      // likewise
  size_t out_stride = 0;
  uint32_t tokens = 0, group = 0;  // query rows = tokens · group
  uint32_t head_dim = 0;
  float scale = 1.0f;
  uint32_t window = 0;                     // tokens that a row sees; 0: all
  float score_cap = 0;                     // 0: none
  uint32_t first_position = 0;             // of the first token
  const void* const* kv_blocks = nullptr;  // of the pieces from begin_piece on
  uint32_t begin_piece = 0;
  size_t k_offset = 0;                     // elements from a block's start to the KV head's K; V follows K
  uint32_t first_piece = 0, end_piece = 0;
  uint32_t first_seen = 0;   // the first piece that any of the rows sees: the state begins there
  uint32_t pieces = 0;       // up to the last token's: with the last of them `out` is written
  uint32_t own_piece = UINT32_MAX;  // of which nothing is there but the row's own token; tokens == 1 then
  // What has been merged before first_piece, and where it is left for the next operation: at the first token's first
  // head of the group, a head's attend_state_floats(d) behind the one before it.
  float* state = nullptr;
  size_t state_stride = 0;   // floats between tokens
  float* scratch = nullptr;  // attend_scratch_floats(...)
};

// Results of a piece: for each query row d weighted sums of V ([rows][padded d]), its sum of weights ([rows]) and its
// largest score ([rows]); rounded up so that the next one is aligned like the first.
constexpr size_t attend_padded_dim(size_t head_dim) { return (head_dim + 15) / 16 * 16; }
constexpr size_t attend_result_floats(size_t query_rows, size_t head_dim) {
  return query_rows * attend_padded_dim(head_dim) + (2 * query_rows + 15) / 16 * 16;
}
// Room for the packed queries, the state and a piece's result of each row, 16 rows of scores, and a piece of
// transposed K and widened V.
constexpr size_t attend_scratch_floats(size_t query_rows, size_t head_dim) {
  return query_rows * attend_padded_dim(head_dim) + 2 * attend_result_floats(query_rows, head_dim) + 16 * 64 +
         2 * 64 * attend_padded_dim(head_dim);
}

struct NormRow {
  const float* x = nullptr;       // [columns]
  const float* weight = nullptr;  // [columns]
  const float* bias = nullptr;    // [columns] or null
  void* y = nullptr;              // [columns] elements, or f32 to add to
  uint32_t columns = 0;
  float epsilon = 0;
  bool add = false;
};

struct Kernels {
  void (*gemm)(const GemmTile& tile);
  // The same for quantised matrices; x is bf16. Null in the tables for f32.
  void (*gemm_quants)(const GemmTile& tile);
  // sums[i] = Σ x[i·block : (i + 1)·block], i < blocks.
  void (*sum_blocks)(const void* x, uint32_t block, uint32_t blocks, float* sums);

  // Attends over a unit's pieces, continuing `state` unless they begin with the first that is seen, and writes `out` if they end
  // with the last one, else `state`.
  void (*attend)(const AttendUnit& unit);
  // The same in two steps for a unit that several threads share: each of its pieces into `results`, at
  // (piece - first_piece) · attend_result_floats(...), and all pieces' results into `out` or `state`.
  void (*attend_pieces)(const AttendUnit& unit, float* results);
  void (*attend_merge)(const AttendUnit& unit, const float* results);
  // Of one query row: out = what two states make together, each as AttendUnit::state has it; one of them has weights.
  void (*attend_join)(const float* state, const float* other, uint32_t head_dim, void* out);

  void (*rms_norm)(const NormRow& row);
  void (*layer_norm)(const NormRow& row);

  // to = from / sqrt(mean(from²) + epsilon)·weight, elements; `to` may be `from`.
  void (*head_norm)(const void* from, const float* weight, void* to, uint32_t count, float epsilon);

  // to[i] = from[i]·cos[i] − from[i + half]·sin[i], to[i + half] = from[i + half]·cos[i] + from[i]·sin[i]; `to` may
  // be `from`.
  void (*rotate)(const void* from, void* to, const float* cos, const float* sin, uint32_t half);

  void (*relu)(const void* x, void* y, size_t count);
  void (*gelu)(const void* x, void* y, size_t count);
  void (*gelu_tanh)(const void* x, void* y, size_t count);
  void (*silu_glu)(const void* gate, const void* up, void* y, size_t count);
  void (*gelu_tanh_glu)(const void* gate, const void* up, void* y, size_t count);

  // x[i] = limit·tanh(x[i] / limit).
  void (*cap)(float* x, size_t count, float limit);

  // The largest of count >= 1 values.
  float (*largest)(const float* x, size_t count);
  // Σ exp((x[i] − largest) / divisor); the terms go to `weights` unless it is null.
  float (*sum_exp)(const float* x, size_t count, float largest, float divisor, float* weights);
};

// All but the portable ones exist on x86-64 only.
const Kernels* portable_kernels(bool bf16);
const Kernels* avx2_kernels(bool bf16);
const Kernels* avx512_kernels(bool bf16);
const Kernels* avx512_bf16_kernels(bool bf16);

}  // namespace iokv::cpu
