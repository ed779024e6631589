// SPDX-License-Identifier: Apache-2.0
#include "daemon/device_choice.h"

#include <string>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "daemon/backend/cpu/cpu_backend.h"
#include "daemon/backend/cuda_module.h"
#include "daemon/backend/host/host_threads.h"

namespace iokv {
namespace {

Result<std::unique_ptr<Backend>> open_cpu(const Config& config) {
  if (config.dtype == DType::f16) return error("--dtype f16: a CPU computes in f32 or bf16 here");
  const DType fastest = cpu_supports(CpuIsa::avx512_bf16) ? DType::bf16 : DType::f32;
  CpuOptions options;
  options.compute = config.dtype.value_or(fastest);
  options.threads = config.threads;
  options.link_bytes_per_s = config.link_gbps * 1e9;
  // Its own threads do it, so that auto has nothing to gain.
  options.host_attention = config.cpu_attention.value_or(0) > 0;
  if (options.host_attention && config.link_gbps == 0) {
    return error("--cpu-attention: this device attends to cached tokens where they lie, always; leave it out (or set --link-gbps)");
  }
  return make_cpu_backend(options);
}

// Where it was not asked for by a number, a GPU whose streams cannot wait for the host's threads goes without them.
Status start_host_attention(const Config& config, Backend& backend) {
  const int node = backend.info().numa_node;
  auto chosen = choose_host_threads(read_host_machine(), config.cpu_attention, node);
  if (!chosen) return std::move(chosen.failure()).within("--cpu-attention");
  const auto setting = config.cpu_attention ? fmt::format("{}", *config.cpu_attention) : std::string("auto");
  spdlog::info("cpu_attention = {}: {}", setting, chosen->reason);
  if (chosen->threads == 0) return {};
  Status started = backend.attend_on_host(chosen->cpus);
  if (started || config.cpu_attention) return started;
  spdlog::warn("cpu_attention = auto: the host does not attend: {}", started.failure().message);
  return {};
}

// f16 has more digits than bf16 and less range: weights that are stored in it are known to get by with that.
Result<std::unique_ptr<Backend>> open_cuda(const Config& config, StoredType stored) {
  CudaOptions options;
  options.compute = config.dtype.value_or(stored == StoredType::f16 ? DType::f16 : DType::bf16);
  options.device = static_cast<int32_t>(config.gpu);
  options.batch_invariant = config.batch_invariant;
  IOKV_TRY_ASSIGN(std::unique_ptr<Backend> backend, make_cuda_backend(options));
  IOKV_TRY(start_host_attention(config, *backend));
  return backend;
}

// Of auto: an option that only the CPU has an answer to, or nothing.
std::string why_the_cpu(const Config& config) {
  if (config.link_gbps > 0) return "--link-gbps is the CPU's";
  if (config.threads > 0) return "--threads is the CPU's";
  if (config.dtype == DType::f32) return "a GPU does not compute in f32 here";
  return "";
}

}  // namespace

Result<std::unique_ptr<Backend>> choose_device(const Config& config, StoredType stored) {
  switch (config.backend) {
    case BackendChoice::cpu: return open_cpu(config);
    case BackendChoice::cuda:
      if (config.link_gbps > 0) return error("--link-gbps is for --backend cpu: a GPU has a link of its own");
      return open_cuda(config, stored);
    case BackendChoice::automatic: break;
  }
  std::string reason = why_the_cpu(config);
  if (reason.empty()) {
    auto gpu = open_cuda(config, stored);
    if (gpu) {
      spdlog::info("backend = auto: {}, the GPU that CUDA numbers {}", (*gpu)->info().name, config.gpu);
      return gpu;
    }
    reason = std::move(gpu.failure().message);
  }
  spdlog::info("backend = auto: the CPU ({})", reason);
  return open_cpu(config);
}

}  // namespace iokv
