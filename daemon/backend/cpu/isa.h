// SPDX-License-Identifier: Apache-2.0
// Chooses kernels for a machine; see cpu_supports in cpu_backend.h.
#pragma once

#include "daemon/backend/cpu/cpu_backend.h"
#include "daemon/backend/cpu/kernels.h"

namespace iokv::cpu {

CpuIsa best_isa(DType compute);

// The ISA is one that cpu_supports and not automatic.
const Kernels& kernels_for(CpuIsa isa, DType compute);

}  // namespace iokv::cpu
