// SPDX-License-Identifier: Apache-2.0
#include "bench/optimum.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "daemon/backend/modelled/modelled_backend.h"
#include "daemon/model/blank_weights.h"
#include "daemon/runtime/executor.h"
#include "daemon/runtime/expected_profile.h"
#include "daemon/sched/split.h"
#include "daemon/sched/step_time.h"
#include "daemon/sched/whole_placement.h"

namespace iokv {
namespace {

constexpr uint32_t kElementBytes = 2;
constexpr DType kCompute = DType::f16;

template <typename T>
T must(Result<T> result) {
  if (!result) std::fprintf(stderr, "%s\n", result.failure().message.c_str());
  IOKV_ASSERT(result);
  return *std::move(result);
}

// ---- instances ------------------------------------------------------------------------------------------------------

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}
  uint64_t below(uint64_t end) { return random_() % end; }
  bool one_in(uint64_t n) { return below(n) == 0; }
  double between(double low, double high) { return std::uniform_real_distribution<>(low, high)(random_); }
  double scaled(double low, double high) { return low * std::exp(between(0, std::log(high / low))); }
  template <typename T>
  T one_of(std::initializer_list<T> list) { return list.begin()[below(list.size())]; }

 private:
  std::mt19937_64 random_;
};

// A known machine with every rate changed by up to half, and a link of 4 to 450 GB/s.
Hardware random_hardware(Draw& draw) {
  const std::vector<std::string> names = known_hardware();
  Hardware hardware = must(find_hardware(names[draw.below(names.size())]));
  hardware.h2d_bytes_per_s = draw.scaled(4e9, 450e9);
  hardware.d2h_bytes_per_s = hardware.h2d_bytes_per_s * draw.between(0.7, 1);
  hardware.copy_ns *= draw.scaled(0.5, 1.5);
  hardware.duplex = draw.between(1, 1.2);
  hardware.matrix_flop_per_s *= draw.scaled(0.5, 1.5);
  hardware.memory_bytes_per_s *= draw.scaled(0.5, 1.5);
  hardware.launch_ns *= draw.scaled(0.5, 1.5);
  hardware.contention = draw.between(0, 1);
  hardware.memory_bytes = 1e13;  // as much as any instance needs
  return hardware;
}

// Few layers mostly, and as small a part of a vocabulary for each of them as a whole model has: 32,000 tokens or more for
// 32. A whole model's layers now and then: what was fetched ahead lasts longer among few.
ModelSpec random_model(Draw& draw) {
  ModelSpec model;
  model.name = "random";
  model.family = "llama";
  model.layers = static_cast<uint32_t>(draw.one_in(8) ? 24 + draw.below(25) : 4 + draw.below(5));
  model.head_dim = draw.one_of({64u, 128u});
  model.heads = draw.one_of({8u, 16u, 32u, 40u, 56u, 64u});
  model.kv_heads = draw.one_in(3) ? model.heads / draw.one_of({2u, 4u, 8u}) : model.heads;
  model.hidden = model.heads * model.head_dim;
  model.activation = draw.one_of({Activation::relu, Activation::silu_glu});
  model.ffn = model.activation == Activation::relu ? 4 * model.hidden : (model.hidden * 8 / 3 + 255) / 256 * 256;
  model.vocab = model.layers * static_cast<uint32_t>(1000 + draw.below(3000));
  model.max_context = 8192;
  return model;
}

// At most so many blocks a layer: every one of their splits is executed.
constexpr uint64_t kMostBlocks = 160;

uint32_t blocks_of(uint32_t context) { return blocks_for(Tokens(context + 1)).value; }

uint64_t tokens_of(const OptimumInstance& instance) {
  return std::accumulate(instance.contexts.begin(), instance.contexts.end(), uint64_t{0});
}

OptimumInstance random_instance(uint64_t seed) {
  Draw draw(seed);
  OptimumInstance instance;
  instance.seed = seed;
  instance.hardware = random_hardware(draw);
  instance.model = random_model(draw);
  const auto sequences = static_cast<uint32_t>(draw.scaled(1, 65));
  const uint64_t most = std::min<uint64_t>(4096, std::max<uint64_t>(96, 64 * kMostBlocks / sequences));
  const double around = draw.scaled(64, static_cast<double>(most));
  for (uint32_t i = 0; i < sequences; ++i) {
    const double context = std::clamp(around * draw.scaled(0.5, 2), 64.0, static_cast<double>(most));
    instance.contexts.push_back(static_cast<uint32_t>(context));
  }
  // As the daemon has it: three slots of K,V and six of X, of up to 4,096 tokens each. Here there are fewer tokens, and
  // smaller slots for as many rounds.
  instance.staging.slot_blocks = static_cast<uint32_t>(draw.scaled(4, 65));
  instance.staging.kv_slots = 3;
  instance.staging.x_slots = 6;
  instance.staging.tile_tokens = instance.staging.slot_blocks * kBlockTokens;
  const CacheShape shape = cache_shape_of(instance.model, kElementBytes);
  const uint32_t unit = std::min(shape.x_bytes, shape.kv_bytes);
  instance.staging.x_units = (shape.x_bytes + unit - 1) / unit;
  instance.staging.kv_units = (shape.kv_bytes + unit - 1) / unit;
  if (draw.one_in(2)) {
    const double all = static_cast<double>(instance.problem().blocks() * kBlockTokens * shape.layers) * shape.kv_bytes;
    instance.device_bytes = static_cast<uint64_t>(all * draw.between(0, 1.1));
  }
  return instance;
}

}  // namespace

LayoutProblem OptimumInstance::problem() const {
  return {cache_shape_of(model, kElementBytes), contexts, device_bytes, staging.slot_blocks};
}

OptimumInstance random_optimum_instance(uint64_t seed) { return random_instance(seed); }

std::string describe(const OptimumInstance& instance) {
  const Hardware& hardware = instance.hardware;
  const ModelSpec& model = instance.model;
  const CacheShape shape = cache_shape_of(model, kElementBytes);
  return fmt::format(
      "seed {}: {} with a link of {:.1f} GB/s (copy {:.0f} ns, duplex {:.2f}), {:.0f} TFLOP/s, {:.0f} GB/s, launch {:.0f} "
      "ns, contention {:.2f}; {} layers of {} x {} heads ({} of K,V), ffn {}, vocab {}; {} sequences, {} tokens; slots of "
      "{} blocks; {:.3f} GB for cached tokens on the device, {:.3f} as K,V in all",
      instance.seed, hardware.name, hardware.h2d_bytes_per_s / 1e9, hardware.copy_ns, hardware.duplex,
      hardware.matrix_flop_per_s / 1e12, hardware.memory_bytes_per_s / 1e9, hardware.launch_ns, hardware.contention,
      model.layers, model.heads, model.head_dim, model.kv_heads, model.ffn, model.vocab, instance.contexts.size(),
      tokens_of(instance), instance.staging.slot_blocks, static_cast<double>(instance.device_bytes) / 1e9,
      static_cast<double>(tokens_of(instance) * shape.kv_bytes * shape.layers) / 1e9);
}

std::string describe(const CacheLayout& layout) {
  return fmt::format("on the device {} blocks of X and {} of K,V, X of {} tokens sent", layout.x_device_blocks,
                     layout.kv_device_blocks, layout.x_host_tokens);
}

// ---- execution ------------------------------------------------------------------------------------------------------

struct OptimumDevice::Machine {
  const OptimumInstance& instance;
  const Profile profile;
  const CacheShape shape;
  ModelledBackend backend;
  std::unique_ptr<DeviceMemory> resident;
  std::unique_ptr<Executor> executor;
  PlanBuilder builder;
  uint64_t blocks = 0;
  StepTimer timer;
  // Two are let pass, so that the link has run ahead, two are measured, and one is there to be fetched for.
  static constexpr size_t kSteps = 5;
  std::array<Plan, kSteps> plans;

  explicit Machine(const OptimumInstance& one)
      : instance(one),
        profile(expected_profile(one.hardware, one.model, kElementBytes)),
        shape(cache_shape_of(one.model, kElementBytes)),
        backend(ModelledOptions{one.hardware, kCompute}),
        builder(one.staging),
        timer(profile, shape, one.staging) {
    const auto sequences = static_cast<uint32_t>(one.contexts.size());
    for (uint32_t context : one.contexts) blocks += blocks_of(context);
    ModelLimits limits;
    limits.max_rows = sequences;
    limits.recompute_rows = one.staging.tile_tokens;
    auto model = must(Model::make(backend, one.model, must(blank_weights(backend, one.model)), limits));
    PipelineOptions options;
    options.staging = one.staging;
    options.poison = false;
    // Each block is there as X and as K,V, on the host and on the device. Neither memory is ever read.
    const size_t unit = size_t{std::min(shape.x_bytes, shape.kv_bytes)} * kBlockTokens;
    const size_t layer = unit * blocks * (one.staging.x_units + one.staging.kv_units);
    resident = must(backend.alloc(2 * layer * shape.layers));
    std::byte* base = static_cast<std::byte*>(resident->data());
    options.host = {base, layer, unit};
    options.device = {base + layer * shape.layers, layer, unit};
    executor = must(Executor::make(backend, std::move(model), options, {sequences, sequences}));
  }

  void build(const CacheLayout& layout);
  BlockRun run_of(const CacheLayout& layout, uint64_t block, uint32_t tokens, uint64_t& x_left) const;
  bool joins(const BlockRun& last, const BlockRun& run) const;

  uint32_t x_id(uint64_t block) const { return static_cast<uint32_t>(block * instance.staging.x_units); }
  uint32_t kv_id(uint64_t block) const {
    return static_cast<uint32_t>(blocks * instance.staging.x_units + block * instance.staging.kv_units);
  }
};

OptimumDevice::OptimumDevice(const OptimumInstance& instance) : machine_(std::make_unique<Machine>(instance)) {}
OptimumDevice::~OptimumDevice() = default;

// The next block in the order of the layout; x_left tokens on the host are still to come as X.
BlockRun OptimumDevice::Machine::run_of(const CacheLayout& layout, uint64_t block, uint32_t tokens,
                                        uint64_t& x_left) const {
  BlockRun run;
  run.blocks = 1;
  if (block < layout.x_device_blocks) {
    run.form = run.device_form = BlockForm::x;
    run.id = run.device_id = x_id(block);
  } else if (block >= blocks - layout.kv_device_blocks) {
    run.id = run.device_id = kv_id(block);
  } else if (x_left > 0) {
    run.form = BlockForm::x;
    run.id = x_id(block);
    if (x_left < tokens) {
      run.kv_id = kv_id(block);
      run.x_tokens = static_cast<uint32_t>(x_left);
    }
    x_left -= std::min<uint64_t>(x_left, tokens);
  } else {
    run.id = kv_id(block);
  }
  return run;
}

bool OptimumDevice::Machine::joins(const BlockRun& last, const BlockRun& run) const {
  const uint32_t units = run.form == BlockForm::x ? instance.staging.x_units : instance.staging.kv_units;
  return last.kv_id == kNoBlock && run.kv_id == kNoBlock && last.form == run.form &&
         last.resident() == run.resident() && last.id + last.blocks * units == run.id;
}

void OptimumDevice::Machine::build(const CacheLayout& layout) {
  Plan& plan = plans[0];
  plan.clear();
  uint64_t block = 0, x_left = layout.x_host_tokens;
  for (uint32_t row = 0; row < instance.contexts.size(); ++row) {
    const uint32_t context = instance.contexts[row];
    PlanSpan span;
    span.slot = span.first_row = span.first_draw = row;
    span.rows = span.draws = 1;
    span.first_position = context;
    span.first_run = static_cast<uint32_t>(plan.runs.size());
    for (uint32_t i = 0, left = context; i < blocks_of(context); ++i, ++block) {
      const uint32_t tokens = std::min(left, kBlockTokens);
      left -= tokens;
      const BlockRun run = run_of(layout, block, tokens, x_left);
      if (i > 0 && joins(plan.runs.back(), run)) {
        ++plan.runs.back().blocks;
      } else {
        plan.runs.push_back(run);
      }
    }
    span.runs = static_cast<uint32_t>(plan.runs.size()) - span.first_run;
    plan.spans.push_back(span);
    plan.tokens.push_back(0);
    plan.positions.push_back(context);
    PlanDraw draw;
    draw.row = row;
    plan.draws.push_back(draw);
  }
  builder.build(plan);
}

double OptimumDevice::executed_ns(const CacheLayout& layout) {
  Machine& machine = *machine_;
  std::array<uint64_t, Machine::kSteps> ends{};
  machine.build(layout);
  for (size_t i = 1; i < Machine::kSteps; ++i) machine.plans[i] = machine.plans[0];
  for (size_t i = 0; i < Machine::kSteps; ++i) {
    const Plan* next = i + 1 < Machine::kSteps ? &machine.plans[i + 1] : nullptr;
    machine.executor->run(machine.plans[i], [next] { return next; });
    IOKV_ASSERT(machine.plans[i].failure.empty());
    ends[i] = machine.plans[i].measured.ended_ns;
  }
  return static_cast<double>(ends[3] - ends[1]) / 2;
}

double OptimumDevice::predicted_ns(const CacheLayout& layout) {
  machine_->build(layout);
  return machine_->timer.step_ns(machine_->plans[0]);
}

double OptimumDevice::summed_ns(const CacheLayout& layout) {
  machine_->build(layout);
  return streaming_cost(machine_->profile, machine_->shape, machine_->plans[0].work).total_ns;
}

// ---- search ---------------------------------------------------------------------------------------------------------

namespace {

// What sums of work choose, in whole blocks.
CacheLayout summed_layout(const OptimumInstance& instance) {
  const Profile profile = expected_profile(instance.hardware, instance.model, kElementBytes);
  const LayoutProblem problem = instance.problem();
  LayerWork work;
  work.rows = work.new_kv = instance.contexts.size();
  work.attended = work.products = tokens_of(instance) + instance.contexts.size();
  work.kv_host = tokens_of(instance);
  const LayerWork placed = best_whole_placement(profile, problem.shape, work, instance.device_bytes);
  CacheLayout layout;
  layout.x_device_blocks = std::min(placed.x_device / kBlockTokens, problem.most_x_device());
  layout.kv_device_blocks = problem.most_kv_device(layout.x_device_blocks);
  work.x_device = std::min(work.kv_host, layout.x_device_blocks * kBlockTokens);
  work.kv_host = problem.splits_at_blocks(layout).back();
  layout.x_host_tokens = best_split(profile, problem.shape, work, 0, work.kv_host);
  return layout;
}

std::vector<CacheLayout> placements_of(const LayoutProblem& problem) {
  std::vector<CacheLayout> placements;
  const uint64_t most_x = problem.most_x_device();
  for (uint64_t tenth = 0; tenth <= (most_x == 0 ? 0u : 10u); ++tenth) {
    const uint64_t x = most_x * tenth / 10, most_kv = problem.most_kv_device(x);
    for (uint64_t third = most_kv == 0 ? 3 : 0; third <= 3; ++third) placements.push_back({x, most_kv * third / 3, 0});
  }
  return placements;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

Spread spread_of(std::vector<double> numbers) {
  if (numbers.empty()) return {};
  std::sort(numbers.begin(), numbers.end());
  return {numbers[numbers.size() / 2], numbers[numbers.size() * 99 / 100], numbers.back()};
}

}  // namespace

OptimumAnswer search_optimum(const OptimumInstance& instance) {
  constexpr size_t kSplitsOfMany = 12;
  constexpr uint64_t kFewTokens = 256;
  OptimumDevice device(instance);
  const LayoutProblem problem = instance.problem();
  OptimumAnswer answer;
  const auto begin = std::chrono::steady_clock::now();
  answer.planned = fastest_layout(problem, [&](const CacheLayout& layout) {
    ++answer.timed;
    return device.predicted_ns(layout);
  });
  answer.planning_s = seconds_since(begin);
  answer.planned_predicted_ns = device.predicted_ns(answer.planned);
  answer.planned_cost_ns = device.summed_ns(answer.planned);

  answer.best_ns = INFINITY;
  auto execute = [&](const CacheLayout& layout) {
    const double ns = device.executed_ns(layout);
    ++answer.executions;
    if (ns < answer.best_ns) answer.best = layout, answer.best_ns = ns;
    return ns;
  };
  answer.planned_ns = execute(answer.planned);
  answer.summed = summed_layout(instance);
  answer.summed_ns = execute(answer.summed);
  std::vector<CacheLayout> placements = placements_of(problem);
  placements.push_back(answer.planned);
  for (CacheLayout layout : placements) {
    const std::vector<uint64_t> splits = problem.splits_at_blocks(layout);
    const bool every = placements.size() == 2 || layout.x_device_blocks == answer.planned.x_device_blocks;
    const size_t step = every ? 1 : std::max<size_t>(1, splits.size() / kSplitsOfMany);
    auto split_at = [&](uint64_t tokens) {
      layout.x_host_tokens = tokens;
      execute(layout);
    };
    for (size_t i = 0; i < splits.size(); i += step) split_at(splits[i]);
    split_at(splits.back());
    for (uint64_t tokens = 0; splits.back() <= kFewTokens && tokens < splits.back(); ++tokens) split_at(tokens);
  }
  return answer;
}

OptimumFigures measure_optimum(uint64_t first_seed, uint64_t instances, uint32_t threads) {
  std::vector<OptimumAnswer> answers(instances);
  std::atomic<uint64_t> next{0};
  auto work = [&] {
    for (uint64_t i = next++; i < instances; i = next++) answers[i] = search_optimum(random_instance(first_seed + i));
  };
  std::vector<std::thread> team;
  for (uint32_t i = 1; i < threads; ++i) team.emplace_back(work);
  work();
  for (std::thread& thread : team) thread.join();

  OptimumFigures figures;
  figures.instances = instances;
  figures.worst_seed = first_seed;
  std::vector<double> summed, predictions, costs;
  for (uint64_t i = 0; i < instances; ++i) {
    const OptimumAnswer& answer = answers[i];
    figures.executions += answer.executions;
    figures.timed += answer.timed;
    figures.planning_s += answer.planning_s;
    if (answer.over_optimum() > 1.005) figures.over_half_a_percent.push_back(first_seed + i);
    if (answer.over_optimum() > figures.worst_over_optimum) {
      figures.worst_over_optimum = answer.over_optimum();
      figures.worst_seed = first_seed + i;
    }
    summed.push_back(answer.summed_ns / answer.best_ns);
    predictions.push_back(std::abs(answer.planned_ns / answer.planned_predicted_ns - 1));
    costs.push_back(std::abs(answer.planned_ns / answer.planned_cost_ns - 1));
  }
  figures.summed_over_optimum = spread_of(std::move(summed));
  figures.prediction_error = spread_of(std::move(predictions));
  figures.cost_error = spread_of(std::move(costs));
  return figures;
}

}  // namespace iokv
