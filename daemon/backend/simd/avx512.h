// SPDX-License-Identifier: Apache-2.0
// Lanes of AVX-512 (F, BW, VL, DQ) as the kernel templates want them. Included only by files compiled for AVX-512; the
// unnamed namespace keeps what is instantiated with it from being merged with another file's.
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

namespace iokv::cpu {
namespace {

struct Avx512 {
  using F = __m512;
  using Pairs = __m512i;
  static constexpr uint32_t kLanes = 16;
  static constexpr uint32_t kGemmRows = 12, kWideRows = 12;  // 12 · 2 accumulators, 2 weights, 1 input of 32 registers
  static constexpr uint32_t kAttendRows = 6;                 // 6 · 4 accumulators + 4 vectors of V + 1 weight

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const uint16_t* p) {
    __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static void store(uint16_t* p, F x) {  // as f32_to_bf16
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }  // b where one is a NaN
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F abs(F x) { return _mm512_abs_ps(x); }
  static F with_sign_of(F x, F sign) {
    return _mm512_or_ps(x, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
  }
  static F where_less(F a, F b, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  static F keep_first(F x, uint32_t count, F other) {
    return _mm512_mask_blend_ps(static_cast<__mmask16>((1u << count) - 1u), other, x);  // count < 16
  }
  static F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F pow2(F n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
  }
  static float sum(F x) { return _mm512_reduce_add_ps(x); }
  static float largest(F x) { return _mm512_reduce_max_ps(x); }

  static F load_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }

  static Pairs load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
  // Of each 16 bits of x the table's value for the four from Shift on. Five bits are looked at: hence each value twice.
  using Table = __m512i;
  static Table load_table(const uint16_t* p) { return _mm512_load_si512(p); }
  template <int Shift>
  static Pairs look_up(Table table, Pairs x) {
    return _mm512_permutexvar_epi16(Shift == 0 ? x : _mm512_srli_epi16(x, Shift), table);
  }
  // 2·kLanes signed bytes: their f32 has nothing below bf16's digits.
  static Pairs widen_bytes(const uint8_t* p) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(widen_half(p)), widen_half(p + 16), 1);
  }
  static __m256i widen_half(const uint8_t* p) {
    const __m512i numbers = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(numbers)), 16));
  }
  static void store_pairs(uint16_t* p, Pairs x) { _mm512_store_si512(p, x); }
  static F dot(F sum, Pairs w, uint32_t x) {
    __m512i pair = _mm512_set1_epi32(static_cast<int>(x));
    __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    sum = fma(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)), sum);
    return fma(_mm512_castsi512_ps(_mm512_and_si512(w, high)), _mm512_castsi512_ps(_mm512_and_si512(pair, high)), sum);
  }

  // to[j · to_stride + i] = rows[i][j] for i, j < 16.
  static void transpose(const uint32_t* const* rows, uint32_t* to, size_t to_stride) {
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows[i]);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    // a[4q + c]: in 128-bit lane l, column 4l + c of rows 4q..4q + 3.
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      __m512i low01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88), high01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
      __m512i low23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88);
      __m512i high23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
      _mm512_storeu_si512(to + c * to_stride, _mm512_shuffle_i32x4(low01, low23, 0x88));
      _mm512_storeu_si512(to + (8 + c) * to_stride, _mm512_shuffle_i32x4(low01, low23, 0xdd));
      _mm512_storeu_si512(to + (4 + c) * to_stride, _mm512_shuffle_i32x4(high01, high23, 0x88));
      _mm512_storeu_si512(to + (12 + c) * to_stride, _mm512_shuffle_i32x4(high01, high23, 0xdd));
    }
  }
};

}  // namespace
}  // namespace iokv::cpu
