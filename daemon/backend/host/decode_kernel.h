// SPDX-License-Identifier: Apache-2.0
// Attention of a KV head's query rows to a block of 64 tokens, for the lanes S of an ISA and elements E.
//
// K is read once, row by row, then V behind it. Lines of 64 bytes are asked for (prefetched) a few KiB before they are
// computed with, one by one between the products, so that memory is always busy: asking for many at once would have the
// processor wait for room among its outstanding misses, and memory for the processor afterwards. A K or V row that is in
// registers serves up to four query rows; what a larger group reads again is in the first-level cache.
//
// Scores are sums of products in the lanes of a vector; kLanes of them (of 1, 2 or 4 query rows) are summed across lanes
// together, without a detour through memory. They stay in scratch memory, become weights there, and weigh V.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "daemon/backend/host/kernels.h"
#include "daemon/backend/simd/lanes.h"

namespace iokv::host {

// Elements as vectors of f32.
template <typename S>
struct F32 {
  using T = float;
  static typename S::F load(const T* p) { return S::load(p); }
};
template <typename S>
struct Bf16 {
  using T = uint16_t;
  static typename S::F load(const T* p) { return S::load(p); }
};
template <typename S>
struct F16 {
  using T = uint16_t;
  static typename S::F load(const T* p) { return S::load_half(p); }
};

template <typename S, typename E>
[[gnu::always_inline]] inline typename S::F load_part(const typename E::T* p, size_t count) {
  typename E::T part[S::kLanes] = {};
  __builtin_memcpy(part, p, count * sizeof part[0]);
  return E::load(part);
}

// Products q·k of widened elements: q is packed as f32, whole vectors, zeros at the end.
template <typename S, typename E>
struct WideProducts {
  using Vector = typename S::F;
  static constexpr uint32_t kElements = S::kLanes;
  static Vector load(const typename E::T* p) { return E::load(p); }
  static Vector load_first(const typename E::T* p, uint32_t count) { return load_part<S, E>(p, count); }
  static typename S::F dot(typename S::F sum, Vector k, const void* q) {
    return S::fma(k, S::load(static_cast<const float*>(q)), sum);
  }
  static constexpr uint32_t kQueryBytes = S::kLanes * 4;  // of a vector's worth of elements
  static void pack(const typename E::T* q, uint32_t count, void* to) {
    S::store(static_cast<float*>(to), count < kElements ? load_part<S, E>(q, count) : E::load(q));
  }
};

// S also has sums(a): in lane i the sum of the lanes of a[i].
template <typename S, typename E, typename Products = WideProducts<S, E>>
struct Decode {
  using F = typename S::F;
  using T = typename E::T;
  static constexpr uint32_t kTokens = 64;

  static void pack_queries(const void* q_at, uint32_t group, uint32_t d, void* packed) {
    const T* q = static_cast<const T*>(q_at);
    char* to = static_cast<char*>(packed);
    for (uint32_t row = 0; row < group; ++row) {
      for (uint32_t i = 0; i < d; i += Products::kElements, to += Products::kQueryBytes) {
        Products::pack(q + size_t{row} * d + i, d - i < Products::kElements ? d - i : Products::kElements, to);
      }
    }
  }

  static void clear(float* state, uint32_t group, uint32_t d) {
    for (uint32_t row = 0; row < group; ++row, state += state_floats(d)) {
      for (size_t i = 0; i <= state_padded_dim(d); ++i) state[i] = 0;
      state[state_padded_dim(d) + 1] = -__builtin_inff();
    }
  }

  static void enter(uint32_t, uint32_t) {}
  static void leave(uint32_t, uint32_t) {}

  static void attend(const DecodeBlock& block) {
    const uint32_t d = block.head_dim, first = block.begin / S::kLanes * S::kLanes;
    const T* k = static_cast<const T*>(block.k);
    const T* v = k + size_t{kTokens} * d;
    for (uint32_t t = first; t < block.end; t += S::kLanes) {
      uint32_t row = 0;
      for (; row + 4 <= block.group; row += 4) score<4>(block, row, t, k);
      for (; row + 2 <= block.group; row += 2) score<2>(block, row, t, k);
      if (row < block.group) score<1>(block, row, t, k);
    }
    Asking asking(block, half_bytes(block));
    for (uint32_t row = 0; row < block.group; ++row) weigh(block, row, first, asking);
    asking.divide(block);
    uint32_t row = 0;
    for (; row + 4 <= block.group; row += 4) values<4>(block, row, v, asking);
    for (; row + 2 <= block.group; row += 2) values<2>(block, row, v, asking);
    if (row < block.group) values<1>(block, row, v, asking);
  }

  static void fold(float* state, const float* other, uint32_t group, uint32_t d) {
    const size_t padded = state_padded_dim(d);
    for (uint32_t row = 0; row < group; ++row, state += state_floats(d), other += state_floats(d)) {
      const float old_top = state[padded + 1], new_top = other[padded + 1], top = new_top > old_top ? new_top : old_top;
      const F old_factor = cpu::exp<S>(S::set1(old_top - top)), new_factor = cpu::exp<S>(S::set1(new_top - top));
      const F sum = S::fma(S::set1(other[padded]), new_factor, S::mul(S::set1(state[padded]), old_factor));
      state[padded] = S::largest(sum);  // all lanes are equal
      state[padded + 1] = top;
      for (size_t i = 0; i < padded; i += S::kLanes) {
        S::store(state + i, S::fma(S::load(other + i), new_factor, S::mul(S::load(state + i), old_factor)));
      }
    }
  }

 protected:
  static constexpr uint32_t kLine = 64;
  // Lines are asked for so far ahead: three times what memory gives a core (35 GB/s at the most) while it answers (150 ns),
  // and a third of a first-level cache; not farther than half a block, K and V of which are asked for as one.
  static constexpr uint32_t kAheadBytes = 16 << 10;
  static constexpr uint32_t kWeighLines = 4;  // for a vector of scores: its exponentials take as long as 50 products

  static uint32_t half_bytes(const DecodeBlock& block) { return kTokens * block.head_dim * sizeof(T); }
  static uint32_t ahead(const DecodeBlock& block) {
    const uint32_t half = half_bytes(block);
    return half < kAheadBytes ? half : kAheadBytes;
  }

  // What is asked for once `computed` bytes of a block have been asked for by other means (its K by its scores): the rest of
  // it, then the first of what comes after it up to where that block itself will begin to ask. Some of it while scores become
  // weights, and the rest evenly between the passes over V and between a pass's tokens, by steps that need not be whole lines:
  // a loop of as many turns each time is foreseen, as one that makes up for fractions is not. Where nothing is known to come
  // after it, the block's own first lines again, at no cost.
  struct Asking {
    const char* at;
    const char* end;
    const char* next;
    uint32_t left, step;  // bytes

    Asking(const DecodeBlock& block, uint32_t computed) {
      const uint32_t bytes = 2 * half_bytes(block);
      const char* own = static_cast<const char*>(block.k);
      at = own + computed + ahead(block);
      end = own + bytes;
      next = block.next != nullptr ? static_cast<const char*>(block.next) : own;
      left = bytes - computed;
      step = kWeighLines * kLine;
    }
    void divide(const DecodeBlock& block) {
      const uint32_t passes = passes_of<4>(block.group / 4, block.head_dim) +
                              passes_of<2>(block.group % 4 / 2, block.head_dim) +
                              passes_of<1>(block.group % 2, block.head_dim);
      step = (left + passes * kTokens - 1) / (passes * kTokens);
    }
    template <uint32_t Queries>
    static uint32_t passes_of(uint32_t times, uint32_t d) {
      const uint32_t vectors = (d + S::kLanes - 1) / S::kLanes;
      return times * ((vectors + value_vectors<Queries>() - 1) / value_vectors<Queries>());
    }
    void ask() {
      if (left < step) return;
      if (at >= end) {
        at = next;
        end = next + left + kLine;  // not reached again
      }
      for (uint32_t i = 0; i < step; i += kLine) __builtin_prefetch(at + i, 0, 3);
      at += step;
      left -= step;
    }
  };

 private:
  // Scores of query rows row.. against the tokens t..t + kLanes - 1. What is ahead of them is asked for with the first rows.
  template <int Queries>
  static void score(const DecodeBlock& block, uint32_t row, uint32_t t, const T* k) {
    for (uint32_t i = 0; i < Queries; ++i, t += S::kLanes / Queries) {
      if (row == 0) {
        score_tokens<Queries, true>(block, row, t, k);
      } else {
        score_tokens<Queries, false>(block, row, t, k);
      }
    }
  }

  template <int Queries, bool Ask>
  [[gnu::noinline]] static void score_tokens(const DecodeBlock& block, uint32_t row, uint32_t t, const T* k) {
    constexpr int kTogether = S::kLanes / Queries;
    // Vectors of K in a line. Lines are asked for in order, which processors' own prefetchers follow, and not as they are
    // computed with.
    constexpr int kParts = kLine / (Products::kElements * sizeof(T));
    const uint32_t d = block.head_dim;
    const size_t q_row = (d + Products::kElements - 1) / Products::kElements * Products::kQueryBytes;
    const char* q = static_cast<const char*>(block.q) + row * q_row;
    const T* at = k + size_t{t} * d;
    const char* ask = reinterpret_cast<const char*>(at) + ahead(block);
    F sums[Queries * kTogether];
#pragma GCC unroll 16
    for (int i = 0; i < Queries * kTogether; ++i) sums[i] = S::zero();
    auto multiply = [&](int token, typename Products::Vector keys) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int query = 0; query < Queries; ++query) {
        F& sum = sums[query * kTogether + token];
        sum = Products::dot(sum, keys, q + query * q_row);
      }
    };
    uint32_t i = 0;
    for (; i + kParts * Products::kElements <= d; ask += kTogether * kLine) {
#pragma GCC unroll 8
      for (int part = 0; part < kParts; ++part, i += Products::kElements, q += Products::kQueryBytes) {
#pragma GCC unroll 16
        for (int token = 0; token < kTogether; ++token) {
          if (Ask && token % kParts == part) {
            constexpr int kPartLines = kTogether / kParts;
            __builtin_prefetch(ask + (part * kPartLines + token / kParts) * int{kLine}, 0, 3);
          }
          multiply(token, Products::load(at + size_t{static_cast<uint32_t>(token)} * d + i));
        }
      }
    }
    for (; i + Products::kElements <= d; i += Products::kElements, q += Products::kQueryBytes) {
#pragma GCC unroll 16
      for (int token = 0; token < kTogether; ++token) {
        if (Ask && token % kParts == 0) __builtin_prefetch(ask, 0, 3), ask += kLine;
        multiply(token, Products::load(at + size_t{static_cast<uint32_t>(token)} * d + i));
      }
    }
    if (i < d) {
#pragma GCC unroll 16
      for (int token = 0; token < kTogether; ++token) {
        multiply(token, Products::load_first(at + size_t{static_cast<uint32_t>(token)} * d + i, d - i));
      }
    }
    float totals[S::kLanes];
    S::store(totals, S::sums(sums));
#pragma GCC unroll 4
    for (int query = 0; query < Queries; ++query) {
      __builtin_memcpy(block.scores + size_t{row + static_cast<uint32_t>(query)} * kTokens + t, totals + query * kTogether,
                       kTogether * sizeof(float));
    }
  }

 protected:
  // Scores become weights e^(score − largest so far); the row's sum and largest score go on, and where a weight was, left of
  // `first`, nothing is. The factor of what has been summed before is left in the state's third extra float.
  static void weigh(const DecodeBlock& block, uint32_t row, uint32_t first, Asking& asking) {
    float* scores = block.scores + size_t{row} * kTokens;
    float* tail = block.state + row * state_floats(block.head_dim) + state_padded_dim(block.head_dim);
    const F lowest = S::set1(-__builtin_inff());
    F most = lowest;
    for (uint32_t t = first; t < block.end; t += S::kLanes) {
      F score = S::mul(S::load(scores + t), S::set1(block.scale));
      if (block.score_cap != 0) {
        score = S::mul(cpu::tanh<S>(S::div(score, S::set1(block.score_cap))), S::set1(block.score_cap));
      }
      if (t < block.begin) score = S::keep_first(lowest, block.begin - t, score);
      if (block.end - t < S::kLanes) score = S::keep_first(score, block.end - t, lowest);
      most = S::max(most, score);
      S::store(scores + t, score);
    }
    const float block_top = S::largest(most), top = block_top > tail[1] ? block_top : tail[1];
    F total = S::zero();
    for (uint32_t t = first; t < block.end; t += S::kLanes) {
      asking.ask();
      const F weight = cpu::exp<S>(S::sub(S::load(scores + t), S::set1(top)));
      total = S::add(total, weight);
      S::store(scores + t, weight);
    }
    const float factor = S::largest(cpu::exp<S>(S::set1(tail[1] - top)));
    tail[0] = tail[0] * factor + S::sum(total);
    tail[1] = top;
    tail[2] = factor;
  }

 private:
  // Vectors of V that one pass sums, for so many query rows.
  template <uint32_t Queries>
  static constexpr uint32_t value_vectors() {
    return S::kValueSums / Queries < 8 ? S::kValueSums / Queries : 8;
  }

  // Query rows row..: sums = sums·factor + Σ weight[token]·V[token].
  template <int Queries>
  static void values(const DecodeBlock& block, uint32_t row, const T* v, Asking& asking) {
    constexpr uint32_t kMost = value_vectors<Queries>();
    const uint32_t d = block.head_dim;
    uint32_t i = 0;
    for (; i + kMost * S::kLanes <= d; i += kMost * S::kLanes) values_block<Queries, kMost>(block, row, v, i, asking);
    if (i == d) return;
    // What is left of a row, in few passes.
    if constexpr (kMost > 4) {
      if (i + 4 * S::kLanes <= d) values_block<Queries, 4>(block, row, v, i, asking), i += 4 * S::kLanes;
    }
    if constexpr (kMost > 2) {
      if (i + 2 * S::kLanes <= d) values_block<Queries, 2>(block, row, v, i, asking), i += 2 * S::kLanes;
    }
    if (i + S::kLanes <= d) values_block<Queries, 1>(block, row, v, i, asking), i += S::kLanes;
    if (i < d) values_block<Queries, 0>(block, row, v, i, asking);
  }

  // Vectors of V from element `column` on; 0: what is left of a row, less than a vector.
  template <int Queries, int Vectors>
  [[gnu::noinline]] static void values_block(const DecodeBlock& block, uint32_t row, const T* v, uint32_t column,
                                             Asking& asking_at) {
    constexpr int kSums = Vectors == 0 ? 1 : Vectors;
    const uint32_t d = block.head_dim;
    const size_t row_floats = state_floats(d);
    float* to = block.state + row * row_floats + column;
    const float* factors = block.state + row * row_floats + state_padded_dim(d) + 2;
    const float* weights = block.scores + size_t{row} * kTokens;
    F sums[Queries][kSums];
#pragma GCC unroll 4
    for (int q = 0; q < Queries; ++q) {
      const F factor = S::set1(factors[q * row_floats]);
#pragma GCC unroll 8
      for (int n = 0; n < kSums; ++n) sums[q][n] = S::mul(S::load(to + q * row_floats + n * S::kLanes), factor);
    }
    Asking asking = asking_at;
    for (uint32_t t = block.begin; t < block.end; ++t) {
      const T* at = v + size_t{t} * d + column;
      asking.ask();
      F values[kSums];
#pragma GCC unroll 8
      for (int n = 0; n < kSums; ++n) {
        values[n] = Vectors == 0 ? load_part<S, E>(at, d - column) : E::load(at + n * S::kLanes);
      }
#pragma GCC unroll 4
      for (int q = 0; q < Queries; ++q) {
        const F weight = S::set1(weights[q * kTokens + t]);
#pragma GCC unroll 8
        for (int n = 0; n < kSums; ++n) sums[q][n] = S::fma(values[n], weight, sums[q][n]);
      }
    }
    asking_at = asking;
#pragma GCC unroll 4
    for (int q = 0; q < Queries; ++q) {
#pragma GCC unroll 8
      for (int n = 0; n < kSums; ++n) S::store(to + q * row_floats + n * S::kLanes, sums[q][n]);
    }
  }
};

template <typename S, typename E, typename Products = WideProducts<S, E>>
constexpr Kernels kernel_table() {
  using D = Decode<S, E, Products>;
  return {&D::pack_queries, &D::clear, &D::enter, &D::attend, &D::leave, &D::fold};
}

}  // namespace iokv::host
