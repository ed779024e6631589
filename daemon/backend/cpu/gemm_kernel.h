// SPDX-License-Identifier: Apache-2.0
// Rows times a panel of 32 packed columns, for the lanes S of an ISA and elements T. Every output has one accumulator
// that takes the inputs of a chunk in order, and a total that takes the chunks in order; how many rows and columns are
// blocked together changes which registers those are and nothing else.
#pragma once

#include "daemon/backend/cpu/kernels.h"
#include "daemon/backend/simd/lanes.h"

namespace iokv::cpu {

template <typename S, typename T>
struct Gemm {
  using F = typename S::F;
  static constexpr uint32_t kStep = sizeof(T) == 2 ? 2 : 1;  // inputs a step: bf16 comes in pairs
  static constexpr uint32_t kHalf = kPanelColumns / 2;

  static void run(const GemmTile& tile) {
    alignas(64) float totals[S::kGemmRows * kPanelColumns];
    const T* x = static_cast<const T*>(tile.x);
    const T* panel = static_cast<const T*>(tile.panel);
    uint32_t end = tile.begin + tile.columns;
    for (uint32_t row = 0; row < tile.rows;) {
      uint32_t rows = next_group(tile.rows - row, S::kGemmRows);
      multiply(x + row * tile.x_stride, tile.x_stride, rows, panel, tile.k, tile.begin < kHalf, end > kHalf, totals,
               kPanelColumns);
      for (uint32_t r = 0; r < rows; ++r) finish(tile, row + r, totals + r * kPanelColumns + tile.begin);
      row += rows;
    }
  }

  // totals[r · totals_stride + c] = Σ_i x[r, i] · panel[i][c] for rows <= kGemmRows and the wanted halves of the panel.
  // A chunk's two halves follow each other: they lie in the same or neighbouring cache lines.
  static void multiply(const T* x, size_t x_stride, uint32_t rows, const T* panel, uint32_t k, bool low, bool high,
                       float* totals, size_t totals_stride) {
    constexpr int kVectors = kHalf / S::kLanes;
    for (uint32_t begin = 0; begin < k; begin += kChunkInputs) {
      Chunk chunk{x + begin, x_stride, panel + size_t{begin} * kPanelColumns,
                  k - begin < kChunkInputs ? k - begin : kChunkInputs, begin == 0, totals, totals_stride};
      if (low && high && rows <= S::kWideRows) {
        add_rows<S::kWideRows, 2 * kVectors>(chunk, rows);
        continue;
      }
      if (low) add_rows<S::kGemmRows, kVectors>(chunk, rows);
      if (!high) continue;
      chunk.w += kHalf * kStep;
      chunk.totals += kHalf;
      add_rows<S::kGemmRows, kVectors>(chunk, rows);
    }
  }

  // Totals of the tile's columns of a row, to where they go.
  static void finish(const GemmTile& tile, uint32_t row, const float* totals) {
    size_t at = row * tile.y_stride;
    for (uint32_t c = 0; c < tile.columns; c += S::kLanes) {
      uint32_t count = tile.columns - c < S::kLanes ? tile.columns - c : S::kLanes;
      F sum = S::load(totals + c);
      if (tile.bias != nullptr) sum = S::add(sum, load_first<S>(tile.bias + c, count));
      if (tile.store == Store::element) {
        store_first<S>(static_cast<T*>(tile.y) + at + c, sum, count);
        continue;
      }
      float* y = static_cast<float*>(tile.y) + at + c;
      if (tile.store == Store::add_f32) sum = S::add(load_first<S>(y, count), sum);
      store_first<S>(y, sum, count);
    }
  }

 private:
  struct Chunk {
    const T* x;
    size_t x_stride;
    const T* w;
    uint32_t inputs;
    bool first;  // totals are stored, not added to
    float* totals;
    size_t totals_stride;
  };

  // Picks the block for 1 <= rows <= Rows.
  template <int Rows, int Vectors>
  static void add_rows(const Chunk& chunk, uint32_t rows) {
    if constexpr (Rows > 1) {
      if (rows < Rows) return add_rows<Rows - 1, Vectors>(chunk, rows);
    }
    add_block<Rows, Vectors>(chunk);
  }

  template <int Rows, int Vectors>
  [[gnu::noinline]] static void add_block(const Chunk& chunk) {
    const T* x = chunk.x;
    const T* w = chunk.w;
    const size_t x_stride = chunk.x_stride;
    const uint32_t inputs = chunk.inputs;
    F sums[Rows][Vectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[r][v] = S::zero();
    }
    uint32_t i = 0;
    for (; i + kStep <= inputs; i += kStep) {
      if constexpr (Vectors * S::kLanes == kHalf && S::kWideRows < S::kGemmRows) prefetch(w + i * kPanelColumns);
      step<Rows, Vectors, kStep>(sums, x + i, x_stride, w + i * kPanelColumns);
    }
    if (i < inputs) step<Rows, Vectors, 1>(sums, x + i, x_stride, w + i * kPanelColumns);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        float* total = chunk.totals + r * chunk.totals_stride + v * S::kLanes;
        S::store(total, chunk.first ? sums[r][v] : S::add(S::load(total), sums[r][v]));
      }
    }
  }

  // Both halves of a panel 2 KiB ahead: half a panel at a time is no stream that the hardware would fetch ahead.
  static void prefetch(const T* w) {
    const char* ahead = reinterpret_cast<const char*>(w) + 2048;
    __builtin_prefetch(ahead);
    __builtin_prefetch(ahead + 64);
  }

  // One step of every chain: Inputs inputs of each row (1 of a pair at the end of an odd k).
  template <int Rows, int Vectors, int Inputs>
  [[gnu::always_inline]] static inline void step(F (&sums)[Rows][Vectors], const T* x, size_t x_stride, const T* w) {
    if constexpr (sizeof(T) == 2) {
      typename S::Pairs pairs[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) pairs[v] = S::load_pairs(w + v * S::kLanes * 2);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        uint32_t input = 0;
        __builtin_memcpy(&input, x + r * x_stride, Inputs * sizeof(T));
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sums[r][v] = S::dot(sums[r][v], pairs[v], input);
      }
    } else {
      F weights[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) weights[v] = S::load(w + v * S::kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        F input = S::set1(x[r * x_stride]);
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sums[r][v] = S::fma(weights[v], input, sums[r][v]);
      }
    }
  }
};

}  // namespace iokv::cpu
