// SPDX-License-Identifier: Apache-2.0
// Attention of the query rows of one KV head over pieces of 64 tokens, for the lanes S of an ISA and elements T.
//
// Invariants
//  1. A row's piece has fixed orders: scores over d as in gemm, weights over lanes, weighted V over tokens. Pieces are
//     folded into the row's state in position order. Which rows are blocked together never matters.
//  2. K and V of positions after a row's own do not reach it: they may be uninitialised. Scores past it are replaced,
//     not multiplied away, and V is read only up to it. Scores before a row's window are replaced too, and their V, which
//     are numbers, weigh nothing.
//
// A piece of K is transposed into two panels of 32 tokens, so that scores are the product of gemm_kernel.h; K rows of
// f32 and of bf16 pairs are both rows of 32-bit words. 64 rows of queries repay it many times; a single row pays about
// what the horizontal sums of 64 dot products would cost.
#pragma once

#include "daemon/backend/cpu/gemm_kernel.h"
#include "daemon/backend/cpu/kernels.h"
#include "daemon/backend/simd/lanes.h"

namespace iokv::cpu {

template <typename S, typename T>
struct Attend {
  using F = typename S::F;
  static constexpr uint32_t kPiece = 64;
  static constexpr uint32_t kVectors = 4;  // of V in a register block
  static_assert(kPiece == 2 * kPanelColumns && S::kAttendRows <= 16 && S::kAttendRows <= S::kGemmRows);

  // Per query row: weighted sums of V, the sum of weights and the largest score; laid out as kernels.h says.
  struct Rowset {
    float* values;
    float* sums;
    float* maxima;
    size_t padded;

    Rowset(float* at, uint32_t rows, size_t padded_dim)
        : values(at), sums(at + rows * padded_dim), maxima(sums + rows), padded(padded_dim) {}
    float* row(uint32_t r) const { return values + r * padded; }
  };

  // A unit's scratch memory, cut up as attend_scratch_floats counts it.
  struct Scratch {
    T* q;
    float* state;
    float* result;
    float* scores;
    uint32_t* k;
    float* v;

    explicit Scratch(const AttendUnit& unit) {
      uint32_t rows = unit.tokens * unit.group;
      size_t padded = attend_padded_dim(unit.head_dim), floats = attend_result_floats(rows, unit.head_dim);
      q = reinterpret_cast<T*>(unit.scratch);
      state = unit.scratch + rows * padded;
      result = state + floats;
      scores = result + floats;
      k = reinterpret_cast<uint32_t*>(scores + 16 * kPiece);
      v = scores + 16 * kPiece + kPiece * padded;
    }
  };

  static void run(const AttendUnit& unit) {
    Scratch scratch(unit);
    pack_queries(unit, scratch.q);
    uint32_t p = unit.first_piece;
    if (p > unit.first_seen) {
      load_state(unit, scratch.state);
    } else if (unit.window != 0) {
      clear(unit, scratch.state);
    } else {
      piece(unit, scratch, p++, scratch.state);
    }
    for (; p < unit.end_piece; ++p) {
      piece(unit, scratch, p, scratch.result);
      fold(unit, p, scratch.state, scratch.result);
    }
    leave(unit, scratch.state);
  }

  static void pieces(const AttendUnit& unit, float* results) {
    Scratch scratch(unit);
    pack_queries(unit, scratch.q);
    size_t floats = attend_result_floats(unit.tokens * unit.group, unit.head_dim);
    for (uint32_t p = unit.first_piece; p < unit.end_piece; ++p) {
      piece(unit, scratch, p, results + (p - unit.first_piece) * floats);
    }
  }

  static void merge(const AttendUnit& unit, const float* results) {
    Scratch scratch(unit);
    size_t floats = attend_result_floats(unit.tokens * unit.group, unit.head_dim);
    uint32_t p = unit.first_piece;
    if (p > unit.first_seen) {
      load_state(unit, scratch.state);
    } else if (unit.window != 0) {
      clear(unit, scratch.state);
    } else {
      __builtin_memcpy(scratch.state, results, floats * sizeof(float));
      ++p;
    }
    for (; p < unit.end_piece; ++p) {
      fold(unit, p, scratch.state, const_cast<float*>(results) + (p - unit.first_piece) * floats);
    }
    leave(unit, scratch.state);
  }

  static void join(const float* state, const float* other, uint32_t d, void* out_at) {
    size_t padded = attend_padded_dim(d);
    float top = state[padded + 1] > other[padded + 1] ? state[padded + 1] : other[padded + 1];
    F factor = exp<S>(S::set1(state[padded + 1] - top)), other_factor = exp<S>(S::set1(other[padded + 1] - top));
    F sum = S::fma(S::set1(other[padded]), other_factor, S::mul(S::set1(state[padded]), factor));
    T* out = static_cast<T*>(out_at);
    for (uint32_t i = 0; i < d; i += S::kLanes) {
      F value = S::fma(S::load(other + i), other_factor, S::mul(S::load(state + i), factor));
      store_first<S>(out + i, S::div(value, sum), d - i);
    }
  }

 private:
  // The first token whose position reaches the piece.
  static uint32_t first_token(const AttendUnit& unit, uint32_t piece_index) {
    uint32_t start = piece_index * kPiece;
    return start > unit.first_position ? start - unit.first_position : 0;
  }

  // Behind the last token whose window reaches back to the piece.
  static uint32_t end_token(const AttendUnit& unit, uint32_t piece_index) {
    if (unit.window == 0 || piece_index == unit.own_piece) return unit.tokens;
    uint32_t end = unit.window + piece_index * kPiece + kPiece - 1;
    if (end <= unit.first_position) return 0;
    return end - unit.first_position < unit.tokens ? end - unit.first_position : unit.tokens;
  }

  // Tokens of the piece that lie before query row r's window, or before its own where it sees no other.
  static uint32_t hidden(const AttendUnit& unit, uint32_t piece_index, uint32_t r) {
    if (piece_index == unit.own_piece) return unit.first_position % kPiece;
    uint32_t end = unit.first_position + r / unit.group + 1, start = piece_index * kPiece;
    return unit.window == 0 || end <= unit.window + start ? 0 : end - unit.window - start;
  }

  // Nothing merged yet. Folding a piece into it gives that piece's numbers as they are.
  static void clear(const AttendUnit& unit, float* state_at) {
    uint32_t rows = unit.tokens * unit.group;
    Rowset state(state_at, rows, attend_padded_dim(unit.head_dim));
    for (size_t i = 0; i < rows * state.padded; ++i) state.values[i] = 0;
    for (uint32_t r = 0; r < rows; ++r) {
      state.sums[r] = 0;
      state.maxima[r] = -__builtin_inff();
    }
  }

  // Tokens of the piece that query row r may see, those before its window included.
  static uint32_t visible(const AttendUnit& unit, uint32_t piece_index, uint32_t r) {
    if (piece_index == unit.own_piece) return unit.first_position % kPiece + 1;
    uint32_t tokens = unit.first_position + r / unit.group + 1 - piece_index * kPiece;
    return tokens < kPiece ? tokens : kPiece;
  }

  static void pack_queries(const AttendUnit& unit, T* packed) {
    const T* q = static_cast<const T*>(unit.q);
    size_t token_elements = size_t{unit.group} * unit.head_dim;
    for (uint32_t t = 0; t < unit.tokens; ++t) {
      __builtin_memcpy(packed + t * token_elements, q + t * unit.q_stride, token_elements * sizeof(T));
    }
  }

  static void piece(const AttendUnit& unit, const Scratch& scratch, uint32_t piece_index, float* to) {
    uint32_t d = unit.head_dim, rows = end_token(unit, piece_index) * unit.group;
    if (rows == 0) return;
    Rowset result(to, unit.tokens * unit.group, attend_padded_dim(d));
    const T* k = static_cast<const T*>(unit.kv_blocks[piece_index - unit.begin_piece]) + unit.k_offset;
    const T* v = k + size_t{kPiece} * d;
    uint32_t seen = visible(unit, piece_index, rows - 1);
    size_t panel_words = transpose_keys(k, d, seen, scratch.k);
    bool whole_vectors = d % S::kLanes == 0;
    if (!whole_vectors) widen_values(v, d, seen, scratch.v);

    for (uint32_t r = first_token(unit, piece_index) * unit.group; r < rows;) {
      uint32_t count = next_group(rows - r, S::kAttendRows);
      const T* panel = reinterpret_cast<const T*>(scratch.k);
      const T* q = scratch.q + size_t{r} * d;
      Gemm<S, T>::multiply(q, d, count, panel, d, true, seen > kPanelColumns / 2, scratch.scores, kPiece);
      if (seen > kPanelColumns) {
        panel = reinterpret_cast<const T*>(scratch.k + panel_words);
        Gemm<S, T>::multiply(q, d, count, panel, d, true, seen > kPanelColumns * 3 / 2, scratch.scores + kPanelColumns,
                             kPiece);
      }
      for (uint32_t i = 0; i < count; ++i) {
        weigh(scratch.scores + i * kPiece, hidden(unit, piece_index, r + i), visible(unit, piece_index, r + i), unit,
              result.sums + r + i, result.maxima + r + i);
      }
      uint32_t first_seen = visible(unit, piece_index, r);
      uint32_t last_seen = visible(unit, piece_index, r + count - 1);
      if (whole_vectors) {
        sum_values(scratch.scores, count, first_seen, last_seen, unit, piece_index, r, v, d, result);
      } else {
        sum_values(scratch.scores, count, first_seen, last_seen, unit, piece_index, r, scratch.v, result.padded,
                   result);
      }
      r += count;
    }
  }

  // Columns of two panels from the first `seen` rows of K, a vector's worth of rows at a time (the last row again where
  // there are fewer). Returns the words of a panel.
  static size_t transpose_keys(const T* k, uint32_t d, uint32_t seen, uint32_t* to) {
    uint32_t words = static_cast<uint32_t>((d * sizeof(T) + 3) / 4), whole_words = d * sizeof(T) / 4;
    size_t panel_words = size_t{words} * kPanelColumns;
    for (uint32_t t = 0; t < seen; t += S::kLanes) {
      const T* rows[S::kLanes];
      for (uint32_t i = 0; i < S::kLanes; ++i) rows[i] = k + size_t{t + i < seen ? t + i : seen - 1} * d;
      uint32_t* column = to + t / kPanelColumns * panel_words + t % kPanelColumns;
      uint32_t w = 0;
      // Rows of an odd number of bf16 are not aligned to words.
      if (d * sizeof(T) % 4 == 0) {
        for (; w + S::kLanes <= whole_words; w += S::kLanes) {
          const uint32_t* at[S::kLanes];
          for (uint32_t i = 0; i < S::kLanes; ++i) at[i] = reinterpret_cast<const uint32_t*>(rows[i]) + w;
          S::transpose(at, column + size_t{w} * kPanelColumns, kPanelColumns);
        }
      }
      for (; w < words; ++w) {
        for (uint32_t i = 0; i < S::kLanes; ++i) {
          uint32_t word = 0;
          const char* from = reinterpret_cast<const char*>(rows[i]) + size_t{w} * 4;
          if (w < whole_words) {
            __builtin_memcpy(&word, from, 4);
          } else {
            __builtin_memcpy(&word, from, sizeof(T));
          }
          column[size_t{w} * kPanelColumns + i] = word;
        }
      }
    }
    return panel_words;
  }

  // V as f32 rows of whole vectors, zeros at their ends.
  static void widen_values(const T* v, uint32_t d, uint32_t seen, float* to) {
    size_t padded = attend_padded_dim(d);
    for (uint32_t t = 0; t < seen; ++t) {
      for (uint32_t i = 0; i < d; i += S::kLanes) {
        S::store(to + t * padded + i, load_first<S>(v + size_t{t} * d + i, d - i));
      }
    }
  }

  // Scores of the visible tokens become weights e^(score·scale − largest), those of the first `hidden` tokens 0.
  static void weigh(float* scores, uint32_t hidden, uint32_t count, const AttendUnit& unit, float* sum, float* largest) {
    const F lowest = S::set1(-__builtin_inff());
    F most = lowest;
    for (uint32_t t = 0; t < count; t += S::kLanes) {
      F score = S::mul(S::load(scores + t), S::set1(unit.scale));
      if (unit.score_cap != 0) {
        score = S::mul(tanh<S>(S::div(score, S::set1(unit.score_cap))), S::set1(unit.score_cap));
      }
      if (t + S::kLanes <= hidden) {
        score = lowest;
      } else if (t < hidden) {
        score = S::keep_first(lowest, hidden - t, score);
      }
      if (count - t < S::kLanes) score = S::keep_first(score, count - t, lowest);
      most = S::max(most, score);
      S::store(scores + t, score);
    }
    float top = S::largest(most);
    F total = S::zero();
    for (uint32_t t = 0; t < count; t += S::kLanes) {
      F weight = exp<S>(S::sub(S::load(scores + t), S::set1(top)));
      total = S::add(total, weight);
      S::store(scores + t, weight);
    }
    *sum = S::sum(total);
    *largest = top;
  }

  // result rows r.. = Σ weight[token] · V[token]: together as far as the first row sees, then each row on its own.
  template <typename V>
  static void sum_values(const float* weights, uint32_t count, uint32_t first_seen, uint32_t last_seen,
                         const AttendUnit& unit, uint32_t piece_index, uint32_t r, const V* v, size_t v_stride,
                         const Rowset& result) {
    uint32_t d = unit.head_dim, begin = piece_index == unit.own_piece ? first_seen - 1 : 0;  // the others may be no numbers
    for (uint32_t i = 0; begin > 0 && i < count; ++i) __builtin_memset(result.row(r + i), 0, result.padded * sizeof(float));
    values_rows<S::kAttendRows>(count, weights, v, v_stride, d, begin, first_seen, result.row(r), result.padded);
    if (first_seen == last_seen) return;
    for (uint32_t i = 1; i < count; ++i) {
      uint32_t seen = visible(unit, piece_index, r + i);
      if (seen == first_seen) continue;
      values_rows<1>(1, weights + i * kPiece, v, v_stride, d, first_seen, seen, result.row(r + i), result.padded);
    }
  }

  template <int Rows, typename V>
  static void values_rows(uint32_t rows, const float* weights, const V* v, size_t v_stride, uint32_t d, uint32_t begin,
                          uint32_t end, float* to, size_t to_stride) {
    if constexpr (Rows > 1) {
      if (rows < Rows) return values_rows<Rows - 1>(rows, weights, v, v_stride, d, begin, end, to, to_stride);
    }
    uint32_t i = 0;
    for (; i + kVectors * S::kLanes <= d; i += kVectors * S::kLanes) {
      values_block<Rows, kVectors>(weights, v + i, v_stride, begin, end, to + i, to_stride);
    }
    for (; i < d; i += S::kLanes) values_block<Rows, 1>(weights, v + i, v_stride, begin, end, to + i, to_stride);
  }

  // to[r][0 : Vectors · lanes] (+)= Σ over tokens begin..end − 1; continues the chain that `to` holds unless begin is 0.
  template <int Rows, int Vectors, typename V>
  [[gnu::noinline]] static void values_block(const float* weights, const V* v, size_t v_stride, uint32_t begin,
                                             uint32_t end, float* to, size_t to_stride) {
    F sums[Rows][Vectors];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int n = 0; n < Vectors; ++n) {
        sums[r][n] = begin == 0 ? S::zero() : S::load(to + r * to_stride + n * S::kLanes);
      }
    }
    for (uint32_t t = begin; t < end; ++t) {
      F values[Vectors];
#pragma GCC unroll 4
      for (int n = 0; n < Vectors; ++n) values[n] = S::load(v + t * v_stride + n * S::kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        F weight = S::set1(weights[r * kPiece + t]);
#pragma GCC unroll 4
        for (int n = 0; n < Vectors; ++n) sums[r][n] = S::fma(values[n], weight, sums[r][n]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int n = 0; n < Vectors; ++n) S::store(to + r * to_stride + n * S::kLanes, sums[r][n]);
    }
  }

  // state ⊕ result for the rows that the piece reaches: both are rescaled to the larger of their maxima.
  static void fold(const AttendUnit& unit, uint32_t piece_index, float* state_at, float* result_at) {
    uint32_t rows = unit.tokens * unit.group, end = end_token(unit, piece_index) * unit.group;
    size_t padded = attend_padded_dim(unit.head_dim);
    Rowset state(state_at, rows, padded), result(result_at, rows, padded);
    for (uint32_t r = first_token(unit, piece_index) * unit.group; r < end; ++r) {
      float old_top = state.maxima[r], new_top = result.maxima[r];
      float top = new_top > old_top ? new_top : old_top;
      F old_factor = exp<S>(S::set1(old_top - top)), new_factor = exp<S>(S::set1(new_top - top));
      F sum = S::fma(S::set1(result.sums[r]), new_factor, S::mul(S::set1(state.sums[r]), old_factor));
      state.sums[r] = S::largest(sum);  // all lanes are equal
      state.maxima[r] = top;
      float* to = state.row(r);
      const float* from = result.row(r);
      for (uint32_t i = 0; i < unit.head_dim; i += S::kLanes) {
        S::store(to + i, S::fma(S::load(from + i), new_factor, S::mul(S::load(to + i), old_factor)));
      }
    }
  }

  // The rows whose last piece this was have their result, the others are left for the next operation.
  static void leave(const AttendUnit& unit, float* state_at) {
    if (unit.end_piece == unit.pieces) return write_out(unit, state_at);
    each_state(unit, state_at, [](float* own, float* sum, float* top, float* shared, size_t padded) {
      __builtin_memcpy(shared, own, padded * sizeof(float));
      shared[padded] = *sum;
      shared[padded + 1] = *top;
    });
  }

  static void load_state(const AttendUnit& unit, float* state_at) {
    each_state(unit, state_at, [](float* own, float* sum, float* top, float* shared, size_t padded) {
      __builtin_memcpy(own, shared, padded * sizeof(float));
      *sum = shared[padded];
      *top = shared[padded + 1];
    });
  }

  template <typename Move>
  static void each_state(const AttendUnit& unit, float* state_at, const Move& move) {
    size_t padded = attend_padded_dim(unit.head_dim);
    Rowset state(state_at, unit.tokens * unit.group, padded);
    for (uint32_t t = 0; t < unit.tokens; ++t) {
      for (uint32_t g = 0; g < unit.group; ++g) {
        uint32_t r = t * unit.group + g;
        move(state.row(r), state.sums + r, state.maxima + r, unit.state + t * unit.state_stride + g * (padded + 16),
             padded);
      }
    }
  }

  static void write_out(const AttendUnit& unit, float* state_at) {
    uint32_t d = unit.head_dim;
    Rowset state(state_at, unit.tokens * unit.group, attend_padded_dim(d));
    for (uint32_t t = 0; t < unit.tokens; ++t) {
      for (uint32_t g = 0; g < unit.group; ++g) {
        uint32_t r = t * unit.group + g;
        T* out = static_cast<T*>(unit.out) + t * unit.out_stride + size_t{g} * d;
        F sum = S::set1(state.sums[r]);
        for (uint32_t i = 0; i < d; i += S::kLanes) {
          store_first<S>(out + i, S::div(S::load(state.row(r) + i), sum), d - i);
        }
      }
    }
  }
};

}  // namespace iokv::cpu
