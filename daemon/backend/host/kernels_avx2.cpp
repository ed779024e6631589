// SPDX-License-Identifier: Apache-2.0
// The kernels for AVX2 with FMA and F16C. See kernels.h, invariant 3.
#include "daemon/backend/host/decode_kernel.h"
#include "daemon/backend/simd/avx2.h"

namespace iokv::host {
namespace {

struct Lanes : cpu::Avx2 {
  static constexpr uint32_t kValueSums = 8;  // of 16 registers, beside V and a weight

  // Neighbours are added level by level: after the third, lane halves hold each a half of every sum.
  static F sums(const F* a) {
    const F a01 = _mm256_hadd_ps(a[0], a[1]), a23 = _mm256_hadd_ps(a[2], a[3]);
    const F a45 = _mm256_hadd_ps(a[4], a[5]), a67 = _mm256_hadd_ps(a[6], a[7]);
    const F low = _mm256_hadd_ps(a01, a23), high = _mm256_hadd_ps(a45, a67);
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
  }
};

}  // namespace

const Kernels* avx2_kernels(Element element) {
  static constexpr Kernels kF32 = kernel_table<Lanes, F32<Lanes>>(), kF16 = kernel_table<Lanes, F16<Lanes>>(),
                           kBf16 = kernel_table<Lanes, Bf16<Lanes>>();
  return element == Element::f32 ? &kF32 : element == Element::f16 ? &kF16 : &kBf16;
}

}  // namespace iokv::host
