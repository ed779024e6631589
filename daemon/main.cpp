// SPDX-License-Identifier: Apache-2.0
// iokvd: reads the configuration, opens the model and its socket, and serves until it is told to stop. Exit status: 0
// after SIGTERM or SIGINT, 1 when it could not start, 2 when the command line or the configuration is wrong.
#include <cstdio>
#include <utility>

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "daemon/backend/cpu/cpu_backend.h"
#include "daemon/config.h"
#include "daemon/model/model_files.h"
#include "daemon/pool/host_pool.h"
#include "daemon/runtime/expected_profile.h"
#include "daemon/runtime/profile_choice.h"
#include "daemon/service.h"

namespace iokv {
namespace {

constexpr uint32_t kMaxRows = 256;   // of a step
constexpr uint32_t kMaxDraws = 64;

void start_log(const std::string& level) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("iokvd"));
  spdlog::set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
  spdlog::set_level(spdlog::level::from_str(level));
}

DType dtype_of(const Config& config) {
  if (config.dtype) return *config.dtype;
  return cpu_supports(CpuIsa::avx512_bf16) ? DType::bf16 : DType::f32;
}

// As what the tokens of this model can be stored on this device, of what is asked for.
Result<RecomputeSetting> recompute_for(const Config& config, const ModelSpec& spec, const DeviceInfo& device) {
  const RecomputeSetting never{Recompute::never};
  if (config.recompute.mode != Recompute::automatic) return config.recompute;
  // K,V that nothing has to carry are never slower than K,V that have to be computed.
  if (device.host_addressable) return never;
  if (spec.q_width() % 16 != 0) {
    spdlog::warn("K,V of this model cannot be recomputed (heads x head size is {}, not a multiple of 16)", spec.q_width());
    return never;
  }
  if (config.profile == ProfileMode::off) {
    return error("recompute = auto needs to know the device: profile = off does not go with it");
  }
  return config.recompute;
}

struct DevicePlan {
  RecomputeSetting recompute;
  uint32_t resident_units = 0;  // of the device's pool
  PipelineOptions pipeline;
  ProfileChoice profile;

  bool recomputes() const { return recompute.mode != Recompute::never; }
};

// Whole blocks of K,V of every layer that the budget has room for.
Result<uint32_t> resident_units(const Config& config, const ModelSpec& spec, const DeviceInfo& device,
                                const HostPool& memory) {
  if (config.device_kv_budget == 0) return 0u;
  if (device.host_addressable) {
    return error("--device-kv-budget: this device reads cached tokens where they are, in the pool; leave it out (or set "
                 "--link-gbps)");
  }
  const uint64_t block_bytes = uint64_t{memory.shape().kv_units} * memory.unit_bytes() * spec.layers;
  if (config.device_kv_budget < block_bytes) {
    return error(fmt::format("--device-kv-budget {}: the least that works with this model is {}", config.device_kv_budget,
                             block_bytes));
  }
  const uint64_t blocks = std::min(config.device_kv_budget, memory.bytes()) / block_bytes;
  return static_cast<uint32_t>(blocks * memory.shape().kv_units);
}

Result<DevicePlan> plan_device(const Config& config, const ModelSpec& spec, const DeviceInfo& device,
                               const HostPool& memory, const BlockPool& blocks) {
  DevicePlan plan;
  IOKV_TRY_ASSIGN(plan.recompute, recompute_for(config, spec, device));
  StagingChoice choice;
  choice.device_bytes = config.staging_bytes;
  choice.recomputes = plan.recomputes();
  choice.in_place = device.host_addressable;
  choice.kv_units = blocks.units_for(BlockForm::kv).value;
  choice.x_units = blocks.units_for(BlockForm::x).value;
  auto staging = choose_staging(spec, device.compute, choice);
  if (!staging) return std::move(staging.failure()).within("--staging-bytes");
  plan.pipeline.staging = *staging;
  plan.pipeline.trace = config.trace_steps > 0;
  plan.pipeline.host = plan.pipeline.device = {memory.base(), memory.layer_stride_bytes(), memory.unit_bytes()};
  IOKV_TRY_ASSIGN(plan.resident_units, resident_units(config, spec, device, memory));
  plan.profile = {config.profile, config.state_directory, {}};
  return plan;
}

// Everything that the device's thread does before the first Plan.
Result<LoadedDevice> load(Backend& backend, const ModelFiles& files, const DevicePlan& plan, const HostPool& memory,
                          const LoadProgress& progress) {
  LoadedDevice loaded;
  PipelineOptions pipeline = plan.pipeline;
  IOKV_TRY(backend.pin(memory.base(), memory.bytes()));
  if (plan.resident_units > 0) {
    pipeline.device.layer_stride_bytes = plan.resident_units * memory.unit_bytes();
    IOKV_TRY_ASSIGN(loaded.resident, backend.alloc(pipeline.device.layer_stride_bytes * files.spec().layers));
    pipeline.device.base = static_cast<std::byte*>(loaded.resident->data());
  }
  IOKV_TRY_ASSIGN(Weights weights, load_weights(backend, files, progress));
  IOKV_TRY_ASSIGN(loaded.profile, profile_for(backend, files.spec(), weights, plan.profile));
  ModelLimits limits;
  limits.max_rows = kMaxRows;
  limits.recompute_rows = plan.recomputes() ? plan.pipeline.staging.tile_tokens : 0;
  IOKV_TRY_ASSIGN(auto model, Model::make(backend, files.spec(), std::move(weights), limits));
  IOKV_TRY_ASSIGN(loaded.executor, Executor::make(backend, std::move(model), pipeline, {kMaxRows, kMaxDraws}));
  IOKV_TRY(loaded.executor->self_test(BlockForm::kv));
  if (plan.recomputes()) IOKV_TRY(loaded.executor->self_test(BlockForm::x));
  return loaded;
}

std::string text_of(const RecomputeSetting& recompute) {
  switch (recompute.mode) {
    case Recompute::never: return "as K,V";
    case Recompute::always: return "as activations";
    case Recompute::fraction: return fmt::format("of which {:g} % as activations", 100 * recompute.fraction);
    case Recompute::automatic: return "as K,V or as activations";
  }
  return "";
}

Status serve(const Config& config) {
  IOKV_TRY_ASSIGN(ModelFiles opened, open_model(config.model));
  const ModelSpec spec = opened.spec();
  if (!opened.tokenizer().note.empty()) spdlog::warn("{}", opened.tokenizer().note);
  const uint32_t max_context = config.max_context == 0 ? spec.max_context : std::min(config.max_context, spec.max_context);

  IOKV_TRY_ASSIGN(Listener listener, Listener::open(choose_socket_path(config.socket)));
  IOKV_TRY_ASSIGN(auto backend, make_cpu_backend({dtype_of(config), config.threads, CpuIsa::automatic,
                                                  config.link_gbps * 1e9}));
  const DType compute = backend->info().compute;
  const PoolLayout layout{spec.layers, block_bytes(spec, compute, BlockForm::kv), block_bytes(spec, compute, BlockForm::x)};
  IOKV_TRY_ASSIGN(HostPool memory, HostPool::create(layout, config.pool_bytes));
  BlockPool blocks(memory.shape());
  IOKV_TRY_ASSIGN(const DevicePlan plan, plan_device(config, spec, backend->info(), memory, blocks));

  ServiceOptions options;
  options.spin_ns = config.spin_us * 1000;
  options.trace_steps = config.trace_steps;
  options.client_weights = config.client_weights;
  options.conductor.vocabulary = spec.vocab;
  options.conductor.max_context = max_context;
  options.conductor.max_clients = config.max_clients;
  options.conductor.max_sequences = config.max_sequences;
  options.conductor.stall_lease_ns = config.stall_lease_ms * 1'000'000;
  options.conductor.recompute = plan.recompute;
  options.conductor.staging = plan.pipeline.staging;
  options.conductor.device_units = plan.resident_units;
  options.conductor.refit = config.refit;
  options.conductor.step_model.shape = cache_shape_of(spec, static_cast<uint32_t>(size_of(compute)));
  options.conductor.step_model.prefill_delay = config.prefill_delay_percent / 100.0;
  options.conductor.audit.share = config.audit;
  options.conductor.audit.tolerance = backend->info().batch_invariant ? 0 : audit_tolerance(compute);
  options.conductor.batch.max_rows = kMaxRows;
  options.conductor.batch.max_draws = kMaxDraws;

  OfferLimits limits;
  limits.max_context = max_context;
  limits.max_sequences = config.max_sequences;
  limits.pool_tokens = uint64_t{blocks.total_units().value} / Conductor::units_of_block(plan.recompute, blocks).value *
                       kBlockTokens;
  IOKV_TRY_ASSIGN(Offer offer, Offer::make(opened, limits));
  offer.counters().set(wire::Counter::pool_bytes, memory.bytes());
  spdlog::info("{}: {}, {} layers, {} on {}, pool for {} tokens {}", spec.name, spec.family, spec.layers,
               name_of(compute), backend->info().name, limits.pool_tokens, text_of(plan.recompute));
  // The device's thread drops this function once it has run, and with it the mapped files.
  auto files = std::make_shared<const ModelFiles>(std::move(opened));
  DeviceThread::Load load_model = [&, files = std::move(files)](const LoadProgress& progress) {
    return load(*backend, *files, plan, memory, progress);
  };
  IOKV_TRY_ASSIGN(auto service, Service::make(options, std::move(listener), std::move(offer), blocks, memory,
                                              std::move(load_model)));
  return service->run();
}

int run(int argc, const char* const* argv) {
  auto command_line = read_command_line(argc, argv);
  if (!command_line) {
    fmt::print(stderr, "iokvd: {}\n", command_line.failure().message);
    return 2;
  }
  if (command_line->exit) return *command_line->exit;
  start_log(command_line->config.log_level);
  Status served = serve(command_line->config);
  if (!served) {
    fmt::print(stderr, "iokvd: {}\n", served.failure().message);
    return 1;
  }
  spdlog::info("stopped");
  return 0;
}

}  // namespace
}  // namespace iokv

int main(int argc, char** argv) { return iokv::run(argc, argv); }
