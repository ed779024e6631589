// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/modelled_device.h"

#include <algorithm>

#include "daemon/base/assert.h"
#include "daemon/base/units.h"
#include "tests/sim/oracle.h"

namespace iokv::sim {

ModelledDevice::ModelledDevice(const BlockPool& pool, std::mt19937_64& random)
    : pool_(pool), random_(random), slots_(size_t{pool.total_units().value} * kBlockTokens) {}

void ModelledDevice::issue(uint64_t now_ns, Plan* plan) {
  IOKV_ASSERT(!plan->spans.empty() && plan->tokens.size() == plan->positions.size());
  uint32_t rows = 0;
  for (const PlanSpan& span : plan->spans) {
    IOKV_ASSERT(span.first_row == rows && span.rows > 0);
    rows += span.rows;
    const uint32_t end = span.first_position + span.rows;
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < span.runs; i++) blocks += plan->runs[span.first_run + i].blocks;
    IOKV_ASSERT(blocks == blocks_for(Tokens(end)).value);
    for (uint32_t i = span.first_position / kBlockTokens; i < blocks; i++) {
      IOKV_ASSERT(pool_.references(block_of(*plan, span, i)) == 1);  // rows are written to nobody else's block
    }
  }
  IOKV_ASSERT(rows == plan->tokens.size());
  const uint64_t starts = queue_.empty() ? now_ns : queue_.back().done_ns;
  const uint64_t takes = 50'000 + rows * 2'000 + random_() % 20'000;
  queue_.push_back({plan, starts + takes});
  plan->started_ns = starts;
  plan->ended_ns = starts + takes;
}

void ModelledDevice::discard(uint32_t block) {
  for (uint32_t i = 0; i < kBlockTokens; i++) slot(block, i) = Slot{};
}

Plan* ModelledDevice::finish() {
  Plan* plan = queue_.front().plan;
  queue_.pop_front();
  if (fails_next) {
    // With everything that it held and had been given.
    std::fill(slots_.begin(), slots_.end(), Slot{});
    failing_ = queue_.size() + 1;
    fails_next = false;
  }
  if (failing_ > 0) {
    failing_--;
    plan->failure = "modelled failure";
    return plan;
  }
  for (const PlanSpan& span : plan->spans) run_span(*plan, span);
  return plan;
}

void ModelledDevice::run_span(Plan& plan, const PlanSpan& span) {
  auto at = [&](uint32_t position) -> Slot& {
    return slot(block_of(plan, span, position / kBlockTokens), position);
  };
  if (span.token_from_draw) {
    IOKV_ASSERT(span.rows == 1 && span.slot < latest_draw_.size());
    plan.tokens[span.first_row] = latest_draw_[span.slot];
  }
  uint64_t state = 0;
  for (uint32_t position = 0; position < span.first_position; position++) {
    const Slot& cached = at(position);
    IOKV_ASSERT(cached.valid);
    state = advance(state, cached.token);
    IOKV_ASSERT(cached.state == state);
  }
  uint32_t draw_index = 0;
  for (uint32_t i = 0; i < span.rows; i++) {
    const uint32_t position = span.first_position + i;
    IOKV_ASSERT(plan.positions[span.first_row + i] == position);
    state = advance(state, plan.tokens[span.first_row + i]);
    at(position) = Slot{true, plan.tokens[span.first_row + i], state};
    if (draw_index == span.draws || plan.draws[span.first_draw + draw_index].row != span.first_row + i) continue;
    PlanDraw& drawn = plan.draws[span.first_draw + draw_index++];
    IOKV_ASSERT(drawn.position == position + 1);
    drawn.token = draw(state, drawn.params, drawn.position);
    drawn.logprob = logprob(state);
    if (drawn.keep_logits) drawn.logits = logits(state);
    if (span.slot == kNoSlot) continue;
    if (span.slot >= latest_draw_.size()) latest_draw_.resize(span.slot + 1);
    latest_draw_[span.slot] = drawn.token;
  }
  IOKV_ASSERT(draw_index == span.draws);
}

uint32_t ModelledDevice::block_of(const Plan& plan, const PlanSpan& span, uint32_t index) const {
  for (uint32_t i = 0; i < span.runs; i++) {
    const BlockRun& run = plan.runs[span.first_run + i];
    if (index < run.blocks) return run.id + index * pool_.units_for(run.form).value;
    index -= run.blocks;
  }
  IOKV_ASSERT(false);
  return kNoBlock;
}

ModelledDevice::Slot& ModelledDevice::slot(uint32_t block, uint32_t position) {
  return slots_[size_t{block} * kBlockTokens + position % kBlockTokens];
}

}  // namespace iokv::sim
