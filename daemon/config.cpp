// SPDX-License-Identifier: Apache-2.0
#include "daemon/config.h"

#include <pwd.h>

#include <array>
#include <charconv>
#include <functional>
#include <limits>
#include <map>
#include <sstream>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <toml++/toml.h>

namespace iokv {
namespace {

// One setting: how its text becomes a value. Both the command line and the file go through it.
struct Setting {
  std::string name;  // as on the command line, without dashes
  std::string help;
  std::function<Status(const std::string& text)> set;
  bool many = false;  // may be given several times, in the file as an array: then set once for each
};

template <typename Integer>
std::function<Status(const std::string&)> number(Integer& target, uint64_t least, uint64_t most) {
  return [&target, least, most](const std::string& text) -> Status {
    uint64_t value = 0;
    auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failed != std::errc() || end != text.data() + text.size() || value < least || value > most) {
      return error(fmt::format("\"{}\" is not a number from {} to {}", text, least, most));
    }
    target = static_cast<Integer>(value);
    return {};
  };
}

std::optional<double> parse_real(const std::string& text) {
  double value = 0;
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::function<Status(const std::string&)> real_number(double& target, double least, double most) {
  return [&target, least, most](const std::string& text) -> Status {
    const std::optional<double> value = parse_real(text);
    if (!value || !(*value >= least && *value <= most)) {
      return error(fmt::format("\"{}\" is not a number from {} to {}", text, least, most));
    }
    target = *value;
    return {};
  };
}

std::function<Status(const std::string&)> recompute_of(RecomputeSetting& target) {
  return [&target](const std::string& text) -> Status {
    for (auto [name, mode] : {std::pair("never", Recompute::never), {"always", Recompute::always},
                              {"auto", Recompute::automatic}}) {
      if (text != name) continue;
      target = {mode, 0};
      return {};
    }
    const std::optional<double> fraction = parse_real(text);
    if (!fraction || !(*fraction >= 0 && *fraction <= 1)) {
      return error(fmt::format("\"{}\" is none of: never, always, auto, a fraction from 0 to 1", text));
    }
    target = {Recompute::fraction, *fraction};
    return {};
  };
}

std::function<Status(const std::string&)> text_of(std::string& target) {
  return [&target](const std::string& text) -> Status {
    target = text;
    return {};
  };
}

std::function<Status(const std::string&)> one_of(std::map<std::string, std::function<void()>> choices) {
  return [choices = std::move(choices)](const std::string& text) -> Status {
    auto chosen = choices.find(text);
    if (chosen != choices.end()) {
      chosen->second();
      return {};
    }
    std::string names;
    for (const auto& [name, action] : choices) names += (names.empty() ? "" : ", ") + name;
    return error(fmt::format("\"{}\" is none of: {}", text, names));
  };
}

constexpr uint32_t kMostWeight = 1000;  // daemon/sched/batch.cpp, kRebase

Result<uint32_t> uid_of(const std::string& user) {
  uint32_t uid = 0;
  auto [end, failed] = std::from_chars(user.data(), user.data() + user.size(), uid);
  // The last one is nobody's: calls mean "unchanged" by it.
  if (failed == std::errc() && end == user.data() + user.size() && uid != UINT32_MAX) return uid;
  if (const passwd* entry = ::getpwnam(user.c_str())) return entry->pw_uid;  // before there are other threads
  return error(fmt::format("this machine has no user \"{}\"", user));
}

// "alice=4" or "1000=4"
Status add_weight(std::map<uint32_t, uint32_t>& weights, const std::string& text) {
  const size_t sign = text.rfind('=');
  if (sign == std::string::npos || sign == 0) {
    return error(fmt::format("\"{}\" is not USER=WEIGHT, such as alice=4 or 1000=4", text));
  }
  uint32_t weight = 0;
  if (Status set = number(weight, 1, kMostWeight)(text.substr(sign + 1)); !set) return std::move(set.failure()).within(text);
  IOKV_TRY_ASSIGN(const uint32_t uid, uid_of(text.substr(0, sign)));
  weights[uid] = weight;
  return {};
}

std::vector<Setting> settings_of(Config& config) {
  auto level = [&config](const char* name) {
    return std::pair<std::string, std::function<void()>>(name, [&config, name] { config.log_level = name; });
  };
  return {
      {"model", "directory with config.json and *.safetensors, or a .gguf file", text_of(config.model)},
      {"socket", "path to listen on ($IOKV_SOCKET, $XDG_RUNTIME_DIR/iokv.sock, /run/iokv/iokv.sock)",
       text_of(config.socket)},
      {"pool-bytes", "host memory for cached tokens, such as 512MiB (1GiB)",
       [&config](const std::string& text) -> Status {
         IOKV_TRY_ASSIGN(config.pool_bytes, parse_bytes(text));
         return {};
       }},
      {"backend", "auto takes a GPU where there is one, else the CPU; cuda; cpu (auto)",
       one_of({{"auto", [&config] { config.backend = BackendChoice::automatic; }},
               {"cuda", [&config] { config.backend = BackendChoice::cuda; }},
               {"cpu", [&config] { config.backend = BackendChoice::cpu; }}})},
      {"gpu", "which GPU, as CUDA numbers them (0)", number(config.gpu, 0, 1023)},
      {"batch-invariant",
       "of a GPU. on: a sequence's tokens never depend on what else is computed; off: each batch in the fastest way (on)",
       one_of({{"on", [&config] { config.batch_invariant = true; }},
               {"off", [&config] { config.batch_invariant = false; }}})},
      {"dtype", "auto, f32 (CPU), f16 (GPU) or bf16: of weights, activations and cache (auto)",
       one_of({{"auto", [&config] { config.dtype.reset(); }},
               {"f32", [&config] { config.dtype = DType::f32; }},
               {"f16", [&config] { config.dtype = DType::f16; }},
               {"bf16", [&config] { config.dtype = DType::bf16; }}})},
      {"threads", "of the CPU backend; 0: one a core (0)", number(config.threads, 0, 1024)},
      {"recompute",
       "of cached tokens keep activations and recompute K,V from them: never, always, a fraction such as 0.5, or auto, as "
       "many as make steps shortest (auto)",
       recompute_of(config.recompute)},
      {"link-gbps", "make the CPU a device behind a link of so many GB/s each way; 0: no link (0)",
       real_number(config.link_gbps, 0, 1000)},
      {"device-kv-budget", "device memory that keeps cached tokens, such as 1GiB; 0: none (0)",
       [&config](const std::string& text) -> Status {
         IOKV_TRY_ASSIGN(config.device_kv_budget, parse_bytes(text));
         return {};
       }},
      {"weights",
       "where they live: auto keeps on the device what fits and has the other layers' cross the link in every step; device, "
       "all of them; host, none of the layers' (auto)",
       one_of({{"auto", [&config] { config.weights = WeightSetting::automatic; }},
               {"device", [&config] { config.weights = WeightSetting::device; }},
               {"host", [&config] { config.weights = WeightSetting::host; }}})},
      {"device-weights-budget", "device memory for weights, such as 8GiB; 0: what is left (0)",
       [&config](const std::string& text) -> Status {
         IOKV_TRY_ASSIGN(config.device_weights_budget, parse_bytes(text));
         return {};
       }},
      {"staging-bytes", "device memory that cached tokens pass through on their way (64MiB on a CPU, 384MiB on a GPU)",
       [&config](const std::string& text) -> Status {
         IOKV_TRY_ASSIGN(config.staging_bytes, parse_bytes(text));
         if (config.staging_bytes == 0) return error("0 bytes hold nothing");
         return {};
       }},
      {"max-rows", "tokens that a step computes at most, prompts' and decoded ones; beyond 256 on a CPU, 2048 on a GPU, in micro-batches "
                   "of as many, layer by layer; 0: as many, eight times that where weights cross the link (0)",
       number(config.max_rows, 0, 1u << 16)},
      {"max-clients", "connected at once (64)", number(config.max_clients, 1, 4096)},
      {"max-sequences", "open at once, each client (1024)", number(config.max_sequences, 1, 1u << 20)},
      {"max-context", "tokens of a sequence; 0: as the model was trained (0)", number(config.max_context, 0, 1u << 30)},
      {"client-weight", "USER=WEIGHT: what each process of a user (name or uid) gets where others get 1; may be "
                        "given for several users",
       [&config](const std::string& text) { return add_weight(config.client_weights, text); }, true},
      {"prefill-delay-percent", "how much longer prompts may make a step, beyond what is idle in it (50)",
       number(config.prefill_delay_percent, 0, 1000)},
      {"stall-lease-ms", "how long a sequence whose client does not reap keeps its cache (10000)",
       number(config.stall_lease_ms, 1, 86'400'000)},
      {"spin-us", "how long to look for work before sleeping, while no step runs (20)",
       number(config.spin_us, 0, 1'000'000)},
      {"profile", "of this device and model: auto uses the stored one or measures; measure; off (auto)",
       one_of({{"auto", [&config] { config.profile = ProfileMode::automatic; }},
               {"measure", [&config] { config.profile = ProfileMode::measure; }},
               {"off", [&config] { config.profile = ProfileMode::off; }}})},
      {"refit", "on: correct the profile when steps have taken another time than predicted for a while; off (on)",
       one_of({{"on", [&config] { config.refit = true; }}, {"off", [&config] { config.refit = false; }}})},
      {"state-directory",
       "where profiles are kept ($IOKV_STATE_DIRECTORY, $STATE_DIRECTORY, $XDG_STATE_HOME/iokv, ~/.local/state/iokv)",
       text_of(config.state_directory)},
      {"audit",
       "of so many of the steps (0 to 1) compute a row again, from its tokens alone, and compare the logits; see "
       "audit_mismatches in `iokv status` (0)",
       real_number(config.audit, 0, 1)},
      {"trace-steps", "how many of the last steps `iokv trace` can show; 0: none (8)", number(config.trace_steps, 0, 1024)},
      {"log-level", "debug, info, warning or error (info)",
       one_of({level("debug"), level("info"), level("warning"), level("error")})},
  };
}

std::string key_of(std::string name) {
  for (char& letter : name) letter = letter == '-' ? '_' : letter;
  return name;
}

// A value of the file as one would type it.
Result<std::string> text_of(const toml::node& value) {
  if (value.is_string()) return *value.value<std::string>();
  if (value.is_integer()) return std::to_string(*value.value<int64_t>());
  if (value.is_floating_point()) return fmt::format("{}", *value.value<double>());
  return error("must be a string or a number");
}

Status set_from(const Setting& setting, const toml::node& value) {
  std::vector<const toml::node*> values;
  const toml::array* array = setting.many ? value.as_array() : nullptr;
  for (size_t i = 0; array != nullptr && i < array->size(); i++) values.push_back(array->get(i));
  if (array == nullptr) values.push_back(&value);
  for (const toml::node* one : values) {
    IOKV_TRY_ASSIGN(const std::string text, text_of(*one));
    IOKV_TRY(setting.set(text));
  }
  return {};
}

Status read_file(const std::string& path, const std::vector<Setting>& settings) {
  toml::table file;
  try {
    file = toml::parse_file(path);
  } catch (const toml::parse_error& failure) {
    return error(fmt::format("{}:{}: {}", path, failure.source().begin.line, failure.description()));
  }
  for (const auto& [key, value] : file) {
    const std::string name(key.str());
    const auto line = value.source().begin.line;
    const Setting* setting = nullptr;
    std::string known;
    for (const Setting& one : settings) {
      if (key_of(one.name) == name) setting = &one;
      known += (known.empty() ? "" : ", ") + key_of(one.name);
    }
    if (setting == nullptr) return error(fmt::format("{}:{}: no setting \"{}\"; there are: {}", path, line, name, known));
    if (Status set = set_from(*setting, value); !set) {
      return error(fmt::format("{}:{}: {}: {}", path, line, name, set.failure().message));
    }
  }
  return {};
}

}  // namespace

Result<uint64_t> parse_bytes(const std::string& text) {
  static constexpr std::array<std::pair<std::string_view, unsigned>, 7> kUnits = {
      {{"", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"K", 10}, {"M", 20}, {"G", 30}}};
  uint64_t value = 0;
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  if (failed == std::errc()) {
    for (const auto& [unit, shift] : kUnits) {
      if (suffix == unit && value <= (std::numeric_limits<uint64_t>::max() >> shift)) return value << shift;
    }
  }
  return error(fmt::format("\"{}\" is not a size such as 512MiB or 2GiB", text));
}

Result<CommandLine> read_command_line(int argc, const char* const* argv) {
  CommandLine result;
  const std::vector<Setting> settings = settings_of(result.config);
  std::vector<std::vector<std::string>> given(settings.size());
  std::string config_path;

  CLI::App app{"iokvd serves one language model to the processes of this machine through shared memory", "iokvd"};
  app.set_version_flag("--version", "iokvd " IOKV_DAEMON_VERSION);
  app.add_option("--config", config_path, "TOML file with the same settings, underscores for dashes");
  std::vector<CLI::Option*> options;
  for (size_t i = 0; i < settings.size(); i++) {
    options.push_back(app.add_option("--" + settings[i].name, given[i], settings[i].help));
    options.back()->expected(1)->type_name("TEXT");  // a value each time that it is given
    if (settings[i].many) options.back()->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& failure) {
    std::ostringstream out, complaint;
    const int status = app.exit(failure, out, complaint);
    if (status != 0) return error(std::string(failure.what()) + " (iokvd --help lists the options)");
    fmt::print("{}", out.str());
    result.exit = 0;
    return result;
  }
  if (!config_path.empty()) IOKV_TRY(read_file(config_path, settings));
  for (size_t i = 0; i < settings.size(); i++) {
    for (const std::string& text : given[i]) {
      if (Status set = settings[i].set(text); !set) return std::move(set.failure()).within("--" + settings[i].name);
    }
  }
  if (result.config.model.empty()) return error("no model: --model PATH names a directory or a .gguf file");
  return result;
}

}  // namespace iokv
