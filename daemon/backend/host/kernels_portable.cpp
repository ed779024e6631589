// SPDX-License-Identifier: Apache-2.0
// The kernels for any machine. Slow, and a check on the others. See kernels.h, invariant 3.
#include "daemon/backend/host/decode_kernel.h"
#include "daemon/backend/simd/portable.h"

namespace iokv::host {
namespace {

struct Lanes : cpu::Portable {
  static constexpr uint32_t kValueSums = 8;
  static F sums(const F* a) { return F{sum(a[0]), sum(a[1]), sum(a[2]), sum(a[3])}; }
};

}  // namespace

const Kernels* portable_kernels(Element element) {
  static constexpr Kernels kF32 = kernel_table<Lanes, F32<Lanes>>(), kF16 = kernel_table<Lanes, F16<Lanes>>(),
                           kBf16 = kernel_table<Lanes, Bf16<Lanes>>();
  return element == Element::f32 ? &kF32 : element == Element::f16 ? &kF16 : &kBf16;
}

}  // namespace iokv::host
