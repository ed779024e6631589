// SPDX-License-Identifier: Apache-2.0
// Making memory that was only reserved there at once: bound to a NUMA node and touched by many threads, with a word about
// how far it is, so that a device can have it pinned. Pinning touches by itself, but with one thread: 2.4 GiB/s measured
// where 16 threads touch 12 GiB/s and what is touched is pinned at 20.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "daemon/base/result.h"
#include "daemon/pool/free_memory.h"
#include "daemon/pool/pool_memory.h"

namespace iokv {

struct PoolProgress {
  uint64_t touched_bytes = 0, total_bytes = 0;
  uint64_t elapsed_ns = 0;

  double bytes_per_second() const;
  double seconds_left() const;  // at the rate until now; 0 before anything is known
};

// Functions may be empty; they are called by the thread that prepares.
struct PoolPreparation {
  int numa_node = -1;    // that the memory is to lie on; -1: wherever the threads run that touch it
  uint32_t threads = 0;  // that touch it; 0: as many as cores that the process may use
  std::function<void(const PoolProgress&)> progress;  // after each second
  std::function<bool()> go_on;                        // asked every 20 to 100 ms; false: give up
  std::function<void(const std::string&)> warn;       // one line: the node cannot be had, or not all of it
};

// Puts all of the memory on the node and touches it; what is in it stays. A node that refuses is a warning. Error: less
// is free than that takes (expect_room), the kernel has no pages, or go_on said no.
Status prepare_pool(const PoolMemory& memory, const PoolPreparation& how);

// Whether a pool of so many bytes fits what is free, beside its page tables and what else the daemon needs. Error: how
// much is free, by whose word, and the largest --pool-bytes that fits.
Status expect_room(uint64_t pool_bytes, const FreeMemory& free);

}  // namespace iokv
