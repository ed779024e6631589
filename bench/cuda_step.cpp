// SPDX-License-Identifier: Apache-2.0
// How long steps take on a GPU, beside what its link or its memory alone would need: OPT-6.7B's shape with random
// weights, through the daemon's own executor.
//
//   bench_cuda_step [MODE] [batch] [context] [share of the context as X] [steps] [staging MiB] [f16|bf16]
//                   [invariant|free] [rows=N]
//
//   offload      decode steps whose context lives in pinned host memory (where MODE is left out)
//   resident     decode steps whose context has copies on the device
//   prefill      whole prompts in steps of N rows, written back as X (share 1) or K,V (share 0)
//   operations   each kind of operation of a step alone: cuda_operations.h
//
// Every decode step appends one token to each sequence, at the same position, so that all steps carry the same.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bench/cuda_model.h"
#include "bench/cuda_operations.h"
#include "daemon/backend/cuda/cuda_backend.h"
#include "daemon/base/monotonic.h"
#include "daemon/runtime/executor.h"
#include "daemon/runtime/staging.h"
#include "daemon/sched/plan_build.h"

namespace iokv::bench {
namespace {

enum class Mode : uint8_t { offload, resident, prefill, operations };

struct Settings {
  Mode mode = Mode::offload;
  uint32_t batch = 32, context = 1024, steps = 12;
  uint32_t rows = 4096;  // of a step of prompts
  double x_share = 1;
  uint64_t staging_bytes = uint64_t{384} << 20;
  CudaOptions device;
};

constexpr uint32_t kKvUnits = 2;  // X of MHA is half of K,V

class Bench {
 public:
  Bench(Backend& backend, const Settings& settings)
      : backend_(backend), settings_(settings), spec_(opt_6_7b(settings.context)),
        blocks_(blocks_for(Tokens(settings.context)).value),
        x_blocks_(settings.mode == Mode::resident ? 0 : static_cast<uint32_t>(std::lround(blocks_ * settings.x_share))) {}
  Status run();

 private:
  uint32_t units() const { return x_blocks_ + kKvUnits * (blocks_ - x_blocks_); }  // of a sequence
  Status take_pools();
  Status open(uint32_t rows, uint32_t draws);
  void add_runs(Plan& plan, PlanSpan& span, uint32_t sequence) const;
  void add_token(Plan& plan, uint32_t position) const;
  Status decode();
  Status prefill();
  Result<double> link_rate();
  Result<double> memory_rate();
  void print_operations(const std::array<std::vector<double>, kQueues>& busy_ms, size_t operations) const;

  Backend& backend_;
  const Settings settings_;
  const ModelSpec spec_;
  const uint32_t blocks_, x_blocks_;  // of a sequence
  PoolView host_;
  size_t host_bytes_ = 0;
  std::unique_ptr<DeviceMemory> copies_;  // of blocks, on the device
  PipelineOptions pipeline_;
  std::unique_ptr<Executor> executor_;
  uint64_t weight_bytes_ = 0;
};

Status Bench::run() {
  const uint64_t begun_ns = monotonic_ns();
  IOKV_TRY(take_pools());
  const uint64_t filled_ns = monotonic_ns();
  if (settings_.mode == Mode::prefill) {
    IOKV_TRY(open(settings_.rows, std::max(1u, settings_.rows / settings_.context)));
  } else {
    IOKV_TRY(open(settings_.batch, settings_.batch));
  }
  std::printf("pools of %.1f and %.1f GB in %.1f s, weights of %.1f GB in %.1f s\n", static_cast<double>(host_bytes_) / 1e9,
              copies_ == nullptr ? 0.0 : static_cast<double>(copies_->size_bytes()) / 1e9,
              static_cast<double>(filled_ns - begun_ns) / 1e9, static_cast<double>(weight_bytes_) / 1e9,
              static_cast<double>(monotonic_ns() - filled_ns) / 1e9);
  return settings_.mode == Mode::prefill ? prefill() : decode();
}

Status Bench::take_pools() {
  host_.unit_bytes = block_bytes(spec_, settings_.device.compute, BlockForm::x);
  if (settings_.mode == Mode::resident) {
    // A step writes to the last block of a sequence and touches no other on the host: those have no memory there.
    host_.layer_stride_bytes = settings_.batch * kKvUnits * host_.unit_bytes;
  } else {
    host_.layer_stride_bytes = settings_.batch * units() * host_.unit_bytes;
  }
  host_bytes_ = host_.layer_stride_bytes * spec_.layers;
  IOKV_TRY_ASSIGN(host_.base, take_pool(backend_, host_bytes_));
  pipeline_.host = pipeline_.device = host_;
  if (settings_.mode != Mode::resident) return {};
  PoolView& device = pipeline_.device;
  device.layer_stride_bytes = settings_.batch * units() * host_.unit_bytes;
  IOKV_TRY_ASSIGN(copies_, take_filled(backend_, device.layer_stride_bytes * spec_.layers, host_.base, host_bytes_));
  device.base = static_cast<std::byte*>(copies_->data());
  return {};
}

Status Bench::open(uint32_t rows, uint32_t draws) {
  StagingChoice choice;
  choice.device_bytes = settings_.staging_bytes;
  choice.recomputes = x_blocks_ > 0;
  choice.kv_units = kKvUnits;
  IOKV_TRY_ASSIGN(pipeline_.staging, choose_staging(spec_, settings_.device.compute, choice));
  pipeline_.poison = false;
  IOKV_TRY_ASSIGN(Weights weights, RandomWeights(backend_, spec_).make());
  weight_bytes_ = weights.head().stored_bytes;
  for (const LayerWeights& layer : weights.layers) {
    for (const LinearWeights* linear : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      weight_bytes_ += linear->matrix->stored_bytes;
    }
  }
  ModelLimits limits;
  limits.max_rows = rows;
  limits.recompute_rows = x_blocks_ > 0 ? pipeline_.staging.tile_tokens : 0;
  IOKV_TRY_ASSIGN(auto model, Model::make(backend_, spec_, std::move(weights), limits));
  IOKV_TRY_ASSIGN(executor_, Executor::make(backend_, std::move(model), pipeline_, {rows, draws}));
  return {};
}

void Bench::add_runs(Plan& plan, PlanSpan& span, uint32_t sequence) const {
  span.first_run = static_cast<uint32_t>(plan.runs.size());
  auto add = [&](uint32_t blocks, BlockForm form, uint32_t id, uint32_t device_id) {
    if (blocks == 0) return;
    BlockRun run;
    run.blocks = blocks;
    run.id = id;
    run.device_id = device_id;
    run.form = run.device_form = form;
    plan.runs.push_back(run);
  };
  const uint32_t first_unit = sequence * units();
  if (settings_.mode == Mode::resident) {
    const uint32_t behind = settings_.batch * kKvUnits;  // of the host's memory: ids of what is not read
    add(blocks_ - 1, BlockForm::kv, behind + first_unit, first_unit);
    add(1, BlockForm::kv, sequence * kKvUnits, first_unit + (blocks_ - 1) * kKvUnits);
  } else {
    add(x_blocks_, BlockForm::x, first_unit, kNoBlock);
    add(blocks_ - x_blocks_, BlockForm::kv, first_unit + x_blocks_, kNoBlock);
  }
  span.runs = static_cast<uint32_t>(plan.runs.size()) - span.first_run;
}

void Bench::add_token(Plan& plan, uint32_t position) const {
  plan.tokens.push_back(static_cast<int32_t>(scramble(plan.tokens.size() + position) % spec_.vocab));
  plan.positions.push_back(position);
}

Status check(const Plan& plan) {
  if (!plan.failure.empty()) return error(plan.failure);
  for (const PlanDraw& draw : plan.draws) {
    if (!std::isfinite(draw.logprob)) return error("a draw's probability is not finite");
  }
  return {};
}

Status Bench::decode() {
  PlanBuilder builder(pipeline_.staging);
  // Two Plans of the same contents take turns, so that the link can go on with the next one.
  Plan plans[2];
  for (Plan& plan : plans) {
    for (uint32_t s = 0; s < settings_.batch; ++s) {
      PlanSpan span;
      span.slot = s;
      span.first_row = s;
      span.rows = span.draws = 1;
      span.first_draw = s;
      span.first_position = settings_.context - 1;
      add_runs(plan, span, s);
      plan.spans.push_back(span);
      add_token(plan, settings_.context - 1);
      PlanDraw draw;
      draw.row = s;
      draw.position = settings_.context;
      plan.draws.push_back(draw);
    }
    builder.build(plan);
  }

  std::vector<double> steps_ms, wall_ms;
  std::array<std::vector<double>, kQueues> busy_ms;
  uint64_t h2d_bytes = 0;
  constexpr uint32_t kWarmUp = 3;
  for (uint32_t step = 0; step < settings_.steps + kWarmUp; ++step) {
    Plan& plan = plans[step % 2];
    plan.measured = {};
    const uint64_t before_ns = monotonic_ns();
    executor_->run(plan, [&]() -> const Plan* { return &plans[(step + 1) % 2]; });
    IOKV_TRY(check(plan));
    if (step < kWarmUp) continue;
    wall_ms.push_back(static_cast<double>(monotonic_ns() - before_ns) / 1e6);
    steps_ms.push_back(static_cast<double>(plan.measured.step_ns) / 1e6);
    for (size_t queue = 0; queue < kQueues; ++queue) {
      busy_ms[queue].push_back(static_cast<double>(plan.measured.busy_ns[queue]) / 1e6);
    }
    h2d_bytes = plan.measured.h2d_bytes;
  }
  const double step_ms = median(steps_ms);
  std::printf("batch %u, context %u, %.0f %% as X, slots of %u blocks: "
              "step %.2f ms (least %.2f, most %.2f; by the host %.2f); ",
              settings_.batch, settings_.context, 100.0 * x_blocks_ / blocks_, pipeline_.staging.slot_blocks, step_ms,
              *std::ranges::min_element(steps_ms), *std::ranges::max_element(steps_ms), median(wall_ms));
  if (settings_.mode == Mode::resident) {
    const double kv_bytes = static_cast<double>(settings_.batch) * settings_.context * spec_.layers * 4.0 * spec_.kv_width();
    const double bytes = kv_bytes + static_cast<double>(weight_bytes_);
    IOKV_TRY_ASSIGN(const double rate, memory_rate());
    std::printf("memory carries %.2f GB at %.0f GB/s: %.2f ms; ratio %.3f\n", bytes / 1e9, rate / 1e9, bytes / rate * 1e3,
                step_ms / (bytes / rate * 1e3));
  } else {
    IOKV_TRY_ASSIGN(const double rate, link_rate());
    const double floor_ms = static_cast<double>(h2d_bytes) / rate * 1e3;
    std::printf("link carries %.3f GB at %.1f GB/s: %.2f ms; ratio %.3f\n", static_cast<double>(h2d_bytes) / 1e9, rate / 1e9,
                floor_ms, step_ms / floor_ms);
  }
  print_operations(busy_ms, plans[0].ops.size());
  return {};
}

// All prompts of the batch, `steps` times; a step takes as many whole prompts as fit into its rows.
Status Bench::prefill() {
  const uint32_t together = std::max(1u, settings_.rows / settings_.context);
  if (settings_.context > settings_.rows) return error("a step takes whole prompts here: rows are fewer than the context");
  PlanBuilder builder(pipeline_.staging);
  std::vector<Plan> plans;
  for (uint32_t first = 0; first < settings_.batch; first += together) {
    Plan& plan = plans.emplace_back();
    for (uint32_t s = first; s < std::min(first + together, settings_.batch); ++s) {
      PlanSpan span;
      span.slot = s;
      span.first_row = static_cast<uint32_t>(plan.tokens.size());
      span.rows = settings_.context;
      span.draws = 1;
      span.first_draw = s - first;
      add_runs(plan, span, s);
      plan.spans.push_back(span);
      for (uint32_t position = 0; position < settings_.context; ++position) add_token(plan, position);
      PlanDraw draw;
      draw.row = span.first_row + settings_.context - 1;
      draw.position = settings_.context;
      plan.draws.push_back(draw);
    }
    builder.build(plan);
  }

  std::vector<double> passes_ms;
  std::array<std::vector<double>, kQueues> busy_ms;
  uint64_t d2h_bytes = 0;
  for (uint32_t pass = 0; pass < settings_.steps + 1; ++pass) {
    std::array<double, kQueues> busy{};
    d2h_bytes = 0;
    for (size_t i = 0; i < plans.size(); ++i) {
      plans[i].measured = {};
      executor_->run(plans[i], [&]() -> const Plan* { return i + 1 < plans.size() ? &plans[i + 1] : nullptr; });
      IOKV_TRY(check(plans[i]));
      d2h_bytes += plans[i].measured.d2h_bytes;
      for (size_t queue = 0; queue < kQueues; ++queue) busy[queue] += static_cast<double>(plans[i].measured.busy_ns[queue]) / 1e6;
    }
    if (pass == 0) continue;  // kernels are chosen
    passes_ms.push_back(static_cast<double>(plans.back().measured.ended_ns - plans.front().measured.started_ns) / 1e6);
    for (size_t queue = 0; queue < kQueues; ++queue) busy_ms[queue].push_back(busy[queue]);
  }
  const double ms = median(passes_ms), tokens = static_cast<double>(settings_.batch) * settings_.context;
  // Two operations a weight and token; the head's are for one row a prompt.
  const double flops = static_cast<double>(weight_bytes_ - executor_->model().weights().head().stored_bytes) * tokens;
  std::printf("prompts: batch %u, context %u, %.0f %% as X, %u rows a step: %.1f ms (least %.1f, most %.1f); "
              "%.2f PFLOP of products: %.0f TFLOP/s; written back %.2f GB\n",
              settings_.batch, settings_.context, 100.0 * x_blocks_ / blocks_, together * settings_.context, ms,
              *std::ranges::min_element(passes_ms), *std::ranges::max_element(passes_ms), flops / 1e15, flops / ms / 1e9,
              static_cast<double>(d2h_bytes) / 1e9);
  print_operations(busy_ms, plans[0].ops.size());
  return {};
}

void Bench::print_operations(const std::array<std::vector<double>, kQueues>& busy_ms, size_t operations) const {
  std::printf("in operations, ms:");
  for (size_t queue = 0; queue < kQueues; ++queue) {
    std::printf(" %s %.2f", name_of(static_cast<Queue>(queue)), median(busy_ms[queue]));
  }
  std::printf("; %zu operations a layer\n", operations);
}

// Bytes a second of what `copy` carries, the best of four.
template <typename Copy>
Result<double> rate_of(Backend& backend, Queue queue, const Copy& copy) {
  double best = 0;
  for (int round = 0; round < 4; ++round) {
    const Ticket begin = backend.record(queue);
    const size_t carried = copy();
    const Ticket end = backend.record(queue);
    IOKV_TRY(backend.poll(end, true));
    best = std::max(best, static_cast<double>(carried) * 1e9 /
                              static_cast<double>(backend.reached_ns(end) - backend.reached_ns(begin)));
  }
  return best;
}

// Of copies as large as the ring's slots, of 2 GiB of the pool.
Result<double> Bench::link_rate() {
  const size_t piece = std::min(size_t{32} << 20, host_bytes_);
  IOKV_TRY_ASSIGN(auto to, backend_.alloc(piece));
  return rate_of(backend_, Queue::h2d, [&] {
    size_t carried = 0;
    for (; carried < size_t{2} << 30; carried += piece) {
      backend_.copy(Queue::h2d, to->data(), host_.base + carried % (host_bytes_ - piece + 1), piece);
    }
    return carried;
  });
}

// Of a copy within the device: what is read, and what is written.
Result<double> Bench::memory_rate() {
  const size_t half = copies_->size_bytes() / 2;
  return rate_of(backend_, Queue::dense, [&] {
    backend_.copy(Queue::dense, copies_->data(), static_cast<std::byte*>(copies_->data()) + half, half);
    return 2 * half;
  });
}

Settings settings_of(int argc, char** argv) {
  Settings settings;
  std::vector<const char*> plain;
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "rows=", 5) == 0) {
      settings.rows = static_cast<uint32_t>(std::atoi(argv[i] + 5));
    } else {
      plain.push_back(argv[i]);
    }
  }
  constexpr std::pair<const char*, Mode> kModes[] = {
      {"offload", Mode::offload}, {"resident", Mode::resident}, {"prefill", Mode::prefill}, {"operations", Mode::operations}};
  for (auto [name, mode] : kModes) {
    if (plain.empty() || std::strcmp(plain[0], name) != 0) continue;
    settings.mode = mode;
    plain.erase(plain.begin());
    break;
  }
  auto number = [&](size_t i, double otherwise) { return plain.size() > i ? std::atof(plain[i]) : otherwise; };
  auto is = [&](size_t i, const char* word) { return plain.size() > i && std::strcmp(plain[i], word) == 0; };
  settings.batch = static_cast<uint32_t>(number(0, 32));
  settings.context = static_cast<uint32_t>(number(1, 1024));
  settings.x_share = number(2, 1);
  settings.steps = static_cast<uint32_t>(number(3, 12));
  settings.staging_bytes = static_cast<uint64_t>(number(4, 384)) << 20;
  settings.device.compute = is(5, "bf16") ? DType::bf16 : DType::f16;
  settings.device.batch_invariant = !is(6, "free");
  return settings;
}

Status run(const Settings& settings) {
  IOKV_TRY_ASSIGN(auto backend, make_cuda_backend_here(settings.device));
  std::printf("%s, %s, %s, %s\n", backend->info().name.c_str(), backend->info().driver.c_str(),
              name_of(settings.device.compute),
              settings.device.batch_invariant ? "batch-invariant" : "free choice of kernels");
  if (settings.mode == Mode::operations) return time_operations(*backend);
  return Bench(*backend, settings).run();
}

}  // namespace
}  // namespace iokv::bench

int main(int argc, char** argv) {
  const iokv::bench::Settings settings = iokv::bench::settings_of(argc, argv);
  if (settings.batch == 0 || settings.context == 0 || settings.steps == 0 || settings.rows == 0) {
    std::fprintf(stderr,
                 "usage: %s [offload|resident|prefill|operations] [batch] [context] [share as X] [steps] [staging MiB] "
                 "[f16|bf16] [invariant|free] [rows=N]\n",
                 argv[0]);
    return 2;
  }
  if (iokv::Status done = iokv::bench::run(settings); !done) {
    std::fprintf(stderr, "%s\n", done.failure().message.c_str());
    return 1;
  }
  return 0;
}
