// SPDX-License-Identifier: Apache-2.0
// Chooses kernels for a machine; see cpu_supports in simd/cpu_isa.h.
#pragma once

#include "daemon/backend/host/kernels.h"
#include "daemon/backend/simd/cpu_isa.h"
#include "daemon/base/dtype.h"

namespace iokv::host {

CpuIsa best_isa(DType type);

// The ISA is one that cpu_supports and not automatic.
const Kernels& kernels_for(CpuIsa isa, DType type);

}  // namespace iokv::host
