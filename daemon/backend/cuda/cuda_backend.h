// SPDX-License-Identifier: Apache-2.0
// An NVIDIA GPU behind daemon/backend/backend.h: each queue is a stream of its own, dense work before recomputation
// where both want the same multiprocessors; operations return as soon as they are issued.
//
// Invariants
//  1. Host arrays of an operation have been read when its call returns (table_ring.h); what a draw gives is written to
//     the host's arrays by the poll that finds a later ticket of its queue reached.
//  2. The first call that fails ends the device: nothing is issued afterwards, and every poll returns the Error.
//  3. Memory is taken in make and by alloc, load and pin only.
#pragma once

#include <memory>

#include "daemon/backend/backend.h"
#include "daemon/backend/cuda/cuda_options.h"

namespace iokv {

// Error: there is no driver, no such device, or too little memory on it; f32 was asked for. Any thread may call it; the
// backend is then used by one thread at a time.
Result<std::unique_ptr<Backend>> make_cuda_backend_here(const CudaOptions& options);

}  // namespace iokv
