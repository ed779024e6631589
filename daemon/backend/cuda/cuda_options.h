// SPDX-License-Identifier: Apache-2.0
// What a CUDA backend is asked to be. Also what crosses the edge of the module (entry.cpp, daemon/backend/cuda_module.h),
// so it has no constructors of its own to agree on.
#pragma once

#include <cstdint>

#include "daemon/base/dtype.h"

namespace iokv {

struct CudaOptions {
  DType compute = DType::f16;   // f16 or bf16
  int32_t device = 0;           // as CUDA numbers them
  // Nobody's results depend on who else is in the batch; see daemon/backend/cuda/products.h for what changes without it.
  bool batch_invariant = true;
};

}  // namespace iokv
