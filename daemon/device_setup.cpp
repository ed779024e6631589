// SPDX-License-Identifier: Apache-2.0
#include "daemon/device_setup.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "daemon/base/monotonic.h"
#include "daemon/base/units.h"
#include "daemon/load_bar.h"
#include "daemon/pool/free_memory.h"

namespace iokv {
namespace {

// K,V that attention is measured over on a device with memory of its own.
constexpr size_t kProbedCacheBytes = size_t{1} << 30;
// Logits that are made at once: as many as fit so many bytes, within bounds.
constexpr uint64_t kLogitsBytes = uint64_t{64} << 20;
constexpr uint32_t kFewestDraws = 64, kMostDraws = 256;
// Where weights cross the link in every step it computes for as long: an H200 needs 12,000 rows for a layer's products to
// take as long as its weights on the link. As many micro-batches as that takes, while their hidden states fit.
constexpr uint32_t kColumnBatches = 8;
constexpr uint64_t kHiddenBytes = uint64_t{512} << 20;

// Rows of a micro-batch: more would not make products faster.
uint32_t batch_rows_for(const Config& config, const DeviceInfo& device) {
  return config.max_rows > 0 ? std::min(config.max_rows, device.step_rows) : device.step_rows;
}

// Rows of a step. Row by row, a micro-batch's, where weights are on the device and a smaller step makes everybody wait
// less; column by column where its weights have to be brought for each step.
uint32_t step_rows_for(const Config& config, const ModelSpec& spec, uint32_t batch_rows, bool weights_stream) {
  if (config.max_rows > 0) return config.max_rows;
  if (!weights_stream) return batch_rows;
  const uint64_t fit = kHiddenBytes / (uint64_t{spec.hidden} * sizeof(float));
  return static_cast<uint32_t>(std::clamp<uint64_t>(fit, batch_rows, uint64_t{kColumnBatches} * batch_rows));
}

// K,V that a layer keeps of a step's new rows for its later micro-batches: of all of them, but no more than the staging ring
// takes. What is not kept comes back through that.
uint32_t kept_blocks_for(const ModelSpec& spec, DType compute, const StagingShape& shape, uint32_t step_rows) {
  if (step_rows <= shape.batch_rows) return 0;
  const uint64_t fit = staging_bytes(spec, compute, shape) / block_bytes(spec, compute, BlockForm::kv);
  return static_cast<uint32_t>(std::min<uint64_t>(blocks_for(Tokens(step_rows)).value, fit));
}

ExecutorLimits limits_for(const ModelSpec& spec, uint32_t step_rows, uint32_t batch_rows) {
  ExecutorLimits limits;
  limits.max_rows = step_rows;
  const uint64_t fit = kLogitsBytes / (uint64_t{spec.vocab} * sizeof(float));
  limits.max_draws = std::min(batch_rows, static_cast<uint32_t>(std::clamp<uint64_t>(fit, kFewestDraws, kMostDraws)));
  return limits;
}

// As what the tokens of this model can be stored on this device, of what is asked for.
Result<RecomputeSetting> recompute_for(const Config& config, const ModelSpec& spec, const DeviceInfo& device) {
  const RecomputeSetting never{Recompute::never};
  if (config.recompute.mode != Recompute::automatic) return config.recompute;
  // K,V that nothing has to carry are never slower than K,V that have to be computed.
  if (device.host_addressable) return never;
  // Where heads share K,V, X is often no smaller: then it takes as long on the link, and a product on top.
  const DType compute = device.compute;
  if (block_bytes(spec, compute, BlockForm::x) >= block_bytes(spec, compute, BlockForm::kv)) return never;
  if (spec.q_width() % 16 != 0) {
    spdlog::warn("K,V of this model cannot be recomputed (heads x head size is {}, not a multiple of 16)", spec.q_width());
    return never;
  }
  if (config.profile == ProfileMode::off) {
    return error("recompute = auto needs to know the device: profile = off does not go with it");
  }
  return config.recompute;
}

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

constexpr double kGiB = 1 << 30;

// Device memory beside weights, cached tokens, the staging ring and activations: CUDA's context, its kernels' scratch and
// logits took 0.9 GiB on an H100 (docs/gpu.md).
constexpr uint64_t kReservedBytes = uint64_t{3} << 29;

// What there is for weights where nobody says: on a device with memory of its own, what nothing else takes.
// With the rows of a step whose weights stream, since that is when it matters.
uint64_t weights_budget(const Config& config, const ModelSpec& spec, const DeviceInfo& device, const DevicePlan& plan) {
  if (config.device_weights_budget > 0 || device.memory_bytes == 0) return config.device_weights_budget;
  StagingShape staging = plan.pipeline.staging;
  ModelLimits limits;
  limits.batch_rows = staging.batch_rows;
  limits.max_rows = step_rows_for(config, spec, staging.batch_rows, true);
  limits.recompute_rows = staging.tile_tokens;
  staging.kept_blocks = kept_blocks_for(spec, device.compute, staging, limits.max_rows);
  const uint64_t others = config.device_kv_budget + staging_bytes(spec, device.compute, staging) +
                          Model::buffer_bytes(spec, device.compute, limits) + kReservedBytes;
  return device.memory_bytes - std::min(device.memory_bytes - 1, others);
}

Status choose_weights(const Config& config, const ModelSpec& spec, const Backend& backend, DevicePlan& plan) {
  const DeviceInfo& device = backend.info();
  if (device.host_addressable) {
    const bool asked = config.weights == WeightSetting::host || config.device_weights_budget > 0;
    if (!asked) return {};
    return error("--weights host and --device-weights-budget: this device computes with weights where they are; leave them "
                 "out (or set --link-gbps)");
  }
  const LayerImage image = layer_image(backend, spec);
  const WeightSizes sizes{spec.layers, fixed_weight_bytes(backend, spec), image.bytes};
  IOKV_TRY_ASSIGN(plan.weights, iokv::choose_weights(config.weights, sizes, weights_budget(config, spec, device, plan)));
  if (plan.weights.layers.streamed == 0) return {};
  plan.host_weight_bytes = plan.weights.layers.streamed * image.host_stride_bytes();
  plan.pipeline.staging.weights = {plan.weights.layers, plan.weights.slots, image.part_bytes(WeightPart::key_value),
                                   image.part_bytes(WeightPart::rest)};
  spdlog::info("weights of {} of {} layers cross the link in every step, {:.2f} GiB; on the device {:.2f} GiB",
               plan.weights.layers.streamed, spec.layers,
               static_cast<double>(plan.pipeline.staging.weights.step_bytes()) / kGiB,
               static_cast<double>(plan.weights.device_bytes) / kGiB);
  return {};
}

// Host memory that a device copies from by itself: all of it there, near the device. What only plays a device reads it
// as any thread does, and can leave it to be touched as it is used.
Status prepare(const DeviceInfo& device, const char* name, const PoolMemory& memory, const LoadProgress& progress) {
  if (device.host_addressable || device.paced_bytes_per_s > 0) return {};
  const uint64_t begun_ns = monotonic_ns();
  PoolPreparation how;
  how.numa_node = device.numa_node;
  how.progress = [name](const PoolProgress& so_far) {
    spdlog::info("{}: {:.1f} of {:.1f} GiB are there, {:.1f} GiB a second, {:.0f} s left", name,
                 static_cast<double>(so_far.touched_bytes) / kGiB, static_cast<double>(so_far.total_bytes) / kGiB,
                 so_far.bytes_per_second() / kGiB, so_far.seconds_left());
  };
  how.go_on = [&] { return progress(0); };
  how.warn = [](const std::string& line) { spdlog::warn("{}", line); };
  IOKV_TRY(prepare_pool(memory, how));
  spdlog::info("{}: {:.1f} GiB, touched in {:.1f} s", name, static_cast<double>(memory.bytes()) / kGiB,
               static_cast<double>(monotonic_ns() - begun_ns) / 1e9);
  return {};
}

Status pin_pool(Backend& backend, HostPool& memory, const LoadProgress& progress) {
  IOKV_TRY(prepare(backend.info(), "pool", memory.memory(), progress));
  const uint64_t begun_ns = monotonic_ns();
  IOKV_TRY(backend.pin(memory.base(), memory.bytes()));
  const DeviceInfo& device = backend.info();
  if (device.host_addressable || device.paced_bytes_per_s > 0) return {};
  spdlog::info("pool: pinned in {:.1f} s", static_cast<double>(monotonic_ns() - begun_ns) / 1e9);
  return {};
}

// What the weights take is said before they are read, and refused where the host has not got it: the answer to too much
// would otherwise be the out-of-memory killer.
Result<Weights> load_weights_visibly(Backend& backend, const ModelFiles& files, const LoadProgress& progress,
                                     const WeightPlacement& placement) {
  IOKV_TRY_ASSIGN(const WeightNeed need, weight_need(backend, files, placement));
  const DeviceInfo& device = backend.info();
  spdlog::info("weights: {:.2f} GiB of memory as {} computes with them, {:.2f} GiB in their files",
               static_cast<double>(need.device_bytes) / kGiB, device.name, static_cast<double>(need.file_bytes) / kGiB);
  if (device.memory_bytes == 0) {
    const FreeMemory free = free_memory();
    if (need.device_bytes > free.bytes) {
      return error(fmt::format("the weights need {} bytes of memory and {} are free {}; use a model of fewer bits, or free "
                               "memory", need.device_bytes, free.bytes, free.where));
    }
  }
  LoadBar bar(need.file_bytes, monotonic_ns(), ::isatty(STDERR_FILENO) == 1);
  return load_weights(
      backend, files,
      [&](uint32_t percent) {
        bar.show(percent, monotonic_ns());
        return progress(percent);
      },
      placement);
}

}  // namespace

Result<DevicePlan> plan_device(const Config& config, const ModelSpec& spec, const Backend& backend,
                               const HostPool& memory, const BlockPool& blocks) {
  const DeviceInfo& device = backend.info();
  DevicePlan plan;
  IOKV_TRY_ASSIGN(plan.recompute, recompute_for(config, spec, device));
  StagingChoice choice;
  choice.device_bytes = config.staging_bytes > 0 ? config.staging_bytes : device.staging_bytes;
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
  StagingShape& shape = plan.pipeline.staging;
  shape.batch_rows = batch_rows_for(config, device);
  IOKV_TRY(choose_weights(config, spec, backend, plan));
  const uint32_t step_rows = step_rows_for(config, spec, shape.batch_rows, shape.weights.used());
  shape.kept_blocks = kept_blocks_for(spec, device.compute, shape, step_rows);
  plan.limits = limits_for(spec, step_rows, shape.batch_rows);
  plan.profile = {config.profile, config.state_directory, {}};
  plan.profile.limits.probe.max_rows = shape.batch_rows;
  plan.profile.limits.probe.max_draws = plan.limits.max_draws;
  // A GPU's second-level cache holds tens of megabytes: attention is to be measured over what does not fit it.
  if (device.memory_bytes > 0) plan.profile.limits.probe.max_cache_bytes = kProbedCacheBytes;
  return plan;
}

Result<LoadedDevice> load_device(Backend& backend, const ModelFiles& files, const DevicePlan& plan, HostPool& memory,
                                 const PoolMemory* host_weights, const LoadProgress& progress) {
  LoadedDevice loaded;
  PipelineOptions pipeline = plan.pipeline;
  uint64_t begun_ns = monotonic_ns();
  auto spent = [&begun_ns] {
    const uint64_t now_ns = monotonic_ns();
    return now_ns - std::exchange(begun_ns, now_ns);
  };
  IOKV_TRY(pin_pool(backend, memory, progress));
  loaded.times.pool_ns = spent();
  if (plan.resident_units > 0) {
    pipeline.device.layer_stride_bytes = plan.resident_units * memory.unit_bytes();
    IOKV_TRY_ASSIGN(loaded.resident, backend.alloc(pipeline.device.layer_stride_bytes * files.spec().layers));
    pipeline.device.base = static_cast<std::byte*>(loaded.resident->data());
  }
  WeightPlacement placement{plan.weights.layers, plan.weights.slots, nullptr};
  if (host_weights != nullptr) {
    IOKV_TRY(prepare(backend.info(), "weights", *host_weights, progress));
    placement.host = host_weights->base();
  }
  IOKV_TRY_ASSIGN(Weights weights, load_weights_visibly(backend, files, progress, placement));
  loaded.times.weights_ns = spent();
  IOKV_TRY_ASSIGN(loaded.profile, profile_for(backend, files.spec(), weights, plan.profile));
  loaded.times.profile_ns = spent();
  ModelLimits limits;
  limits.max_rows = plan.limits.max_rows;
  limits.batch_rows = plan.pipeline.staging.batch_rows;
  limits.recompute_rows = plan.recomputes() ? plan.pipeline.staging.tile_tokens : 0;
  IOKV_TRY_ASSIGN(auto model, Model::make(backend, files.spec(), std::move(weights), limits));
  IOKV_TRY_ASSIGN(loaded.executor, Executor::make(backend, std::move(model), pipeline, plan.limits));
  IOKV_TRY(loaded.executor->self_test(BlockForm::kv));
  if (plan.recomputes()) IOKV_TRY(loaded.executor->self_test(BlockForm::x));
  return loaded;
}

}  // namespace iokv
