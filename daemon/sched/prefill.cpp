// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/prefill.h"

#include <algorithm>
#include <cmath>

#include "daemon/sched/split.h"

namespace iokv {
namespace {

constexpr double kRounding = 1 + 1e-9;  // of sums of a dozen terms
constexpr double kLeastDelay = 1.0 / 16;  // that what exceeds the bound is counted against, so that it has an end
constexpr double kHardlyLonger = 1.1;   // free_rows

}  // namespace

uint32_t StepModel::free_rows(uint32_t limit) const {
  const Curve& dense = profile.dense;
  const double rows = (kHardlyLonger * dense.at(1) - dense.fixed_ns) / dense.each_ns;
  return rows < limit ? std::max(1u, static_cast<uint32_t>(rows)) : limit;  // each_ns may be 0
}

LayerWork with_prompt(LayerWork work, const Prompt& prompt, uint32_t rows, uint32_t batch_rows) {
  const uint64_t batches = 1 + (rows - 1) / batch_rows;
  work.rows += rows;
  work.batches = 1 + (work.rows - 1) / batch_rows;
  // Each micro-batch reads what is cached, and the rows up to its own last.
  work.attended += batches * prompt.cached + rows + batches * (batches - 1) / 2 * batch_rows;
  work.products += uint64_t{rows} * prompt.cached + uint64_t{rows} * (rows + 1) / 2;
  work.x_host += batches * prompt.x_host;
  work.kv_host += batches * prompt.kv_host;
  if (prompt.new_x) work.new_x += rows;
  if (prompt.new_kv) work.new_kv += rows;
  return work;
}

PrefillRoom::PrefillRoom(const StepModel& model, const LayerWork& decodes, bool may_exceed)
    : model_(model), work_(decodes), attendable_(decodes.kv_host), attendable_rows_(decodes.rows), may_exceed_(may_exceed) {
  const StepCost alone = streaming_cost(model.profile, model.shape, decodes);
  now_ns_ = cost_of(decodes).total_ns;
  allowance_ns_ = std::max(model.prefill_delay, kLeastDelay) * now_ns_;
  bound_ns_ = allowed_ns_ = std::max({alone.h2d_ns, alone.d2h_ns, (1 + model.prefill_delay) * alone.device_ns});
}

uint32_t PrefillRoom::rows_of(const Prompt& prompt) const {
  const double first_ns = ns_with(prompt, 1);
  if (may_exceed_) return rows_within(prompt, std::max(bound_ns_, first_ns + (first_ns - now_ns_)));
  return first_ns <= bound_ns_ * kRounding ? rows_within(prompt, bound_ns_) : 0;
}

void PrefillRoom::add(const Prompt& prompt, uint32_t rows) {
  work_ = with_prompt(work_, prompt, rows, model_.batch_rows);
  now_ns_ = cost_of(work_).total_ns;
  bound_ns_ = std::max(bound_ns_, now_ns_);
  may_exceed_ = false;
}

bool PrefillRoom::full() const { return !may_exceed_ && ns_with({.rows = 1}, 1) > bound_ns_ * kRounding; }

// With the part for the host that suits it. All K,V of decodes are taken for the ends of their contexts, as most are.
StepCost PrefillRoom::cost_of(const LayerWork& work) const {
  const uint64_t attended = best_attended(model_.profile, model_.shape, work, attendable_, attendable_rows_);
  return streaming_cost(model_.profile, model_.shape, attended == 0 ? work : with_host(work, attended, attendable_rows_));
}

double PrefillRoom::ns_with(const Prompt& prompt, uint32_t rows) const {
  return cost_of(with_prompt(work_, prompt, rows, model_.batch_rows)).total_ns;
}

// At least one. Times rise with rows, so the most that are within a time are found by halving.
uint32_t PrefillRoom::rows_within(const Prompt& prompt, double ns) const {
  ns *= kRounding;
  if (ns_with(prompt, prompt.rows) <= ns) return prompt.rows;
  uint32_t fits = 1, too_many = prompt.rows;
  while (too_many - fits > 1) {
    const uint32_t middle = fits + (too_many - fits) / 2;
    (ns_with(prompt, middle) <= ns ? fits : too_many) = middle;
  }
  return fits;
}

}  // namespace iokv
