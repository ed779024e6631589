// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/scale_world.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

#include "daemon/backend/modelled/modelled_backend.h"
#include "daemon/model/blank_weights.h"
#include "daemon/model/shapes.h"
#include "daemon/runtime/expected_profile.h"
#include "daemon/runtime/staging.h"
#include "iokv/iokv.h"
#include "tests/sim/oracle.h"

namespace iokv::sim {
namespace {

constexpr uint32_t kMaxContext = 32'768;
constexpr uint64_t kPoolBytes = uint64_t{256} << 30;
constexpr uint32_t kElementBytes = 2;
constexpr uint32_t kMaxRows = 8192, kMaxDraws = 64;
constexpr int32_t kEndToken = 2;
constexpr uint32_t kEndOneIn = 512;  // draws
constexpr uint64_t kReapNs = 100'000;  // from a completion to its client's answer, when nothing else happens

// OPT-6.7B with room for long contexts.
ModelSpec model_spec() {
  ModelSpec spec = *known_shape("opt-6.7b");
  spec.norm = NormKind::layer;
  spec.positions = PositionKind::learned;
  spec.learned_position_offset = 2;
  spec.max_context = kMaxContext;
  return spec;
}

Hardware hardware() { return *find_hardware("h200"); }

PoolShape pool_shape() {
  const ModelSpec spec = model_spec();
  const size_t x_bytes = block_bytes(spec, DType::f16, BlockForm::x);
  return {static_cast<uint32_t>(kPoolBytes / spec.layers / x_bytes),
          static_cast<uint32_t>(block_bytes(spec, DType::f16, BlockForm::kv) / x_bytes), 1};
}

StagingShape staging_shape() {
  StagingChoice choice;
  choice.kv_units = pool_shape().kv_units;
  return *choose_staging(model_spec(), DType::f16, choice);
}

ConductorConfig conductor_config(const ScaleOptions& options) {
  ConductorConfig config;
  config.vocabulary = model_spec().vocab;
  config.max_context = kMaxContext;
  config.max_clients = options.clients;
  config.recompute.mode = Recompute::automatic;
  config.batch.max_rows = kMaxRows;
  config.batch.max_draws = kMaxDraws;
  config.staging = staging_shape();
  config.step_model.profile = expected_profile(hardware(), model_spec(), kElementBytes);
  config.step_model.shape = cache_shape_of(model_spec(), kElementBytes);
  return config;
}

uint64_t memory_of_process() {
  unsigned long long all = 0, resident = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  IOKV_ASSERT(file != nullptr && std::fscanf(file, "%llu %llu", &all, &resident) == 2);
  std::fclose(file);
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

using RealClock = std::chrono::steady_clock;
double seconds_since(RealClock::time_point begin) { return std::chrono::duration<double>(RealClock::now() - begin).count(); }

}  // namespace

// Plans on the modelled backend. What is computed beside one Plan is a part of the next one's time, so two that follow
// each other are run, and the second counts.
class ScaleWorld::ExecutedPlans {
 public:
  ExecutedPlans() : backend_(backend_options()) {
    const ModelSpec spec = model_spec();
    ModelLimits limits;
    limits.max_rows = kMaxRows;
    limits.recompute_rows = staging_shape().tile_tokens;
    auto model = Model::make(backend_, spec, *blank_weights(backend_, spec), limits);
    PipelineOptions options;
    options.staging = staging_shape();
    // Addresses of a pool that is nowhere: the backend does not read it.
    options.host.base = options.device.base = reinterpret_cast<std::byte*>(uintptr_t{1} << 44);
    options.host.unit_bytes = options.device.unit_bytes = block_bytes(spec, DType::f16, BlockForm::x);
    options.host.layer_stride_bytes = options.device.layer_stride_bytes = kPoolBytes / spec.layers;
    options.poison = false;
    executor_ = *Executor::make(backend_, *std::move(model), options, {kMaxRows, kMaxDraws});
  }

  double lasts_ns(Plan first, Plan second) {
    // What was drawn before is not known here, and takes no time.
    for (Plan* plan : {&first, &second}) {
      for (PlanSpan& span : plan->spans) span.token_from_draw = false;
    }
    executor_->run(first, [&] { return &second; });
    executor_->run(second);
    IOKV_ASSERT(first.failure.empty() && second.failure.empty());
    return static_cast<double>(second.measured.step_ns);
  }

 private:
  static ModelledOptions backend_options() {
    ModelledOptions options;
    options.hardware = hardware();
    options.hardware.memory_bytes = 1e12;
    return options;
  }

  ModelledBackend backend_;
  std::unique_ptr<Executor> executor_;
};

ScaleWorld::ScaleWorld(const ScaleOptions& options)
    : options_(options),
      config_(conductor_config(options)),
      pool_(pool_shape()),
      conductor_(std::make_unique<Conductor>(config_, pool_, static_cast<Effects&>(*this))), executed_(std::make_unique<ExecutedPlans>()) {
  CrowdOptions crowd;
  crowd.clients = options.clients;
  crowd.requests_per_s = options.requests_per_s;
  crowd.arrive_within_ns = static_cast<uint64_t>(options.days * 86'400e9 / 20);
  crowd.max_context = kMaxContext;
  crowd.end_token = kEndToken;
  crowd_ = std::make_unique<Crowd>(crowd, options.seed, [this](auto what) { tell(std::move(what)); });
}

ScaleWorld::~ScaleWorld() = default;

ScaleReport ScaleWorld::run() {
  const auto begin = RealClock::now();
  const auto end_ns = static_cast<uint64_t>(options_.days * 86'400e9);
  uint64_t tenths = 0;
  while (now_ns_ < end_ns) {
    pass();
    if (now_ns_ < end_ns / 10 * (tenths + 1)) continue;
    tenths++;
    end_of_tenth();
  }
  report_.virtual_ns = now_ns_;
  const uint64_t busy_ns = report_.busy_ns;
  crowd_->calm_down();
  while (!crowd_->calm() || !out_.empty()) pass();
  report_.busy_ns = busy_ns;
  report_.crowd = crowd_->totals();
  crowd_->all_leave();
  conductor_->verify();
  IOKV_ASSERT(pool_.free_units() == pool_.total_units());
  report_.jain = rush();
  IOKV_ASSERT(conductor_->quiet() && pool_.free_units() == pool_.total_units());
  conductor_->verify();
  pool_.verify();
  auto counter = [this](wire::Counter which) { return conductor_->counters()[static_cast<uint32_t>(which)]; };
  IOKV_ASSERT(counter(wire::Counter::clients) == 0 && counter(wire::Counter::kv_blocks) == 0);
  IOKV_ASSERT(counter(wire::Counter::x_blocks) == 0 && counter(wire::Counter::operations) == 0);
  report_.first_run_rate = run_rates_.front();
  report_.last_run_rate = run_rates_.back();
  report_.mean_first_ns /= static_cast<double>(std::max<uint64_t>(1, firsts_));
  report_.mean_executed /= std::max(1u, report_.executed);
  report_.real_s = seconds_since(begin);
  return report_;
}

// Goes to the next time at which anything happens, and lets it.
void ScaleWorld::pass() {
  const uint64_t timer_ns = conductor_->next_timer_ns();
  uint64_t next_ns = crowd_->next_ns();
  if (!out_.empty()) next_ns = std::min(next_ns, out_.front()->ended_ns);
  if (timer_ns != 0) next_ns = std::min(next_ns, timer_ns);
  if (out_.empty() && crowd_->wants_to_reap()) next_ns = std::min(next_ns, now_ns_ + kReapNs);
  IOKV_ASSERT(next_ns != UINT64_MAX);
  now_ns_ = std::max(now_ns_, next_ns);
  crowd_->act(now_ns_);
  crowd_->reap();
  while (!out_.empty() && out_.front()->ended_ns <= now_ns_) retire();
  tell(PassEnded{});
  report_.passes++;
}

void ScaleWorld::tell(decltype(Event::what) what) {
  const auto begin = RealClock::now();
  conductor_->handle({now_ns_, std::move(what)});
  report_.conductor_s += seconds_since(begin);
}

void ScaleWorld::post(ClientId client, const Outcome& outcome) {
  if (!rushed_.empty()) {
    rushed_[client.slot] += (outcome.flags & IOKV_COMPLETION_TOKEN) != 0;
    return;
  }
  crowd_->receive(client, outcome);
}

void ScaleWorld::end_client(ClientId, int32_t, const std::string& reason) {
  std::fprintf(stderr, "a client was ended: %s\n", reason.c_str());
  IOKV_ASSERT(false);
}

void ScaleWorld::issue(Plan* plan) {
  measure_waits(*plan);
  measure_runs(*plan);
  plan->started_ns = std::max(now_ns_, device_free_ns_);
  const double lasts = streaming_cost(config_.step_model.profile, config_.step_model.shape, plan->work).total_ns;
  plan->ended_ns = plan->started_ns + static_cast<uint64_t>(lasts);
  device_free_ns_ = plan->ended_ns;
  if (rushed_.empty()) {
    report_.busy_ns += plan->ended_ns - plan->started_ns;
    report_.plans++;
  }
  if (!out_.empty() && plan->id % options_.executed_every == 0) {
    const double ratio = executed_->lasts_ns(*out_.back(), *plan) / lasts;
    report_.least_executed = report_.executed == 0 ? ratio : std::min(report_.least_executed, ratio);
    report_.most_executed = std::max(report_.most_executed, ratio);
    report_.mean_executed += ratio;
    report_.executed++;
  }
  out_.push_back(plan);
}

void ScaleWorld::retire() {
  Plan* plan = out_.front();
  out_.pop_front();
  for (PlanDraw& draw : plan->draws) {
    const uint64_t random = mix(plan->id ^ mix(draw.position ^ uint64_t{draw.row} << 32));
    const bool ends = rushed_.empty() && random % kEndOneIn == 0;
    draw.token = ends ? kEndToken : 100 + static_cast<int32_t>(random % 40'000);
  }
  plan->measured.step_ns = plan->ended_ns - plan->started_ns;
  tell(PlanRetired{plan});
}

void ScaleWorld::measure_waits(const Plan& plan) {
  if (!rushed_.empty()) return;
  for (const PlanSpan& span : plan.spans) {
    if (span.slot >= served_.size()) served_.resize(span.slot + 1);
    Served& served = served_[span.slot];
    if (const uint64_t since = crowd_->first_step_awaited_since(span.client_slot); since != 0) {
      report_.longest_first_ns = std::max(report_.longest_first_ns, now_ns_ - since);
      report_.mean_first_ns += static_cast<double>(now_ns_ - since);
      firsts_++;
      crowd_->first_step_seen(span.client_slot);
    }
    const bool goes_on = served.generation == span.generation && served.epoch == span.epoch;
    if (goes_on && !crowd_->has_stalled_since(span.client_slot, served.at_ns)) {
      report_.longest_between_ns = std::max(report_.longest_between_ns, now_ns_ - served.at_ns);
      if (span.decode) report_.longest_between_plans = std::max(report_.longest_between_plans, plan.id - served.plan - 1);
    }
    served = {span.generation, span.epoch, plan.id, now_ns_};
  }
}

// Each jump within a stretch of one form makes a piece more than a fresh pool would need.
void ScaleWorld::measure_runs(const Plan& plan) {
  uint64_t jumps = 0;
  for (const PlanSpan& span : plan.spans) {
    for (uint32_t i = span.first_run + 1; i < span.first_run + span.runs; i++) {
      const BlockRun &before = plan.runs[i - 1], &run = plan.runs[i];
      const uint32_t units = run.form == BlockForm::kv ? config_.staging.kv_units : config_.staging.x_units;
      jumps += before.form == run.form && before.id + before.blocks * units != run.id;
    }
  }
  link_ns_ += plan.predicted.h2d_ns;
  const double pieces = static_cast<double>(jumps) * config_.step_model.shape.layers;
  link_with_pieces_ns_ += plan.predicted.h2d_ns + pieces * kFurtherPieceNs;
}

void ScaleWorld::end_of_tenth() {
  conductor_->verify();
  pool_.verify();
  run_rates_.push_back(link_with_pieces_ns_ > 0 ? link_ns_ / link_with_pieces_ns_ : 1);
  link_ns_ = link_with_pieces_ns_ = 0;
  report_.memory_bytes.push_back(memory_of_process());
  report_.token_bytes.push_back(crowd_->tokens_of_conversations() * sizeof(int32_t));
  auto counter = [this](wire::Counter which) { return conductor_->counters()[static_cast<uint32_t>(which)]; };
  report_.prefill_tokens = counter(wire::Counter::prefill_tokens);
  report_.preemptions = counter(wire::Counter::preemptions);
  report_.stall_releases = counter(wire::Counter::stall_releases);
}

// Equal clients that all want as much as they can get: how evenly they get it, by Jain's index (1: all alike).
double ScaleWorld::rush() {
  constexpr uint32_t kClients = 256, kPrompt = 512, kPlans = 4000;
  const uint32_t clients = std::min(kClients, options_.clients);
  rushed_.assign(clients, 0);
  for (uint32_t i = 0; i < clients; i++) {
    const ClientId id{i, UINT32_MAX};
    tell(ClientJoined{id, {32, 1 << 20, 4096, 4096}, 16, 1});
    Request open;
    open.kind = RequestKind::open;
    open.operation = open.sequence = 1;
    tell(RequestTaken{id, open});
    Request step;
    step.kind = RequestKind::step;
    step.operation = 2;
    step.sequence = 1;
    step.max_tokens = 8192;
    step.tokens.assign(kPrompt, 100);
    tell(RequestTaken{id, std::move(step)});
  }
  auto run_plans = [this](uint32_t plans) {
    tell(PassEnded{});
    for (uint32_t i = 0; i < plans && !out_.empty(); i++) {
      now_ns_ = std::max(now_ns_, out_.front()->ended_ns);
      retire();
      tell(PassEnded{});
    }
  };
  run_plans(kPlans / 4);  // until all have read their prompts
  rushed_.assign(clients, 0);
  run_plans(kPlans);
  double sum = 0, squares = 0;
  for (uint64_t tokens : rushed_) {
    sum += static_cast<double>(tokens);
    squares += static_cast<double>(tokens) * static_cast<double>(tokens);
  }
  for (uint32_t i = 0; i < clients; i++) tell(ClientGone{{i, UINT32_MAX}});
  run_plans(kPlans);
  return sum * sum / (clients * squares);
}

}  // namespace iokv::sim
