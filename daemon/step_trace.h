// SPDX-License-Identifier: Apache-2.0
// What the last steps did and when, for `iokv trace`: taken out of Plans as they retire, handed out as wire/trace.h says.
// The conductor's thread.
//
// Invariants
//  1. It holds at most the steps that it was made for, and of each at most kMostTimedOps operations (plan.h).
//  2. Keeping a step takes no memory once the largest steps have been seen: it swaps its memory with the Plan's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "daemon/sched/plan.h"
#include "wire/trace.h"

namespace iokv {

class StepTrace {
 public:
  // steps == 0: keeps nothing.
  explicit StepTrace(uint32_t steps) : kept_(steps) {}

  // Takes the times of a Plan that has run; one that failed has none.
  void keep(Plan& plan);

  // How many have been kept, forgotten ones included.
  uint64_t total() const { return total_; }
  std::vector<std::byte> bytes() const;

 private:
  struct Kept {
    wire::TraceStep step{};
    std::vector<OpTime> ops;
  };
  std::vector<Kept> kept_;  // a ring
  uint64_t total_ = 0;
};

}  // namespace iokv
