// SPDX-License-Identifier: Apache-2.0
// Cuts an attend operation into tasks for the team: units of (consecutive tokens of a sequence) × (KV head), and where
// those are few, as in decoding one long sequence, runs of pieces of a unit, folded afterwards in position order.
#pragma once

#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/backend/cpu/kernels.h"
#include "daemon/backend/cpu/packed_matrix.h"
#include "daemon/backend/cpu/thread_team.h"

namespace iokv::cpu {

// Keeps its lists and scratch memory from one operation to the next.
class Attention {
 public:
  // on_host: what Queue::host has of divided rows.
  void run(const AttendArgs& args, bool on_host, DType type, const Kernels& kernels, ThreadTeam& team);

 private:
  struct Task {
    AttendUnit unit;
    size_t results = kWhole;  // where in results_ its pieces go; kWhole: attends and writes `out` itself
  };
  static constexpr size_t kWhole = SIZE_MAX;

  void list_units(const AttendArgs& args, bool on_host, DType type);
  void split_long_units(uint32_t threads);
  void reserve_scratch(uint32_t threads);

  std::vector<Task> tasks_, merges_, units_;
  Memory scratch_, results_;
  size_t scratch_floats_ = 0, results_floats_ = 0;  // scratch_floats_: of one thread
};

}  // namespace iokv::cpu
