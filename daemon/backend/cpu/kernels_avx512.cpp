// SPDX-License-Identifier: Apache-2.0
// The kernels for AVX-512 without products of bf16 pairs: bf16 is widened by a shift. See kernels.h, invariant 2.
#include "daemon/backend/cpu/kernel_table.h"
#include "daemon/backend/simd/avx512.h"

namespace iokv::cpu {

const Kernels* avx512_kernels(bool bf16) {
  static constexpr Kernels kF32 = kernel_table<Avx512, float>(), kBf16 = kernel_table<Avx512, uint16_t>();
  return bf16 ? &kBf16 : &kF32;
}

}  // namespace iokv::cpu
