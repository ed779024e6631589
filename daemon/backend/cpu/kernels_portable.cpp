// SPDX-License-Identifier: Apache-2.0
// The kernels for any machine. Slow, and a check on the others.
#include "daemon/backend/cpu/kernel_table.h"
#include "daemon/backend/simd/portable.h"

namespace iokv::cpu {

const Kernels* portable_kernels(bool bf16) {
  static constexpr Kernels kF32 = kernel_table<Portable, float>(), kBf16 = kernel_table<Portable, uint16_t>();
  return bf16 ? &kBf16 : &kF32;
}

}  // namespace iokv::cpu
