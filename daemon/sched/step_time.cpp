// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/step_time.h"

#include <algorithm>
#include <limits>

#include "daemon/base/assert.h"
#include "daemon/base/units.h"

namespace iokv {
namespace {

// Until the link has run as far ahead as it does; the last two are measured, since a ring of an odd number of slots can
// make steps take turns.
constexpr uint32_t kSteps = 4;

constexpr size_t index_of(Queue queue) { return static_cast<size_t>(queue); }

// Over the rows [cached, length) of a sequence: how many of its first `end` <= length tokens each attends to.
uint64_t products_until(uint64_t end, uint64_t cached, uint64_t length) {
  const uint64_t new_tokens = end - std::min(end, cached);  // token cached + i is attended to by all rows but i
  return end * (length - cached) - new_tokens * (new_tokens - 1) / 2;
}

bool is_of_weights(const PlanOp& op) { return op.kind == OpKind::fetch_kv_weights || op.kind == OpKind::fetch_weights; }

template <typename T>
void raise(T& ended, const T& other) {
  for (size_t queue = 0; queue < kQueues; ++queue) ended[queue] = std::max(ended[queue], other[queue]);
}

}  // namespace

double StepTimer::step_ns(const Plan& plan) {
  measure(plan);
  const auto ops = static_cast<uint32_t>(plan.ops.size());
  const uint32_t layers = std::max(kLeastLayers, kRunOps / ops);
  whole_ = shape_.layers <= layers;
  if (whole_) return run(plan, shape_.layers);
  // Slots and kept X come round every two layers or some such; what a layer adds is taken over two. It may add more when
  // what was fetched ahead is used up, but no less than the link needs.
  const double some = run(plan, layers), fewer = run(plan, layers - 2);
  return std::max(some + (some - fewer) / 2 * (shape_.layers - layers), shape_.layers * link_ns(plan));
}

// Of a layer, were it always busy: h2d is slower while d2h runs beside it, and the other way round.
double StepTimer::link_ns(const Plan& plan) const {
  double down = 0, up = 0;
  const double streamed = staging_.weights.used() ? 1.0 * staging_.weights.layers.streamed / shape_.layers : 0;
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    if (plan.ops[i].queue == Queue::h2d) down += op_ns_[i] * (is_of_weights(plan.ops[i]) ? streamed : 1);
    if (plan.ops[i].queue == Queue::d2h) up += op_ns_[i];
  }
  return std::max(down, up) + (profile_.duplex - 1) * std::min(down, up);
}

double StepTimer::run(const Plan& plan, uint32_t layers) {
  layers_ = layers;
  for (auto& queue : queues_) queue.clear();
  fetch_ = {};
  x_released_ = kv_released_ = weights_released_ = 0;
  op_ended_.assign(2 * layers * plan.ops.size(), {});
  x_free_.assign(staging_.x_slots, {});
  kv_free_.assign(staging_.kv_slots, {});
  weights_free_.assign(staging_.weights.slots, {});
  appended_.assign(layers, {});
  appended_before_.assign(layers, {});
  kept_free_ = {};
  keep_ = 0;
  step_ended_ = {};
  std::array<uint32_t, kSteps> ends{};
  for (uint32_t step = 0; step < kSteps; ++step) {
    enqueue_step(plan, step);
    ends[step] = step_ended_[index_of(Queue::dense)];
  }
  return play(ends[kSteps - 3], ends[kSteps - 1]) / 2;
}

// ---- the program ----------------------------------------------------------------------------------------------------

void StepTimer::measure(const Plan& plan) {
  x_before_.clear(), kv_before_.clear();
  x_rounds_ = kv_rounds_ = 0;
  for (const PlanRound& round : plan.rounds) {
    x_before_.push_back(x_rounds_), kv_before_.push_back(kv_rounds_);
    x_rounds_ += round.x_rows > 0 ? 1 : 0;
    kv_rounds_ += round.areas > 0 ? 1 : 0;
  }
  auto dense_ns = [&](const PlanOp& op) { return profile_.dense.at(static_cast<double>(plan.batches[op.batch].rows)); };
  appends_ = std::any_of(plan.ops.begin(), plan.ops.end(), [](const PlanOp& op) { return op.kind == OpKind::append; });
  op_ns_.assign(plan.ops.size(), 0);
  frees_x_.assign(plan.ops.size(), 0);
  uint32_t x_round = UINT32_MAX;  // the latest one whose last recomputation has been found
  for (size_t i = plan.ops.size(); i-- > 0;) {
    const PlanOp& op = plan.ops[i];
    switch (op.kind) {
      case OpKind::project: op_ns_[i] = dense_ns(op) * profile_.project_share; break;
      case OpKind::fetch_x:
      case OpKind::fetch_kv: op_ns_[i] = fetch_ns(plan, op); break;
      case OpKind::recompute:
        op_ns_[i] = recompute_ns(plan, op);
        frees_x_[i] = plan.rounds[op.round].x_rows > 0 && x_round != op.round;
        x_round = op.round;
        break;
      case OpKind::store: op_ns_[i] = store_ns(plan, op); break;
      case OpKind::attend: op_ns_[i] = attend_ns(plan, op); break;
      case OpKind::append: op_ns_[i] = append_ns(plan, op); break;
      case OpKind::hand_over:
      case OpKind::merge: op_ns_[i] = profile_.exchange.at(op.count) / 2; break;
      case OpKind::attend_host: {
        uint64_t tokens = 0;
        for (uint32_t d = op.first; d < op.first + op.count; ++d) tokens += plan.spans[plan.divided[d]].host_tokens();
        op_ns_[i] = profile_.host_attend.at(static_cast<double>(tokens));
        break;
      }
      case OpKind::fetch_kv_weights: op_ns_[i] = profile_.h2d.at(static_cast<double>(staging_.weights.kv_bytes)); break;
      case OpKind::fetch_weights: op_ns_[i] = profile_.h2d.at(static_cast<double>(staging_.weights.rest_bytes)); break;
      case OpKind::finish: op_ns_[i] = dense_ns(op) * (1 - profile_.project_share); break;
    }
  }
}

double StepTimer::copy_ns(const Curve& curve, uint64_t bytes, uint64_t pieces) const {
  return curve.at(static_cast<double>(bytes)) + profile_.piece_ns * static_cast<double>(std::max<uint64_t>(pieces, 1) - 1);
}

// Neighbouring blocks of a part are one piece where nothing lies between them; of a part of a K,V block each head's K and
// V are one.
double StepTimer::fetch_ns(const Plan& plan, const PlanOp& op) const {
  const bool x = op.kind == OpKind::fetch_x;
  const uint64_t token_bytes = x ? shape_.x_bytes : shape_.kv_bytes;
  const uint64_t unit_bytes = std::min(shape_.x_bytes, shape_.kv_bytes);
  const bool joined = unit_bytes * (x ? staging_.x_units : staging_.kv_units) == token_bytes;
  uint64_t pieces = 0;
  for (uint32_t p = op.first; p < op.first + op.count; ++p) {
    const PlanPart& part = plan.parts[p];
    if (x) {
      pieces += joined ? 1 : blocks_for(Tokens(part.first_token + part.tokens)).value;
      continue;
    }
    const uint32_t head = std::min(part.tokens, (kBlockTokens - part.first_token) % kBlockTokens);
    const uint32_t whole = (part.tokens - head) / kBlockTokens, tail = (part.tokens - head) % kBlockTokens;
    pieces += joined ? std::min(whole, 1u) : whole;
    pieces += ((head > 0 ? 1 : 0) + (tail > 0 ? 1 : 0)) * shape_.row_pieces;
  }
  return copy_ns(profile_.h2d, op.tokens * token_bytes, pieces);
}

// One product a tile. X on the device that lies in several stretches is gathered first.
double StepTimer::recompute_ns(const Plan& plan, const PlanOp& op) const {
  const double product_ns = profile_.recompute.at(op.tokens);
  if (op.after[0].what == PlanWait::For::operation) {
    uint64_t resident = 0;
    for (uint32_t p = op.first; p < op.first + op.count; ++p) resident += plan.parts[p].resident ? plan.parts[p].tokens : 0;
    return product_ns + profile_.keep_x.at(static_cast<double>(resident * shape_.x_bytes));
  }
  const uint64_t unit_bytes = std::min(shape_.x_bytes, shape_.kv_bytes) * kBlockTokens;
  const bool joined = unit_bytes * staging_.x_units == uint64_t{shape_.x_bytes} * kBlockTokens;
  uint64_t stretches = 0, end = 0;
  for (uint32_t p = op.first; p < op.first + op.count; ++p) {
    const PlanPart& part = plan.parts[p];
    const uint64_t begin = part.id * unit_bytes + part.first_token * shape_.x_bytes;
    if (!joined) stretches += blocks_for(Tokens(part.first_token + part.tokens)).value;
    if (joined && (stretches == 0 || begin != end)) ++stretches;
    end = begin + part.tokens * shape_.x_bytes;
  }
  return stretches <= 1 ? product_ns : product_ns + profile_.keep_x.at(static_cast<double>(op.tokens * shape_.x_bytes));
}

double StepTimer::attend_ns(const Plan& plan, const PlanOp& op) const {
  uint64_t attended = 0, products = 0;
  for (uint32_t i = op.first; i < op.first + op.count; ++i) {
    const PlanAttend& attend = plan.attends[i];
    const SpanPart span = part_of(plan.spans[attend.span], plan.batches[op.batch]);
    const uint64_t begin = attend.first_piece * kBlockTokens, end = begin + attend.pieces * kBlockTokens;
    const PlanSpan& whole = plan.spans[attend.span];
    // Of a divided one the device's pieces are followed by the one with its own row.
    const uint64_t cached = whole.host_tokens() > 0 ? whole.host_from : span.first_position, length = cached + span.rows;
    attended += std::min(end, length) - begin;
    // Each row attends to what is cached, to the rows before it and to its own token.
    products += products_until(std::min(end, length), cached, length) - products_until(begin, cached, length);
  }
  return profile_.attention_ns(static_cast<double>(attended), static_cast<double>(products));
}

// K,V go where they are attended to as part of the product that made them; X is copied.
double StepTimer::store_ns(const Plan& plan, const PlanOp& op) const {
  uint64_t rows = 0;
  for (uint32_t i = op.first; i < op.first + op.count; ++i) {
    if (plan.stores[i].device_x_id != kNoBlock) rows += plan.stores[i].rows;
  }
  return profile_.keep_x.at(static_cast<double>(rows * shape_.x_bytes));
}

double StepTimer::append_ns(const Plan& plan, const PlanOp& op) const {
  uint64_t bytes = 0, pieces = 0;
  for (uint32_t i = op.first; i < op.first + op.count; ++i) {
    const PlanStore& store = plan.stores[i];
    const bool x = store.form == BlockForm::x;
    bytes += store.rows * uint64_t{x ? shape_.x_bytes : shape_.kv_bytes};
    pieces += x || store.rows == kBlockTokens ? 1 : shape_.row_pieces;
  }
  return copy_ns(profile_.d2h, bytes, pieces);
}

// ---- its order ------------------------------------------------------------------------------------------------------

void StepTimer::enqueue_step(const Plan& plan, uint32_t step) {
  running_step_ = step;
  std::copy(appended_.begin(), appended_.end(), appended_before_.begin());
  const double head_ns = profile_.head.at(static_cast<double>(plan.work.rows));
  const double embed_ns = std::min(head_ns, profile_.embed_ns);
  append_to(Queue::dense, embed_ns, step_ended_);
  for (Place running{step, 0, 0}; running.layer < layers_; ++running.layer) {
    for (running.op = 0; running.op < plan.ops.size(); ++running.op) {
      fetch_ahead(plan, running);
      if (plan.ops[running.op].queue != Queue::h2d) enqueue(plan, running);
    }
  }
  fetch_ahead(plan, {step, layers_, 0});
  Ended all = append_to(Queue::dense, head_ns - embed_ns, {});
  for (const Ended& appended : appended_) raise(all, appended);
  step_ended_ = all;
}

// Every fetch whose slot's release has been enqueued: of the step that runs, then of the one behind it.
void StepTimer::fetch_ahead(const Plan& plan, const Place& running) {
  while (fetch_.step <= running.step + 1) {
    for (; fetch_.op < plan.ops.size(); ++fetch_.op) {
      if (plan.ops[fetch_.op].queue != Queue::h2d) continue;
      if (!may_fetch(plan, running)) return;
      enqueue(plan, fetch_);
    }
    fetch_.op = 0;
    if (++fetch_.layer == layers_) fetch_ = {fetch_.step + 1, 0, 0};
  }
}

// Of some layers for all each has the mean of what streams.
double StepTimer::op_ns(const Plan& plan, const Place& place) const {
  if (!is_of_weights(plan.ops[place.op])) return op_ns_[place.op];
  const StreamedLayers& layers = staging_.weights.layers;
  return op_ns_[place.op] * (whole_ ? (layers.streams(place.layer) ? 1 : 0) : 1.0 * layers.streamed / layers.layers);
}

bool StepTimer::streams(const Place& place) const {
  return staging_.weights.used() && (!whole_ || staging_.weights.layers.streams(place.layer));
}

uint64_t StepTimer::weights_number(const Place& place) const {
  const StreamedLayers& layers = staging_.weights.layers;
  return whole_ ? uint64_t{place.step} * layers.streamed + layers.before(place.layer)
                : uint64_t{place.step} * layers_ + place.layer;
}

bool StepTimer::may_fetch(const Plan& plan, const Place& running) const {
  const PlanOp& op = plan.ops[fetch_.op];
  if (op.kind == OpKind::fetch_kv_weights) {
    return !streams(fetch_) || weights_number(fetch_) < weights_released_ + weights_free_.size();
  }
  if (op.kind == OpKind::fetch_weights) return true;
  if (fetch_.step != running.step && appends_ && fetch_.layer >= running.layer) return false;
  // What an earlier micro-batch of the layer has to write back first.
  for (const PlanWait& wait : op.after) {
    const bool reached = fetch_.step < running.step || (fetch_.step == running.step &&
                         (fetch_.layer < running.layer || (fetch_.layer == running.layer && wait.op < running.op)));
    if (wait.what == PlanWait::For::operation && !reached) return false;
  }
  if (op.kind == OpKind::fetch_x) return x_round(fetch_, op.round) < x_released_ + x_free_.size();
  return kv_round(fetch_, op.round) < kv_released_ + kv_free_.size();
}

void StepTimer::enqueue(const Plan& plan, const Place& place) {
  const Ended end = append_to(plan.ops[place.op].queue, op_ns(plan, place), after(plan, place));
  op_ended_[ended_at(place)] = end;
  release(plan, place, end);
}

StepTimer::Ended StepTimer::after(const Plan& plan, const Place& place) const {
  const PlanOp& op = plan.ops[place.op];
  Ended after{};
  if (place.layer == 0 && op.queue != Queue::h2d) after = step_ended_;
  for (const PlanWait& wait : op.after) {
    switch (wait.what) {
      case PlanWait::For::nothing: break;
      case PlanWait::For::operation: raise(after, op_ended_[ended_at({place.step, place.layer, wait.op})]); break;
      case PlanWait::For::x_slot: raise(after, x_free_[x_round(place, op.round) % x_free_.size()]); break;
      case PlanWait::For::kv_slot: raise(after, kv_free_[kv_round(place, op.round) % kv_free_.size()]); break;
      case PlanWait::For::appended:
        raise(after, (place.step == running_step_ ? appended_before_ : appended_)[place.layer]);
        break;
      case PlanWait::For::kept_x: raise(after, kept_free_[keep_]); break;
      case PlanWait::For::weight_slot:
        if (streams(place)) raise(after, weights_free_[weights_number(place) % weights_free_.size()]);
        break;
    }
  }
  return after;
}

void StepTimer::release(const Plan& plan, const Place& place, const Ended& end) {
  const PlanOp& op = plan.ops[place.op];
  if (frees_x_[place.op]) {
    x_free_[x_round(place, op.round) % x_free_.size()] = end;
    ++x_released_;
  }
  if (op.kind == OpKind::finish) keep_ ^= 1;
  if (op.kind == OpKind::finish && op.batch + 1u == plan.batches.size() && streams(place)) {
    weights_free_[weights_number(place) % weights_free_.size()] = end;
    ++weights_released_;
  }
  if (op.kind == OpKind::append) appended_[place.layer] = kept_free_[keep_] = end;
  if ((op.kind != OpKind::attend && op.kind != OpKind::append) || plan.rounds[op.round].areas == 0) return;
  Ended& free = kv_free_[kv_round(place, op.round) % kv_free_.size()];
  if (op.kind == OpKind::attend) free = end;
  if (op.kind == OpKind::append) raise(free, end);
  if (op.kind == OpKind::append || plan.ops[place.op + 1].kind != OpKind::append) ++kv_released_;
}

StepTimer::Ended StepTimer::append_to(Queue queue, double ns, const Ended& after) {
  std::vector<Queued>& queued = queues_[index_of(queue)];
  queued.push_back({ns, after});
  Ended ended{};
  ended[index_of(queue)] = static_cast<uint32_t>(queued.size());
  return ended;
}

uint64_t StepTimer::x_round(const Place& place, uint32_t round) const {
  return (uint64_t{place.step} * layers_ + place.layer) * x_rounds_ + x_before_[round];
}

uint64_t StepTimer::kv_round(const Place& place, uint32_t round) const {
  return (uint64_t{place.step} * layers_ + place.layer) * kv_rounds_ + kv_before_[round];
}

size_t StepTimer::ended_at(const Place& place) const {
  return (size_t{place.step % 2} * layers_ + place.layer) * op_ns_.size() + place.op;
}

// ---- its time -------------------------------------------------------------------------------------------------------

// Between the ends of two operations on dense, counted from 1.
double StepTimer::play(uint32_t from_dense, uint32_t to_dense) {
  constexpr size_t kDense = index_of(Queue::dense), kRecompute = index_of(Queue::recompute), kH2d = index_of(Queue::h2d),
                   kD2h = index_of(Queue::d2h), kHost = index_of(Queue::host);
  Ended ended{};
  std::array<bool, kQueues> running{};
  std::array<double, kQueues> left_ns{};
  double now_ns = 0, from_ns = 0;
  while (ended[kDense] < to_dense) {
    // What can begin begins, and ends at once where it takes no time.
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t q = 0; q < kQueues; ++q) {
        while (!running[q] && ended[q] < queues_[q].size()) {
          const Queued& next = queues_[q][ended[q]];
          bool free = true;
          for (size_t other = 0; other < kQueues; ++other) free &= ended[other] >= next.after[other];
          if (!free) break;
          if (next.ns > 0) {
            running[q] = true;
            left_ns[q] = next.ns;
          } else {
            ++ended[q];
            if (q == kDense && ended[q] == from_dense) from_ns = now_ns;
            changed = true;
          }
        }
      }
    }
    if (ended[kDense] >= to_dense) break;
    double step_ns = std::numeric_limits<double>::infinity();
    size_t ending = kQueues;
    const bool computes = running[kDense] || running[kRecompute];
    // The device's curves are those beside a busy link.
    const double device = (running[kDense] && running[kRecompute] ? 1 + profile_.contention : 1) *
                          (running[kHost] ? 1 + profile_.host_contention : 1) / (running[kH2d] ? 1 : profile_.link_slowdown);
    const double link = (running[kH2d] && running[kD2h] ? profile_.duplex : 1) * (running[kHost] ? profile_.host_slows_link : 1);
    std::array<double, kQueues> slowness;
    slowness[kDense] = slowness[kRecompute] = device;
    slowness[kH2d] = slowness[kD2h] = link;
    slowness[kHost] = computes ? 1 + profile_.host_contention : 1;
    for (size_t q = 0; q < kQueues; ++q) {
      if (!running[q] || left_ns[q] * slowness[q] >= step_ns) continue;
      step_ns = left_ns[q] * slowness[q];
      ending = q;
    }
    IOKV_ASSERT(ending != kQueues);  // waits name what is enqueued before
    now_ns += step_ns;
    for (size_t q = 0; q < kQueues; ++q) {
      if (running[q]) left_ns[q] -= step_ns / slowness[q];
    }
    running[ending] = false;
    ++ended[ending];
    if (ending == kDense && ended[ending] == from_dense) from_ns = now_ns;
  }
  return now_ns - from_ns;
}

}  // namespace iokv
