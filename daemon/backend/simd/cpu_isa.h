// SPDX-License-Identifier: Apache-2.0
// The instruction sets that kernels are compiled for, each in files of their own, and chosen among at run time.
#pragma once

#include <cstdint>

namespace iokv {

enum class CpuIsa : uint8_t {
  automatic,    // the best that the machine has
  portable,     // what the compiler's baseline offers
  avx2,         // with FMA
  avx512,       // F, BW, VL, DQ
  avx512_bf16,  // and products of bf16 pairs
  amx_bf16,     // and products of bf16 tiles
};

// Whether this process can run kernels of the ISA on this machine. Tiles need the system's leave, which is asked for with the
// first question about them: it holds for all threads and for good, and makes signal frames 8 KiB larger. Any thread may ask.
bool cpu_supports(CpuIsa isa);
const char* name_of(CpuIsa isa);

}  // namespace iokv
