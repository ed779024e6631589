// SPDX-License-Identifier: Apache-2.0
// The audit's part in Plans: which row is audited, the rows that compute it again, and the comparison (audit.h).
#include <algorithm>
#include <utility>

#include "daemon/conductor.h"

namespace iokv {

using wire::Counter;
using Stage = Audit::Stage;

namespace {

constexpr uint32_t kMostRows = 64;  // of an audit in a step: a client that comes meanwhile waits for no more than these

}  // namespace

// A row that draws a sequence's next token; of several, another one each time.
void Conductor::choose_audited(Plan& plan) {
  const uint64_t id = issued_ + 1;
  if (!audit_.due(id)) return;
  std::vector<uint32_t> drawn;
  for (uint32_t i = 0; i < plan.spans.size(); ++i) {
    const PlanSpan& span = plan.spans[i];
    if (span.slot != kNoSlot && span.draws > 0 && sequences_[span.slot]->draws_in_flight > 0) drawn.push_back(i);
  }
  if (drawn.empty()) return;
  const PlanSpan& span = plan.spans[drawn[id % drawn.size()]];
  PlanDraw& draw = plan.draws[span.first_draw + span.draws - 1];
  if (audit_.stage() != Stage::idle || draw.position > audit_.setting().max_tokens) return bump(Counter::audit_skipped);
  plan.audited_draw = span.first_draw + span.draws - 1;
  plan.audited_only = !draw.keep_logits;
  draw.keep_logits = true;
  audit_.await(id);
}

// Before the draws become outcomes, which take their logits along.
void Conductor::take_audited(Plan& plan) {
  if (plan.audited_draw == kNoDraw) return;
  PlanDraw& draw = plan.draws[plan.audited_draw];
  std::vector<float> logits = draw.logits;
  if (plan.audited_only) draw.logits.clear();
  const auto span = std::find_if(plan.spans.begin(), plan.spans.end(), [&](const PlanSpan& one) {
    return one.first_draw <= plan.audited_draw && plan.audited_draw < one.first_draw + one.draws;
  });
  const Sequence& sequence = *sequences_[span->slot];
  const bool valid = sequence.open && sequence.generation == span->generation && sequence.epoch == span->epoch;
  if (audit_.stage() != Stage::waiting || !valid || !plan.failure.empty() || stopping_) return skip_audit();
  IOKV_ASSERT(draw.position <= sequence.tokens.size());
  const auto tokens = std::span(sequence.tokens).first(draw.position);
  std::optional<BlockTable> blocks = audit_blocks(blocks_for(Tokens(static_cast<uint32_t>(tokens.size()))));
  if (!blocks) return skip_audit();
  audit_.begin({sequence.client, sequence.id, static_cast<uint32_t>(draw.position) - 1, plan.id, 0}, tokens,
               std::move(logits), std::move(*blocks));
}

// All or none, and only what is free.
std::optional<BlockTable> Conductor::audit_blocks(Blocks wanted) {
  BlockTable blocks({config_.staging.kv_units, config_.staging.x_units}, config_.staging.in_place);
  while (blocks.size() < wanted.value) {
    auto id = pool_.acquire(BlockForm::kv, blocks.empty() ? UINT32_MAX : blocks.back().id);
    if (!id) {
      release_audited(blocks);
      return std::nullopt;
    }
    bump(Counter::kv_blocks);
    blocks.push_back({*id, BlockForm::kv});
  }
  return blocks;
}

// As many rows as make the step no longer, or no more than twice as much longer as the first does, and free_rows in any
// case, so that it ends; alone kMostRows.
void Conductor::add_audit(Plan& plan) {
  if (audit_.stage() != Stage::running || audit_.rows_left() == 0 || stopping_) return;
  const bool alone = plan.spans.empty();
  if (alone && !in_flight_.empty()) return;  // nobody who comes now waits for two of them
  uint32_t rows = kMostRows;
  if (!alone) {
    rows = config_.batch.free_rows;
    if (StepModel model = config_.step_model; model.known()) {
      model.prefill_delay = 0;
      builder_.build(plan);
      const Prompt prompt{.rows = kMostRows, .cached = audit_.cached(), .kv_host = audit_.cached(), .new_kv = true};
      rows = std::max(rows, PrefillRoom(model, plan.work).rows_of(prompt));
    }
  }
  const auto taken = static_cast<uint32_t>(plan.tokens.size());
  rows = std::min({rows, audit_.rows_left(), config_.batch.max_rows - std::min(config_.batch.max_rows, taken)});
  // The last row draws.
  if (rows == audit_.rows_left() && plan.draws.size() >= config_.batch.max_draws) rows--;
  if (rows > 0) add_audit_span(plan, rows);
}

void Conductor::add_audit_span(Plan& plan, uint32_t rows) {
  PlanSpan span;
  span.slot = kNoSlot;
  span.first_row = static_cast<uint32_t>(plan.tokens.size());
  span.rows = rows;
  span.first_position = audit_.cached();
  for (uint32_t i = 0; i < rows; ++i) {
    plan.tokens.push_back(audit_.tokens()[audit_.cached() + i]);
    plan.positions.push_back(audit_.cached() + i);
  }
  add_runs(plan, span, audit_.blocks());
  span.first_draw = static_cast<uint32_t>(plan.draws.size());
  if (rows == audit_.rows_left()) {
    PlanDraw draw;
    draw.row = span.first_row + rows - 1;
    draw.position = span.first_position + rows;
    draw.keep_logits = true;
    plan.draws.push_back(std::move(draw));
    span.draws = 1;
  }
  plan.spans.push_back(span);
  audit_.issued(rows, issued_ + 1);
}

// After everything else: the audit's last row has its logits, or it has been given up and this was its last Plan.
void Conductor::retire_audit(const Plan& plan) {
  if (!plan.failure.empty() && audit_.stage() == Stage::running) skip_audit();
  if (audit_.stage() == Stage::given_up && audit_.last_plan() <= retired_) end_audit();
  if (audit_.stage() != Stage::running) return;
  for (const PlanSpan& span : plan.spans) {
    if (span.slot != kNoSlot || span.draws == 0) continue;
    bump(Counter::audit_steps);
    if (auto finding = audit_.compare(plan.draws[span.first_draw].logits)) {
      bump(Counter::audit_mismatches);
      effects_.audit_failed(*finding);
    }
    return end_audit();
  }
}

// Also when somebody needs its blocks. false: a Plan that names them is out, and they come free with it.
bool Conductor::give_up_audit() {
  if (audit_.stage() == Stage::running) skip_audit();
  return audit_.blocks().empty();
}

void Conductor::skip_audit() {
  if (audit_.stage() == Stage::idle || audit_.stage() == Stage::given_up) return;
  bump(Counter::audit_skipped);
  audit_.give_up();
  if (audit_.last_plan() <= retired_) end_audit();
}

void Conductor::end_audit() {
  release_audited(audit_.blocks());
  audit_.end();
}

void Conductor::release_audited(const BlockTable& blocks) {
  blocks.each([this](SequenceBlock block) {
    effects_.discarded(block.id, block.form);
    bump(Counter::kv_blocks, -1);
    pool_.release(block.id);
  });
}

}  // namespace iokv
