// SPDX-License-Identifier: Apache-2.0
// Tiles as Intel's manual of instructions describes them (volume 2: LDTILECFG, TILELOADD, TILESTORED, TDPBF16PS), in plain C++.
// See kernels.h, invariant 3, for what this file does not include.
#include "tests/backend/host/emulated_tiles.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/backend/host/decode_tiles.h"

namespace iokv::test {
namespace {

struct Tile {
  uint8_t rows[16][64];
};

bool configured;
uint8_t row_count[8];
uint16_t row_bytes[8];
Tile tiles[8];
uint64_t configurations, products;

void require(bool holds) {
  if (!holds) abort();
}

float widen(uint16_t bits) {
  uint32_t word = static_cast<uint32_t>(bits) << 16;
  if ((word & 0x7f800000u) == 0) word &= 0x80000000u;  // subnormals are zero
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

float normal_or_zero(float x) { return x > -0x1p-126f && x < 0x1p-126f ? 0.0f : x; }

struct Emulated {
  static void configure(const void* at) {
    const uint8_t* bytes = static_cast<const uint8_t*>(at);
    require(bytes[0] == 1 && bytes[1] == 0);
    for (int i = 2; i < 16; ++i) require(bytes[i] == 0);
    for (int i = 32; i < 48; ++i) require(bytes[i] == 0);
    for (int i = 56; i < 64; ++i) require(bytes[i] == 0);
    for (int tile = 0; tile < 8; ++tile) {
      memcpy(&row_bytes[tile], bytes + 16 + 2 * tile, 2);
      row_count[tile] = bytes[48 + tile];
      require(row_bytes[tile] <= 64 && row_count[tile] <= 16 && (row_bytes[tile] == 0) == (row_count[tile] == 0));
    }
    memset(tiles, 0, sizeof tiles);
    configured = true;
    ++configurations;
  }
  static void release() {
    memset(tiles, 0xff, sizeof tiles);  // NaNs
    configured = false;
  }
  template <int T>
  static void zero() {
    require(configured);
    memset(&tiles[T], 0, sizeof tiles[T]);
  }
  template <int T>
  static void load(const void* from, size_t stride) {
    require(configured);
    memset(&tiles[T], 0, sizeof tiles[T]);
    for (int row = 0; row < row_count[T]; ++row) {
      memcpy(tiles[T].rows[row], static_cast<const char*>(from) + row * stride, row_bytes[T]);
    }
  }
  template <int T>
  static void store(void* to, size_t stride) {
    require(configured);
    for (int row = 0; row < row_count[T]; ++row) {
      memcpy(static_cast<char*>(to) + row * stride, tiles[T].rows[row], row_bytes[T]);
    }
  }
  template <int Sum, int A, int B>
  static void multiply() {
    static_assert(Sum != A && Sum != B && A != B);
    require(configured && row_bytes[Sum] % 4 == 0 && row_bytes[A] % 4 == 0 && row_bytes[B] % 4 == 0);
    require(row_count[Sum] == row_count[A] && row_bytes[Sum] == row_bytes[B] && row_count[B] * 4 == row_bytes[A]);
    ++products;
    for (int m = 0; m < row_count[Sum]; ++m) {
      uint16_t a[32];
      memcpy(a, tiles[A].rows[m], sizeof a);
      float sums[16];
      memcpy(sums, tiles[Sum].rows[m], sizeof sums);
      for (int n = 0; n < row_bytes[Sum] / 4; ++n) {
        float even = 0, odd = 0;
        for (int k = 0; k < row_bytes[A] / 4; ++k) {
          uint16_t b[2];
          memcpy(b, tiles[B].rows[k] + 4 * n, sizeof b);
          even = normal_or_zero(__builtin_fmaf(widen(a[2 * k]), widen(b[0]), even));
          odd = normal_or_zero(__builtin_fmaf(widen(a[2 * k + 1]), widen(b[1]), odd));
        }
        sums[n] = normal_or_zero(sums[n] + normal_or_zero(even + odd));
      }
      memcpy(tiles[Sum].rows[m], sums, sizeof sums);
    }
  }
};

}  // namespace

const host::Kernels& emulated_tile_kernels() {
  static constexpr host::Kernels kKernels = host::tile_kernel_table<Emulated>();
  return kKernels;
}

uint64_t tile_configurations() { return configurations; }
uint64_t tile_products() { return products; }
bool tiles_are_in_use() { return configured; }

}  // namespace iokv::test
