// SPDX-License-Identifier: Apache-2.0
// The kernels for AVX-512 with BF16: products of pairs by vdpbf16ps, twice the rate of f32. It rounds after each of
// the two products and takes subnormals as zero, so its bits are its own. See kernels.h, invariant 2.
#include "daemon/backend/cpu/kernel_table.h"
#include "daemon/backend/simd/avx512.h"

namespace iokv::cpu {
namespace {

struct Avx512Bf16 : Avx512 {
  static Pairs widen_bytes(const uint8_t* p) {
    auto widen = [](const uint8_t* from) {
      return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
    };
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(widen(p + 16), widen(p)));
  }
  static F dot(F sum, Pairs w, uint32_t x) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(w),
                            reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(x))));
  }
};

}  // namespace

const Kernels* avx512_bf16_kernels(bool bf16) {
  static constexpr Kernels kBf16 = kernel_table<Avx512Bf16, uint16_t>();
  return bf16 ? &kBf16 : avx512_kernels(false);
}

}  // namespace iokv::cpu
