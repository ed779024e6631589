// SPDX-License-Identifier: Apache-2.0
// AVX-512 as decode_kernel.h wants it. Included only by files compiled for it; see simd/avx512.h.
#pragma once

#include "daemon/backend/host/decode_kernel.h"
#include "daemon/backend/simd/avx512.h"

namespace iokv::host {
namespace {

struct LanesAvx512 : cpu::Avx512 {
  static constexpr uint32_t kValueSums = 16;  // of 32 registers, beside V and a weight

  // Four levels; at each, two vectors become one of sums of pairs of lanes, in half as many lanes a vector.
  static F sums(const F* a) {
    F four[8], two[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      four[i] = _mm512_add_ps(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]), _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      two[i] = _mm512_add_ps(_mm512_shuffle_ps(four[2 * i], four[2 * i + 1], 0x44),
                             _mm512_shuffle_ps(four[2 * i], four[2 * i + 1], 0xee));
    }
    // two[i] holds, in each 128-bit lane, a quarter of the sums of a[4i..4i + 3].
    const F low = _mm512_add_ps(_mm512_shuffle_f32x4(two[0], two[1], 0x88), _mm512_shuffle_f32x4(two[0], two[1], 0xdd));
    const F high = _mm512_add_ps(_mm512_shuffle_f32x4(two[2], two[3], 0x88), _mm512_shuffle_f32x4(two[2], two[3], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
  }
};

}  // namespace
}  // namespace iokv::host
