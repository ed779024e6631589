// SPDX-License-Identifier: Apache-2.0
// How long a decode step takes on a GPU whose context lives in pinned host memory, beside what the link alone would
// need: OPT-6.7B's shape with random weights, through the daemon's own executor. Every step appends one token to each
// sequence, at the same position, so that all steps carry the same.
//
//   bench_cuda_step [batch] [context] [share of the context as X] [steps] [staging MiB] [f16|bf16] [invariant|free]
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "daemon/backend/cuda/cuda_backend.h"
#include "daemon/base/monotonic.h"
#include "daemon/model/layers.h"
#include "daemon/runtime/executor.h"
#include "daemon/runtime/staging.h"
#include "daemon/sched/plan_build.h"

namespace iokv {
namespace {

struct Settings {
  uint32_t batch = 32, context = 1024, steps = 12;
  double x_share = 1;
  uint64_t staging_bytes = uint64_t{384} << 20;
  CudaOptions device;
};

ModelSpec opt_6_7b(uint32_t context) {
  ModelSpec spec;
  spec.family = "opt";
  spec.name = "opt-6.7b";
  spec.layers = 32;
  spec.hidden = 4096;
  spec.heads = spec.kv_heads = 32;
  spec.head_dim = 128;
  spec.ffn = 16384;
  spec.vocab = 50272;
  spec.max_context = context + kBlockTokens;
  spec.norm = NormKind::layer;
  spec.activation = Activation::relu;
  spec.attention_scale = 1.0f / std::sqrt(128.0f);
  spec.positions = PositionKind::learned;
  spec.learned_position_offset = 2;
  spec.tied_embeddings = true;
  return spec;
}

uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Uniform numbers of a deviation of about `size`.
class RandomRows final : public RowSource {
 public:
  RandomRows(uint32_t columns, float size, uint64_t seed) : columns_(columns), size_(size), seed_(seed) {}
  void read_row(uint32_t index, float* row) const override {
    uint64_t state = scramble(seed_ * 0x9e3779b97f4a7c15u + index) | 1;
    for (uint32_t i = 0; i < columns_; ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      row[i] = (static_cast<float>(state >> 40) * 0x1p-24f - 0.5f) * 3.46f * size_;
    }
  }

 private:
  uint32_t columns_;
  float size_;
  uint64_t seed_;
};

class RandomWeights {
 public:
  RandomWeights(Backend& backend, const ModelSpec& spec) : backend_(backend), spec_(spec) {}

  Result<Weights> make() {
    Weights weights;
    const uint32_t h = spec_.hidden;
    IOKV_TRY_ASSIGN(weights.embedding, matrix(spec_.vocab, h, 0.05f));
    IOKV_TRY_ASSIGN(weights.positions, matrix(spec_.max_context + spec_.learned_position_offset, h, 0.05f));
    weights.layers.resize(spec_.layers);
    for (LayerWeights& layer : weights.layers) {
      IOKV_TRY(norm(layer.attention_norm));
      IOKV_TRY(linear(layer.qkv, spec_.q_width() + 2 * spec_.kv_width(), h));
      IOKV_TRY(linear(layer.o, h, spec_.q_width()));
      IOKV_TRY(norm(layer.mlp_norm));
      IOKV_TRY(linear(layer.gate_up, spec_.ffn, h));
      IOKV_TRY(linear(layer.down, h, spec_.ffn));
    }
    IOKV_TRY(norm(weights.final_norm));
    return weights;
  }

 private:
  Result<std::unique_ptr<Matrix>> matrix(uint32_t n, uint32_t k, float size) {
    return backend_.load(n, k, RandomRows(k, size, ++seed_));
  }
  Status linear(LinearWeights& to, uint32_t n, uint32_t k) {
    IOKV_TRY_ASSIGN(to.matrix, matrix(n, k, 1.0f / std::sqrt(static_cast<float>(k))));
    return vector(to.bias, n, 0, 0.1f);
  }
  Status norm(NormWeights& to) {
    IOKV_TRY(vector(to.weight, spec_.hidden, 1, 0.1f));
    return vector(to.bias, spec_.hidden, 0, 0.1f);
  }
  Status vector(std::unique_ptr<DeviceMemory>& to, uint32_t count, float middle, float size) {
    std::vector<float> values(count);
    RandomRows(count, size, ++seed_).read_row(0, values.data());
    for (float& value : values) value += middle;
    IOKV_TRY_ASSIGN(to, backend_.alloc(count * sizeof(float)));
    backend_.copy(Queue::h2d, to->data(), values.data(), count * sizeof(float));
    IOKV_TRY(backend_.poll(backend_.record(Queue::h2d), true));
    return {};
  }

  Backend& backend_;
  const ModelSpec& spec_;
  uint64_t seed_ = 0;
};

// Host memory of random numbers of the compute type, pinned until the end of the program.
Result<std::byte*> take_pool(Backend& backend, size_t bytes) {
  void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return error("no host memory for " + std::to_string(bytes) + " bytes");
  (void)::madvise(mapped, bytes, MADV_HUGEPAGE);
  auto* words = static_cast<uint64_t*>(mapped);
  const size_t count = bytes / 8, threads = std::max(1u, std::thread::hardware_concurrency());
  // Of either sign and of about 1: exponents of 2^-2 to 2^0 of f16 and bf16, and any of the highest fraction bits.
  const uint64_t exponents = backend.info().compute == DType::f16 ? 0x3400340034003400u : 0x3e803e803e803e80u;
  const uint64_t any = backend.info().compute == DType::f16 ? 0x87ff87ff87ff87ffu : 0x807f807f807f807fu;
  std::vector<std::thread> team;
  for (size_t t = 0; t < threads; ++t) {
    team.emplace_back([=] {
      uint64_t state = scramble(t + 1) | 1;
      for (size_t i = count / threads * t; i < (t + 1 == threads ? count : count / threads * (t + 1)); ++i) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        words[i] = exponents | (state & any);
      }
    });
  }
  for (std::thread& thread : team) thread.join();
  IOKV_TRY(backend.pin(mapped, bytes));
  return static_cast<std::byte*>(mapped);
}

// Bytes a second of copies as large as the ring's slots, of 2 GiB of the pool; the best of four.
Result<double> link_rate(Backend& backend, const std::byte* pool, size_t pool_bytes) {
  const size_t piece = std::min(size_t{32} << 20, pool_bytes);
  IOKV_TRY_ASSIGN(auto to, backend.alloc(piece));
  double best = 0;
  for (int round = 0; round < 4; ++round) {
    const Ticket begin = backend.record(Queue::h2d);
    size_t carried = 0;
    for (; carried < size_t{2} << 30; carried += piece) {
      backend.copy(Queue::h2d, to->data(), pool + carried % (pool_bytes - piece + 1), piece);
    }
    const Ticket end = backend.record(Queue::h2d);
    IOKV_TRY(backend.poll(end, true));
    best = std::max(best, static_cast<double>(carried) * 1e9 /
                              static_cast<double>(backend.reached_ns(end) - backend.reached_ns(begin)));
  }
  return best;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Status run(const Settings& settings) {
  const ModelSpec spec = opt_6_7b(settings.context);
  IOKV_TRY_ASSIGN(auto backend, make_cuda_backend_here(settings.device));
  std::printf("%s, %s, %s, %s\n", backend->info().name.c_str(), backend->info().driver.c_str(),
              name_of(settings.device.compute),
              settings.device.batch_invariant ? "batch-invariant" : "free choice of kernels");

  const uint32_t blocks = blocks_for(Tokens(settings.context)).value;
  const auto x_blocks = static_cast<uint32_t>(std::lround(blocks * settings.x_share)), kv_blocks = blocks - x_blocks;
  const uint32_t units = settings.batch * (x_blocks + 2 * kv_blocks);  // X of MHA is half of K,V
  PoolView pool;
  pool.unit_bytes = block_bytes(spec, settings.device.compute, BlockForm::x);
  pool.layer_stride_bytes = units * pool.unit_bytes;
  const size_t pool_bytes = pool.layer_stride_bytes * spec.layers;
  const uint64_t begun_ns = monotonic_ns();
  IOKV_TRY_ASSIGN(pool.base, take_pool(*backend, pool_bytes));
  const uint64_t filled_ns = monotonic_ns();
  IOKV_TRY_ASSIGN(Weights weights, RandomWeights(*backend, spec).make());
  std::printf("pool of %.1f GB in %.1f s, weights in %.1f s\n", static_cast<double>(pool_bytes) / 1e9,
              static_cast<double>(filled_ns - begun_ns) / 1e9, static_cast<double>(monotonic_ns() - filled_ns) / 1e9);

  StagingChoice choice;
  choice.device_bytes = settings.staging_bytes;
  choice.recomputes = x_blocks > 0;
  choice.kv_units = 2;
  PipelineOptions pipeline;
  IOKV_TRY_ASSIGN(pipeline.staging, choose_staging(spec, settings.device.compute, choice));
  pipeline.host = pipeline.device = pool;
  pipeline.poison = false;
  ModelLimits limits;
  limits.max_rows = settings.batch;
  limits.recompute_rows = x_blocks > 0 ? pipeline.staging.tile_tokens : 0;
  IOKV_TRY_ASSIGN(auto model, Model::make(*backend, spec, std::move(weights), limits));
  IOKV_TRY_ASSIGN(auto executor, Executor::make(*backend, std::move(model), pipeline, {settings.batch, settings.batch}));
  PlanBuilder builder(pipeline.staging);

  // Two Plans of the same contents take turns, so that the link can go on with the next one.
  Plan plans[2];
  for (Plan& plan : plans) {
    for (uint32_t s = 0; s < settings.batch; ++s) {
      PlanSpan span;
      span.slot = s;
      span.first_row = s;
      span.rows = span.draws = 1;
      span.first_draw = s;
      span.first_position = settings.context - 1;
      span.first_run = static_cast<uint32_t>(plan.runs.size());
      const uint32_t first_unit = s * (x_blocks + 2 * kv_blocks);
      BlockRun run;
      run.blocks = x_blocks;
      run.id = first_unit;
      run.form = run.device_form = BlockForm::x;
      if (x_blocks > 0) plan.runs.push_back(run);
      run.blocks = kv_blocks;
      run.id = first_unit + x_blocks;
      run.form = run.device_form = BlockForm::kv;
      if (kv_blocks > 0) plan.runs.push_back(run);
      span.runs = static_cast<uint32_t>(plan.runs.size()) - span.first_run;
      plan.spans.push_back(span);
      plan.tokens.push_back(static_cast<int32_t>(scramble(s) % spec.vocab));
      plan.positions.push_back(settings.context - 1);
      PlanDraw draw;
      draw.row = s;
      draw.position = settings.context;
      plan.draws.push_back(draw);
    }
    builder.build(plan);
  }

  std::vector<double> steps_ms, wall_ms;
  std::array<std::vector<double>, kQueues> busy_ms;
  uint64_t h2d_bytes = 0;
  constexpr uint32_t kWarmUp = 3;
  for (uint32_t step = 0; step < settings.steps + kWarmUp; ++step) {
    Plan& plan = plans[step % 2];
    plan.measured = {};
    const uint64_t before_ns = monotonic_ns();
    executor->run(plan, [&]() -> const Plan* { return &plans[(step + 1) % 2]; });
    if (!plan.failure.empty()) return error(plan.failure);
    for (const PlanDraw& draw : plan.draws) {
      if (!std::isfinite(draw.logprob)) return error("a draw's probability is not finite");
    }
    if (step < kWarmUp) continue;
    wall_ms.push_back(static_cast<double>(monotonic_ns() - before_ns) / 1e6);
    steps_ms.push_back(static_cast<double>(plan.measured.step_ns) / 1e6);
    for (size_t queue = 0; queue < kQueues; ++queue) {
      busy_ms[queue].push_back(static_cast<double>(plan.measured.busy_ns[queue]) / 1e6);
    }
    h2d_bytes = plan.measured.h2d_bytes;
  }
  IOKV_TRY_ASSIGN(const double rate, link_rate(*backend, pool.base, pool_bytes));
  const double floor_ms = static_cast<double>(h2d_bytes) / rate * 1e3, step_ms = median(steps_ms);
  std::printf("batch %u, context %u, %.0f %% as X, slots of %u blocks: "
              "step %.2f ms (least %.2f, most %.2f; by the host %.2f); "
              "link carries %.3f GB at %.1f GB/s: %.2f ms; ratio %.3f\n",
              settings.batch, settings.context, 100.0 * x_blocks / blocks, pipeline.staging.slot_blocks, step_ms,
              *std::ranges::min_element(steps_ms), *std::ranges::max_element(steps_ms), median(wall_ms),
              static_cast<double>(h2d_bytes) / 1e9, rate / 1e9, floor_ms, step_ms / floor_ms);
  std::printf("in operations, ms:");
  for (size_t queue = 0; queue < kQueues; ++queue) {
    std::printf(" %s %.2f", name_of(static_cast<Queue>(queue)), median(busy_ms[queue]));
  }
  std::printf("; %zu operations a layer\n", plans[0].ops.size());
  return {};
}

Settings settings_of(int argc, char** argv) {
  Settings settings;
  auto number = [&](int i, double otherwise) { return argc > i ? std::atof(argv[i]) : otherwise; };
  settings.batch = static_cast<uint32_t>(number(1, 32));
  settings.context = static_cast<uint32_t>(number(2, 1024));
  settings.x_share = number(3, 1);
  settings.steps = static_cast<uint32_t>(number(4, 12));
  settings.staging_bytes = static_cast<uint64_t>(number(5, 384)) << 20;
  settings.device.compute = argc > 6 && std::strcmp(argv[6], "bf16") == 0 ? DType::bf16 : DType::f16;
  settings.device.batch_invariant = !(argc > 7 && std::strcmp(argv[7], "free") == 0);
  return settings;
}

}  // namespace
}  // namespace iokv

int main(int argc, char** argv) {
  const iokv::Settings settings = iokv::settings_of(argc, argv);
  if (settings.batch == 0 || settings.context == 0 || settings.steps == 0) {
    std::fprintf(stderr, "usage: %s [batch] [context] [share as X] [steps] [staging MiB] [f16|bf16] [invariant|free]\n",
                 argv[0]);
    return 2;
  }
  if (iokv::Status done = iokv::run(settings); !done) {
    std::fprintf(stderr, "%s\n", done.failure().message.c_str());
    return 1;
  }
  return 0;
}
