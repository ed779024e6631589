// SPDX-License-Identifier: Apache-2.0
// What the machine at hand can run.
#include "daemon/backend/simd/cpu_isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace iokv {

#if defined(__x86_64__)
namespace {

// Clang 14's __builtin_cpu_supports does not know it.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

// AMX-BF16 and AMX-TILE, switched on by the system, which saves tiles' configuration and data, and granted to this process.
bool may_use_tiles() {
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kTileStates = 3u << 17;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & bit_OSXSAVE) == 0) return false;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
  unsigned states = 0, high = 0;
  asm volatile("xgetbv" : "=a"(states), "=d"(high) : "c"(0));
  if ((states & kTileStates) != kTileStates) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA: Linux 5.16
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace
#endif

bool cpu_supports(CpuIsa isa) {
#if defined(__x86_64__)
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  switch (isa) {
    case CpuIsa::automatic:
    case CpuIsa::portable: return true;
    case CpuIsa::avx2: return avx2;
    case CpuIsa::avx512: return avx512;
    case CpuIsa::avx512_bf16: return avx512 && __builtin_cpu_supports("avx512bf16");
    case CpuIsa::amx_bf16: {
      static const bool tiles = may_use_tiles();
      return avx512 && __builtin_cpu_supports("avx512bf16") && tiles;
    }
  }
  return false;
#else
  return isa == CpuIsa::automatic || isa == CpuIsa::portable;
#endif
}

const char* name_of(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::automatic: return "automatic";
    case CpuIsa::portable: return "portable";
    case CpuIsa::avx2: return "avx2";
    case CpuIsa::avx512: return "avx512";
    case CpuIsa::avx512_bf16: return "avx512_bf16";
    case CpuIsa::amx_bf16: return "amx_bf16";
  }
  return "?";
}

}  // namespace iokv
