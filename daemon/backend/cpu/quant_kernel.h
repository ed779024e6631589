// SPDX-License-Identifier: Apache-2.0
// Rows of bf16 times a panel of 32 columns of quants (QuantPanels, kernels.h), for the lanes S of an ISA. Quants become
// bf16 first, which is exact, a few blocks at a time that stay in the first-level cache for all rows; so the only
// rounding before the sums is x's own. An output is the sum over blocks, in order, of scale · Σ quant · x + minimum · Σ x;
// the inner sum is one chain over the block's pairs of inputs. How many rows and columns are blocked together changes
// nothing of that.
#pragma once

#include "daemon/backend/cpu/gemm_kernel.h"

namespace iokv::cpu {

template <typename S>
struct QuantGemm {
  using F = typename S::F;
  using Pairs = typename S::Pairs;
  static constexpr uint32_t kHalf = kPanelColumns / 2;
  static constexpr uint32_t kPairElements = kPanelColumns * 2;

  static void run(const GemmTile& tile) {
    const QuantPanels& quants = *tile.quants;
    alignas(64) uint16_t pairs[kChunkInputs * kPanelColumns];
    alignas(64) float totals[kRowsTogether * kPanelColumns];
    const uint32_t end = tile.begin + tile.columns, blocks = tile.k / quants.block;
    for (uint32_t first_row = 0; first_row < tile.rows; first_row += kRowsTogether) {
      const uint32_t rows = tile.rows - first_row < kRowsTogether ? tile.rows - first_row : kRowsTogether;
      const uint32_t chunk_blocks = kChunkInputs / quants.block;
      for (uint32_t begin = 0; begin < blocks; begin += chunk_blocks) {
        Chunk chunk{&tile, first_row, begin, blocks - begin < chunk_blocks ? blocks - begin : chunk_blocks,
                    static_cast<const uint8_t*>(tile.panel) + size_t{begin} * quants.block_bytes, pairs, totals};
        expand(quants, chunk.at, chunk.blocks, pairs);
        multiply(chunk, rows, tile.begin < kHalf, end > kHalf);
      }
      for (uint32_t r = 0; r < rows; ++r) {
        Gemm<S, uint16_t>::finish(tile, first_row + r, totals + r * kPanelColumns + tile.begin);
      }
    }
  }

 private:
  // Rows whose totals (12 KiB) stay in the cache beside a chunk (16 KiB).
  static constexpr uint32_t kRowsTogether = 96;
  static_assert(kRowsTogether % S::kGemmRows == 0);

  // Nothing is read while a chunk is multiplied: what follows is asked for before.
  static constexpr size_t kAheadBytes = 8192;

  struct Chunk {
    const GemmTile* tile;
    uint32_t first_row, first_block, blocks;
    const uint8_t* at;      // the first block's bytes
    const uint16_t* pairs;  // of the blocks: [inputs / 2][32 columns][2]
    float* totals;          // [rows][32]
  };

  // ---- quants to bf16 -----------------------------------------------------------------------------------------------

  static void expand(const QuantPanels& quants, const uint8_t* at, uint32_t blocks, uint16_t* to) {
    if (quants.bits == 4) {
      expand_nibbles(quants, at, blocks, to);
    } else {
      expand_bytes(quants, at, blocks, to);
    }
  }

  [[gnu::noinline]] static void expand_nibbles(const QuantPanels& quants, const uint8_t* at, uint32_t blocks,
                                               uint16_t* to) {
    const typename S::Table table = S::load_table(quants.table);
    const uint32_t words = quants.block / 8;  // of a column
    at += quants.quants_offset;
    for (uint32_t b = 0; b < blocks; ++b, at += quants.block_bytes) {
      for (uint32_t w = 0; w < words; ++w, to += 4 * kPairElements) {
        for (uint32_t half = 0; half < 2; ++half) {
          const uint8_t* from = at + (half * words + w) * kHalf * 4;
          __builtin_prefetch(from + kAheadBytes);
#pragma GCC unroll 4
          for (uint32_t v = 0; v < kHalf; v += S::kLanes) {
            const Pairs word = S::load_pairs(reinterpret_cast<const uint16_t*>(from + v * 4));
            uint16_t* out = to + (half * kHalf + v) * 2;
            S::store_pairs(out, S::template look_up<0>(table, word));
            S::store_pairs(out + kPairElements, S::template look_up<4>(table, word));
            S::store_pairs(out + 2 * kPairElements, S::template look_up<8>(table, word));
            S::store_pairs(out + 3 * kPairElements, S::template look_up<12>(table, word));
          }
        }
      }
    }
  }

  [[gnu::noinline]] static void expand_bytes(const QuantPanels& quants, const uint8_t* at, uint32_t blocks,
                                             uint16_t* to) {
    const uint32_t pairs = quants.block / 2;
    at += quants.quants_offset;
    for (uint32_t b = 0; b < blocks; ++b, at += quants.block_bytes) {
#pragma GCC unroll 2
      for (uint32_t pair = 0; pair < pairs; ++pair, to += kPairElements) {
        __builtin_prefetch(at + pair * kPanelColumns * 2 + kAheadBytes);
#pragma GCC unroll 8
        for (uint32_t v = 0; v < kPanelColumns; v += S::kLanes) {
          S::store_pairs(to + v * 2, S::widen_bytes(at + (v / kHalf * pairs + pair) * kPanelColumns + v % kHalf * 2));
        }
      }
    }
  }

  // ---- products -----------------------------------------------------------------------------------------------------

  static void multiply(Chunk chunk, uint32_t rows, bool low, bool high) {
    constexpr int kVectors = kHalf / S::kLanes;
    float* totals = chunk.totals;
    for (uint32_t row = 0; row < rows;) {
      const uint32_t group = next_group(rows - row, S::kGemmRows);
      chunk.totals = totals + row * kPanelColumns;
      if (low && high && group <= S::kWideRows) {
        add_rows<S::kWideRows, 2 * kVectors>(chunk, group, 0);
      } else {
        if (low) add_rows<S::kGemmRows, kVectors>(chunk, group, 0);
        if (high) add_rows<S::kGemmRows, kVectors>(chunk, group, kHalf);
      }
      chunk.first_row += group;
      row += group;
    }
  }

  // Picks the block for 1 <= rows <= Rows.
  template <int Rows, int Vectors>
  static void add_rows(const Chunk& chunk, uint32_t rows, uint32_t column) {
    if constexpr (Rows > 1) {
      if (rows < Rows) return add_rows<Rows - 1, Vectors>(chunk, rows, column);
    }
    add_block<Rows, Vectors>(chunk, column);
  }

  template <int Rows, int Vectors>
  [[gnu::noinline]] static void add_block(const Chunk& chunk, uint32_t column) {
    const GemmTile& tile = *chunk.tile;
    const QuantPanels& quants = *tile.quants;
    const size_t x_stride = tile.x_stride, sums_stride = tile.k / quants.block;
    const uint16_t* x =
        static_cast<const uint16_t*>(tile.x) + chunk.first_row * x_stride + size_t{chunk.first_block} * quants.block;
    const uint16_t* w = chunk.pairs + 2 * column;
    const uint8_t* at = chunk.at;
    for (uint32_t b = 0; b < chunk.blocks; ++b, at += quants.block_bytes) {
      F sums[Rows][Vectors];
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sums[r][v] = S::zero();
      }
      for (uint32_t i = 0; i < quants.block; i += 2, w += kPairElements) {
        Pairs weights[Vectors];
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) weights[v] = S::load_pairs(w + v * S::kLanes * 2);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
          uint32_t input;
          __builtin_memcpy(&input, x + r * x_stride + i, sizeof input);
#pragma GCC unroll 8
          for (int v = 0; v < Vectors; ++v) sums[r][v] = S::dot(sums[r][v], weights[v], input);
        }
      }
      x += quants.block;
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        const uint32_t lane = column + static_cast<uint32_t>(v) * S::kLanes;
        const F scale = load_scale(at, lane, quants.halves);
        F minimum = S::zero();
        if (quants.minima) minimum = load_scale(at + quants.minima_offset, lane, quants.halves);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
          float* total = chunk.totals + static_cast<size_t>(r) * kPanelColumns + lane;
          F sum = S::fma(sums[r][v], scale, chunk.first_block + b == 0 ? S::zero() : S::load(total));
          if (quants.minima) {
            const float x_sum = tile.x_sums[(chunk.first_row + r) * sums_stride + chunk.first_block + b];
            sum = S::fma(minimum, S::set1(x_sum), sum);
          }
          S::store(total, sum);
        }
      }
    }
  }

  static F load_scale(const uint8_t* at, uint32_t column, bool halves) {
    return halves ? S::load_half(reinterpret_cast<const uint16_t*>(at) + column)
                  : S::load(reinterpret_cast<const float*>(at) + column);
  }
};

}  // namespace iokv::cpu
