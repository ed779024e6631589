// SPDX-License-Identifier: Apache-2.0
// A device that takes virtual time for Plans and keeps, in every slot of every block, what K,V stand for: the token and
// the state up to it. It checks that each row finds exactly the tokens before it, however blocks were shared, released,
// taken again or preempted.
#pragma once

#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "daemon/pool/block_pool.h"
#include "daemon/sched/plan.h"

namespace iokv::sim {

class ModelledDevice {
 public:
  ModelledDevice(const BlockPool& pool, std::mt19937_64& random);

  void issue(uint64_t now_ns, Plan* plan);
  void discard(uint32_t block);
  bool busy() const { return !queue_.empty(); }
  // When the Plan at the front is done.
  uint64_t done_ns() const { return queue_.front().done_ns; }
  // Computes it, at the last moment: whoever has touched its blocks too early is found out.
  Plan* finish();

  bool fails_next = false;  // the device is lost with the next Plan, and comes back empty

 private:
  struct Slot {
    bool valid = false;
    int32_t token = 0;
    uint64_t state = 0;
  };
  struct Queued {
    Plan* plan = nullptr;
    uint64_t done_ns = 0;
  };
  void run_span(Plan& plan, const PlanSpan& span);
  uint32_t block_of(const Plan& plan, const PlanSpan& span, uint32_t index) const;
  Slot& slot(uint32_t block, uint32_t position);

  const BlockPool& pool_;
  std::mt19937_64& random_;
  std::vector<Slot> slots_;  // by unit and position in the block; a block's id is its first unit
  std::vector<int32_t> latest_draw_;
  std::deque<Queued> queue_;
  size_t failing_ = 0;  // Plans that were queued when the device was lost
};

}  // namespace iokv::sim
