// SPDX-License-Identifier: Apache-2.0
// iokvd: reads the configuration, opens the model and its socket, and serves until it is told to stop. Exit status: 0
// after SIGTERM or SIGINT, 1 when it could not start, 2 when the command line or the configuration is wrong.
#include <cstdio>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "daemon/base/difference.h"
#include "daemon/base/monotonic.h"
#include "daemon/base/passed_socket.h"
#include "daemon/config.h"
#include "daemon/core_dumps.h"
#include "daemon/device_choice.h"
#include "daemon/device_setup.h"
#include "daemon/log.h"
#include "daemon/model/model_files.h"
#include "daemon/pool/host_pool.h"
#include "daemon/runtime/expected_profile.h"
#include "daemon/service.h"

namespace iokv {
namespace {

std::string text_of(const RecomputeSetting& recompute) {
  switch (recompute.mode) {
    case Recompute::never: return "as K,V";
    case Recompute::always: return "as activations";
    case Recompute::fraction: return fmt::format("of which {:g} % as activations", 100 * recompute.fraction);
    case Recompute::automatic: return "as K,V or as activations";
  }
  return "";
}

Tuning tuning_of(const Config& config) {
  Tuning tuning;
  tuning.spin_ns = config.spin_us * 1000;
  tuning.client_weights = config.client_weights;
  tuning.conductor.stall_lease_ns = config.stall_lease_ms * 1'000'000;
  tuning.conductor.prefill_delay = config.prefill_delay_percent / 100.0;
  tuning.conductor.access = {{config.user_clients, config.user_sequences, config.user_pool_percent, config.user_queued_tokens},
                             config.user_limits};
  return tuning;
}

// Reads options and file as at the start. What cannot be taken leaves `running` as it was.
std::optional<Tuning> reload(int argc, const char* const* argv, Config& running) {
  auto anew = read_command_line(argc, argv);
  if (!anew) {
    spdlog::error("the configuration was not reloaded, and the one before it goes on: {}", anew.failure().message);
    return std::nullopt;
  }
  for (const ConfigChange& change : take_over(running, anew->config)) {
    if (change.now) spdlog::info("reloaded: {}", change.what);
    else spdlog::warn("not reloaded: {}: it takes effect when iokvd is started anew", change.what);
  }
  set_log_level(running.log_level);
  return tuning_of(running);
}

Result<Listener> listen(const Config& config) {
  IOKV_TRY_ASSIGN(Descriptor passed, take_passed_socket());
  if (passed) return Listener::adopt(std::move(passed));
  return Listener::open(choose_socket_path(config.socket));
}

Status serve(int argc, const char* const* argv, Config config, uint64_t start_ns) {
  if (!config.core_dumps) IOKV_TRY(forbid_core_dumps());
  IOKV_TRY_ASSIGN(Supervisor supervisor, Supervisor::from_environment());
  const bool random = config.random_weights != 0;
  IOKV_TRY_ASSIGN(ModelFiles opened, open_model(config.model, random ? std::optional(config.random_weights) : std::nullopt));
  if (random) spdlog::warn("weights are random (random_weights = {}): what is drawn means nothing", config.random_weights);
  const ModelSpec spec = opened.spec();
  if (!opened.tokenizer().note.empty()) spdlog::warn("{}", opened.tokenizer().note);
  const uint32_t max_context = config.max_context == 0 ? spec.max_context : std::min(config.max_context, spec.max_context);

  IOKV_TRY_ASSIGN(Listener listener, listen(config));
  IOKV_TRY_ASSIGN(auto backend, choose_device(config, opened.main_type()));
  const DType compute = backend->info().compute;
  const PoolLayout layout{spec.layers, block_bytes(spec, compute, BlockForm::kv), block_bytes(spec, compute, BlockForm::x)};
  IOKV_TRY_ASSIGN(HostPool memory, HostPool::create(layout, config.pool_bytes));
  BlockPool blocks(memory.shape());
  IOKV_TRY_ASSIGN(const DevicePlan plan, plan_device(config, spec, *backend, memory, blocks));
  std::optional<PoolMemory> host_weights;
  if (plan.host_weight_bytes > 0) {
    IOKV_TRY_ASSIGN(PoolMemory reserved, PoolMemory::make(plan.host_weight_bytes, PoolPages::automatic));
    host_weights.emplace(std::move(reserved));
  }

  ServiceOptions options;
  options.tuning = tuning_of(config);
  options.reload = [&] { return reload(argc, argv, config); };
  options.trace_steps = config.trace_steps;
  options.start_ns = start_ns;
  options.conductor.vocabulary = spec.vocab;
  options.conductor.max_context = max_context;
  options.conductor.max_clients = config.max_clients;
  options.conductor.max_sequences = config.max_sequences;
  options.conductor.recompute = plan.recompute;
  options.conductor.staging = plan.pipeline.staging;
  options.conductor.device_units = plan.resident_units;
  options.conductor.refit = config.refit;
  options.conductor.step_model.shape = cache_shape_of(spec, static_cast<uint32_t>(size_of(compute)));
  options.conductor.step_model.batch_rows = plan.pipeline.staging.batch_rows;
  options.conductor.step_model.weight_bytes = plan.pipeline.staging.weights.mean_layer_bytes();
  options.conductor.audit.share = config.audit;
  // A row that host and device have divided is merged in another order than the audit's.
  const bool same_bits = backend->info().batch_invariant && backend->info().host_threads == 0;
  options.conductor.audit.tolerance = same_bits ? 0 : rounding_tolerance(compute);
  options.conductor.batch_invariant = backend->info().batch_invariant;
  options.conductor.batch.max_rows = plan.limits.max_rows;
  options.conductor.batch.max_draws = plan.limits.max_draws;

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
    return load_device(*backend, *files, plan, memory, host_weights ? &*host_weights : nullptr, progress);
  };
  IOKV_TRY_ASSIGN(auto service, Service::make(std::move(options), std::move(supervisor), std::move(listener),
                                              std::move(offer), blocks, memory, std::move(load_model)));
  return service->run();
}

int run(int argc, const char* const* argv) {
  const uint64_t start_ns = monotonic_ns();
  start_log("info");
  auto command_line = read_command_line(argc, argv);
  if (!command_line) {
    log_failure(command_line.failure().message);
    return 2;
  }
  if (command_line->exit) return *command_line->exit;
  set_log_level(command_line->config.log_level);
  Status served = serve(argc, argv, command_line->config, start_ns);
  if (!served) {
    log_failure(served.failure().message);
    return 1;
  }
  spdlog::info("stopped");
  return 0;
}

}  // namespace
}  // namespace iokv

int main(int argc, char** argv) { return iokv::run(argc, argv); }
