// SPDX-License-Identifier: Apache-2.0
// Lanes of AVX2 with FMA and F16C as the kernel templates want them; bf16 is widened by a shift. Included only by files
// compiled for AVX2; the unnamed namespace keeps what is instantiated with it from being merged with another file's.
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

namespace iokv::cpu {
namespace {

struct Avx2 {
  using F = __m256;
  using Pairs = __m256i;
  static constexpr uint32_t kLanes = 8;
  static constexpr uint32_t kGemmRows = 6, kWideRows = 3;  // 6 · 2 or 3 · 4 accumulators of 16 registers
  static constexpr uint32_t kAttendRows = 3;

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load(const uint16_t* p) {
    __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static void store(uint16_t* p, F x) {  // as f32_to_bf16
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i words = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
  }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }  // b where one is a NaN
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F abs(F x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static F with_sign_of(F x, F sign) {
    return _mm256_or_ps(x, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
  }
  static F where_less(F a, F b, F yes, F no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
  static F keep_first(F x, uint32_t count, F other) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i kept = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane);
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(kept));
  }
  static F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F pow2(F n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
  }
  static float sum(F x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float largest(F x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }

  static F load_half(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  // Of each 16 bits of x the table's value for the four from Shift on: its low and its high byte by a shuffle each.
  struct Table {
    __m256i low, high;
  };
  static Table load_table(const uint16_t* p) {
    const __m256i words = _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i low = _mm256_and_si256(words, _mm256_set1_epi16(0xff)), high = _mm256_srli_epi16(words, 8);
    // Bytes of 16 words in order, and in both lanes.
    const __m256i low_bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(low, low), 0x88);
    const __m256i high_bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(high, high), 0x88);
    return {low_bytes, high_bytes};
  }
  template <int Shift>
  static Pairs look_up(Table table, Pairs x) {
    const __m256i index = _mm256_and_si256(_mm256_srli_epi16(x, Shift), _mm256_set1_epi16(15));
    const __m256i blank = _mm256_set1_epi16(static_cast<short>(0x8000));  // in the high byte: zero
    const __m256i low = _mm256_shuffle_epi8(table.low, _mm256_or_si256(index, blank));
    const __m256i high = _mm256_shuffle_epi8(table.high, _mm256_or_si256(index, blank));
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 8));
  }
  // 2·kLanes signed bytes: their f32 has nothing below bf16's digits.
  static Pairs widen_bytes(const uint8_t* p) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(widen_half(p), widen_half(p + 8)), 0xd8);
  }
  static __m256i widen_half(const uint8_t* p) {
    const __m256i numbers = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return _mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(numbers)), 16);
  }
  static void store_pairs(uint16_t* p, Pairs x) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), x); }

  static Pairs load_pairs(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static F dot(F sum, Pairs w, uint32_t x) {
    __m256i pair = _mm256_set1_epi32(static_cast<int>(x)), high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    sum = fma(_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)), sum);
    return fma(_mm256_castsi256_ps(_mm256_and_si256(w, high)), _mm256_castsi256_ps(_mm256_and_si256(pair, high)), sum);
  }

  // to[j · to_stride + i] = rows[i][j] for i, j < 8.
  static void transpose(const uint32_t* const* rows, uint32_t* to, size_t to_stride) {
    F a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(rows[i]));
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    // a[4q + c]: in 128-bit lane l, column 4l + c of rows 4q..4q + 3.
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
      a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
      a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
      a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      _mm256_storeu_ps(reinterpret_cast<float*>(to + c * to_stride), _mm256_permute2f128_ps(a[c], a[4 + c], 0x20));
      _mm256_storeu_ps(reinterpret_cast<float*>(to + (4 + c) * to_stride),
                       _mm256_permute2f128_ps(a[c], a[4 + c], 0x31));
    }
  }
};

}  // namespace
}  // namespace iokv::cpu
