// SPDX-License-Identifier: Apache-2.0
// The kernels for AMX with BF16, beside AVX-512 with BF16. See kernels.h, invariant 3.
//
// Instructions are written out: GCC 12's intrinsics tell the compiler neither that a tile is loaded from memory, so that a
// store before it may be moved behind it, nor take a register by a template's parameter. Tile registers are used by nothing
// else: no compiler allocates them here.
#include "daemon/backend/host/decode_tiles.h"

namespace iokv::host {
namespace {

struct Amx {
  static void configure(const void* configuration) {
    asm volatile("ldtilecfg (%0)" : : "r"(configuration) : "memory");
  }
  static void release() { asm volatile("tilerelease" : : : "memory"); }
  template <int T>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
  }
  template <int T>
  static void load(const void* from, size_t row_bytes) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(T), "r"(from), "r"(row_bytes) : "memory");
  }
  template <int T>
  static void store(void* to, size_t row_bytes) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(T), "r"(to), "r"(row_bytes) : "memory");
  }
  template <int Sum, int A, int B>
  static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(A), "i"(B));
  }
};

}  // namespace

const Kernels* amx_bf16_kernels(Element element) {
  static constexpr Kernels kBf16 = tile_kernel_table<Amx>();
  return element == Element::bf16 ? &kBf16 : avx512_kernels(element);
}

}  // namespace iokv::host
