// SPDX-License-Identifier: Apache-2.0
// The kernels for the machine at hand.
#include "daemon/backend/host/isa.h"

#include "daemon/base/assert.h"

namespace iokv::host {

CpuIsa best_isa(DType type) {
  // Products of pairs and of tiles are of bf16 only, and the name would mislead.
  if (type == DType::bf16 && cpu_supports(CpuIsa::amx_bf16)) return CpuIsa::amx_bf16;
  if (type == DType::bf16 && cpu_supports(CpuIsa::avx512_bf16)) return CpuIsa::avx512_bf16;
  if (cpu_supports(CpuIsa::avx512)) return CpuIsa::avx512;
  return cpu_supports(CpuIsa::avx2) ? CpuIsa::avx2 : CpuIsa::portable;
}

const Kernels& kernels_for(CpuIsa isa, DType type) {
  const Element element = type == DType::f32 ? Element::f32 : type == DType::f16 ? Element::f16 : Element::bf16;
#if defined(__x86_64__)
  if (isa == CpuIsa::amx_bf16) return *amx_bf16_kernels(element);
  if (isa == CpuIsa::avx512_bf16) return *avx512_bf16_kernels(element);
  if (isa == CpuIsa::avx512) return *avx512_kernels(element);
  if (isa == CpuIsa::avx2) return *avx2_kernels(element);
#endif
  IOKV_ASSERT(isa == CpuIsa::portable);
  return *portable_kernels(element);
}

}  // namespace iokv::host
