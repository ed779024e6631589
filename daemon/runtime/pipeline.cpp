// SPDX-License-Identifier: Apache-2.0
#include "daemon/runtime/pipeline.h"

#include <algorithm>
#include <utility>

namespace iokv {

Result<std::unique_ptr<Pipeline>> Pipeline::make(Backend& backend, Model& model, const PipelineOptions& options) {
  std::unique_ptr<Pipeline> pipeline(new Pipeline(backend, model, options));
  IOKV_TRY_ASSIGN(pipeline->staging_, Staging::make(backend, model.spec(), options.staging));
  const bool reads_device_x = options.staging.in_place || options.device.base != options.host.base;
  if (const size_t rows = model.limits().recompute_rows; rows > 0 && reads_device_x) {
    IOKV_TRY_ASSIGN(pipeline->gathered_, backend.alloc(rows * pipeline->staging_->x_row_bytes()));
  }
  if (backend.info().host_threads > 0 && !options.staging.in_place) {
    const uint32_t rows = std::min(options.staging.batch_rows, model.limits().max_rows);
    IOKV_TRY_ASSIGN(pipeline->exchange_, HostExchange::make(backend, model.spec(), rows));
  }
  if (options.poison) IOKV_TRY(pipeline->poison_ring());
  return pipeline;
}

Pipeline::Pipeline(Backend& backend, Model& model, const PipelineOptions& options)
    : backend_(backend),
      model_(model),
      options_(options),
      layers_(model.spec().layers),
      kv_row_bytes_(model.spec().head_dim * size_of(backend.info().compute)),
      x_free_(options.staging.x_slots),
      weights_free_(options.staging.weights.slots),
      kv_free_(options.staging.kv_slots),
      appended_(layers_),
      appended_before_(layers_) {}

void Pipeline::begin(const Plan& plan) {
  begun_ = backend_.record(Queue::dense);
  model_.begin(plan.tokens, plan.positions);
}

void Pipeline::run(const Plan& plan, const Next& next) {
  // It is fetched for already, unless it came too late for that.
  running_ ^= 1;
  Flight& flight = flights_[running_];
  if (flight.plan != &plan) take_off(flight, plan);
  std::copy(appended_.begin(), appended_.end(), appended_before_.begin());
  list_rotations(plan);
  for (compute_layer_ = 0; compute_layer_ < layers_; ++compute_layer_) {
    model_.use_slot(weight_slot(flight, compute_layer_));
    for (uint32_t index = 0; index < plan.ops.size(); ++index) {
      fetch_ahead(next);
      if (plan.ops[index].queue != Queue::h2d) issue(flight, compute_layer_, index);
    }
  }
  fetch_ahead(next);
}

// A backend keeps the times that it was asked for.
Status Pipeline::follow() {
  const Flight& flight = flights_[running_];
  const size_t ops = flight.issued.size() / layers_;
  for (size_t layer = 0; layer < layers_; ++layer) {
    const std::span<const IssuedOp> issued = std::span(flight.issued).subspan(layer * ops, ops);
    IOKV_TRY(backend_.poll(issued.back().end, true));
    for (const IssuedOp& op : issued) {
      if (op.end.value == 0) continue;  // nothing was issued
      IOKV_TRY_ASSIGN(const bool ended, backend_.poll(op.end, false));
      if (!ended) continue;  // a write-back may be under way
      (void)backend_.reached_ns(op.begin);
      (void)backend_.reached_ns(op.end);
    }
  }
  return {};
}

Status Pipeline::settle(StepMeasure& measure) {
  Flight& flight = flights_[running_];
  if (last_append_.value != 0) IOKV_TRY(backend_.poll(last_append_, true));
  const Plan& plan = *flight.plan;
  measure.h2d_bytes = flight.h2d_bytes;
  measure.d2h_bytes = flight.d2h_bytes;
  measure.recomputed_tokens = (plan.work.x_host + plan.work.x_device) * layers_;
  measure_times(flight, measure);
  flight.plan = nullptr;  // its storage may be used for another one
  return {};
}

// Of operations in their queues' order. The device is busy for the union of dense and recompute.
void Pipeline::measure_times(const Flight& flight, StepMeasure& measure) {
  const std::array<uint64_t, kQueues> latest = latest_tickets(flight);
  uint64_t first_ns = UINT64_MAX, last_dense_ns = 0;
  device_times_.clear();
  for (const IssuedOp& op : flight.issued) {
    if (!is_timed(op, latest)) continue;
    const auto queue = static_cast<size_t>(op.end.queue);
    const uint64_t begin_ns = backend_.reached_ns(op.begin), end_ns = backend_.reached_ns(op.end);
    measure.busy_ns[queue] += end_ns - begin_ns;
    first_ns = std::min(first_ns, begin_ns);
    if (op.end.queue == Queue::dense) last_dense_ns = std::max(last_dense_ns, end_ns);
    if (op.end.queue == Queue::dense || op.end.queue == Queue::recompute) device_times_.emplace_back(begin_ns, end_ns);
  }
  const uint64_t begun_ns = backend_.reached_ns(begun_);
  measure.started_ns = std::min(first_ns, begun_ns);
  // Outside of the layers: embedding, then logits and draws.
  const uint64_t embedding_ns = backend_.reached_ns(flight.issued[flight.project].begin) - begun_ns;
  const uint64_t head_ns = measure.ended_ns - std::min(last_dense_ns, measure.ended_ns);
  measure.busy_ns[static_cast<size_t>(Queue::dense)] += embedding_ns + head_ns;
  measure.device_busy_ns = embedding_ns + head_ns;
  std::sort(device_times_.begin(), device_times_.end());
  uint64_t until_ns = 0;
  for (auto [begin_ns, end_ns] : device_times_) {
    measure.device_busy_ns += end_ns - std::min(end_ns, std::max(begin_ns, until_ns));
    until_ns = std::max(until_ns, end_ns);
  }
}

std::array<uint64_t, kQueues> Pipeline::latest_tickets(const Flight& flight) const {
  std::array<uint64_t, kQueues> latest{};
  for (const IssuedOp& op : flight.issued) {
    uint64_t& value = latest[static_cast<size_t>(op.end.queue)];
    value = std::max(value, op.end.value);
  }
  return latest;
}

// The backend keeps the latest times only; the link may have been issued further ahead than this Plan.
bool Pipeline::is_timed(const IssuedOp& op, const std::array<uint64_t, kQueues>& latest) const {
  if (op.end.value == 0) return false;  // nothing was issued
  return op.begin.value + Backend::kTimedTickets / 2 >= latest[static_cast<size_t>(op.end.queue)];
}

void Pipeline::trace(Plan& plan) {
  if (!options_.trace) return;
  Flight& flight = flights_[running_];
  const std::array<uint64_t, kQueues> latest = latest_tickets(flight);
  auto tokens_of = [&](const PlanOp& op) {
    if (op.kind == OpKind::project || op.kind == OpKind::finish) return plan.batches[op.batch].rows;
    uint32_t tokens = op.tokens;
    for (uint32_t i = op.first; i < op.first + op.count; ++i) {
      if (op.kind == OpKind::attend_host) tokens += plan.spans[plan.divided[i]].host_tokens();
      if (op.kind == OpKind::store || op.kind == OpKind::append) tokens += plan.stores[i].rows;
      if (op.kind == OpKind::attend) tokens += plan.attends[i].pieces * kBlockTokens;
    }
    return tokens;
  };
  const size_t ops = plan.ops.size();
  for (size_t i = 0; i < flight.issued.size(); ++i) {
    const IssuedOp& issued = flight.issued[i];
    if (issued.end.value == 0) continue;
    if (plan.times.size() == kMostTimedOps || !is_timed(issued, latest)) {
      plan.times_left_out++;
      continue;
    }
    const PlanOp& op = plan.ops[i % ops];
    plan.times.push_back({backend_.reached_ns(issued.begin), backend_.reached_ns(issued.end), issued.bytes, tokens_of(op),
                          op.round, static_cast<uint16_t>(i / ops), op.kind, op.queue});
  }
}

void Pipeline::abandon() {
  for (Queue queue : {Queue::dense, Queue::recompute, Queue::h2d, Queue::d2h}) {
    (void)backend_.poll(backend_.record(queue), true);  // a lost device has nothing more to say
  }
  if (exchange_ != nullptr) (void)backend_.poll(backend_.record(Queue::host), true);
  for (Flight& flight : flights_) flight.plan = nullptr;
  std::fill(x_free_.begin(), x_free_.end(), Ticket{});
  std::fill(kv_free_.begin(), kv_free_.end(), KvFree{});
  std::fill(weights_free_.begin(), weights_free_.end(), Ticket{});
  std::fill(appended_.begin(), appended_.end(), Ticket{});
  std::fill(appended_before_.begin(), appended_before_.end(), Ticket{});
  kept_free_ = {};
  last_append_ = {};
  x_released_ = kv_released_ = weights_released_ = 0;
  for (Flight& flight : flights_) flight = {};
}

const IssuedOp& Pipeline::issued(uint32_t layer, uint32_t op) const {
  const Flight& flight = flights_[running_];
  return flight.issued[size_t{layer} * (flight.issued.size() / layers_) + op];
}

// ---- order ----------------------------------------------------------------------------------------------------------

void Pipeline::take_off(Flight& flight, const Plan& plan) {
  const Flight& ahead = flights_[&flight == &flights_[0] ? 1 : 0];
  flight.x_base = ahead.x_base + uint64_t{ahead.x_rounds} * layers_;
  flight.kv_base = ahead.kv_base + uint64_t{ahead.kv_rounds} * layers_;
  flight.weights_base = ahead.flown ? ahead.weights_base + options_.staging.weights.layers.streamed : 0;
  flight.flown = true;
  flight.plan = &plan;
  flight.x_before.clear(), flight.kv_before.clear();
  flight.x_rounds = flight.kv_rounds = 0;
  for (const PlanRound& round : plan.rounds) {
    flight.x_before.push_back(flight.x_rounds), flight.kv_before.push_back(flight.kv_rounds);
    flight.x_rounds += round.x_rows > 0 ? 1 : 0;
    flight.kv_rounds += round.areas > 0 ? 1 : 0;
  }
  flight.last_recompute.assign(plan.rounds.size(), kNoBlock);
  flight.appends = false;
  for (uint32_t index = 0; index < plan.ops.size(); ++index) {
    const PlanOp& op = plan.ops[index];
    if (op.kind == OpKind::recompute) flight.last_recompute[op.round] = index;
    flight.appends |= op.kind == OpKind::append;
    if (op.kind == OpKind::project && op.batch == 0) flight.project = index;
  }
  flight.issued.assign(plan.ops.size() * layers_, {});
  flight.fetch_layer = flight.fetch_op = 0;
  flight.h2d_bytes = flight.d2h_bytes = 0;
}

// Every fetch whose slot's release has been issued: of the running Plan, then of the one behind it.
void Pipeline::fetch_ahead(const Next& next) {
  for (Flight* flight = &flights_[running_];;) {
    const Plan& plan = *flight->plan;
    while (flight->fetch_layer < layers_) {
      for (; flight->fetch_op < plan.ops.size(); ++flight->fetch_op) {
        const PlanOp& op = plan.ops[flight->fetch_op];
        if (op.queue != Queue::h2d) continue;
        if (!may_fetch(*flight, op)) return;
        issue(*flight, flight->fetch_layer, flight->fetch_op);
      }
      flight->fetch_op = 0;
      ++flight->fetch_layer;
    }
    if (flight != &flights_[running_]) return;
    flight = &flights_[running_ ^ 1];
    if (flight->plan != nullptr) continue;
    const Plan* behind = next ? next() : nullptr;
    if (behind == nullptr) return;
    take_off(*flight, *behind);
  }
}

// The weights of a layer that has them on the device.
bool Pipeline::does_nothing(uint32_t layer, const PlanOp& op) const {
  return (op.kind == OpKind::fetch_kv_weights || op.kind == OpKind::fetch_weights) &&
         !options_.staging.weights.layers.streams(layer);
}

bool Pipeline::may_fetch(const Flight& flight, const PlanOp& op) const {
  const uint32_t layer = flight.fetch_layer;
  if (op.kind == OpKind::fetch_kv_weights) {
    return does_nothing(layer, op) || weights_number(flight, layer) < weights_released_ + weights_free_.size();
  }
  if (op.kind == OpKind::fetch_weights) return true;  // to the same slot
  // What the running Plan writes back to the layer has to be issued before the next one's wait for it.
  const Flight& running = flights_[running_];
  if (&flight != &running && running.appends && layer >= compute_layer_) return false;
  // Nor has what an earlier micro-batch writes back, where this one reads it again.
  for (const PlanWait& wait : op.after) {
    if (wait.what != PlanWait::For::operation) continue;
    if (flight.issued[size_t{layer} * flight.plan->ops.size() + wait.op].end.value == 0) return false;
  }
  if (op.kind == OpKind::fetch_x) return flight.x_round(layer, op.round) < x_released_ + x_free_.size();
  return flight.kv_round(layer, op.round) < kv_released_ + kv_free_.size();
}

void Pipeline::issue(Flight& flight, uint32_t layer, uint32_t index) {
  const PlanOp& op = flight.plan->ops[index];
  if (does_nothing(layer, op)) return;
  wait_for(flight, layer, op);
  IssuedOp& issued = flight.at(layer, index);
  const uint64_t bytes_before = flight.h2d_bytes + flight.d2h_bytes;
  issued.begin = backend_.record(op.queue);
  switch (op.kind) {
    case OpKind::project: project(flight, layer, op); break;
    case OpKind::fetch_x: fetch_x(flight, layer, op); break;
    case OpKind::fetch_kv: fetch_kv(flight, layer, op); break;
    case OpKind::recompute: recompute(flight, layer, op); break;
    case OpKind::store: store(flight, layer, op); break;
    case OpKind::attend: attend(flight, layer, op); break;
    case OpKind::append: append(flight, layer, op); break;
    case OpKind::hand_over: hand_over(flight, op); break;
    case OpKind::attend_host: attend_host(flight, layer, op); break;
    case OpKind::merge: merge(flight, op); break;
    case OpKind::fetch_kv_weights: fetch_weights(flight, layer, WeightPart::key_value); break;
    case OpKind::fetch_weights: fetch_weights(flight, layer, WeightPart::rest); break;
    case OpKind::finish: model_.finish(layer); break;
  }
  issued.end = backend_.record(op.queue);
  issued.bytes = flight.h2d_bytes + flight.d2h_bytes - bytes_before;
  release(flight, layer, index);
}

void Pipeline::wait_for(Flight& flight, uint32_t layer, const PlanOp& op) {
  for (const PlanWait& what : op.after) {
    switch (what.what) {
      case PlanWait::For::nothing: break;
      case PlanWait::For::operation: wait(op.queue, flight.at(layer, what.op).end); break;
      case PlanWait::For::x_slot: wait(op.queue, x_free_[x_slot(flight, layer, op.round)]); break;
      case PlanWait::For::kv_slot: {
        const KvFree& free = kv_free_[kv_slot(flight, layer, op.round)];
        wait(op.queue, free.dense);
        wait(op.queue, free.d2h);
        break;
      }
      case PlanWait::For::appended: {
        // The running Plan's own are of rows that it does not fetch; all of them are ahead of the Plan behind it (may_fetch).
        const bool running = &flight == &flights_[running_];
        wait(op.queue, running ? appended_before_[layer] : appended_[layer]);
        break;
      }
      case PlanWait::For::kept_x: wait(op.queue, kept_free_[keep_]); break;
      case PlanWait::For::weight_slot: wait(op.queue, weights_free_[weight_slot(flight, layer)]); break;
    }
  }
}

void Pipeline::wait(Queue queue, Ticket ticket) {
  if (ticket.value != 0 && ticket.queue != queue) backend_.wait(queue, ticket);
}

// What the operation was the last to use is free once its ticket is reached.
void Pipeline::release(Flight& flight, uint32_t layer, uint32_t index) {
  const Plan& plan = *flight.plan;
  const PlanOp& op = plan.ops[index];
  const Ticket end = flight.at(layer, index).end;
  if (op.kind == OpKind::recompute && flight.last_recompute[op.round] == index && plan.rounds[op.round].x_rows > 0) {
    x_free_[x_slot(flight, layer, op.round)] = end;
    ++x_released_;
  }
  const bool ends_layer = op.kind == OpKind::finish && op.batch + 1u == plan.batches.size();
  if (ends_layer && options_.staging.weights.layers.streams(layer)) {
    weights_free_[weight_slot(flight, layer)] = end;
    ++weights_released_;
  }
  if (op.kind == OpKind::append) {
    appended_[layer] = kept_free_[keep_] = last_append_ = end;
  }
  if (op.kind == OpKind::finish) keep_ ^= 1;
  if ((op.kind != OpKind::attend && op.kind != OpKind::append) || plan.rounds[op.round].areas == 0) return;
  KvFree& free = kv_free_[kv_slot(flight, layer, op.round)];
  if (op.kind == OpKind::attend) free = {end, {}};
  if (op.kind == OpKind::append) free.d2h = end;
  if (op.kind == OpKind::attend && plan.ops[index + 1].kind == OpKind::append) return;
  if (poison_ != nullptr) {
    poison(flight, layer, op);
    free = {backend_.record(Queue::dense), {}};
  }
  ++kv_released_;
}

void Pipeline::poison(const Flight& flight, uint32_t layer, const PlanOp& op) {
  const uint32_t slot = kv_slot(flight, layer, op.round);
  wait(Queue::dense, kv_free_[slot].d2h);
  for (uint32_t area = 0; area < flight.plan->rounds[op.round].areas; ++area) {
    backend_.copy(Queue::dense, staging_->area(slot, area), poison_->data(), poison_->size_bytes());
  }
}

Status Pipeline::poison_ring() {
  IOKV_TRY_ASSIGN(poison_, backend_.alloc(staging_->kv_block_bytes()));
  const std::vector<std::byte> ones(staging_->kv_block_bytes(), std::byte{0xff});
  backend_.copy(Queue::h2d, poison_->data(), ones.data(), ones.size());
  IOKV_TRY(backend_.poll(backend_.record(Queue::h2d), true));
  for (uint32_t slot = 0; slot < options_.staging.kv_slots; ++slot) {
    for (uint32_t area = 0; area < options_.staging.slot_blocks; ++area) {
      backend_.copy(Queue::dense, staging_->area(slot, area), poison_->data(), poison_->size_bytes());
    }
    kv_free_[slot].dense = backend_.record(Queue::dense);
  }
  return {};
}

uint32_t Pipeline::x_slot(const Flight& flight, uint32_t layer, uint32_t round) const {
  return static_cast<uint32_t>(flight.x_round(layer, round) % x_free_.size());
}

uint32_t Pipeline::kv_slot(const Flight& flight, uint32_t layer, uint32_t round) const {
  return static_cast<uint32_t>(flight.kv_round(layer, round) % kv_free_.size());
}

uint64_t Pipeline::weights_number(const Flight& flight, uint32_t layer) const {
  return flight.weights_base + options_.staging.weights.layers.before(layer);
}

uint32_t Pipeline::weight_slot(const Flight& flight, uint32_t layer) const {
  return static_cast<uint32_t>(weights_number(flight, layer) % weights_free_.size());
}

// ---- operations -----------------------------------------------------------------------------------------------------

namespace {

// part(first token of the block, tokens, id, area) for each block of a part.
template <typename Do>
void each_block(const PlanPart& part, uint32_t units, const Do& act) {
  uint32_t token = part.first_token, left = part.tokens, id = part.id, area = part.area;
  while (left > 0) {
    const uint32_t tokens = std::min(left, kBlockTokens - token);
    act(token, tokens, id, area);
    left -= tokens;
    token = 0;
    id += units;
    ++area;
  }
}

// Neighbours in both memories become one run.
void add_run(std::vector<CopyRun>& runs, std::byte* to, const std::byte* from, size_t bytes) {
  if (!runs.empty()) {
    CopyRun& last = runs.back();
    if (last.rows == 1 && static_cast<std::byte*>(last.to) + last.bytes == to &&
        static_cast<const std::byte*>(last.from) + last.bytes == from) {
      last.bytes += bytes;
      return;
    }
  }
  runs.push_back({to, from, bytes, 1, 0, 0});
}

uint64_t total_bytes(const std::vector<CopyRun>& runs) {
  uint64_t bytes = 0;
  for (const CopyRun& run : runs) bytes += run.total_bytes();
  return bytes;
}

}  // namespace

void Pipeline::list_rotations(const Plan& plan) {
  rotations_.clear();
  first_rotation_.assign(1, 0);
  size_t first_span = 0;
  for (const PlanBatch& batch : plan.batches) {
    for (size_t i = first_span; i < plan.spans.size(); ++i) {
      const SpanPart part = part_of(plan.spans[i], batch);
      if (part.rows == 0 && plan.spans[i].first_row >= batch.first_row + batch.rows) break;
      if (part.rows == 0) continue;
      first_span = i;
      rotations_.push_back({part.first_row - batch.first_row, part.rows, part.first_position, nullptr, 0});
    }
    first_rotation_.push_back(rotations_.size());
  }
}

void Pipeline::project(const Flight& flight, uint32_t layer, const PlanOp& op) {
  const PlanBatch& batch = flight.plan->batches[op.batch];
  const size_t first = first_rotation_[op.batch], end = first_rotation_[op.batch + 1u];
  model_.project(layer, batch.first_row, batch.rows, keep_, std::span(rotations_).subspan(first, end - first));
}

// Where new rows' K,V are.
std::byte* Pipeline::area_of(const Flight& flight, uint32_t layer, uint32_t round, const PlanStore& store) const {
  if (store.device_id != kNoBlock) return options_.device.block(layer, store.device_id);
  return store.kept ? staging_->kept_area(store.area) : staging_->area(kv_slot(flight, layer, round), store.area);
}

void Pipeline::fetch_weights(Flight& flight, uint32_t layer, WeightPart part) {
  flight.h2d_bytes += model_.fetch_weights(layer, weight_slot(flight, layer), part);
}

void Pipeline::fetch_x(Flight& flight, uint32_t layer, const PlanOp& op) {
  const uint32_t slot = x_slot(flight, layer, op.round);
  const size_t row_bytes = staging_->x_row_bytes();
  copies_.clear();
  for (uint32_t p = op.first; p < op.first + op.count; ++p) {
    const PlanPart& part = flight.plan->parts[p];
    uint32_t row = part.x_row;
    each_block(part, options_.staging.x_units, [&](uint32_t token, uint32_t tokens, uint32_t id, uint32_t) {
      add_run(copies_, staging_->x_row(slot, row), options_.host.block(layer, id) + token * row_bytes, tokens * row_bytes);
      row += tokens;
    });
  }
  flight.h2d_bytes += total_bytes(copies_);
  backend_.copy(Queue::h2d, copies_);
}

void Pipeline::fetch_kv(Flight& flight, uint32_t layer, const PlanOp& op) {
  const uint32_t slot = kv_slot(flight, layer, op.round);
  copies_.clear();
  for (uint32_t p = op.first; p < op.first + op.count; ++p) {
    each_block(flight.plan->parts[p], options_.staging.kv_units,
               [&](uint32_t token, uint32_t tokens, uint32_t id, uint32_t area) {
      add_tokens(staging_->area(slot, area), options_.host.block(layer, id), token, tokens);
    });
  }
  flight.h2d_bytes += total_bytes(copies_);
  backend_.copy(Queue::h2d, copies_);
}

// K,V of some tokens of a block: all of it, or a piece for each head's K and V.
void Pipeline::add_tokens(std::byte* to, const std::byte* from, uint32_t first_token, uint32_t tokens) {
  if (tokens == kBlockTokens) return add_run(copies_, to, from, staging_->kv_block_bytes());
  const size_t at = first_token * kv_row_bytes_, pitch = kBlockTokens * kv_row_bytes_;
  copies_.push_back({to + at, from + at, tokens * kv_row_bytes_, 2 * model_.spec().kv_heads, pitch, pitch});
}

void Pipeline::recompute(Flight& flight, uint32_t layer, const PlanOp& op) {
  const uint32_t slot = kv_slot(flight, layer, op.round);
  const Plan& plan = *flight.plan;
  const PlanPart& first = plan.parts[op.first];
  if (plan.rounds[op.round].x_rows > 0 && op.after[0].what == PlanWait::For::operation) {
    const uint32_t from = x_slot(flight, layer, op.round);
    rope_runs_.clear(), copies_.clear();
    for (uint32_t p = op.first; p < op.first + op.count; ++p) {
      const PlanPart& part = plan.parts[p];
      rope_runs_.push_back({part.x_row - first.x_row, part.tokens, part.position, staging_->area(slot, part.area),
                            staging_->kv_block_bytes()});
      if (part.resident) gather_x(layer, part, staging_->x_row(from, part.x_row));
    }
    if (!copies_.empty()) backend_.copy(Queue::recompute, copies_);
    return model_.recompute(layer, staging_->x_row(from, first.x_row), op.tokens, rope_runs_);
  }
  // Resident X of a tile is one product, too: read where it lies if that is one stretch, else gathered first.
  copies_.clear(), rope_runs_.clear();
  uint32_t row = 0;
  for (uint32_t p = op.first; p < op.first + op.count; ++p) {
    const PlanPart& part = plan.parts[p];
    rope_runs_.push_back({row, part.tokens, part.position, staging_->area(slot, part.area), staging_->kv_block_bytes()});
    gather_x(layer, part, static_cast<std::byte*>(gathered_->data()) + row * staging_->x_row_bytes());
    row += part.tokens;
  }
  if (copies_.size() == 1) return model_.recompute(layer, copies_[0].from, op.tokens, rope_runs_);
  backend_.copy(Queue::recompute, copies_);
  model_.recompute(layer, gathered_->data(), op.tokens, rope_runs_);
}

// Resident X of a part to `to`, as copies that are yet to be issued.
void Pipeline::gather_x(uint32_t layer, const PlanPart& part, std::byte* to) {
  const size_t row_bytes = staging_->x_row_bytes();
  each_block(part, options_.staging.x_units, [&](uint32_t token, uint32_t tokens, uint32_t id, uint32_t) {
    add_run(copies_, to, options_.device.block(layer, id) + token * row_bytes, tokens * row_bytes);
    to += tokens * row_bytes;
  });
}

void Pipeline::store(Flight& flight, uint32_t layer, const PlanOp& op) {
  const uint32_t first_row = flight.plan->batches[op.batch].first_row;
  rope_runs_.clear();
  for (uint32_t i = op.first; i < op.first + op.count; ++i) {
    const PlanStore& store = flight.plan->stores[i];
    std::byte* to = area_of(flight, layer, op.round, store);
    rope_runs_.push_back({store.row - first_row, store.rows, store.position, to, 0});
  }
  model_.store(layer, rope_runs_);
  copies_.clear();
  for (uint32_t i = op.first; i < op.first + op.count; ++i) {
    const PlanStore& store = flight.plan->stores[i];
    if (store.device_x_id == kNoBlock) continue;
    const size_t row_bytes = staging_->x_row_bytes();
    add_run(copies_, options_.device.block(layer, store.device_x_id) + store.position % kBlockTokens * row_bytes,
            model_.kept_x(keep_) + (store.row - first_row) * row_bytes, store.rows * row_bytes);
  }
  if (!copies_.empty()) backend_.copy(Queue::dense, copies_);
}

void Pipeline::attend(Flight& flight, uint32_t layer, const PlanOp& op) {
  const Plan& plan = *flight.plan;
  addresses_.clear(), attend_spans_.clear(), first_address_.clear();
  for (uint32_t i = op.first; i < op.first + op.count; ++i) {
    const PlanAttend& pieces = plan.attends[i];
    if (i == op.first || plan.attends[i - 1].span != pieces.span) {
      const PlanBatch& batch = plan.batches[op.batch];
      const SpanPart part = part_of(plan.spans[pieces.span], batch);
      attend_spans_.push_back({part.first_row - batch.first_row, part.rows, part.first_position, pieces.first_piece, {},
                               plan.spans[pieces.span].host_from});
      first_address_.push_back(addresses_.size());
    }
    for (uint32_t piece = 0; piece < pieces.pieces; ++piece) {
      addresses_.push_back(pieces.device_id != kNoBlock
                               ? options_.device.block(layer, pieces.device_id + piece * options_.staging.kv_units)
                           : pieces.kept ? staging_->kept_area(pieces.area + piece)
                                         : staging_->area(kv_slot(flight, layer, op.round), pieces.area + piece));
    }
  }
  for (size_t i = 0; i < attend_spans_.size(); ++i) {
    const size_t end = i + 1 < first_address_.size() ? first_address_[i + 1] : addresses_.size();
    attend_spans_[i].kv_blocks = std::span(addresses_).subspan(first_address_[i], end - first_address_[i]);
  }
  model_.attend(layer, attend_spans_);
}

// Of the operation's spans, in the micro-batch.
void Pipeline::list_divided(const Plan& plan, const PlanOp& op) {
  divided_rows_.clear();
  const uint32_t first_row = plan.batches[op.batch].first_row;
  for (uint32_t i = op.first; i < op.first + op.count; ++i) {
    divided_rows_.push_back(plan.spans[plan.divided[i]].first_row - first_row);
  }
}

void Pipeline::hand_over(const Flight& flight, const PlanOp& op) {
  list_divided(*flight.plan, op);
  model_.hand_over(divided_rows_, exchange_->queries());
}

// Blocks of the host pool where they lie.
void Pipeline::attend_host(Flight& flight, uint32_t layer, const PlanOp& op) {
  const Plan& plan = *flight.plan;
  addresses_.clear(), attend_spans_.clear(), first_address_.clear();
  for (uint32_t i = op.first; i < op.first + op.count; ++i) {
    const PlanSpan& span = plan.spans[plan.divided[i]];
    const uint32_t first_piece = span.host_from / kBlockTokens, end_piece = blocks_for(Tokens(span.first_position)).value;
    attend_spans_.push_back({i - op.first, 1, span.first_position, first_piece, {}, span.host_from});
    first_address_.push_back(addresses_.size());
    uint32_t block = 0;
    for (uint32_t r = span.first_run; block < end_piece; block += plan.runs[r++].blocks) {
      const BlockRun& run = plan.runs[r];
      for (uint32_t b = first_piece - std::min(first_piece, block); b < std::min(run.blocks, end_piece - block); ++b) {
        addresses_.push_back(options_.host.block(layer, run.id + b * options_.staging.kv_units));
      }
    }
  }
  first_address_.push_back(addresses_.size());
  for (size_t i = 0; i < attend_spans_.size(); ++i) {
    attend_spans_[i].kv_blocks = std::span(addresses_).subspan(first_address_[i], first_address_[i + 1] - first_address_[i]);
  }
  model_.attend_host(layer, attend_spans_, exchange_->queries(), exchange_->states());
}

void Pipeline::merge(const Flight& flight, const PlanOp& op) {
  list_divided(*flight.plan, op);
  model_.merge(divided_rows_, exchange_->states());
}

// New rows to their blocks: X from what the projection read, K,V from where attention found them.
void Pipeline::append(Flight& flight, uint32_t layer, const PlanOp& op) {
  const size_t row_bytes = staging_->x_row_bytes();
  const uint32_t first_row = flight.plan->batches[op.batch].first_row;
  copies_.clear();
  for (uint32_t i = op.first; i < op.first + op.count; ++i) {
    const PlanStore& store = flight.plan->stores[i];
    std::byte* block = options_.host.block(layer, store.id);
    const uint32_t token = store.position % kBlockTokens;
    if (store.form == BlockForm::x) {
      add_run(copies_, block + token * row_bytes, model_.kept_x(keep_) + (store.row - first_row) * row_bytes, store.rows * row_bytes);
    } else if (!options_.staging.in_place) {
      add_tokens(block, area_of(flight, layer, op.round, store), token, store.rows);
    }
  }
  if (op.queue == Queue::d2h) flight.d2h_bytes += total_bytes(copies_);
  backend_.copy(op.queue, copies_);
}

}  // namespace iokv
