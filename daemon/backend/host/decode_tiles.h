// SPDX-License-Identifier: Apache-2.0
// Attention as in decode_kernel.h to a block of bf16, for the query heads that share a KV head by products of tiles: registers
// of 16 rows of 64 bytes, here always whole. A product adds to a tile of f32 one of 16 by 32 numbers times one of 32 by 16,
// the latter in pairs: row p of it holds 2p and 2p + 1 of each column. 16 query heads at most make a pass.
//
//   scores [16 tokens][16 queries] += K [16 tokens][32 elements] · q [16 pairs of elements][16 queries]
//   sums [8 queries, twice][16 columns] += weights [8 queries, twice][32 tokens] · V [16 pairs of tokens][16 columns]
//
// K is read where it lies, and queries are packed once for many blocks; V's rows are interleaved by twos on the way. f32 weights
// are the sum of two bf16 within 2^-18 of themselves, each half with rows of its own: a weight in bf16 alone would cost 2^-9.
//
// Products take subnormals as zero and add all even elements of a row's 32, all odd ones, then both: the bits are their own.
// Included only by files compiled for AVX-512 with BF16.
//
// Tiles offers configure(address of 64 bytes), release(), and of the registers T < 8 zero<T>(), load<T>(from, bytes between
// rows), store<T>(to, likewise) and multiply<Sum, A, B>(). It is a parameter so that machines without them test the rest.
#pragma once

#include "daemon/backend/host/lanes_avx512.h"

namespace iokv::host {
namespace {

template <typename Tiles>
struct DecodeTiles : Decode<LanesAvx512, Bf16<LanesAvx512>> {
  using S = LanesAvx512;
  using Base = Decode<S, Bf16<S>>;
  using Asking = typename Base::Asking;

  // A tile takes as long for one query as for eight: of 4 it was slower than vectors (80 to 90 GB/s of 14 threads, 96 to 101), of
  // 8 faster (70 to 78, 62 to 67). A row of K that is shorter than a tile's has no other to overlap.
  static constexpr uint32_t kLeastGroup = 5, kLeastHeadDim = 32;
  static bool fits(uint32_t group, uint32_t d) { return group >= kLeastGroup && d >= kLeastHeadDim; }
  static const Kernels& otherwise() { return *avx512_bf16_kernels(Element::bf16); }

  static void enter(uint32_t group, uint32_t d) {
    if (!fits(group, d)) return;
    // Palette 1; the bytes of a row of each register from 16 on, its rows from 48 on.
    alignas(64) uint8_t configuration[64] = {1};
    for (int tile = 0; tile < 8; ++tile) {
      configuration[16 + 2 * tile] = kRowBytes;
      configuration[48 + tile] = kRows;
    }
    Tiles::configure(configuration);
  }
  // What is left in registers the system would have to save whenever the thread sleeps.
  static void leave(uint32_t group, uint32_t d) {
    if (fits(group, d)) Tiles::release();
  }

  // packed: [passes][parts of 32 elements][16 pairs][16 queries][2]. Where d is no multiple of 32 the last part are the last 32
  // elements all the same, and those that are in the part before it are zero: so K's last part overlaps with no other row.
  static void pack_queries(const void* q_at, uint32_t group, uint32_t d, void* packed) {
    if (!fits(group, d)) return otherwise().pack_queries(q_at, group, d, packed);
    const uint16_t* q = static_cast<const uint16_t*>(q_at);
    char* to = static_cast<char*>(packed);
    alignas(64) uint32_t part[kRows][16] = {};
    const uint32_t* rows[kRows];
    for (uint32_t row = 0; row < kRows; ++row) rows[row] = part[row];
    for (uint32_t first = 0; first < group; first += kRows) {
      for (uint32_t i = 0; i < d; i += kElements, to += kTileBytes) {
        const uint32_t column = column_of(i, d);
        const __mmask32 own = ~__mmask32{0} << (i - column);
        for (uint32_t row = 0; row < kRows; ++row) {
          const bool there = first + row < group;
          _mm512_store_si512(part[row], there ? _mm512_maskz_loadu_epi16(own, q + size_t{first + row} * d + column)
                                              : _mm512_setzero_si512());
        }
        S::transpose(rows, reinterpret_cast<uint32_t*>(to), 16);
      }
    }
  }

  static void attend(const DecodeBlock& block) {
    if (!fits(block.group, block.head_dim)) return otherwise().attend(block);
    alignas(64) Scratch scratch;
    Asking asking(block, 0);
    const uint32_t turns = turns_of(block);
    asking.step = (asking.left + turns - 1) / turns;
    DecodeBlock pass = block;
    pass.scores = scratch.scores;
    for (uint32_t row = 0; row < block.group; row += kRows) {
      pass.group = block.group - row < kRows ? block.group - row : kRows;
      pass.state = block.state + row * state_floats(block.head_dim);
      pass.q = static_cast<const char*>(block.q) + row / kRows * parts_of(block.head_dim) * kTileBytes;
      score(pass, scratch, asking);
      const uint32_t first = block.begin / S::kLanes * S::kLanes;
      for (uint32_t query = 0; query < pass.group; ++query) Base::weigh(pass, query, first, asking);
      split_weights(pass, scratch);
      values(pass, scratch, asking);
    }
  }

 private:
  static constexpr uint32_t kTokens = Base::kTokens;
  static constexpr uint32_t kRows = 16, kRowBytes = 64, kTileBytes = kRows * kRowBytes;
  static constexpr uint32_t kElements = 32;           // of a row of bf16
  static constexpr uint32_t kHalf = 32, kHalves = 2;  // tokens of a row of weights
  static constexpr uint32_t kQueries = 8;             // whose weights' two parts make a tile
  static constexpr uint32_t kUnit = 32, kUnits = 2;   // columns of two tiles of V; that are summed together

  // 20 KiB: beside a block, and what has been asked for, in a first-level cache of 48.
  struct Scratch {
    float scores[kRows * kTokens];                        // [query][token], then weights
    float tiles[4][kRows * 16];                           // products on their way out of registers
    uint16_t weights[2][kHalves][2][kQueries][kHalf];     // [8 queries][half][high, low part][query][token]
    uint32_t values[kHalves][2 * kUnits][kRows][16];      // [half][tile][pair of tokens][column][2]
  };

  static uint32_t parts_of(uint32_t d) { return (d + kElements - 1) / kElements; }
  static uint32_t column_of(uint32_t i, uint32_t d) { return i + kElements <= d ? i : d - kElements; }
  static bool sees_half(const DecodeBlock& block, uint32_t half) {
    return block.begin < (half + 1) * kHalf && block.end > half * kHalf;
  }

  // How often memory is asked for in a block's course: with each tile of K, vector of scores, and half a tile pair of V, each of
  // which takes some 40 cycles.
  static uint32_t turns_of(const DecodeBlock& block) {
    const uint32_t vectors = (block.end - 1) / S::kLanes - block.begin / S::kLanes + 1;
    const uint32_t halves = sees_half(block, 0) + sees_half(block, 1);
    const uint32_t passes = (block.group + kRows - 1) / kRows, units = (block.head_dim + kUnit - 1) / kUnit;
    return passes * (parts_of(block.head_dim) * vectors + 2 * units * halves) + block.group * vectors;
  }

  // Into scratch.scores; of tokens beside those of vectors that are seen nothing is.
  static void score(const DecodeBlock& block, Scratch& scratch, Asking& asking) {
    const uint32_t d = block.head_dim;
    const uint16_t* k = static_cast<const uint16_t*>(block.k);
    const char* q = static_cast<const char*>(block.q);
    const uint32_t from = block.begin / kRows, to = (block.end - 1) / kRows + 1;
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    Tiles::template zero<2>();
    Tiles::template zero<3>();
    for (uint32_t i = 0; i < d; i += kElements, q += kTileBytes) {
      const uint16_t* at = k + column_of(i, d);
      Tiles::template load<4>(q, kRowBytes);
      score_part<0, 5>(at, d, from, to, asking);
      score_part<1, 6>(at, d, from, to, asking);
      score_part<2, 7>(at, d, from, to, asking);
      score_part<3, 5>(at, d, from, to, asking);
    }
    take_scores<0>(scratch, from, to);
    take_scores<1>(scratch, from, to);
    take_scores<2>(scratch, from, to);
    take_scores<3>(scratch, from, to);
  }

  // Tokens 16·Part.. of the block.
  template <int Part, int Keys>
  [[gnu::always_inline]] static inline void score_part(const uint16_t* at, uint32_t d, uint32_t from, uint32_t to,
                                                       Asking& asking) {
    if (Part < from || Part >= to) return;
    asking.ask();
    Tiles::template load<Keys>(at + size_t{Part} * kRows * d, d * sizeof(uint16_t));
    Tiles::template multiply<Part, Keys, 4>();
  }
  template <int Part>
  [[gnu::always_inline]] static inline void take_scores(Scratch& scratch, uint32_t from, uint32_t to) {
    if (Part < from || Part >= to) return;
    Tiles::template store<Part>(scratch.tiles[Part], kRowBytes);
    const uint32_t* rows[kRows];
    for (uint32_t row = 0; row < kRows; ++row) rows[row] = reinterpret_cast<const uint32_t*>(scratch.tiles[Part] + row * 16);
    S::transpose(rows, reinterpret_cast<uint32_t*>(scratch.scores + Part * kRows), kTokens);
  }

  // Weights that weigh has left become tiles of both their parts; where no query or no token is, zero.
  static void split_weights(const DecodeBlock& block, Scratch& scratch) {
    for (uint32_t query = 0; query < (block.group + kQueries - 1) / kQueries * kQueries; ++query) {
      const float* weights = scratch.scores + query * kTokens;
      for (uint32_t half = 0; half < kHalves; ++half) {
        auto load = [&](uint32_t t) __attribute__((always_inline)) {
          return query < block.group && t + S::kLanes > block.begin && t < block.end ? S::load(weights + t) : S::zero();
        };
        const __m512 first = load(half * kHalf), second = load(half * kHalf + S::kLanes);
        const __m512i high = pairs(first, second);
        const __m512 first_left = S::sub(first, widen(_mm512_castsi512_si256(high)));
        const __m512 second_left = S::sub(second, widen(_mm512_extracti64x4_epi64(high, 1)));
        auto& to = scratch.weights[query / kQueries][half];
        _mm512_store_si512(to[0][query % kQueries], high);
        _mm512_store_si512(to[1][query % kQueries], pairs(first_left, second_left));
      }
    }
  }
  static __m512i pairs(__m512 first, __m512 second) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  }
  static __m512 widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }

  // sums = sums·factor + Σ weight[token]·V[token], 64 columns at a time.
  static void values(const DecodeBlock& block, Scratch& scratch, Asking& asking) {
    const uint32_t d = block.head_dim;
    const uint16_t* v = static_cast<const uint16_t*>(block.k) + size_t{kTokens} * d;
    for (uint32_t column = 0; column < d; column += kUnits * kUnit) {
      const uint32_t units = d - column > kUnit ? 2 : 1;
      for (uint32_t half = 0; half < kHalves; ++half) {
        if (!sees_half(block, half)) continue;
        for (uint32_t unit = 0; unit < units; ++unit) {
          const uint32_t left = d - column - unit * kUnit;
          const bool whole = left >= kUnit && block.begin <= half * kHalf && block.end >= (half + 1) * kHalf;
          auto* to = scratch.values[half] + 2 * unit;
          if (whole) {
            interleave<true>(block, v + column + unit * kUnit, half, left, to, asking);
          } else {
            interleave<false>(block, v + column + unit * kUnit, half, left, to, asking);
          }
        }
      }
      for (uint32_t query = 0; query < block.group; query += kQueries) {
        if (units == 2) {
          sum<2>(block, scratch, query, column);
        } else {
          sum<1>(block, scratch, query, column);
        }
      }
    }
  }

  // Of 32 columns, of which `left` are V's, to[0] has numbers 0–3, 8–11, 16–19 and 24–27 and to[1] the others, as an instruction
  // gives them; tokens that are not seen are zero, whatever they are.
  template <bool Whole>
  static void interleave(const DecodeBlock& block, const uint16_t* v, uint32_t half, uint32_t left,
                         uint32_t (*to)[kRows][16], Asking& asking) {
    const __mmask32 columns = left < kUnit ? (__mmask32{1} << left) - 1 : ~__mmask32{0};
    auto load = [&](uint32_t t) __attribute__((always_inline)) {
      const uint16_t* at = v + size_t{t} * block.head_dim;
      if (Whole) return _mm512_loadu_si512(at);
      return _mm512_maskz_loadu_epi16(t >= block.begin && t < block.end ? columns : __mmask32{0}, at);
    };
    for (uint32_t pair = 0; pair < kRows; ++pair) {
      if (pair % (kRows / 2) == 0) asking.ask();
      const uint32_t t = half * kHalf + 2 * pair;
      const __m512i even = load(t), odd = load(t + 1);
      _mm512_store_si512(to[0][pair], _mm512_unpacklo_epi16(even, odd));
      _mm512_store_si512(to[1][pair], _mm512_unpackhi_epi16(even, odd));
    }
  }

  // Of 8 queries, or what is left of them, and 32·Units columns from `column` on.
  template <int Units>
  static void sum(const DecodeBlock& block, Scratch& scratch, uint32_t query, uint32_t column) {
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    if constexpr (Units == 2) {
      Tiles::template zero<2>();
      Tiles::template zero<3>();
    }
    for (uint32_t half = 0; half < kHalves; ++half) {
      if (!sees_half(block, half)) continue;
      const auto& v = scratch.values[half];
      Tiles::template load<4>(scratch.weights[query / kQueries][half], kRowBytes);
      Tiles::template load<5>(v[0], kRowBytes);
      Tiles::template multiply<0, 4, 5>();
      Tiles::template load<6>(v[1], kRowBytes);
      Tiles::template multiply<1, 4, 6>();
      if constexpr (Units == 2) {
        Tiles::template load<7>(v[2], kRowBytes);
        Tiles::template multiply<2, 4, 7>();
        Tiles::template load<5>(v[3], kRowBytes);
        Tiles::template multiply<3, 4, 5>();
      }
    }
    Tiles::template store<0>(scratch.tiles[0], kRowBytes);
    Tiles::template store<1>(scratch.tiles[1], kRowBytes);
    if constexpr (Units == 2) {
      Tiles::template store<2>(scratch.tiles[2], kRowBytes);
      Tiles::template store<3>(scratch.tiles[3], kRowBytes);
    }
    const size_t padded = state_padded_dim(block.head_dim), row_floats = state_floats(block.head_dim);
    const uint32_t rows = block.group - query < kQueries ? block.group - query : kQueries;
    for (uint32_t row = 0; row < rows; ++row) {
      float* state = block.state + (query + row) * row_floats;
      const __m512 factor = S::set1(state[padded + 2]);
      for (uint32_t unit = 0; unit < Units; ++unit) {
        const float *low = scratch.tiles[2 * unit] + row * 16, *high = scratch.tiles[2 * unit + 1] + row * 16;
        constexpr size_t kLowParts = kQueries * 16;  // behind the rows of the high parts
        const __m512d even = _mm512_castps_pd(S::add(S::load(low), S::load(low + kLowParts)));
        const __m512d odd = _mm512_castps_pd(S::add(S::load(high), S::load(high + kLowParts)));
        float* to = state + column + unit * kUnit;
        const __m512d first = _mm512_permutex2var_pd(even, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), odd);
        S::store(to, S::fma(S::load(to), factor, _mm512_castpd_ps(first)));
        if (column + unit * kUnit + S::kLanes >= padded) continue;
        const __m512d second = _mm512_permutex2var_pd(even, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), odd);
        S::store(to + S::kLanes, S::fma(S::load(to + S::kLanes), factor, _mm512_castpd_ps(second)));
      }
    }
  }
};

template <typename Tiles>
constexpr Kernels tile_kernel_table() {
  using D = DecodeTiles<Tiles>;
  return {&D::pack_queries, &D::clear, &D::enter, &D::attend, &D::leave, &D::fold};
}

}  // namespace
}  // namespace iokv::host
