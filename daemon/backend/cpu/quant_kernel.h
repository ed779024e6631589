// SPDX-License-Identifier: Apache-2.0
// Rows of bf16 times a panel of 32 columns of quants (QuantPanels, kernels.h), for the lanes S of an ISA. Quants become
// bf16 by a table, which is exact, so that the only rounding before the sums is x's own. An output is the sum over
// blocks, in order, of scale · Σ quant · x + minimum · Σ x; the inner sum is one chain over the block's pairs of inputs.
// How many rows and columns are blocked together changes nothing of that.
#pragma once

#include "daemon/backend/cpu/gemm_kernel.h"

namespace iokv::cpu {

template <typename S>
struct QuantGemm {
  using F = typename S::F;
  using Pairs = typename S::Pairs;
  static constexpr uint32_t kHalf = kPanelColumns / 2;
  static constexpr uint32_t kWordInputs = 8;                              // of a word of nibbles
  static constexpr uint32_t kGroupBytes = kHalf * 4;                      // words of half a panel
  static constexpr int kHalfVectors = static_cast<int>(kHalf / S::kLanes);

  static void run(const GemmTile& tile) {
    alignas(64) float totals[S::kGemmRows * kPanelColumns];
    const uint16_t* x = static_cast<const uint16_t*>(tile.x);
    const uint32_t end = tile.begin + tile.columns, blocks = tile.k / tile.quants->block;
    const bool low = tile.begin < kHalf, high = end > kHalf;
    for (uint32_t row = 0; row < tile.rows;) {
      const uint32_t rows = next_group(tile.rows - row, S::kGemmRows);
      Block block{x + row * tile.x_stride, tile.x_stride, static_cast<const uint8_t*>(tile.panel), tile.quants,
                  tile.x_sums == nullptr ? nullptr : tile.x_sums + size_t{row} * blocks, blocks, true, 0, totals};
      for (uint32_t b = 0; b < blocks; ++b) {
        block.half = 0;
        if (low && high && rows <= S::kWideRows) {
          add<S::kWideRows, 2 * kHalfVectors>(block, rows);
        } else {
          if (low) add<S::kGemmRows, kHalfVectors>(block, rows);
          block.half = 1;
          if (high) add<S::kGemmRows, kHalfVectors>(block, rows);
        }
        block.x += tile.quants->block;
        block.at += tile.quants->block_bytes;
        if (block.x_sums != nullptr) ++block.x_sums;
        block.first = false;
      }
      for (uint32_t r = 0; r < rows; ++r) Gemm<S, uint16_t>::finish(tile, row + r, totals + r * kPanelColumns + tile.begin);
      row += rows;
    }
  }

 private:
  struct Block {
    const uint16_t* x;
    size_t x_stride;
    const uint8_t* at;         // the block's bytes
    const QuantPanels* quants;
    const float* x_sums;       // of the first row; a row's `blocks` behind the one before it
    size_t blocks;
    bool first;                // totals are stored, not added to
    uint32_t half;             // columns from 16·half on
    float* totals;             // [rows][32]
  };

  // Picks the block of code for 1 <= rows <= Rows.
  template <int Rows, int Vectors>
  static void add(const Block& block, uint32_t rows) {
    if constexpr (Rows > 1) {
      if (rows < Rows) return add<Rows - 1, Vectors>(block, rows);
    }
    if (block.quants->planes == 1) {
      add_block<Rows, Vectors, 1>(block);
    } else {
      add_block<Rows, Vectors, 2>(block);
    }
  }

  static F load_scale(const uint8_t* at, uint32_t column, bool halves) {
    return halves ? S::load_half(reinterpret_cast<const uint16_t*>(at) + column)
                  : S::load(reinterpret_cast<const float*>(at) + column);
  }

  template <int Rows, int Vectors, int Planes>
  [[gnu::noinline]] static void add_block(const Block& block) {
    const QuantPanels& quants = *block.quants;
    const uint32_t groups = quants.block / kWordInputs, scale_bytes = kPanelColumns * (quants.halves ? 2 : 4);
    const uint8_t* words = block.at + scale_bytes * (quants.minima ? 2 : 1) + block.half * Planes * groups * kGroupBytes;
    typename S::Table tables[Planes];
    for (int p = 0; p < Planes; ++p) tables[p] = S::load_table(quants.tables[p]);
    F sums[Rows][Vectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[r][v] = S::zero();
    }
    const uint16_t* x = block.x;
    for (uint32_t g = 0; g < groups; ++g, x += kWordInputs) {
      Pairs nibbles[Planes][Vectors];
#pragma GCC unroll 2
      for (int p = 0; p < Planes; ++p) {
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) {
          const uint32_t half = static_cast<uint32_t>(v / kHalfVectors), in_half = static_cast<uint32_t>(v % kHalfVectors);
          const uint8_t* at = words + ((half * Planes + static_cast<uint32_t>(p)) * groups + g) * kGroupBytes;
          nibbles[p][v] = S::load_pairs(reinterpret_cast<const uint16_t*>(at) + in_half * S::kLanes * 2);
        }
      }
      pair<Rows, Vectors, Planes, 0>(sums, nibbles, tables, x, block.x_stride);
      pair<Rows, Vectors, Planes, 1>(sums, nibbles, tables, x, block.x_stride);
      pair<Rows, Vectors, Planes, 2>(sums, nibbles, tables, x, block.x_stride);
      pair<Rows, Vectors, Planes, 3>(sums, nibbles, tables, x, block.x_stride);
    }
    const uint32_t column = block.half * kHalf;
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      const uint32_t at = column + static_cast<uint32_t>(v) * S::kLanes;
      const F scale = load_scale(block.at, at, quants.halves);
      F minimum = S::zero();
      if (quants.minima) minimum = load_scale(block.at + scale_bytes, at, quants.halves);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        float* total = block.totals + static_cast<uint32_t>(r) * kPanelColumns + at;
        F sum = S::fma(sums[r][v], scale, block.first ? S::zero() : S::load(total));
        if (quants.minima) sum = S::fma(minimum, S::set1(block.x_sums[static_cast<size_t>(r) * block.blocks]), sum);
        S::store(total, sum);
      }
    }
  }

  // Inputs 2·Pair and 2·Pair + 1 of the eight.
  template <int Rows, int Vectors, int Planes, int Pair>
  [[gnu::always_inline]] static inline void pair(F (&sums)[Rows][Vectors], const Pairs (&nibbles)[Planes][Vectors],
                                                 const typename S::Table (&tables)[Planes], const uint16_t* x,
                                                 size_t x_stride) {
#pragma GCC unroll 2
    for (int p = 0; p < Planes; ++p) {
      Pairs weights[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) weights[v] = S::template look_up<4 * Pair>(tables[p], nibbles[p][v]);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        uint32_t input;
        __builtin_memcpy(&input, x + static_cast<size_t>(r) * x_stride + 2 * Pair, sizeof input);
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sums[r][v] = S::dot(sums[r][v], weights[v], input);
      }
    }
  }
};

}  // namespace iokv::cpu
