// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/prefill.h"

#include <algorithm>
#include <cmath>

namespace iokv {

PrefillRows prefill_beside(const StepModel& model, const LayerWork& decodes, const PromptRow& row, uint32_t limit) {
  auto cost_with = [&](uint32_t rows) {
    LayerWork work = decodes;
    work.rows += rows;
    work.attended += static_cast<uint64_t>(std::llround(row.attended * rows));
    if (row.new_x) work.new_x += rows;
    if (row.new_kv) work.new_kv += rows;
    return streaming_cost(model.profile, model.shape, work);
  };
  // Times rise with rows, so the most that are within a time are found by halving.
  auto rows_within = [&](double total_ns) {
    uint32_t fits = 0, too_many = limit + 1;
    while (too_many - fits > 1) {
      const uint32_t middle = fits + (too_many - fits) / 2;
      (cost_with(middle).total_ns <= total_ns ? fits : too_many) = middle;
    }
    return fits;
  };
  constexpr double kRounding = 1 + 1e-9;  // of sums of a dozen terms
  const StepCost alone = cost_with(0);
  const double link_ns = std::max(alone.h2d_ns, alone.d2h_ns);
  PrefillRows rows;
  rows.free = rows_within(alone.total_ns * kRounding);
  rows.most = rows_within(std::max(link_ns, (1 + model.prefill_delay) * alone.device_ns) * kRounding);
  return rows;
}

}  // namespace iokv
