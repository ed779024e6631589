// SPDX-License-Identifier: Apache-2.0
// The CPU behind daemon/backend/backend.h: the default where there is no GPU, and the reference that a GPU is checked
// against. It owns `threads - 1` worker threads; the thread that issues operations is the other one.
//
// Invariants
//  1. Every operation has completed when its call returns; tickets are reached as soon as they are recorded. With a
//     link this does not hold for h2d and d2h: they are threads of their own (link.h).
//  2. Results depend on the ISA and the compute type, never on the number of threads, rows or columns of an operation.
//  3. Between operations workers spin for a bounded time and then sleep on a futex: an idle backend wakes nobody.
#pragma once

#include <cstdint>
#include <memory>

#include "daemon/backend/backend.h"
#include "daemon/backend/simd/cpu_isa.h"

namespace iokv {

struct CpuOptions {
  DType compute = DType::f32;  // f32 or bf16
  uint32_t threads = 0;        // 0: as many as cores that this process may use
  CpuIsa isa = CpuIsa::automatic;
  // Above 0: a device behind a link. Host memory is then not addressable, and copies on h2d and on d2h take as long as
  // a link that carries so many bytes a second each way; at most what one core can copy.
  double link_bytes_per_s = 0;
  // Whether it attends on Queue::host, with the threads that compute, to what lies in the pool.
  bool host_attention = false;
};

// Fails when the compute type is f16, the ISA is not there or a thread cannot be started. Any thread may call it; the
// backend is then used by one thread at a time.
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options);

}  // namespace iokv
