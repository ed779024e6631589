// SPDX-License-Identifier: Apache-2.0
// The kernels for the machine at hand.
#include "daemon/backend/cpu/isa.h"

namespace iokv::cpu {

CpuIsa best_isa(DType compute) {
  // With f32 the pair products have no use, and the name would mislead.
  if (compute == DType::bf16 && cpu_supports(CpuIsa::avx512_bf16)) return CpuIsa::avx512_bf16;
  if (cpu_supports(CpuIsa::avx512)) return CpuIsa::avx512;
  return cpu_supports(CpuIsa::avx2) ? CpuIsa::avx2 : CpuIsa::portable;
}

const Kernels& kernels_for(CpuIsa isa, DType compute) {
  bool bf16 = compute == DType::bf16;
#if defined(__x86_64__)
  if (isa == CpuIsa::avx512_bf16) return *avx512_bf16_kernels(bf16);
  if (isa == CpuIsa::avx512) return *avx512_kernels(bf16);
  if (isa == CpuIsa::avx2) return *avx2_kernels(bf16);
#endif
  IOKV_ASSERT(isa == CpuIsa::portable);
  return *portable_kernels(bf16);
}

}  // namespace iokv::cpu
