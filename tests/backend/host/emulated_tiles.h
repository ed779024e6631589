// SPDX-License-Identifier: Apache-2.0
// The kernels of attention on the host by products of tiles, with tiles in memory in place of registers: for machines that
// have AVX-512 with BF16 (cpu_supports(CpuIsa::avx512_bf16)) and no AMX.
#pragma once

#include <stdint.h>

#include "daemon/backend/host/kernels.h"

namespace iokv::test {

// Of bf16. One thread at a time; what real tiles would refuse ends the process.
const host::Kernels& emulated_tile_kernels();
// How often tiles have been configured, and products computed, in the process.
uint64_t tile_configurations();
uint64_t tile_products();
// Whether they are configured now.
bool tiles_are_in_use();

}  // namespace iokv::test
