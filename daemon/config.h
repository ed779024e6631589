// SPDX-License-Identifier: Apache-2.0
// The daemon's configuration: the command line over a TOML file over defaults. Every key of the file is the long option
// with underscores, so there is one list to know: settings.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/dtype.h"
#include "daemon/base/result.h"
#include "daemon/sched/form_choice.h"
#include "daemon/sched/weight_choice.h"
#include "daemon/runtime/profile_choice.h"
#include "daemon/user_limits.h"

namespace iokv {

enum class BackendChoice : uint8_t {
  automatic,  // a GPU where there is one, else the CPU
  cuda,
  cpu,
};

struct Config {
  std::string model;             // directory or .gguf file
  uint64_t random_weights = 0;   // the seed of weights in place of the model's own; 0: those
  std::string socket;            // empty: see choose_socket_path
  uint64_t pool_bytes = uint64_t{1} << 30;
  BackendChoice backend = BackendChoice::automatic;
  uint32_t gpu = 0;              // as CUDA numbers them
  bool batch_invariant = true;   // of a GPU; see daemon/backend/cuda/products.h
  std::optional<DType> dtype;    // nothing: a GPU's by how the weights are stored, a CPU's fastest
  uint32_t threads = 0;          // of the CPU backend; 0: as many as cores that the process may use
  uint32_t max_rows = 0;         // of a step; 0: what suits the device
  RecomputeSetting recompute{Recompute::automatic};
  std::optional<uint32_t> cpu_attention;  // threads that attend beside a device; 0: off; nothing: as many as can be spared
  double link_gbps = 0;          // of the CPU backend; 0: it reads the pool in place
  uint64_t device_kv_budget = 0;  // bytes of device memory for copies of cached tokens
  WeightSetting weights = WeightSetting::automatic;
  uint64_t device_weights_budget = 0;  // bytes of device memory for weights; 0: what the device has
  uint64_t staging_bytes = 0;     // device memory through which cached tokens pass; 0: what suits the device
  uint32_t max_clients = 64;
  uint32_t max_sequences = 1024;  // of a client
  uint32_t max_context = 0;      // tokens; 0: as trained
  std::map<uint32_t, uint32_t> client_weights;  // by uid; others: 1
  uint32_t user_clients = 0, user_sequences = 0, user_pool_percent = 100;  // see UserLimits
  uint64_t user_queued_tokens = 0;
  std::map<uint32_t, UserException> user_limits;  // by uid
  uint32_t prefill_delay_percent = 50;  // see daemon/sched/prefill.h
  uint64_t stall_lease_ms = 10'000;
  uint64_t spin_us = 20;         // how long the conductor looks for work before it sleeps, while no step runs
  ProfileMode profile = ProfileMode::automatic;
  bool refit = true;             // correct the profile when steps take another time than predicted
  std::string state_directory;   // empty: see choose_state_directory
  double audit = 0;              // share of the steps
  uint32_t trace_steps = 8;      // kept for iokv trace
  std::string log_level = "info";
  bool core_dumps = false;       // see core_dumps.h
};

struct CommandLine {
  Config config;
  std::string config_path;  // of the file, or empty
  std::optional<int> exit;  // help, version, the default file or the result of --check-config was printed: leave with this
};

// The options of the command line (settings.h), over the file that --config names, over the defaults. Called again with
// the same arguments, it reads the file anew. Error: one line that names the option or the file's line, and what is
// allowed.
Result<CommandLine> read_command_line(int argc, const char* const* argv);

// One setting that a configuration that was read anew says otherwise.
struct ConfigChange {
  std::string what;  // "log_level: info -> debug"
  bool now;          // a running daemon can take it; else it has to be started anew
};
// Takes over what a running daemon can; says what else differs, too.
std::vector<ConfigChange> take_over(Config& running, const Config& next);

}  // namespace iokv
