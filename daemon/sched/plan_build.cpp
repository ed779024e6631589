// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/plan_build.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include "daemon/base/assert.h"
#include "daemon/base/units.h"

namespace iokv {
namespace {

PlanWait wait_for(PlanWait::For what, uint32_t op = 0) { return {what, op}; }

uint32_t cached_in(const PlanSpan& span, uint32_t first_block, uint32_t blocks) {
  const uint32_t begin = first_block * kBlockTokens;
  if (begin >= span.host_from) return 0;  // what is there is not fetched
  return span.first_position <= begin ? 0 : std::min(span.first_position - begin, blocks * kBlockTokens);
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
    case OpKind::hand_over: return "hand over q";
    case OpKind::attend_host: return "attend (host)";
    case OpKind::merge: return "merge";
    case OpKind::fetch_kv_weights: return "fetch W_K, W_V";
    case OpKind::fetch_weights: return "fetch weights";
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
  cut_batches();
  for (uint32_t batch = 0; batch < plan.batches.size(); ++batch) build_batch(batch);
  finish();
}

// All rows in as few micro-batches as there can be, spans cut at the ends of blocks.
void PlanBuilder::cut_batches() {
  PlanBatch open;
  batch_spans_.assign(1, {});
  uint32_t span_index = 0;
  for (const PlanSpan& span : plan_->spans) {
    IOKV_ASSERT(span.rows > 0 && span.runs > 0);
    for (uint32_t done = 0; done < span.rows;) {
      const uint32_t room = shape_.batch_rows - open.rows, left = span.rows - done;
      uint32_t rows = std::min(left, room);
      if (rows < left) {
        const uint32_t position = span.first_position + done, end = (position + rows) / kBlockTokens * kBlockTokens;
        rows = end > position ? end - position : 0;
      }
      open.rows += rows;
      done += rows;
      if (done == span.rows) break;
      IOKV_ASSERT(open.rows > 0);  // batch_rows hold a block
      plan_->batches.push_back(open);
      open = {open.first_row + open.rows, 0};
      batch_spans_.back().end = span_index + (done > 0 ? 1 : 0);
      batch_spans_.push_back({span_index, 0});
      if (done > 0) kept_of(span_index).blocks = (span.first_position + done) / kBlockTokens;  // up to the latest cut
    }
    ++span_index;
  }
  if (open.rows > 0) plan_->batches.push_back(open);
  batch_spans_.back().end = span_index;
  // From the first whole block of new rows on, as many as there are areas for.
  for (auto& [index, kept] : kept_) {
    kept.first_block = blocks_for(Tokens(plan_->spans[index].first_position)).value;
    const uint32_t wanted = kept.blocks - std::min(kept.blocks, kept.first_block);
    kept.blocks = std::min(wanted, shape_.kept_blocks - kept_areas_);
    kept.area = kept_areas_;
    kept_areas_ += kept.blocks;
  }
  plan_->work.batches = std::max<size_t>(1, plan_->batches.size());
}

PlanBuilder::Kept& PlanBuilder::kept_of(uint32_t span_index) {
  if (kept_.empty() || kept_.back().first != span_index) kept_.push_back({span_index, {}});
  return kept_.back().second;
}

void PlanBuilder::build_batch(uint32_t index) {
  const PlanBatch& batch = plan_->batches[index];
  batch_ = static_cast<uint16_t>(index);
  first_round_ = static_cast<uint32_t>(plan_->rounds.size());
  fetches_again_ = fetch_waited_ = recompute_waited_ = false;
  earlier_append_ = latest_append_;
  if (index > 0) std::fill(span_round_.begin(), span_round_.end(), first_round_);
  projects_ = false;
  const SpanRange spans = batch_spans_[index];
  first_divided_ = static_cast<uint32_t>(plan_->divided.size());
  for (uint32_t i = spans.first; i < spans.end; ++i) {
    if (plan_->spans[i].host_tokens() > 0 && part_of(plan_->spans[i], batch).rows > 0) plan_->divided.push_back(i);
  }
  attend_host_ = kNoBlock;
  if (index > 0 || !shape_.weights.used()) add_project();
  LayerWork& work = plan_->work;
  order_spans(spans.first, spans.end);
  for (uint32_t i : order_) {
    const PlanSpan& span = plan_->spans[i];
    const SpanPart here = part_of(span, batch);
    work.rows += here.rows;
    work.attended += uint64_t{here.first_position} + here.rows;
    work.products += uint64_t{here.rows} * here.first_position + uint64_t{here.rows} * (here.rows + 1) / 2;
    if (const uint32_t host_tokens = span.host_tokens(); host_tokens > 0) {
      work.attended -= host_tokens;
      work.products -= host_tokens;
      work.kv_attended += host_tokens;
      ++work.divided;
      emit_divided(span, i);
    } else if (here.rows == span.rows) {
      emit_span(span, i);
    } else {
      PlanSpan part = span;
      part.first_row = here.first_row, part.rows = here.rows, part.first_position = here.first_position;
      emit_part(part, i);
    }
  }
  close_round();
  if (attend_host_ != kNoBlock) {
    PlanOp& merge = add(OpKind::merge, Queue::dense);
    merge.first = first_divided_;
    merge.count = static_cast<uint32_t>(plan_->divided.size()) - first_divided_;
    merge.after[0] = wait_for(PlanWait::For::operation, attend_host_);
  }
  add(OpKind::finish, Queue::dense);
}

void PlanBuilder::begin(Plan& plan) {
  plan_ = &plan;
  plan.rounds.clear(), plan.ops.clear(), plan.parts.clear(), plan.stores.clear(), plan.attends.clear();
  plan.batches.clear(), plan.divided.clear();
  plan.work = {};
  span_round_.assign(plan.spans.size(), 0);
  round_open_ = attached_ = fetches_ = reads_in_place_ = false;
  ++build_;
  chunks_used_ = 0;
  extents_.clear();
  found_ = {};
  for (Lane& lane : lanes_) lane.parts = &lane.own;
  lane(Source::kv).parts = &plan.parts;
  recomputes_ = false;
  kept_.clear();
  kept_areas_ = 0;
  batch_ = 0;
  earlier_append_ = latest_append_ = kNoBlock;
  if (!shape_.weights.used()) return;
  add(OpKind::fetch_kv_weights, Queue::h2d).after[0] = wait_for(PlanWait::For::weight_slot);
  plan.work.weight_bytes = shape_.weights.mean_layer_bytes();
}

// Where weights stream, behind the first round's X. A ring that is shorter than the batch's X goes on only when attention
// does, which needs q: so they cannot follow all X.
void PlanBuilder::add_project() {
  projects_ = true;
  const bool brings = shape_.weights.used() && batch_ == 0;
  if (brings) add(OpKind::fetch_weights, Queue::h2d);
  const uint32_t weights = next_op() - 1;
  PlanOp& project = add(OpKind::project, Queue::dense);
  project.after[0] = wait_for(PlanWait::For::kept_x);
  if (brings) project.after[1] = wait_for(PlanWait::For::operation, weights);
  if (plan_->divided.size() > first_divided_) add_host();
}

void PlanBuilder::add_host() {
  const uint32_t count = static_cast<uint32_t>(plan_->divided.size()) - first_divided_;
  PlanOp& hand_over = add(OpKind::hand_over, Queue::dense);
  hand_over.first = first_divided_;
  hand_over.count = count;
  hand_over.after[0] = wait_for(PlanWait::For::appended);
  PlanOp& attend = add(OpKind::attend_host, Queue::host);
  attend.first = first_divided_;
  attend.count = count;
  attend.after[0] = wait_for(PlanWait::For::operation, next_op() - 2);
  attend_host_ = next_op() - 1;
}

void PlanBuilder::finish() {
  if (attached_) sort_attends();
  plan_ = nullptr;
}

// By a counting sort and from both of its ends, so that what has been emitted always has about the batch's share.
// Those of [first, end).
void PlanBuilder::order_spans(uint32_t first, uint32_t end) {
  const std::span<const PlanSpan> spans = std::span(plan_->spans).subspan(first, end - first);
  const auto steps = static_cast<float>(kShares - 1) / static_cast<float>(std::max(shape_.kv_units, shape_.x_units));
  std::array<uint32_t, kShares> counts{};
  uint64_t link_units = 0, areas = 0;
  shares_.resize(spans.size());
  for (size_t i = 0; i < spans.size(); ++i) {
    const RingLoad load = spans[i].load;
    const float share = static_cast<float>(load.link_units) * steps / static_cast<float>(std::max(load.areas, 1u));
    ++counts[shares_[i] = static_cast<uint8_t>(std::min<uint32_t>(static_cast<uint32_t>(share), kShares - 1))];
    link_units += load.link_units;
    areas += load.areas;
  }
  order_.resize(spans.size());
  if (std::ranges::find(counts, spans.size()) != counts.end()) {
    std::iota(order_.begin(), order_.end(), first);
    return;
  }
  std::array<uint32_t, kShares> next{}, ends{};  // in by_share_
  std::partial_sum(counts.begin(), counts.end(), ends.begin());
  std::copy(ends.begin(), ends.end() - 1, next.begin() + 1);
  by_share_.resize(spans.size());
  for (uint32_t i = 0; i < spans.size(); ++i) by_share_[next[shares_[i]]++] = i;
  next[0] = 0;
  std::copy(ends.begin(), ends.end() - 1, next.begin() + 1);
  uint64_t emitted_units = 0, emitted_areas = 0;
  uint32_t least = 0, most = kShares - 1;
  for (uint32_t& span : order_) {
    while (next[least] == ends[least]) ++least;
    while (next[most] == ends[most]) --most;
    const bool behind = emitted_units * areas <= link_units * emitted_areas;
    const uint32_t chosen = by_share_[next[behind ? most : least]++];
    emitted_units += spans[chosen].load.link_units;
    emitted_areas += spans[chosen].load.areas;
    span = first + chosen;
  }
}

// What the latest round had most of goes to the Plan at once in the next one.
void PlanBuilder::choose_direct_lane() {
  const bool x = x_rows_ * 2 > areas_ * kBlockTokens;
  lane(Source::x).parts = x ? &plan_->parts : &lane(Source::x).own;
  lane(Source::kv).parts = x ? &lane(Source::kv).own : &plan_->parts;
}

void PlanBuilder::emit_span(const PlanSpan& span, uint32_t span_index) {
  const uint32_t end = span.first_run + span.runs;
  Cursor cursor{span.first_run, 0};
  while (cursor.run < end) {
    if (emit_whole_runs(span, span_index, cursor)) continue;
    const BlockRun& run = plan_->runs[cursor.run];
    emit_run(span, span_index, run, cursor.block);
    cursor.block += run.blocks;
    ++cursor.run;
  }
  IOKV_ASSERT(cursor.block == blocks_for(Tokens(span.first_position + span.rows)).value);
}

// The blocks before the host's, and the one that its own row goes to. On the device that one is numbered as if it followed
// the others, and nothing else is in it.
void PlanBuilder::emit_divided(const PlanSpan& span, uint32_t span_index) {
  IOKV_ASSERT(span.rows == 1 && span.host_from % kBlockTokens == 0 && !shape_.in_place);
  const uint32_t host_block = span.host_from / kBlockTokens, own = span.first_position / kBlockTokens;
  uint32_t block = 0;
  for (uint32_t r = span.first_run; r < span.first_run + span.runs; ++r) {
    const BlockRun& run = plan_->runs[r];
    const uint32_t before = std::min(run.blocks, host_block - std::min(host_block, block));
    if (before > 0) emit_run(span, span_index, cut(run, 0, before), block);
    block += run.blocks;
    if (own >= block) continue;
    const BlockRun last = cut(run, own - (block - run.blocks), 1);
    IOKV_ASSERT(span.first_position % kBlockTokens == 0 || (last.form == BlockForm::kv && !last.resident()));
    return emit_run(span, span_index, last, own);
  }
}

// A part of a span that is cut: its blocks up to its own rows', those that are kept apart from the others.
void PlanBuilder::emit_part(const PlanSpan& part, uint32_t span_index) {
  const auto entry = std::lower_bound(kept_.begin(), kept_.end(), span_index,
                                      [](const auto& one, uint32_t index) { return one.first < index; });
  const Kept& kept = entry->second;
  const uint32_t kept_end = kept.first_block + kept.blocks;
  const uint32_t end = blocks_for(Tokens(part.first_position + part.rows)).value;
  const uint32_t written = plan_->spans[span_index].first_position / kBlockTokens;  // blocks from here on by this step
  uint32_t block = 0;
  for (uint32_t r = part.first_run; block < end; ++r) {
    const BlockRun& run = plan_->runs[r];
    const bool stays = run.resident() && run.device_form == BlockForm::kv;
    for (uint32_t offset = 0, taken; offset < run.blocks && block < end; offset += taken, block += taken) {
      const bool is_kept = block >= kept.first_block && block < kept_end;
      const uint32_t edge = block < kept.first_block ? kept.first_block : is_kept ? kept_end : end;
      taken = std::min({run.blocks - offset, end - block, stays ? end : edge - block});
      const BlockRun here = cut(run, offset, taken);
      if (is_kept && !stays) {
        emit_kept(part, span_index, here, block, kept.area + block - kept.first_block);
        continue;
      }
      // What earlier micro-batches have written and nothing has kept comes back from the host.
      fetches_again_ |= !stays && block + taken > written && block * kBlockTokens < part.first_position &&
                        part.first_row > plan_->spans[span_index].first_row;
      emit_run(part, span_index, here, block);
    }
  }
}

BlockRun PlanBuilder::cut(const BlockRun& run, uint32_t offset, uint32_t blocks) const {
  BlockRun part = run;
  part.id += offset * units_of(run.form);
  if (run.resident()) part.device_id += offset * units_of(run.device_form);
  part.blocks = blocks;
  return part;
}

// Like resident blocks: where they are, with new rows in the round that stores them.
void PlanBuilder::emit_kept(const PlanSpan& part, uint32_t span_index, const BlockRun& run, uint32_t first_block,
                            uint32_t area) {
  const bool stores = (first_block + run.blocks) * kBlockTokens > part.first_position;
  const uint32_t in_round = stores || is_first_round() ? round() : span_round_[span_index];
  attend(in_round, span_index, first_block, run.blocks, area, kNoBlock, true);
  if (stores) emit_stores(part, run, 0, first_block, run.blocks, area, true);
}

// Runs that need no thought, at once, as most of a large batch are: cached, in the host pool, of this sequence alone, of
// one form, and with room in the round and its tile. false: the cursor's run is not such a one.
bool PlanBuilder::emit_whole_runs(const PlanSpan& span, uint32_t span_index, Cursor& cursor) {
  const BlockForm form = plan_->runs[cursor.run].form;
  const Source source = form == BlockForm::kv ? Source::kv : Source::x;
  Lane& to = lane(source);
  if (!round_open_ || to.tiles.empty()) return false;
  Tile& tile = to.tiles.back();
  const uint32_t full_blocks = span.first_position / kBlockTokens;
  const uint32_t room = std::min({slot_room(), (shape_.tile_tokens - tile.tokens) / kBlockTokens,
                                  full_blocks - std::min(full_blocks, cursor.block)});
  const BlockRun* const first = &plan_->runs[cursor.run];
  const BlockRun* const end = first + (span.first_run + span.runs - cursor.run);
  const BlockRun* run = first;
  uint32_t blocks = 0;
  for (; run != end && run->blocks <= room - blocks && run->form == form; ++run) {
    if (run->resident() || run->shared || run->kv_id != kNoBlock) break;
    PlanPart& part = to.parts->emplace_back();
    part.id = run->id;
    part.tokens = run->blocks * kBlockTokens;
    part.position = (cursor.block + blocks) * kBlockTokens;
    part.area = areas_ + blocks;
    part.x_row = x_rows_ + (source == Source::x ? blocks * kBlockTokens : 0);
    blocks += run->blocks;
  }
  if (run == first) return false;
  attend(round(), span_index, cursor.block, blocks, areas_, kNoBlock);
  tile.count += static_cast<uint32_t>(run - first);
  tile.tokens += blocks * kBlockTokens;
  areas_ += blocks;
  if (source == Source::x) x_rows_ += blocks * kBlockTokens;
  cursor.run += static_cast<uint32_t>(run - first);
  cursor.block += blocks;
  return true;
}

void PlanBuilder::emit_run(const PlanSpan& span, uint32_t span_index, const BlockRun& run, uint32_t first_block) {
  if (run.resident() && run.device_form == BlockForm::kv) return emit_resident(span, span_index, run, first_block);
  if (run.shared) return emit_shared(span, span_index, run, first_block);
  emit_blocks(span, span_index, run, 0, first_block, run.blocks);
}

// Attended to where they are, in the round where the span has come to, so that it can still share the blocks behind them;
// with new rows, in the round that stores them.
void PlanBuilder::emit_resident(const PlanSpan& span, uint32_t span_index, const BlockRun& run, uint32_t first_block) {
  const bool stores = (first_block + run.blocks) * kBlockTokens > span.first_position;
  const uint32_t in_round = stores || is_first_round() ? round() : span_round_[span_index];
  attend(in_round, span_index, first_block, run.blocks, 0, run.device_id);
  if (stores) emit_stores(span, run, 0, first_block, run.blocks, 0);
}

// Open addressing: the chunk of `id`, or the empty one where it would go. Half of the entries are empty.
inline PlanBuilder::Chunk& PlanBuilder::chunk_of(uint32_t id, bool resident) {
  if (chunks_.empty()) chunks_.resize(1024);
  const uint32_t key = id / kChunkIds << 1 | (resident ? 1 : 0);
  const size_t mask = chunks_.size() - 1;
  for (size_t at = (key * 2654435761u) >> 7 & mask;; at = (at + 1) & mask) {
    Chunk& chunk = chunks_[at];
    if (chunk.build != build_ || chunk.key == key) return chunk;
  }
}

// Blocks that another span has brought in a round that this one has not passed are attended to there.
void PlanBuilder::emit_shared(const PlanSpan& span, uint32_t span_index, const BlockRun& run, uint32_t first_block) {
  const uint32_t units = units_of(run.used_form());
  const uint32_t id = run.resident() ? run.device_id : run.id;
  for (uint32_t offset = 0; offset < run.blocks;) {
    const Reached reached = reach(run, id + offset * units, units, run.blocks - offset, span_round_[span_index]);
    if (reached.missing > 0) {
      // What comes behind may be out of reach then.
      emit_blocks(span, span_index, run, offset, first_block + offset, reached.missing);
      offset += reached.missing;
    } else {
      attend(reached.round, span_index, first_block + offset, reached.blocks, reached.area, kNoBlock);
      offset += reached.blocks;
    }
  }
}

void PlanBuilder::emit_blocks(const PlanSpan& span, uint32_t span_index, const BlockRun& run, uint32_t offset,
                              uint32_t first_block, uint32_t blocks) {
  const bool resident = run.resident();
  const BlockForm form = run.used_form();
  const uint32_t units = units_of(form);
  const Source source = form == BlockForm::kv ? Source::kv : resident ? Source::resident_x : Source::x;
  uint32_t id = (resident ? run.device_id : run.id) + offset * units;
  while (blocks > 0) {
    if (round_open_ && slot_room() == 0) close_round();
    const uint32_t in_round = round(), area = areas_, taken = std::min(blocks, slot_room());
    areas_ += taken;
    const uint32_t cached = cached_in(span, first_block, taken), position = first_block * kBlockTokens;
    if (run.kv_id != kNoBlock) {
      IOKV_ASSERT(run.blocks == 1 && source == Source::x);
      const uint32_t as_x = std::min(run.x_tokens, cached);
      emit_tokens(Source::x, id, units, 0, as_x, position, area);
      emit_tokens(Source::kv, run.kv_id, shape_.kv_units, as_x, cached - as_x, position + as_x, area);
    } else {
      emit_tokens(source, id, units, 0, cached, position, area);
    }
    if (run.shared) remember(run, id, units, in_round, area, taken);
    if (cached < taken * kBlockTokens) emit_stores(span, run, offset, first_block, taken, area);
    attend(in_round, span_index, first_block, taken, area, kNoBlock);
    offset += taken, first_block += taken, blocks -= taken;
    id += taken * units;
  }
}

// Parts of tokens that begin in block `id`, cut where the lane's tiles are full. Written where they stay, like everything
// that there is much of: a copy of what has just been written in pieces takes longer than all the rest.
void PlanBuilder::emit_tokens(Source source, uint32_t id, uint32_t units, uint32_t first_token, uint32_t tokens,
                              uint32_t position, uint32_t area) {
  Lane& to = lane(source);
  while (tokens > 0) {
    if (to.tiles.empty() || to.tiles.back().tokens == shape_.tile_tokens) {
      to.tiles.push_back({static_cast<uint32_t>(to.parts->size()), 0, 0});
    }
    Tile& tile = to.tiles.back();
    const uint32_t taken = std::min(tokens, shape_.tile_tokens - tile.tokens);
    PlanPart& part = to.parts->emplace_back();
    part.id = id;
    part.first_token = first_token;
    part.tokens = taken;
    part.position = position;
    part.area = area;
    part.x_row = x_rows_;
    if (source == Source::x) x_rows_ += taken;
    ++tile.count;
    tile.tokens += taken;
    tokens -= taken, position += taken, first_token += taken;
    id += first_token / kBlockTokens * units;
    area += first_token / kBlockTokens;
    first_token %= kBlockTokens;
  }
}

void PlanBuilder::emit_stores(const PlanSpan& span, const BlockRun& run, uint32_t offset, uint32_t first_block,
                              uint32_t blocks, uint32_t area, bool kept) {
  const uint32_t end = std::min(span.first_position + span.rows, (first_block + blocks) * kBlockTokens);
  const bool in_device = run.resident() && run.device_form == BlockForm::kv;
  const bool x_copy = run.resident() && !in_device && !shape_.in_place;
  for (uint32_t position = std::max(span.first_position, first_block * kBlockTokens), rows; position < end;
       position += rows) {
    const uint32_t block = position / kBlockTokens - first_block;
    rows = std::min(end, (first_block + block + 1) * kBlockTokens) - position;
    PlanStore& store = plan_->stores.emplace_back();
    store.row = span.first_row + position - span.first_position;
    store.rows = rows;
    store.position = position;
    store.area = area + block;
    store.kept = kept;
    if (in_device) store.device_id = run.device_id + (offset + block) * shape_.kv_units;
    if (x_copy) store.device_x_id = run.device_id + (offset + block) * shape_.x_units;
    store.id = run.id + (offset + block) * units_of(run.form);
    store.form = run.form;
    store.device_form = run.device_form;
    if (!shape_.in_place) (run.form == BlockForm::kv ? plan_->work.new_kv : plan_->work.new_x) += rows;
  }
  writes_ |= !shape_.in_place || run.form == BlockForm::x;
}

// Pieces behind the span's latest ones in the same slot are added to them.
void PlanBuilder::attend(uint32_t round, uint32_t span, uint32_t first_piece, uint32_t pieces, uint32_t area,
                         uint32_t device_id, bool kept) {
  std::vector<PlanAttend>& attends = plan_->attends;
  first_piece = std::min(first_piece, plan_->spans[span].host_from / kBlockTokens);
  span_round_[span] = round;
  if (!attends.empty()) {
    PlanAttend& last = attends.back();
    if (last.span == span && last.round == round && device_id == kNoBlock && last.device_id == kNoBlock &&
        last.area + last.pieces == area && last.kept == kept) {
      last.pieces += pieces;
      return;
    }
    attached_ |= last.round > round;
  }
  PlanAttend& attend = attends.emplace_back();
  attend.round = round;
  attend.span = span;
  attend.first_piece = first_piece;
  attend.pieces = pieces;
  attend.area = area;
  attend.device_id = device_id;
  attend.kept = kept;
}

// ---- rounds and tiles -----------------------------------------------------------------------------------------------

uint32_t PlanBuilder::round() {
  if (!round_open_) open_round();
  return static_cast<uint32_t>(plan_->rounds.size()) - 1;
}

void PlanBuilder::open_round() {
  plan_->rounds.push_back({});
  round_open_ = true;
  writes_ = false;
  areas_ = x_rows_ = 0;
  first_store_ = static_cast<uint32_t>(plan_->stores.size());
  first_attend_ = static_cast<uint32_t>(plan_->attends.size());
  last_recompute_ = last_fetch_kv_ = kNoBlock;
}

void PlanBuilder::close_round() {
  if (!round_open_) return;
  using For = PlanWait::For;
  add_tiles(Source::x);
  add_tiles(Source::resident_x);
  plan_->rounds.back() = {areas_, x_rows_};
  if (!projects_) add_project();
  add_tiles(Source::kv);
  const uint32_t stores = static_cast<uint32_t>(plan_->stores.size()) - first_store_;
  const uint32_t store_op = next_op();
  if (stores > 0) {
    PlanOp& store = add(OpKind::store, Queue::dense);
    store.first = first_store_;
    store.count = stores;
    if (areas_ > 0) store.after[0] = wait_for(For::kv_slot);
  }
  PlanOp& attend = add(OpKind::attend, Queue::dense);
  attend.first = first_attend_;
  attend.count = static_cast<uint32_t>(plan_->attends.size()) - first_attend_;
  if (last_recompute_ != kNoBlock) attend.after[0] = wait_for(For::operation, last_recompute_);
  if (last_fetch_kv_ != kNoBlock) attend.after[1] = wait_for(For::operation, last_fetch_kv_);
  if (writes_) {
    PlanOp& append = add(OpKind::append, shape_.in_place ? Queue::dense : Queue::d2h);
    append.first = first_store_;
    append.count = stores;
    if (!shape_.in_place) append.after[0] = wait_for(For::operation, store_op);
    latest_append_ = next_op() - 1;
  }
  round_open_ = false;
  choose_direct_lane();
}

// The operations of a lane's tiles; the lane is empty for the next round.
void PlanBuilder::add_tiles(Source source) {
  using For = PlanWait::For;
  Lane& from = lane(source);
  uint32_t moved = 0;
  if (from.parts == &from.own && !from.own.empty()) {
    moved = static_cast<uint32_t>(plan_->parts.size());
    plan_->parts.insert(plan_->parts.end(), from.own.begin(), from.own.end());
    from.own.clear();
  }
  for (const Tile& tile : from.tiles) {
    if (source == Source::resident_x && join_staged({moved + tile.first, tile.count, tile.tokens})) continue;
    auto add_tile = [&](OpKind kind, Queue queue) -> PlanOp& {
      PlanOp& op = add(kind, queue);
      op.first = moved + tile.first;
      op.count = tile.count;
      op.tokens = tile.tokens;
      return op;
    };
    if (source == Source::kv) {
      PlanOp& fetch = add_tile(OpKind::fetch_kv, Queue::h2d);
      if (last_fetch_kv_ == kNoBlock) fetch.after[0] = wait_for(For::kv_slot);
      if (!fetches_) fetch.after[1] = wait_for(For::appended);
      fetches_ = true;
      wait_for_batches(fetch, fetch_waited_);
      last_fetch_kv_ = next_op() - 1;
      plan_->work.kv_host += tile.tokens;
      continue;
    }
    const bool first_in_slot = last_recompute_ == kNoBlock;
    if (source == Source::x) {
      PlanOp& fetch = add_tile(OpKind::fetch_x, Queue::h2d);
      if (first_in_slot) fetch.after[0] = wait_for(For::x_slot);
      if (!fetches_) fetch.after[1] = wait_for(For::appended);
      fetches_ = true;
      wait_for_batches(fetch, fetch_waited_);
      PlanOp& recompute = add_tile(OpKind::recompute, Queue::recompute);
      // The first wait is how the runtime tells staged X from resident X.
      recompute.after[0] = wait_for(For::operation, next_op() - 2);
      if (first_in_slot) recompute.after[1] = wait_for(For::kv_slot);
      plan_->work.x_host += tile.tokens;
    } else {
      PlanOp& recompute = add_tile(OpKind::recompute, Queue::recompute);
      if (first_in_slot) recompute.after[0] = wait_for(For::kv_slot);
      if (!reads_in_place_) recompute.after[1] = wait_for(For::appended);
      reads_in_place_ = true;
      wait_for_batches(recompute, recompute_waited_);
      plan_->work.x_device += tile.tokens;
    }
    // X that is fetched comes behind its weights, and so does what an earlier micro-batch has written back.
    PlanWait& last = plan_->ops.back().after[2];
    if (shape_.weights.used() && !recomputes_ && source == Source::resident_x && last.what == For::nothing) {
      last = wait_for(For::operation, 0);
    }
    recomputes_ = true;
    last_recompute_ = next_op() - 1;
  }
  from.tiles.clear();
}

// Resident X right behind the parts of the round's last staged tile, where both fit one: a product of a few rows reads the
// weights as one of many does. What the fetch has waited for, which this waits for, is what resident X would.
bool PlanBuilder::join_staged(const Tile& tile) {
  if (last_recompute_ == kNoBlock || x_rows_ == 0) return false;
  PlanOp& staged = plan_->ops[last_recompute_];
  const bool behind = staged.after[0].what == PlanWait::For::operation && staged.first + staged.count == tile.first;
  if (!behind || staged.tokens + tile.tokens > shape_.tile_tokens) return false;
  for (uint32_t p = tile.first; p < tile.first + tile.count; ++p) {
    PlanPart& part = plan_->parts[p];
    part.resident = true;
    part.x_row = x_rows_;
    x_rows_ += part.tokens;
  }
  staged.count += tile.count;
  staged.tokens += tile.tokens;
  plan_->work.x_device += tile.tokens;
  return true;
}

// For what earlier micro-batches of the layer have written back, where some of it is read again.
void PlanBuilder::wait_for_batches(PlanOp& op, bool& waited) {
  if (!fetches_again_ || waited || earlier_append_ == kNoBlock) return;
  op.after[2] = wait_for(PlanWait::For::operation, earlier_append_);
  waited = true;
}

PlanOp& PlanBuilder::add(OpKind kind, Queue queue) {
  PlanOp& op = plan_->ops.emplace_back();
  op.kind = kind;
  op.queue = queue;
  op.batch = batch_;
  op.round = plan_->rounds.empty() ? 0 : static_cast<uint32_t>(plan_->rounds.size()) - 1;
  return op;
}

// By round, in the order of emission within one: a counting sort.
void PlanBuilder::sort_attends() {
  std::vector<PlanAttend>& attends = plan_->attends;
  starts_.assign(plan_->rounds.size() + 1, 0);
  for (const PlanAttend& attend : attends) ++starts_[attend.round + 1];
  for (size_t i = 1; i < starts_.size(); ++i) starts_[i] += starts_[i - 1];
  for (PlanOp& op : plan_->ops) {
    if (op.kind != OpKind::attend) continue;
    op.first = starts_[op.round];
    op.count = starts_[op.round + 1] - op.first;
  }
  sorted_.resize(attends.size());
  for (const PlanAttend& attend : attends) sorted_[starts_[attend.round]++] = attend;
  std::copy(sorted_.begin(), sorted_.end(), attends.begin());
}

// ---- shared blocks --------------------------------------------------------------------------------------------------

// An extent is out of reach if the span has come further than its round. Of several that have a block the latest counts:
// it is in the latest round.
PlanBuilder::Reached PlanBuilder::reach(const BlockRun& run, uint32_t id, uint32_t units, uint32_t blocks,
                                        uint32_t least_round) {
  // Who shares blocks comes together: a client's sequences do, and what one of them has found the next one looks for.
  if (found_.id == id && found_.resident == run.resident() && found_.round >= least_round) {
    return {0, std::min(found_.blocks, blocks), found_.round, found_.area};
  }
  Reached reached{blocks, 0, 0, 0};
  const uint32_t end = id + blocks * units;
  for (uint32_t at = id / kChunkIds; at <= (end - 1) / kChunkIds; ++at) {
    const Chunk& chunk = chunk_of(at * kChunkIds, run.resident());
    if (chunk.build != build_) continue;
    for (uint32_t i = chunk.latest; i != kNoExtent; i = extents_[i].next) {
      const Extent& extent = extents_[i];
      // Blocks of another form have other ids: what overlaps is of the run's.
      if (extent.round < least_round || extent.end <= id || extent.id >= end) continue;
      const uint32_t missing = extent.id <= id ? 0 : (extent.id - id) / units;
      const uint32_t skipped = extent.id >= id ? 0 : (id - extent.id) / units;
      if (missing >= reached.missing) continue;
      const uint32_t has = (extent.end - extent.id) / units;
      reached = {missing, std::min(has - skipped, blocks - missing), extent.round, extent.area + skipped};
      if (extent.id == id) found_ = {id, has, extent.round, extent.area, run.resident()};
    }
    if (reached.blocks > 0) break;  // chunks behind have later blocks
  }
  return reached;
}

void PlanBuilder::remember(const BlockRun& run, uint32_t id, uint32_t units, uint32_t round, uint32_t area,
                           uint32_t blocks) {
  const uint32_t end = id + blocks * units;
  for (uint32_t at = id / kChunkIds; at <= (end - 1) / kChunkIds; ++at) {
    if ((chunks_used_ + 1) * 2 > chunks_.size()) grow_chunks();
    Chunk& chunk = chunk_of(at * kChunkIds, run.resident());
    if (chunk.build != build_) {
      chunk = {at << 1 | (run.resident() ? 1 : 0), build_, kNoExtent};
      ++chunks_used_;
    }
    // Those that it covers are of no use any more, so that a chunk has few.
    for (uint32_t* link = &chunk.latest; *link != kNoExtent;) {
      const Extent& older = extents_[*link];
      if (older.id >= id && older.end <= end) {
        *link = older.next;
      } else {
        link = &extents_[*link].next;
      }
    }
    const uint32_t latest = chunk.latest;
    chunk.latest = static_cast<uint32_t>(extents_.size());
    extents_.push_back({id, end, round, area, latest});
  }
}

void PlanBuilder::grow_chunks() {
  std::vector<Chunk> old(std::max<size_t>(1024, chunks_.size() * 2));
  std::swap(old, chunks_);
  for (const Chunk& chunk : old) {
    if (chunk.build == build_) chunk_of(chunk.key / 2 * kChunkIds, chunk.key % 2 != 0) = chunk;
  }
}

}  // namespace iokv
