// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/plan_build.h"

#include <algorithm>
#include <utility>

#include "daemon/base/assert.h"
#include "daemon/base/units.h"

namespace iokv {
namespace {

PlanWait wait_for(PlanWait::For what, uint32_t op = 0) { return {what, op}; }

uint32_t cached_in(const PlanSpan& span, uint32_t first_block, uint32_t blocks) {
  const uint32_t begin = first_block * kBlockTokens;
  return span.first_position <= begin ? 0 : std::min(span.first_position - begin, blocks * kBlockTokens);
}

// Whether a run has to be brought in an even pass (X), in an odd one (K,V), or may go in any.
enum class Parity : uint8_t { even, odd, any };
Parity parity_of(const PlanSpan& span, const BlockRun& run, uint32_t first_block) {
  if (cached_in(span, first_block, run.blocks) == 0) return Parity::any;
  if (run.used_form() == BlockForm::x) return Parity::even;
  return run.resident() ? Parity::any : Parity::odd;
}

}  // namespace

const char* name_of(OpKind kind) {
  switch (kind) {
    case OpKind::project: return "project";
    case OpKind::fetch_x: return "fetch X";
    case OpKind::fetch_kv: return "fetch K,V";
    case OpKind::recompute: return "recompute";
    case OpKind::store: return "store";
    case OpKind::attend: return "attend";
    case OpKind::append: return "append";
    case OpKind::finish: return "finish";
  }
  return "";
}

PlanBuilder::PlanBuilder(const StagingShape& shape) : shape_(shape) {
  IOKV_ASSERT(shape.slot_blocks > 0 && shape.kv_slots > 0 && shape.x_slots > 0 && shape.tile_tokens > 0);
  IOKV_ASSERT(shape.kv_units > 0 && shape.x_units > 0);
}

void PlanBuilder::build(Plan& plan) {
  begin(plan);
  for (uint32_t pass = 0; !cursors_.empty(); ++pass) {
    left_.clear();
    for (Cursor& cursor : cursors_) {
      if (emit_pass(cursor, pass)) left_.push_back(cursor);
    }
    // A span has pieces in one pass after the other: in rounds of their own, so that attention merges them in order.
    close_round();
    std::swap(cursors_, left_);
  }
  finish();
}

void PlanBuilder::begin(Plan& plan) {
  plan_ = &plan;
  plan.rounds.clear(), plan.ops.clear(), plan.parts.clear(), plan.stores.clear(), plan.attends.clear();
  plan.work = {};
  cursors_.clear();
  span_round_.assign(plan.spans.size(), 0);
  round_open_ = attached_ = false;
  tile_kind_ = Kind::none;
  ++build_;
  shared_used_ = 0;
  add(OpKind::project, Queue::dense).after[0] = wait_for(PlanWait::For::kept_x);
  for (uint32_t i = 0; i < plan.spans.size(); ++i) {
    const PlanSpan& span = plan.spans[i];
    IOKV_ASSERT(span.rows > 0 && span.runs > 0);
    cursors_.push_back({i, span.first_run, 0});
    plan.work.rows += span.rows;
    plan.work.attended += uint64_t{span.rows} * span.first_position + uint64_t{span.rows} * (span.rows + 1) / 2;
  }
}

void PlanBuilder::finish() {
  add(OpKind::finish, Queue::dense);
  if (attached_) sort_attends();
  uint32_t at = 0;
  for (PlanOp& op : plan_->ops) {
    if (op.kind != OpKind::attend) continue;
    op.first = at;
    while (at < plan_->attends.size() && plan_->attends[at].round == op.round) ++at;
    op.count = at - op.first;
  }
  IOKV_ASSERT(at == plan_->attends.size());
  plan_ = nullptr;
}

// The span's runs up to one that has to wait for another pass. true: there is one.
bool PlanBuilder::emit_pass(Cursor& cursor, uint32_t pass) {
  const PlanSpan& span = plan_->spans[cursor.span];
  const Parity now = pass % 2 == 0 ? Parity::even : Parity::odd;
  for (; cursor.run < span.first_run + span.runs; ++cursor.run) {
    const BlockRun& run = plan_->runs[cursor.run];
    const Parity parity = parity_of(span, run, cursor.block);
    if (parity != Parity::any && parity != now) return true;
    emit_run(span, cursor.span, run, cursor.block);
    cursor.block += run.blocks;
  }
  IOKV_ASSERT(cursor.block == blocks_for(Tokens(span.first_position + span.rows)).value);
  return false;
}

void PlanBuilder::emit_run(const PlanSpan& span, uint32_t span_index, const BlockRun& run, uint32_t first_block) {
  IOKV_ASSERT(run.kv_id == kNoBlock || (run.blocks == 1 && run.form == BlockForm::x && !run.resident()));
  if (run.resident() && run.device_form == BlockForm::kv) {
    attend(round(), span_index, first_block, run.blocks, 0, run.device_id);
    return emit_stores(span, run, 0, first_block, run.blocks, 0);
  }
  if (run.shared && !run.resident()) return emit_shared(span, span_index, run, first_block);
  emit_blocks(span, span_index, run, 0, first_block, run.blocks);
}

// Blocks that another span has brought in a round that this one has not passed are attended to there.
void PlanBuilder::emit_shared(const PlanSpan& span, uint32_t span_index, const BlockRun& run, uint32_t first_block) {
  const uint32_t units = run.form == BlockForm::kv ? shape_.kv_units : shape_.x_units;
  for (uint32_t offset = 0, blocks = 0; offset < run.blocks; offset += blocks) {
    // found stays valid: nothing is added before it has been used.
    const Shared found = shared_entry(run.id + offset * units);
    if (found.build == build_ && found.round >= span_round_[span_index]) {
      attend(found.round, span_index, first_block + offset, 1, found.area, kNoBlock);
      blocks = 1;
      continue;
    }
    blocks = 1;
    while (offset + blocks < run.blocks && shared_entry(run.id + (offset + blocks) * units).build != build_) ++blocks;
    emit_blocks(span, span_index, run, offset, first_block + offset, blocks);
  }
}

void PlanBuilder::emit_blocks(const PlanSpan& span, uint32_t span_index, const BlockRun& run, uint32_t offset,
                              uint32_t first_block, uint32_t blocks) {
  const bool resident = run.resident();
  const BlockForm form = run.used_form();
  const uint32_t units = form == BlockForm::kv ? shape_.kv_units : shape_.x_units;
  const Kind kind = form == BlockForm::kv ? Kind::kv : resident ? Kind::resident_x : Kind::x;
  while (blocks > 0) {
    if (round_open_ && areas_ == shape_.slot_blocks) close_round();
    const uint32_t in_round = round(), area = areas_, taken = std::min(blocks, shape_.slot_blocks - areas_);
    areas_ += taken;
    const uint32_t id = (resident ? run.device_id : run.id) + offset * units;
    const uint32_t cached = cached_in(span, first_block, taken), position = first_block * kBlockTokens;
    if (run.kv_id != kNoBlock) {
      const uint32_t as_x = std::min(run.x_tokens, cached);
      emit_tokens(Kind::x, id, shape_.x_units, 0, as_x, position, area);
      emit_tokens(Kind::kv, run.kv_id, shape_.kv_units, as_x, cached - as_x, position + as_x, area);
    } else {
      emit_tokens(kind, id, units, 0, cached, position, area);
    }
    if (run.shared && !resident) {
      for (uint32_t i = 0; i < taken; ++i) {
        Shared& entry = shared_entry(id + i * units);
        if (entry.build != build_ && ++shared_used_ * 2 > shared_.size()) {
          grow_shared();
          --i, --shared_used_;
          continue;
        }
        entry = {id + i * units, build_, in_round, area + i};
      }
    }
    emit_stores(span, run, offset, first_block, taken, area);
    attend(in_round, span_index, first_block, taken, area, kNoBlock);
    offset += taken, first_block += taken, blocks -= taken;
  }
}

void PlanBuilder::emit_tokens(Kind kind, uint32_t id, uint32_t units, uint32_t first_token, uint32_t tokens,
                              uint32_t position, uint32_t area) {
  LayerWork& work = plan_->work;
  (kind == Kind::kv ? work.kv_host : kind == Kind::x ? work.x_host : work.x_device) += tokens;
  while (tokens > 0) {
    if (tile_kind_ != kind || tile_tokens_ == shape_.tile_tokens) open_tile(kind);
    const uint32_t taken = std::min(tokens, shape_.tile_tokens - tile_tokens_);
    PlanPart part;
    part.id = id;
    part.first_token = first_token;
    part.tokens = taken;
    part.position = position;
    part.area = area;
    part.x_row = x_rows_;
    plan_->parts.push_back(part);
    if (kind == Kind::x) x_rows_ += taken;
    tile_tokens_ += taken;
    tokens -= taken, position += taken, first_token += taken;
    id += first_token / kBlockTokens * units;
    area += first_token / kBlockTokens;
    first_token %= kBlockTokens;
  }
}

void PlanBuilder::emit_stores(const PlanSpan& span, const BlockRun& run, uint32_t offset, uint32_t first_block,
                              uint32_t blocks, uint32_t area) {
  const uint32_t end = std::min(span.first_position + span.rows, (first_block + blocks) * kBlockTokens);
  const bool in_device = run.resident() && run.device_form == BlockForm::kv;
  for (uint32_t position = std::max(span.first_position, first_block * kBlockTokens), rows; position < end;
       position += rows) {
    const uint32_t block = position / kBlockTokens - first_block;
    rows = std::min(end, (first_block + block + 1) * kBlockTokens) - position;
    PlanStore store;
    store.row = span.first_row + position - span.first_position;
    store.rows = rows;
    store.position = position;
    store.area = area + block;
    if (in_device) store.device_id = run.device_id + (offset + block) * shape_.kv_units;
    store.form = run.form;
    store.id = run.id + (offset + block) * (run.form == BlockForm::kv ? shape_.kv_units : shape_.x_units);
    plan_->stores.push_back(store);
    if (!shape_.in_place) (run.form == BlockForm::kv ? plan_->work.new_kv : plan_->work.new_x) += rows;
  }
}

void PlanBuilder::attend(uint32_t round, uint32_t span, uint32_t first_piece, uint32_t pieces, uint32_t area,
                         uint32_t device_id) {
  PlanAttend attend;
  attend.round = round;
  attend.span = span;
  attend.first_piece = first_piece;
  attend.pieces = pieces;
  attend.area = area;
  attend.device_id = device_id;
  if (!plan_->attends.empty() && plan_->attends.back().round > round) attached_ = true;
  plan_->attends.push_back(attend);
  span_round_[span] = round;
}

// ---- rounds and tiles -----------------------------------------------------------------------------------------------

uint32_t PlanBuilder::round() {
  if (!round_open_) open_round();
  return static_cast<uint32_t>(plan_->rounds.size()) - 1;
}

void PlanBuilder::open_round() {
  plan_->rounds.push_back({});
  round_open_ = true;
  areas_ = x_rows_ = 0;
  round_first_store_ = static_cast<uint32_t>(plan_->stores.size());
  last_recompute_ = last_fetch_kv_ = kNoBlock;
}

void PlanBuilder::close_round() {
  if (!round_open_) return;
  close_tile();
  plan_->rounds.back() = {areas_, x_rows_};
  using For = PlanWait::For;
  const auto stores_end = static_cast<uint32_t>(plan_->stores.size());
  uint32_t store_op = kNoBlock;
  if (stores_end > round_first_store_) {
    store_op = static_cast<uint32_t>(plan_->ops.size());
    PlanOp& store = add(OpKind::store, Queue::dense);
    store.first = round_first_store_;
    store.count = stores_end - round_first_store_;
    if (areas_ > 0) store.after[0] = wait_for(For::kv_slot);
  }
  PlanOp& attend = add(OpKind::attend, Queue::dense);
  if (last_recompute_ != kNoBlock) attend.after[0] = wait_for(For::operation, last_recompute_);
  if (last_fetch_kv_ != kNoBlock) attend.after[1] = wait_for(For::operation, last_fetch_kv_);
  const bool writes = std::any_of(
      plan_->stores.begin() + round_first_store_, plan_->stores.end(),
      [&](const PlanStore& store) { return !shape_.in_place || store.form == BlockForm::x; });
  if (writes) {
    PlanOp& append = add(OpKind::append, shape_.in_place ? Queue::dense : Queue::d2h);
    append.first = round_first_store_;
    append.count = stores_end - round_first_store_;
    append.after[0] = wait_for(For::operation, store_op);
  }
  round_open_ = false;
}

void PlanBuilder::open_tile(Kind kind) {
  close_tile();
  tile_kind_ = kind;
  tile_first_part_ = static_cast<uint32_t>(plan_->parts.size());
  tile_tokens_ = 0;
}

void PlanBuilder::close_tile() {
  using For = PlanWait::For;
  auto of_tile = [&](PlanOp& op) -> PlanOp& {
    op.first = tile_first_part_;
    op.count = static_cast<uint32_t>(plan_->parts.size()) - tile_first_part_;
    op.tokens = tile_tokens_;
    return op;
  };
  const Kind kind = std::exchange(tile_kind_, Kind::none);
  const auto next_op = static_cast<uint32_t>(plan_->ops.size());
  if (kind == Kind::kv) {
    PlanOp& fetch = of_tile(add(OpKind::fetch_kv, Queue::h2d));
    fetch.after = {wait_for(For::kv_slot), wait_for(For::appended)};
    last_fetch_kv_ = next_op;
  } else if (kind == Kind::x) {
    of_tile(add(OpKind::fetch_x, Queue::h2d)).after = {wait_for(For::x_slot), wait_for(For::appended)};
    of_tile(add(OpKind::recompute, Queue::recompute)).after = {wait_for(For::operation, next_op),
                                                               wait_for(For::kv_slot)};
    last_recompute_ = next_op + 1;
  } else if (kind == Kind::resident_x) {
    of_tile(add(OpKind::recompute, Queue::recompute)).after = {wait_for(For::kv_slot), wait_for(For::appended)};
    last_recompute_ = next_op;
  }
  tile_tokens_ = 0;
}

PlanOp& PlanBuilder::add(OpKind kind, Queue queue) {
  PlanOp op;
  op.kind = kind;
  op.queue = queue;
  op.round = plan_->rounds.empty() ? 0 : static_cast<uint32_t>(plan_->rounds.size()) - 1;
  plan_->ops.push_back(op);
  return plan_->ops.back();
}

// By round, in the order of emission within one: a counting sort.
void PlanBuilder::sort_attends() {
  std::vector<PlanAttend>& attends = plan_->attends;
  starts_.assign(plan_->rounds.size() + 1, 0);
  for (const PlanAttend& attend : attends) ++starts_[attend.round + 1];
  for (size_t i = 1; i < starts_.size(); ++i) starts_[i] += starts_[i - 1];
  sorted_.resize(attends.size());
  for (const PlanAttend& attend : attends) sorted_[starts_[attend.round]++] = attend;
  std::swap(attends, sorted_);
}

// ---- shared blocks --------------------------------------------------------------------------------------------------

// Open addressing: the entry of `id`, or the free one where it would go. Half of the entries are free.
PlanBuilder::Shared& PlanBuilder::shared_entry(uint32_t id) {
  if (shared_.empty()) shared_.resize(1024);
  const size_t mask = shared_.size() - 1;
  for (size_t at = (id * 2654435761u) & mask;; at = (at + 1) & mask) {
    Shared& entry = shared_[at];
    if (entry.build != build_ || entry.id == id) return entry;
  }
}

void PlanBuilder::grow_shared() {
  std::vector<Shared> old(shared_.size() * 2);
  std::swap(old, shared_);
  for (const Shared& entry : old) {
    if (entry.build == build_) shared_entry(entry.id) = entry;
  }
}

}  // namespace iokv
