// SPDX-License-Identifier: Apache-2.0
// The kernels for AVX-512 without products of bf16 pairs. See kernels.h, invariant 3.
#include "daemon/backend/host/lanes_avx512.h"

namespace iokv::host {

const Kernels* avx512_kernels(Element element) {
  using S = LanesAvx512;
  static constexpr Kernels kF32 = kernel_table<S, F32<S>>(), kF16 = kernel_table<S, F16<S>>(),
                           kBf16 = kernel_table<S, Bf16<S>>();
  return element == Element::f32 ? &kF32 : element == Element::f16 ? &kF16 : &kBf16;
}

}  // namespace iokv::host
