// SPDX-License-Identifier: Apache-2.0
// Blocks and Plans: who computes what next, on which blocks, and what is made of the draws when a Plan retires.
#include <algorithm>
#include <climits>
#include <cmath>
#include <span>
#include <tuple>
#include <utility>

#include "daemon/conductor.h"
#include "iokv/iokv.h"
#include "wire/times.h"

namespace iokv {

using wire::Counter;

namespace {

// Sequences whose tables are on their way while one is read, 20 ns each: as long as memory takes.
constexpr size_t kAhead = 16;

// Whether the last of the tokens that a step has sampled is a stop token, or ends a stop sequence.
bool ends_step(const Request& request, std::span<const int32_t> sampled) {
  const auto& stops = request.stop_tokens;
  if (std::find(stops.begin(), stops.end(), sampled.back()) != stops.end()) return true;
  std::span<const int32_t> left = request.stop_sequences;
  for (uint32_t length : request.stop_sequence_lengths) {
    const auto sequence = left.first(length);
    left = left.subspan(length);
    if (length <= sampled.size() && std::ranges::equal(sequence, sampled.last(length))) return true;
  }
  return false;
}

}  // namespace

void Conductor::plan_steps() {
  while (!idle_plans_.empty()) {
    Plan* plan = idle_plans_.back();
    plan->clear();
    if (!build_plan(*plan)) return;
    idle_plans_.pop_back();
    if (!in_flight_.empty()) plan->taken_ns = 0;  // the device is busy: nobody waits for the conductor
    plan->id = ++issued_;
    in_flight_.push_back(plan);
    effects_.issue(plan);
  }
}

bool Conductor::build_plan(Plan& plan) {
  admit_candidates();
  const uint32_t first_client = candidates_.empty() ? 0 : candidates_.front().client;
  const bool several = std::any_of(candidates_.begin(), candidates_.end(),
                                   [=](const Candidate& c) { return c.client != first_client; });
  if (!candidates_.empty()) {
    const std::span<const Pick> picks = chooser_.choose(candidates_, limits_of_step(), config_.step_model);
    for (size_t i = 0; i < picks.size(); i++) {
      if (i + kAhead < picks.size()) sequences_[picks[i + kAhead].slot]->blocks.prefetch();
      add_span(plan, *sequences_[picks[i].slot], picks[i].rows);
    }
    IOKV_ASSERT(!plan.spans.empty());
    choose_audited(plan);
  }
  add_audit(plan);
  if (plan.spans.empty()) return false;
  divide(plan);
  builder_.build(plan);
  predict(plan);
  for (const PlanSpan& span : plan.spans) {
    if (span.slot != kNoSlot && std::exchange(clients_[span.client_slot].plan, issued_ + 1) != issued_ + 1) plan.clients++;
  }
  if (several) bump(Counter::steps_multiclient_possible);
  if (several && plan.clients >= 2) bump(Counter::steps_shared);
  return true;
}

// A host that has got nothing for some time, because it was found busy, gets a little, or nobody would see that it is free.
void Conductor::divide(Plan& plan) {
  constexpr uint64_t kProbeNs = 1'000'000'000;
  constexpr double kProbeShare = 0.06;  // of the step: a little more than Drift needs to learn from it
  const StepModel& model = config_.step_model;
  if (!model.known() || !model.profile.host_attends()) return;
  if (config_.batch_invariant) return division_.divide_by_share(plan, drift_->measured(), model.shape);
  const bool probes = drift_->host_factor() > 1 && now_ns_ >= probed_host_ns_ + kProbeNs;
  division_.divide(plan, model, probes ? kProbeShare : 0);
  const bool divided = std::any_of(plan.spans.begin(), plan.spans.end(), [](const PlanSpan& s) { return s.host_tokens() > 0; });
  if (divided) probed_host_ns_ = now_ns_;
}

// Where tokens cross the link, rounds wait for each other and the ring has an end: the program is timed, unless it is so
// long that the sum of its work tells as much. Building and timing a Plan takes 39 us for one sequence of 1,024 tokens
// and 234 us for 32 of them, whose step is milliseconds to a second.
void Conductor::predict(Plan& plan) {
  constexpr size_t kTimedOperations = 500;
  const StepModel& model = config_.step_model;
  if (!model.known()) return;
  plan.predicted = streaming_cost(model.profile, model.shape, plan.work);
  plan.fit = drift_->fits();
  if (plan.work.x_host + plan.work.kv_host + plan.work.weight_bytes == 0 || plan.ops.size() > kTimedOperations) return;
  plan.predicted.total_ns = std::max(plan.predicted.total_ns, timer_->step_ns(plan));
}

void Conductor::plan_with(const Profile& profile) {
  config_.step_model.profile = profile;
  timer_.emplace(profile, config_.step_model.shape, config_.staging);
  // Of the sequences to come: a host that has become busy gets less of them.
  if (config_.batch_invariant && !config_.staging.in_place) fixed_host_share_ = fixed_host_share(profile, config_.step_model.shape);
}

BatchLimits Conductor::limits_of_step() const {
  BatchLimits limits = config_.batch;
  limits.now_ns = now_ns_;
  limits.step_ns = step_ns_;
  return limits;
}

// Sequences with something to compute and the blocks for it. Whoever is more urgent has blocks first, so nobody who is in
// loses them to a later one; who finds none is not in, and so takes no rows from those who can use them.
void Conductor::admit_candidates() {
  candidates_.clear();
  runnable_.clear();
  give_turns();
  for (Sequence* sequence : started_) {
    if (candidate_of(*sequence)) runnable_.push_back(sequence);
  }
  std::sort(runnable_.begin(), runnable_.end(),
            [this](const Sequence* a, const Sequence* b) { return more_urgent(*a, *b); });
  aim_forms();
  for (size_t i = 0; i < runnable_.size(); i++) {
    if (i + kAhead < runnable_.size()) runnable_[i + kAhead]->blocks.prefetch();
    Sequence& sequence = *runnable_[i];
    // Rows anew: an earlier one may have preempted it.
    const auto candidate = candidate_of(sequence);
    if (!candidate || !reserve_blocks(sequence)) continue;
    candidates_.push_back(*candidate);
    add_link_work(candidates_.back(), sequence.blocks);
  }
}

// New blocks are stored as is best for the step to come in which everybody decodes: of the sequences that run now or did
// so lately, a row each. A step that reads prompts says nothing of what its tokens will cost to those that follow. What has
// a copy on the device keeps it as it is: the best is that of the others, with the room that is left.
void Conductor::aim_forms() {
  const StepModel& model = config_.step_model;
  if (config_.recompute.mode != Recompute::automatic || !model.known()) return;
  const bool hosts = model.profile.host_attends() && !config_.staging.in_place;
  LayerWork work = model.no_rows();
  FormChooser::Blocks blocks;
  uint64_t copied_units = 0;
  for (const Sequence* sequence : active_) {
    if (!sequence->open || !(sequence->started || is_recent(*sequence))) continue;
    work.rows++;
    const auto length = static_cast<uint32_t>(sequence->tokens.size());
    work.attended += length;
    work.products += length;
    uint32_t copied = 0;
    const bool looks = hosts || sequence->blocks.copies() > 0;
    for (const BlockRun& run : looks ? sequence->blocks.runs() : std::span<const BlockRun>()) {
      if (!run.resident()) {
        (run.form == BlockForm::x ? blocks.x : blocks.kv) += run.blocks;
        continue;
      }
      const bool x = run.device_form == BlockForm::x;
      const uint32_t tokens = std::min(run.blocks * kBlockTokens, length - copied);
      copied += tokens;
      if (x) work.x_device += tokens;
      copied_units += uint64_t{run.blocks} * (x ? config_.staging.x_units : config_.staging.kv_units);
    }
    work.kv_host += length - copied;
    blocks.expected += blocks_for(Tokens(length)).value;
  }
  work.new_kv = work.rows;
  if (hosts) forms_.keep_suffixes(blocks, fixed_host_share_);
  // While prompts are read, and nobody decodes yet, that says nothing of the many steps in which all will.
  constexpr double kStepsToCome = 64;
  const double attendable = hosts ? division_.attendable(kStepsToCome * static_cast<double>(work.kv_host)) : 1;
  if (hosts && !aim_.has_moved(work, attendable, drift_->fits())) return;
  uint64_t device_bytes = 0;
  if (device_pool_) {
    const uint64_t left = device_pool_->total_units().value - std::min<uint64_t>(device_pool_->total_units().value, copied_units);
    device_bytes = left * kBlockTokens * model.shape.kv_bytes / config_.staging.kv_units * model.shape.layers;
  }
  const XShares now{forms_.x_share(), copy_forms_.x_share()};
  // Forms last, and what others leave the host of its memory changes: K,V that it does not get to cost the link twice what X
  // would have, X that it could have had as K,V half as much. On an H100 steps took a tenth longer than it had been measured for.
  constexpr double kHostLater = 1.1;
  const Profile cautious = scaled(model.profile, 1, 1, kHostLater);
  const XShares best = best_shares(cautious, model.shape, work, device_bytes, now, attendable);
  forms_.set_x_share(best.host);
  copy_forms_.set_x_share(best.device);
}

// Shares that a host has a part in are searched for in two directions, a tenth of a millisecond each time; those of a step
// that has hardly changed are what they were.
bool Conductor::Aim::has_moved(const LayerWork& work, double attendable_now, uint32_t fits_now) {
  constexpr double kHardly = 1.0 / 64;
  const double most = static_cast<double>(tokens) * kHardly;
  const bool hardly = fits == fits_now && std::abs(static_cast<double>(work.kv_host) - static_cast<double>(tokens)) <= most &&
                      std::abs(static_cast<double>(work.rows) - static_cast<double>(rows)) <= static_cast<double>(rows) * kHardly &&
                      std::abs(attendable_now - attendable) <= kHardly;
  if (!hardly) *this = {work.kv_host, work.rows, attendable_now, fits_now};
  return !hardly;
}

// What of the sequence's front operation could be computed now; nothing while it waits for a draw or for its client.
std::optional<Candidate> Conductor::candidate_of(const Sequence& sequence) const {
  if (!sequence.open || !sequence.started || !sequence.parked.empty()) return std::nullopt;
  const Request& request = sequence.operations.front();
  uint32_t length = static_cast<uint32_t>(sequence.tokens.size()) + sequence.draws_in_flight;
  if (sequence.cached >= length) return std::nullopt;  // every row is in flight
  if (sequence.sampled + sequence.draws_in_flight >= request.max_tokens && request.max_tokens > 0) return std::nullopt;
  uint32_t rows = length - sequence.cached;
  // A token that is being drawn has no value yet; it can only be the one row of its own span.
  if (sequence.draws_in_flight > 0 && (sequence.draws_in_flight > 1 || rows > 1)) return std::nullopt;
  Candidate candidate;
  candidate.slot = sequence.slot;
  candidate.client = sequence.client.slot;
  candidate.each = request.each;
  candidate.rows = request.each && request.logits ? std::min(rows, config_.logits_rows_each) : rows;
  candidate.decode = rows == 1 && request.max_tokens > 0;
  candidate.priority = std::clamp<int16_t>(static_cast<int16_t>(sequence.priority + request.priority), -100, 100);
  candidate.weight = clients_[sequence.client.slot].weight;
  candidate.cached = sequence.cached;
  candidate.draws_left = request.max_tokens - std::min(request.max_tokens, sequence.sampled + sequence.draws_in_flight);
  candidate.deadline_ns = request.deadline_ns;
  candidate.waits_since = std::max(sequence.last_plan, sequence.started_plan);
  candidate.arrival = sequence.arrival;
  return candidate;
}

// What its rows bring over the link, and what they write back: in the form of the block that its next row goes to.
void Conductor::add_link_work(Candidate& candidate, const BlockTable& blocks) const {
  if (config_.staging.in_place) return;
  uint32_t left = candidate.cached;
  for (const BlockRun& run : blocks.runs()) {
    const uint32_t tokens = run.blocks * kBlockTokens;
    if (!run.resident()) (run.form == BlockForm::x ? candidate.x_host : candidate.kv_host) += std::min(left, tokens);
    if (tokens > left) {
      (run.form == BlockForm::x ? candidate.new_x : candidate.new_kv) = true;
      return;
    }
    left -= tokens;
  }
}

void Conductor::add_span(Plan& plan, Sequence& sequence, uint32_t rows) {
  bool from_draw = sequence.draws_in_flight > 0;
  PlanSpan span;
  span.slot = sequence.slot;
  span.generation = sequence.generation;
  span.epoch = sequence.epoch;
  span.client_slot = sequence.client.slot;
  span.first_row = static_cast<uint32_t>(plan.tokens.size());
  span.rows = rows;
  span.first_position = sequence.cached;
  span.token_from_draw = from_draw;
  span.decode = rows == 1 && sequence.sampled + sequence.draws_in_flight > 0;
  if (!sequence.host_share) sequence.host_share = fixed_host_share_;
  span.host_share = *sequence.host_share;
  for (uint32_t i = 0; i < rows; i++) {
    plan.tokens.push_back(from_draw ? 0 : sequence.tokens[sequence.cached + i]);
    plan.positions.push_back(sequence.cached + i);
  }
  add_runs(plan, span, sequence.blocks);
  add_draws(plan, span, sequence);
  plan.spans.push_back(span);
  if (sequence.taken_ns != 0) plan.taken_ns = std::max(plan.taken_ns, sequence.taken_ns);
  sequence.taken_ns = 0;
  sequence.cached += rows;
  sequence.plans_in_flight++;
  sequence.last_plan = issued_ + 1;
  bump(span.decode ? Counter::decode_tokens : Counter::prefill_tokens, rows);
}

// The runs of the blocks of what is cached and of the new rows; the table may have more.
void Conductor::add_runs(Plan& plan, PlanSpan& span, const BlockTable& table) {
  uint32_t blocks = blocks_for(Tokens(span.first_position + span.rows)).value;
  span.first_run = static_cast<uint32_t>(plan.runs.size());
  for (const BlockRun& run : table.runs()) {
    if (blocks == 0) break;
    plan.runs.push_back(run);
    plan.runs.back().blocks = std::min(run.blocks, blocks);
    blocks -= plan.runs.back().blocks;
  }
  IOKV_ASSERT(blocks == 0);
  span.runs = static_cast<uint32_t>(plan.runs.size()) - span.first_run;
  span.load = table.load();
}

// A step that samples draws at the last known row. EACH also predicts at every appended row but that one, once each: rows
// computed again after a preemption are not predicted at again.
void Conductor::add_draws(Plan& plan, PlanSpan& span, Sequence& sequence) {
  const Request& request = sequence.operations.front();
  uint32_t length = static_cast<uint32_t>(sequence.tokens.size()) + sequence.draws_in_flight;
  uint32_t end = span.first_position + span.rows;
  span.first_draw = static_cast<uint32_t>(plan.draws.size());
  // The index of a draw within the step is that of its mask.
  auto draw_at = [&](uint32_t position, uint32_t index) {
    PlanDraw draw;
    draw.row = span.first_row + position - span.first_position;
    draw.position = position + 1;
    draw.params = request.sampling.value_or(sequence.sampling);
    draw.keep_logits = request.logits;
    draw.top = std::min(request.top_logprobs, config_.vocabulary);
    add_adjustments(plan, span, sequence, draw);
    if (!request.masks.empty()) {
      const size_t words = mask_words(config_.vocabulary);
      const auto mask = std::span(request.masks).subspan(index * words, words);
      draw.mask = static_cast<uint32_t>(plan.masks.size());
      plan.masks.insert(plan.masks.end(), mask.begin(), mask.end());
    }
    plan.draws.push_back(std::move(draw));
    span.draws++;
  };
  if (request.each) {
    uint32_t each_end = sequence.length_before + request.n - (request.max_tokens > 0 ? 1 : 0);
    uint32_t first = std::max(span.first_position, sequence.length_before + sequence.predicted);
    for (uint32_t position = first; position < std::min(end, each_end); position++, sequence.predicted++) {
      draw_at(position, position - sequence.length_before);
    }
  }
  if (request.max_tokens > 0 && end == length) {
    const uint32_t predicted = request.each ? request.n - 1 : 0;
    draw_at(end - 1, predicted + sequence.sampled + sequence.draws_in_flight);
    sequence.draws_in_flight++;
  }
}

// Biases, and the tokens that penalties are about. The draws of a span share both: what precedes a row of the history of
// all is a beginning of it.
void Conductor::add_adjustments(Plan& plan, PlanSpan& span, const Sequence& sequence, PlanDraw& draw) const {
  const SampleParams& params = draw.params;
  const std::vector<TokenBias>& biases =
      sequence.operations.front().sampling ? sequence.operations.front().biases : sequence.biases;
  const bool first = span.draws == 0;
  if (first) plan.biases.insert(plan.biases.end(), biases.begin(), biases.end());
  draw.biases = {static_cast<uint32_t>(plan.biases.size() - biases.size()), static_cast<uint32_t>(biases.size())};
  if (!params.repeats() && !params.counts()) return;
  const uint32_t from = std::min(params.repeats() ? params.repetition_from : UINT32_MAX,
                                 params.counts() ? params.frequency_from : UINT32_MAX);
  const uint32_t end = span.first_position + span.rows, known = static_cast<uint32_t>(sequence.tokens.size());
  if (first && from < end) {
    span.history = {static_cast<uint32_t>(plan.history.size()), end - from};
    plan.history.insert(plan.history.end(), sequence.tokens.begin() + std::min(from, known),
                        sequence.tokens.begin() + std::min(end, known));
    plan.history.resize(span.history.first + span.history.count);  // one more where the last is being drawn
  }
  auto since = [&](uint32_t position) -> PlanSlice {
    const auto until = static_cast<uint32_t>(draw.position);
    return position < until ? PlanSlice{span.history.first + position - from, until - position} : PlanSlice{};
  };
  if (params.repeats()) draw.repeated = since(params.repetition_from);
  if (params.counts()) draw.counted = since(params.frequency_from);
}

void Conductor::on(const PlanRetired& event) {
  Plan& plan = *event.plan;
  IOKV_ASSERT(!in_flight_.empty() && in_flight_.front() == &plan);
  in_flight_.pop_front();
  retired_ = plan.id;
  bump(Counter::steps);
  bump(Counter::step_ns, static_cast<int64_t>(plan.ended_ns - plan.started_ns));
  count(plan);
  if (plan.failure.empty()) watch_drift(plan);
  step_ns_ = step_ns_ == 0 ? plan.ended_ns - plan.started_ns : (7 * step_ns_ + plan.ended_ns - plan.started_ns) / 8;
  if (plan.taken_ns != 0 && plan.started_ns >= plan.taken_ns) {
    bump(Counter::first_works);
    bump(Counter::first_work_ns, static_cast<int64_t>(plan.started_ns - plan.taken_ns));
  }
  take_audited(plan);
  for (const PlanSpan& span : plan.spans) {
    if (span.slot == kNoSlot) continue;
    Sequence& sequence = *sequences_[span.slot];
    if (!sequence.open || sequence.generation != span.generation) continue;
    sequence.plans_in_flight--;
    if (sequence.epoch != span.epoch) continue;
    if (!plan.failure.empty()) continue;
    note_times(sequence, plan);
    accept(sequence, span, plan);
  }
  if (!plan.failure.empty()) lose_device();
  retire_audit(plan);
  empty_limbo();
  idle_plans_.push_back(&plan);
}

// What was planned beside what the device has counted and measured.
void Conductor::count(const Plan& plan) {
  auto add = [this](Counter counter, uint64_t by) { bump(counter, static_cast<int64_t>(by)); };
  auto busy_ns = [&](Queue queue) { return plan.measured.busy_ns[static_cast<size_t>(queue)]; };
  add(Counter::recomputed_tokens, plan.measured.recomputed_tokens);
  add(Counter::predicted_ns, static_cast<uint64_t>(plan.predicted.total_ns));
  add(Counter::measured_ns, plan.measured.step_ns);
  add(Counter::planned_h2d_bytes, (plan.work.x_host * config_.step_model.shape.x_bytes + plan.work.kv_host * config_.step_model.shape.kv_bytes) *
                                      config_.step_model.shape.layers + config_.staging.weights.step_bytes());
  add(Counter::h2d_bytes, plan.measured.h2d_bytes);
  add(Counter::d2h_bytes, plan.measured.d2h_bytes);
  add(Counter::h2d_busy_ns, busy_ns(Queue::h2d));
  add(Counter::d2h_busy_ns, busy_ns(Queue::d2h));
  add(Counter::recompute_busy_ns, busy_ns(Queue::recompute));
  add(Counter::dense_busy_ns, busy_ns(Queue::dense));
  add(Counter::host_attended_tokens, plan.work.kv_attended);
  add(Counter::host_busy_ns, busy_ns(Queue::host));
}

// Steps of decodes alone: drift.h says why.
void Conductor::watch_drift(const Plan& plan) {
  const bool decodes = plan.tokens.size() == plan.spans.size();
  if (!drift_ || !config_.refit || !decodes || plan.predicted.total_ns <= 0 || plan.measured.step_ns == 0) return;
  auto busy_ns = [&](Queue queue) { return static_cast<double>(plan.measured.busy_ns[static_cast<size_t>(queue)]); };
  const StepTimes predicted{std::max(plan.predicted.h2d_ns, plan.predicted.d2h_ns), plan.predicted.device_ns,
                            plan.predicted.host_ns, plan.predicted.total_ns};
  const StepTimes measured{std::max(busy_ns(Queue::h2d), busy_ns(Queue::d2h)),
                           static_cast<double>(plan.measured.device_busy_ns), busy_ns(Queue::host),
                           static_cast<double>(plan.measured.step_ns)};
  if (drift_->observe(predicted, measured, plan.fit)) plan_with(drift_->profile());
}

// What the step's time went to, for the sequence's completions. The next one can begin when this one has ended.
void Conductor::note_times(Sequence& sequence, const Plan& plan) {
  auto busy_ns = [&](Queue queue) { return plan.measured.busy_ns[static_cast<size_t>(queue)]; };
  wire::SpentTimes times;
  times.queued_ns = plan.started_ns - std::min(plan.started_ns, sequence.ready_ns);
  times.link_ns = std::max(busy_ns(Queue::h2d), busy_ns(Queue::d2h));
  times.recompute_ns = busy_ns(Queue::recompute);
  times.dense_ns = busy_ns(Queue::dense);
  sequence.host_times[sequence.steps % kTimedSteps] = wire::pack_duration(busy_ns(Queue::host));
  sequence.times[sequence.steps++ % kTimedSteps] = wire::pack_times(times);
  sequence.ready_ns = plan.ended_ns;
}

// What the device has computed is lost with it: in the failed Plan, in those behind it, and in every block.
void Conductor::lose_device() {
  for (auto& sequence : sequences_) {
    if (!sequence->open) continue;
    if (sequence->started) fail(*sequence, IOKV_EDEVICE);
    forget_cache(*sequence, 0);
  }
}

void Conductor::count_time(const wire::TokenTimes& times, uint64_t ns) {
  bump(wire::slot_of(times, ns));
  bump(times.sum_ns(), static_cast<int64_t>(ns));
}

// Turns a span's draws into outcomes, and ends the operation when it has all it asked for.
void Conductor::accept(Sequence& sequence, const PlanSpan& span, Plan& plan) {
  const Request& request = sequence.operations.front();
  uint32_t epoch = sequence.epoch;
  bool samples = request.max_tokens > 0;
  const uint64_t latest_times = sequence.times[(sequence.steps - 1) % kTimedSteps];
  for (uint32_t i = 0; i < span.draws && sequence.epoch == epoch; i++) {
    PlanDraw& draw = plan.draws[span.first_draw + i];
    bool sampled = samples && draw.position >= sequence.tokens.size();
    Outcome outcome = outcome_of(sequence, request, 0);
    outcome.times = latest_times;
    outcome.token = draw.token;
    outcome.logprob = draw.logprob;
    outcome.logits = std::move(draw.logits);
    if (!outcome.logits.empty()) outcome.flags |= IOKV_COMPLETION_LOGITS;
    outcome.top = std::move(draw.tops);
    if (!outcome.top.empty()) outcome.flags |= IOKV_COMPLETION_TOP;
    bool final = false;
    if (sampled) {
      IOKV_ASSERT(draw.position == sequence.tokens.size() && sequence.draws_in_flight > 0);
      sequence.tokens.push_back(draw.token);
      sequence.draws_in_flight--;
      outcome.index = sequence.sampled++;
      count_time(outcome.index == 0 ? wire::kFirstToken : wire::kTokenGap, now_ns_ - std::exchange(sequence.token_ns, now_ns_));
      outcome.length++;
      const bool stopped = ends_step(request, std::span(sequence.tokens).last(sequence.sampled));
      outcome.flags |= IOKV_COMPLETION_TOKEN | (stopped ? IOKV_COMPLETION_STOPPED : 0);
      final = stopped || sequence.sampled == request.max_tokens;
    } else {
      outcome.index = static_cast<uint32_t>(draw.position) - 1 - sequence.length_before;
      outcome.flags |= IOKV_COMPLETION_PREDICTED;
      final = !samples && outcome.index + 1 == request.n;
    }
    if (final) {
      // What Plans in flight draw beyond it is not wanted, even while the client has no room for it.
      sequence.epoch++;
      sequence.draws_in_flight = 0;
    } else {
      outcome.flags |= IOKV_COMPLETION_MORE;
    }
    deliver(sequence, std::move(outcome));
  }
  if (sequence.epoch != epoch || samples || request.each) return;
  if (span.first_position + span.rows < sequence.tokens.size()) return;
  Outcome outcome = outcome_of(sequence, request, 0);
  outcome.times = latest_times;
  deliver(sequence, std::move(outcome));
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

// Clients take turns at the pool, in each with as many operations as their weight. A client's own are in the order of
// priority, then age; but one after which kMostLater others have started, whoever's, is before them all. In a turn the
// eldest goes first. So whatever a client starts, and with whatever priority, it comes behind the others' first turn; and
// what has a turn keeps it until an operation of its client that goes before it starts.
void Conductor::give_turns() {
  constexpr uint64_t kMostLater = 1024;  // as many as one client may have open at once unless told otherwise
  started_.clear();
  for (Sequence* sequence : active_) {
    if (sequence->open && sequence->started) started_.push_back(sequence);
  }
  auto key = [this](const Sequence& s) {
    const bool overtaken = arrivals_ - s.arrival > kMostLater;
    const int priority = std::clamp(s.priority + s.operations.front().priority, -100, 100);
    return std::tuple(s.client.slot, overtaken ? INT_MIN : -priority, s.arrival);
  };
  std::sort(started_.begin(), started_.end(), [&](const Sequence* a, const Sequence* b) { return key(*a) < key(*b); });
  uint32_t place = 0;
  for (size_t i = 0; i < started_.size(); i++) {
    const uint32_t client = started_[i]->client.slot;
    place = i > 0 && started_[i - 1]->client.slot == client ? place + 1 : 0;
    started_[i]->turn = place / clients_[client].weight;
  }
}

// Blocks for all that the sequence has to compute, taken from who is less urgent if need be; for all of it, since admitting
// it bit by bit would have it preempt and be preempted in turn. false: it has to wait, for more urgent ones to end or for
// Plans in flight to give up what was taken; in the second case it keeps what it has got.
bool Conductor::reserve_blocks(Sequence& sequence) {
  const uint32_t length = static_cast<uint32_t>(sequence.tokens.size()) + sequence.draws_in_flight;
  const uint32_t wanted = blocks_for(Tokens(length)).value;
  if (sequence.blocks.size() >= wanted) return true;
  const uint32_t missing = wanted - sequence.blocks.size();
  if (!could_reserve(sequence, Blocks(missing))) {
    forget_cache(sequence, sequence.cached);
    return false;
  }
  const auto last = sequence.blocks.empty() ? std::nullopt : std::optional(sequence.blocks.back().form);
  uint32_t as_x = forms_.x_of(missing, last);
  while (sequence.blocks.size() < wanted) {
    const BlockForm form = as_x > 0 ? BlockForm::x : BlockForm::kv;
    if (!add_block(sequence, form)) {
      if (preempt_for(sequence)) continue;
      return false;
    }
    if (as_x > 0) as_x--;
  }
  return true;
}

// In the other form where the pool has room for that alone: what one form has left free of a frame.
bool Conductor::add_block(Sequence& sequence, BlockForm form) {
  const uint32_t hint = sequence.blocks.empty() ? UINT32_MAX : sequence.blocks.back().id;
  // As many as the operation may come to: so they stay together, however slowly it grows.
  const uint32_t most_draws = sequence.operations.front().max_tokens - sequence.sampled;
  const Blocks most = blocks_for(Tokens(static_cast<uint32_t>(sequence.tokens.size()) + most_draws));
  const Blocks to_come(most.value - std::min(most.value, sequence.blocks.size()));
  User& user = user_of(sequence);
  auto acquire = [&](BlockForm wanted) {
    return fits_share(user, wanted) ? pool_.acquire(wanted, hint, to_come) : std::nullopt;
  };
  auto block = acquire(form);
  if (!block && stores_both()) {
    form = form == BlockForm::x ? BlockForm::kv : BlockForm::x;
    block = acquire(form);
  }
  if (!block) return false;
  block_users_[*block] = clients_[sequence.client.slot].uid;
  user.units += pool_.units_for(form).value;
  bump(form == BlockForm::x ? Counter::x_blocks : Counter::kv_blocks);
  SequenceBlock added{*block, form};
  add_copy(sequence, added);
  if (added.device_id == kNoBlock) forms_.added(form);  // its share is of what crosses the link
  sequence.blocks.push_back(added);
  return true;
}

// Room on the device for the sequence's next block, which is then written there as well and never fetched. A block that
// every step reads gains the same wherever in its sequence it is, so the first ones have it, and keep it: what would only
// change places is not moved. Idle sequences give theirs up.
void Conductor::add_copy(const Sequence& sequence, SequenceBlock& block) {
  if (!device_pool_) return;
  std::optional<BlockForm> last;
  uint32_t hint = UINT32_MAX;
  if (!sequence.blocks.empty() && sequence.blocks.back().device_id != kNoBlock) {
    hint = sequence.blocks.back().device_id;
    last = sequence.blocks.back().device_form;
  }
  const BlockForm wanted = copy_forms_.x_of(1, last) == 1 ? BlockForm::x : BlockForm::kv;
  auto acquire = [&](BlockForm form) {
    const auto copy = device_pool_->acquire(form, hint, Blocks(1));
    if (!copy) return false;
    block.device_id = *copy;
    block.device_form = form;
    copy_forms_.added(form);
    return true;
  };
  if (acquire(wanted)) return;
  if (drop_idle_copies()) (void)acquire(wanted);
}

// Those of the sequence that has been idle for longest. false: there is none, or Plans in flight may still read them.
bool Conductor::drop_idle_copies() {
  Sequence* idle = nullptr;
  for (const auto& other : sequences_) {
    if (!other->open || other->started || other->blocks.copies() == 0) continue;
    if (idle == nullptr || other->last_plan < idle->last_plan) idle = other.get();
  }
  if (idle == nullptr) return false;
  idle->blocks.drop_copies([&](SequenceBlock block) {
    forms_.added(block.form);
    copy_forms_.removed(block.device_form);
    bump(Counter::copies_dropped);
    if (idle->last_plan > retired_) {
      limbo_.push_back({idle->last_plan, {kNoBlock, block.form, block.device_id, block.device_form}});
    } else {
      device_pool_->release(block.device_id);
    }
  });
  return idle->last_plan <= retired_;
}

bool Conductor::stores_both() const {
  return config_.recompute.mode == Recompute::fraction || config_.recompute.mode == Recompute::automatic;
}

bool Conductor::fits_share(const User& user, BlockForm form) const {
  return user.units + pool_.units_for(form).value <= share_units(user);
}

// No block that may be added fits it any more: only the user's own can make room.
bool Conductor::share_is_full(const User& user) const {
  const bool x = config_.recompute.mode != Recompute::never && fits_share(user, BlockForm::x);
  return !x && (config_.recompute.mode == Recompute::always || !fits_share(user, BlockForm::kv));
}

Units Conductor::units_of_block(const RecomputeSetting& recompute, const BlockPool& pool) {
  const Units kv = pool.units_for(BlockForm::kv), x = pool.units_for(BlockForm::x);
  if (recompute.mode == Recompute::never) return kv;
  return recompute.mode == Recompute::always ? x : std::max(kv, x);
}

// Whether so many blocks are free, or will be once everyone less urgent has lost theirs, in the pool and in the user's share
// of it: a block comes free with the last of the references that are counted here.
bool Conductor::could_reserve(const Sequence& sequence, Blocks missing) {
  const User& user = user_of(sequence);
  const uint32_t uid = clients_[sequence.client.slot].uid;
  uint64_t units = pool_.free_units().value, own = share_units(user) - std::min(share_units(user), user.units);
  const uint64_t needed = most_units(missing).value;
  auto enough = [&] { return units >= needed && own >= needed; };
  if (enough()) return true;
  to_be_released_.assign(pool_.total_units().value, 0);
  auto count = [&](SequenceBlock block) {
    if (block.id == kNoBlock) return;  // a copy on the device
    if (++to_be_released_[block.id] < pool_.references(block.id)) return;
    units += pool_.units_for(block.form).value;
    if (block_users_[block.id] == uid) own += pool_.units_for(block.form).value;
  };
  for (const LimboBlock& limbo : limbo_) count(limbo.block);
  audit_.blocks().each(count);
  for (const auto& other : sequences_) {
    if (!other->open || other.get() == &sequence || !more_urgent(sequence, *other)) continue;
    other->blocks.each(count);
    if (enough()) return true;
  }
  return enough();
}

// Takes all blocks from the least urgent sequence that is less urgent than `sequence`; idle ones, longest unused, first.
// false: there is none. An audit's blocks go before anybody's. Where it is the user's share that is full, only his own count.
bool Conductor::preempt_for(const Sequence& sequence) {
  const User& user = user_of(sequence);
  const bool own = share_is_full(user);
  if (!own && !audit_.blocks().empty()) return give_up_audit();
  Sequence* victim = nullptr;
  for (auto& other : sequences_) {
    if (!other->open || other.get() == &sequence || other->blocks.empty()) continue;
    if (!more_urgent(sequence, *other) || (own && &user_of(*other) != &user)) continue;
    if (victim == nullptr || more_urgent(*victim, *other)) victim = other.get();
  }
  if (victim == nullptr) return false;
  if (victim->started) bump(Counter::preemptions);
  forget_cache(*victim, 0);
  return true;
}

bool Conductor::more_urgent(const Sequence& a, const Sequence& b) const {
  auto active = [](const Sequence& s) { return s.started && s.parked.empty(); };
  if (active(a) != active(b)) return active(a);
  if (!active(a)) return a.last_plan > b.last_plan || (a.last_plan == b.last_plan && a.slot < b.slot);
  if (a.turn != b.turn) return a.turn < b.turn;
  return a.arrival < b.arrival;
}

// Keeps the cache of the first keep_tokens tokens (<= cached) and releases the blocks behind them. A kept block that is
// partly filled and shared is released as well, since what comes next would be written to it.
void Conductor::forget_cache(Sequence& sequence, uint32_t keep_tokens) {
  IOKV_ASSERT(keep_tokens <= sequence.cached);
  uint32_t keep_blocks = blocks_for(Tokens(keep_tokens)).value;
  bool partial = keep_tokens % kBlockTokens != 0;
  if (partial && pool_.references(sequence.blocks[keep_blocks - 1].id) > 1) {
    keep_blocks--;
    keep_tokens = keep_blocks * kBlockTokens;
  }
  while (sequence.blocks.size() > keep_blocks) {
    release_block(sequence, sequence.blocks.back());
    sequence.blocks.pop_back();
  }
  sequence.cached = keep_tokens;
}

void Conductor::release_block(const Sequence& sequence, SequenceBlock block) {
  if (sequence.last_plan > retired_) {
    limbo_.push_back({sequence.last_plan, block});
    return;
  }
  give_back(block);
}

void Conductor::give_back(SequenceBlock block) {
  if (block.id == kNoBlock) return device_pool_->release(block.device_id);
  if (pool_.references(block.id) == 1) {
    effects_.discarded(block.id, block.form);
    if (block.device_id != kNoBlock) {
      device_pool_->release(block.device_id);
      copy_forms_.removed(block.device_form);
    } else {
      forms_.removed(block.form);
    }
    bump(block.form == BlockForm::x ? Counter::x_blocks : Counter::kv_blocks, -1);
    const uint32_t uid = std::exchange(block_users_[block.id], kNobody);
    users_.at(uid).units -= pool_.units_for(block.form).value;
    forget_user(uid);
  }
  pool_.release(block.id);
}

// last_plan is not monotonic along the limbo (a shared block's sequences differ), but there are at most two Plans out.
void Conductor::empty_limbo() {
  std::erase_if(limbo_, [this](const LimboBlock& limbo) {
    if (limbo.plan > retired_) return false;
    give_back(limbo.block);
    return true;
  });
}

}  // namespace iokv
