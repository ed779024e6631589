// SPDX-License-Identifier: Apache-2.0
#include "daemon/settings.h"

#include <pwd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include <fmt/format.h>

namespace iokv {
namespace {

using Set = std::function<Status(Config&, const std::string&)>;
using Get = std::function<std::vector<std::string>(const Config&)>;

template <typename Number>
std::optional<Number> parse(std::string_view text) {
  Number value = 0;
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The largest unit that leaves no fraction.
std::string text_of_bytes(uint64_t bytes) {
  for (auto [unit, shift] : {std::pair("GiB", 30), {"MiB", 20}, {"KiB", 10}}) {
    if (bytes != 0 && bytes % (uint64_t{1} << shift) == 0) return fmt::format("{}{}", bytes >> shift, unit);
  }
  return std::to_string(bytes);
}

// What all rows share; makers below add how a value is read and written.
struct Row {
  std::string_view section, name;
  bool reloadable;
  std::string_view help;
};

template <typename Value>
Setting make(const Row& row, SettingType type, std::string allowed, Value Config::*member, Set set, Get get) {
  return {row.section, row.name, type, row.reloadable, std::move(allowed), row.help, std::move(set), std::move(get),
          [member](Config& to, const Config& from) { to.*member = from.*member; }};
}

Setting text(const Row& row, std::string allowed, std::string Config::*member) {
  return make(row, SettingType::text, std::move(allowed), member,
              [member](Config& config, const std::string& given) -> Status {
                config.*member = given;
                return {};
              },
              [member](const Config& config) { return std::vector{config.*member}; });
}

template <typename Number>
Setting number(const Row& row, Number Config::*member, Number least, Number most) {
  const std::string allowed = fmt::format("a number from {} to {}", least, most);
  return make(row, SettingType::number, allowed, member,
              [=](Config& config, const std::string& given) -> Status {
                const auto value = parse<Number>(given);
                if (!value || !(*value >= least && *value <= most)) return error(fmt::format("\"{}\" is not {}", given, allowed));
                config.*member = *value;
                return {};
              },
              [member](const Config& config) { return std::vector{fmt::format("{}", config.*member)}; });
}

Setting size(const Row& row, uint64_t Config::*member, std::string allowed = "a size such as 512MiB or 2GiB") {
  return make(row, SettingType::size, std::move(allowed), member,
              [member](Config& config, const std::string& given) -> Status {
                IOKV_TRY_ASSIGN(config.*member, parse_bytes(given));
                return {};
              },
              [member](const Config& config) { return std::vector{text_of_bytes(config.*member)}; });
}

template <typename Value>
Setting choice(const Row& row, Value Config::*member, std::vector<std::pair<std::string, Value>> choices) {
  std::string names;
  for (const auto& [name, value] : choices) names += (names.empty() ? "" : ", ") + name;
  return make(row, SettingType::choice, "one of " + names, member,
              [=](Config& config, const std::string& given) -> Status {
                for (const auto& [name, value] : choices) {
                  if (name != given) continue;
                  config.*member = value;
                  return {};
                }
                return error(fmt::format("\"{}\" is none of: {}", given, names));
              },
              [=](const Config& config) {
                auto chosen = std::find_if(choices.begin(), choices.end(),
                                           [&](const auto& one) { return one.second == config.*member; });
                IOKV_ASSERT(chosen != choices.end());
                return std::vector{chosen->first};
              });
}

const std::vector<std::pair<std::string, bool>> kOnOff = {{"on", true}, {"off", false}};

const std::array<std::pair<const char*, Recompute>, 3> kRecomputeModes = {
    {{"never", Recompute::never}, {"always", Recompute::always}, {"auto", Recompute::automatic}}};

Status set_recompute(Config& config, const std::string& given) {
  for (auto [name, mode] : kRecomputeModes) {
    if (given != name) continue;
    config.recompute = {mode, 0};
    return {};
  }
  const auto fraction = parse<double>(given);
  if (!fraction || !(*fraction >= 0 && *fraction <= 1)) {
    return error(fmt::format("\"{}\" is none of: never, always, auto, a fraction from 0 to 1", given));
  }
  config.recompute = {Recompute::fraction, *fraction};
  return {};
}

std::vector<std::string> get_recompute(const Config& config) {
  for (auto [name, mode] : kRecomputeModes) {
    if (config.recompute.mode == mode) return {name};
  }
  return {fmt::format("{}", config.recompute.fraction)};
}

constexpr uint32_t kMostAttentionThreads = 1024;

Status set_cpu_attention(Config& config, const std::string& given) {
  if (given == "auto") return config.cpu_attention.reset(), Status();
  const std::optional<uint32_t> threads = given == "off" ? 0 : parse<uint32_t>(given);
  if (!threads || *threads > kMostAttentionThreads || (*threads == 0 && given != "off")) {
    return error(fmt::format("\"{}\" is none of: auto, off, a number of threads from 1 to {}", given, kMostAttentionThreads));
  }
  config.cpu_attention = threads;
  return {};
}

std::vector<std::string> get_cpu_attention(const Config& config) {
  if (!config.cpu_attention) return {"auto"};
  return {*config.cpu_attention == 0 ? "off" : std::to_string(*config.cpu_attention)};
}

Result<uint32_t> uid_of(const std::string& user) {
  const auto uid = parse<uint32_t>(user);
  // The last one is nobody's: calls mean "unchanged" by it.
  if (uid && *uid != UINT32_MAX) return *uid;
  std::vector<char> memory(1 << 16);
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwnam_r(user.c_str(), &entry, memory.data(), memory.size(), &found) == 0 && found != nullptr) return entry.pw_uid;
  return error(fmt::format("this machine has no user \"{}\"", user));
}

// "USER=REST", of which the user is found and the rest returned.
Result<std::pair<uint32_t, std::string>> parse_user(const std::string& given, const char* form) {
  const size_t sign = given.find('=');
  if (sign == std::string::npos || sign == 0) return error(fmt::format("\"{}\" is not {}", given, form));
  IOKV_TRY_ASSIGN(const uint32_t uid, uid_of(given.substr(0, sign)));
  return std::pair(uid, given.substr(sign + 1));
}

constexpr uint32_t kMostWeight = 1000;  // daemon/sched/batch.cpp, kRebase

Status add_weight(Config& config, const std::string& given) {
  IOKV_TRY_ASSIGN(const auto parsed, parse_user(given, "USER=WEIGHT, such as alice=4 or 1000=4"));
  const auto weight = parse<uint32_t>(parsed.second);
  if (!weight || *weight < 1 || *weight > kMostWeight) {
    return error(fmt::format("{}: \"{}\" is not a number from 1 to {}", given, parsed.second, kMostWeight));
  }
  config.client_weights[parsed.first] = *weight;
  return {};
}

std::vector<std::string> get_weights(const Config& config) {
  std::vector<std::string> texts;
  for (const auto& [uid, weight] : config.client_weights) texts.push_back(fmt::format("{}={}", uid, weight));
  return texts;
}

constexpr const char* kLimitForm = "USER=LIMIT:NUMBER,..., such as alice=clients:4,pool_percent:25";

// "alice=clients:4,pool_percent:25"
Status add_user_limits(Config& config, const std::string& given) {
  IOKV_TRY_ASSIGN(const auto parsed, parse_user(given, kLimitForm));
  UserException& said = config.user_limits[parsed.first];
  std::string_view rest = parsed.second;
  while (true) {
    const std::string_view one = rest.substr(0, rest.find(','));
    const std::string_view name = one.substr(0, one.find(':'));
    const auto number = parse<uint64_t>(one.substr(std::min(name.size() + 1, one.size())));
    if (!number) return error(fmt::format("{}: \"{}\" is not LIMIT:NUMBER", given, one));
    const auto small = static_cast<uint32_t>(std::min<uint64_t>(*number, UINT32_MAX));
    if (name == "clients") {
      said.clients = small;
    } else if (name == "sequences") {
      said.sequences = small;
    } else if (name == "queued_tokens") {
      said.queued_tokens = *number;
    } else if (name == "pool_percent" && small >= 1 && small <= 100) {
      said.pool_percent = small;
    } else if (name == "pool_percent") {
      return error(fmt::format("{}: pool_percent is from 1 to 100", given));
    } else {
      return error(fmt::format("{}: no limit \"{}\"; there are: clients, sequences, pool_percent, queued_tokens", given, name));
    }
    if (one.size() == rest.size()) return {};
    rest.remove_prefix(one.size() + 1);
  }
}

std::vector<std::string> get_user_limits(const Config& config) {
  std::vector<std::string> texts;
  for (const auto& [uid, said] : config.user_limits) {
    std::vector<std::string> limits;
    auto add = [&limits](const char* name, auto limit) {
      if (limit) limits.push_back(fmt::format("{}:{}", name, *limit));
    };
    add("clients", said.clients);
    add("sequences", said.sequences);
    add("pool_percent", said.pool_percent);
    add("queued_tokens", said.queued_tokens);
    texts.push_back(fmt::format("{}={}", uid, fmt::join(limits, ",")));
  }
  return texts;
}

std::vector<Setting> make_settings() {
  return {
      text({"Model", "model", false, "the model that is served"}, "a directory with config.json and *.safetensors, or a .gguf file",
           &Config::model),
      number<uint64_t>({"Model", "random-weights", false,
                        "the seed of random weights in place of the model's own, of whose directory only config.json is read: to measure "
                        "what a shape takes; its tokens mean nothing. 0: its own"},
                       &Config::random_weights, 0, UINT32_MAX),
      choice<std::optional<DType>>(
          {"Model", "dtype", false,
           "of weights, activations and cache. auto: on a GPU as the weights are stored, on a CPU what is fastest; f32 is for a CPU, f16 for a GPU"},
          &Config::dtype, {{"auto", std::nullopt}, {"f32", DType::f32}, {"f16", DType::f16}, {"bf16", DType::bf16}}),
      number<uint32_t>({"Model", "max-context", false, "tokens of a sequence at the most; 0: as many as the model was trained for"},
                       &Config::max_context, 0, 1u << 30),

      text({"Clients", "socket", false,
            "where clients connect; empty: $IOKV_SOCKET, else $XDG_RUNTIME_DIR/iokv.sock, else /run/iokv/iokv.sock. A socket that "
            "systemd passes on takes its place"},
           "a path of less than 108 bytes", &Config::socket),
      number<uint32_t>({"Clients", "max-clients", false, "connected at once"}, &Config::max_clients, 1, 4096),
      number<uint32_t>({"Clients", "max-sequences", false, "open at once, of each client"}, &Config::max_sequences, 1, 1u << 20),
      make({"Clients", "client-weight", true,
            "what each process of a user gets where others get 1, by name or uid; may be given for several users. Clients that "
            "are connected keep theirs"},
           SettingType::list, fmt::format("USER=WEIGHT, WEIGHT from 1 to {}", kMostWeight), &Config::client_weights, add_weight,
           get_weights),

      number<uint32_t>({"Limits of each user", "user-clients", true,
                        "connected at once, of all processes of a user; 0: as many as max_clients. Clients that are connected stay"},
                       &Config::user_clients, 0, 4096),
      number<uint32_t>({"Limits of each user", "user-sequences", true,
                        "open at once, of all processes of a user; 0: only max_sequences of each. What is open stays"},
                       &Config::user_sequences, 0, 1u << 30),
      number<uint32_t>({"Limits of each user", "user-pool-percent", true,
                        "of the pool, for the cached tokens of all processes of a user. If all users' come to 100 at the most, nobody "
                        "can take what is another's"},
                       &Config::user_pool_percent, 1, 100),
      number<uint64_t>({"Limits of each user", "user-queued-tokens", true,
                        "of prompts that have not begun, of all processes of a user; 0: 1048576 of each"},
                       &Config::user_queued_tokens, 0, uint64_t{1} << 40),
      make({"Limits of each user", "user-limit", true,
            "other limits for one user, by name or uid; may be given for several users. What is not named is as for each"},
           SettingType::list, "USER=LIMIT:NUMBER,..., LIMIT one of clients, sequences, pool_percent, queued_tokens",
           &Config::user_limits, add_user_limits, get_user_limits),

      size({"Memory", "pool-bytes", false, "host memory for cached tokens, taken when the daemon starts"}, &Config::pool_bytes),
      size({"Memory", "device-kv-budget", false, "device memory that keeps copies of cached tokens; 0: none"},
           &Config::device_kv_budget),
      choice<WeightSetting>({"Memory", "weights", false,
                             "where they live. auto keeps on the device what fits and has the other layers' cross the link in every "
                             "step; device: all of them; host: none of the layers'"},
                            &Config::weights,
                            {{"auto", WeightSetting::automatic}, {"device", WeightSetting::device}, {"host", WeightSetting::host}}),
      size({"Memory", "device-weights-budget", false, "device memory for weights; 0: what is left"},
           &Config::device_weights_budget),
      size({"Memory", "staging-bytes", false,
            "device memory that cached tokens pass through on their way; 0: 64MiB on a CPU, 384MiB on a GPU"},
           &Config::staging_bytes),
      number<uint64_t>({"Memory", "stall-lease-ms", true, "how long a sequence whose client does not reap keeps its cache"},
                       &Config::stall_lease_ms, 1, 86'400'000),

      choice<BackendChoice>({"Device", "backend", false, "auto takes a GPU where there is one, else the CPU"}, &Config::backend,
                            {{"auto", BackendChoice::automatic}, {"cuda", BackendChoice::cuda}, {"cpu", BackendChoice::cpu}}),
      number<uint32_t>({"Device", "gpu", false, "which GPU, as CUDA numbers them"}, &Config::gpu, 0, 1023),
      choice<bool>({"Device", "batch-invariant", false,
                    "of a GPU. on: a sequence's tokens never depend on what else is computed; off: each batch in the fastest way"},
                   &Config::batch_invariant, kOnOff),
      number<uint32_t>({"Device", "threads", false, "of the CPU backend; 0: one a core"}, &Config::threads, 0, 1024),
      number<double>({"Device", "link-gbps", false, "make the CPU a device behind a link of so many GB/s each way; 0: no link"},
                     &Config::link_gbps, 0, 1000),

      make({"Planning", "recompute", false,
            "of cached tokens keep activations and recompute K,V from them; auto: of as many as make steps shortest"},
           SettingType::text, "never, always, auto, or a fraction from 0 to 1", &Config::recompute, set_recompute, get_recompute),
      make({"Planning", "cpu-attention", false,
            "threads of the host that attend to cached tokens where they lie, so that these need not cross the link to a GPU. auto: "
            "as many as can be spared, and of the tokens as many as make steps shortest; of the CPU backend auto is off"},
           SettingType::text, fmt::format("auto, off, or a number from 1 to {}", kMostAttentionThreads), &Config::cpu_attention,
           set_cpu_attention, get_cpu_attention),
      number<uint32_t>({"Planning", "max-rows", false,
                        "tokens that a step computes at most, prompts' and decoded ones; beyond 256 on a CPU and 2048 on a GPU in "
                        "micro-batches of as many, layer by layer; 0: as many, eight times that where weights cross the link"},
                       &Config::max_rows, 0, 1u << 16),
      number<uint32_t>({"Planning", "prefill-delay-percent", true, "how much longer prompts may make a step, beyond what is idle in it"},
                       &Config::prefill_delay_percent, 0, 1000),
      number<uint64_t>({"Planning", "spin-us", true, "how long to look for work before sleeping, while no step runs"},
                       &Config::spin_us, 0, 1'000'000),
      choice<ProfileMode>({"Planning", "profile", false, "of this device and model. auto uses the stored one or measures"},
                          &Config::profile,
                          {{"auto", ProfileMode::automatic}, {"measure", ProfileMode::measure}, {"off", ProfileMode::off}}),
      choice<bool>({"Planning", "refit", false,
                    "on: correct the profile when steps have taken another time than predicted for a while"},
                   &Config::refit, kOnOff),
      text({"Planning", "state-directory", false,
            "where profiles are kept; empty: $IOKV_STATE_DIRECTORY, $STATE_DIRECTORY, $XDG_STATE_HOME/iokv or ~/.local/state/iokv"},
           "a directory's path", &Config::state_directory),

      number<double>({"Watching", "audit", false,
                      "of so many of the steps compute a row again, from its tokens alone, and compare the logits; see "
                      "audit_mismatches in `iokv status`"},
                     &Config::audit, 0, 1),
      number<uint32_t>({"Watching", "trace-steps", false, "how many of the last steps `iokv trace` can show"},
                       &Config::trace_steps, 0, 1024),
      choice<bool>({"Watching", "core-dumps", false,
                    "off: a crash leaves nothing of the memory, which holds prompts. on: as the machine's limits have it, less the pool"},
                   &Config::core_dumps, kOnOff),
      choice<std::string>({"Watching", "log-level", true, "which events are logged, the named and worse"}, &Config::log_level,
                          {{"debug", "debug"}, {"info", "info"}, {"warning", "warning"}, {"error", "error"}}),
  };
}

// In at most `width` columns, each line behind `prefix`.
std::string wrapped(std::string_view words, const std::string& prefix, size_t width) {
  std::string lines, line;
  while (!words.empty()) {
    const size_t end = std::min(words.find(' '), words.size());
    const std::string word(words.substr(0, end));
    words.remove_prefix(std::min(end + 1, words.size()));
    if (!line.empty() && prefix.size() + line.size() + 1 + word.size() > width) {
      lines += prefix + line + "\n";
      line.clear();
    }
    line = line.empty() ? word : fmt::format("{} {}", line, word);
  }
  return fmt::format("{}{}{}\n", lines, prefix, line);
}

std::string value_text(const Setting& setting, const Config& config) {
  std::vector<std::string> texts = setting.get(config);
  if (setting.type != SettingType::number) {
    for (std::string& text : texts) text = fmt::format("\"{}\"", text);
  }
  const std::string text = fmt::format("{}", fmt::join(texts, ", "));
  return setting.type == SettingType::list ? fmt::format("[{}]", text) : text;
}

// Within quotes of man(7).
std::string quoted(const std::string& text) {
  std::string result;
  for (char letter : text) result += letter == '"' ? std::string("\\(dq") : std::string(1, letter);
  return result;
}

}  // namespace

std::string Setting::key() const {
  std::string text(name);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

const std::vector<Setting>& settings() {
  static const std::vector<Setting> kSettings = make_settings();
  return kSettings;
}

// By edit distance, of which a third of the letters may be: beyond that it is a guess.
std::string nearest(std::string_view name, const std::vector<std::string>& names) {
  std::string best;
  size_t best_distance = std::max<size_t>(name.size() / 3, 2) + 1;
  for (const std::string& candidate : names) {
    std::vector<size_t> row(candidate.size() + 1);  // distances of a prefix of name to each prefix of candidate
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 0; i < name.size(); i++) {
      size_t diagonal = std::exchange(row[0], i + 1);
      for (size_t k = 0; k < candidate.size(); k++) {
        const size_t replaced = diagonal + (name[i] == candidate[k] ? 0 : 1);
        diagonal = row[k + 1];
        row[k + 1] = std::min({replaced, row[k] + 1, row[k + 1] + 1});
      }
    }
    if (row.back() >= best_distance) continue;
    best_distance = row.back();
    best = candidate;
  }
  return best;
}

std::string default_file() {
  const Config defaults;
  std::string file =
      "# What iokvd does unless it is told otherwise: take the # from a line and change its value. iokvd.toml(5) explains\n"
      "# the file, `iokvd --check-config --config FILE` checks it. Keys marked [reload] take effect on SIGHUP (systemctl\n"
      "# reload iokvd), all others at the next start. An option of the command line beats the file.\n";
  std::string_view section;
  for (const Setting& setting : settings()) {
    if (std::exchange(section, setting.section) != setting.section) file += fmt::format("\n# ---- {} ----\n", section);
    std::string words(setting.help);
    words += fmt::format(". Allowed: {}.{}", setting.allowed, setting.reloadable ? " [reload]" : "");
    file += fmt::format("\n{}#{} = {}\n", wrapped(words, "# ", 118), setting.key(), value_text(setting, defaults));
  }
  return file;
}

// A leading "." or "'" would be a request, and "\" begins an escape; no text has either.
std::string manual_rows() {
  const Config defaults;
  std::string rows;
  std::string_view section;
  for (const Setting& setting : settings()) {
    if (std::exchange(section, setting.section) != setting.section) rows += fmt::format(".SS {}\n", section);
    std::string words(setting.help);
    words[0] = static_cast<char>(words[0] >= 'a' && words[0] <= 'z' ? words[0] - 'a' + 'A' : words[0]);
    rows += fmt::format(".TP\n.BR {} \" = {}\"\n", setting.key(), quoted(value_text(setting, defaults)));
    rows += words + ".\nAllowed: " + setting.allowed + ".\n";
    rows += setting.reloadable ? "Takes effect on SIGHUP.\n" : "";
  }
  return rows;
}

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

}  // namespace iokv
