// SPDX-License-Identifier: Apache-2.0
#include "daemon/config.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <toml++/toml.h>

#include "daemon/settings.h"

namespace iokv {
namespace {

// A value of the file as one would type it.
Result<std::string> text_of(const toml::node& value) {
  if (value.is_string()) return *value.value<std::string>();
  if (value.is_integer()) return std::to_string(*value.value<int64_t>());
  if (value.is_floating_point()) return fmt::format("{}", *value.value<double>());
  return error("must be a string or a number");
}

Status set_from(const Setting& setting, const toml::node& value, Config& config) {
  std::vector<const toml::node*> values;
  const toml::array* array = setting.type == SettingType::list ? value.as_array() : nullptr;
  for (size_t i = 0; array != nullptr && i < array->size(); i++) values.push_back(array->get(i));
  if (array == nullptr) values.push_back(&value);
  for (const toml::node* one : values) {
    IOKV_TRY_ASSIGN(const std::string text, text_of(*one));
    IOKV_TRY(setting.set(config, text));
  }
  return {};
}

Error unknown_key(const std::string& name) {
  std::vector<std::string> known;
  for (const Setting& setting : settings()) known.push_back(setting.key());
  const std::string meant = nearest(name, known);
  if (!meant.empty()) return error(fmt::format("no setting \"{}\"; did you mean {}?", name, meant));
  std::sort(known.begin(), known.end());
  return error(fmt::format("no setting \"{}\"; there are: {}", name, fmt::join(known, ", ")));
}

Status read_file(const std::string& path, Config& config) {
  toml::table file;
  try {
    file = toml::parse_file(path);
  } catch (const toml::parse_error& failure) {
    return error(fmt::format("{}:{}: {}", path, failure.source().begin.line, failure.description()));
  }
  // In the order of the lines, so that the first mistake is the one that is named.
  std::vector<std::pair<std::string, const toml::node*>> entries;
  for (const auto& [key, value] : file) entries.emplace_back(key.str(), &value);
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.second->source().begin.line < b.second->source().begin.line; });
  for (const auto& [name, value] : entries) {
    const auto setting = std::find_if(settings().begin(), settings().end(), [&](const Setting& s) { return s.key() == name; });
    Status set = setting == settings().end() ? Status(unknown_key(name)) : set_from(*setting, *value, config);
    if (set) continue;
    const std::string place = fmt::format("{}:{}", path, value->source().begin.line);
    return std::move(set.failure()).within(setting == settings().end() ? place : place + ": " + name);
  }
  return {};
}

std::string option_help(const Setting& setting, const Config& defaults) {
  const std::vector<std::string> values = setting.get(defaults);
  std::string value = values.empty() || values.front().empty() ? "" : fmt::format(" ({})", values.front());
  return fmt::format("{}; {}{}", setting.help, setting.allowed, value);
}

// CLI11 names arguments that it does not know; the nearest option is ours to find.
std::string complaint_of(const CLI::ParseError& failure, const std::vector<std::string>& options) {
  std::string text = failure.what();
  const size_t dashes = dynamic_cast<const CLI::ExtrasError*>(&failure) != nullptr ? text.find("--") : std::string::npos;
  if (dashes != std::string::npos) {
    const std::string meant = nearest(text.substr(dashes, text.find_first_of(" =,", dashes) - dashes), options);
    if (!meant.empty()) text += fmt::format("; did you mean {}?", meant);
  }
  return text + " (iokvd --help lists the options)";
}

}  // namespace

Result<CommandLine> read_command_line(int argc, const char* const* argv) {
  CommandLine result;
  const Config defaults;
  std::vector<std::vector<std::string>> given(settings().size());
  bool check = false, print_default = false;

  CLI::App app{"iokvd serves one language model to the processes of this machine through shared memory", "iokvd"};
  app.set_version_flag("--version", "iokvd " IOKV_DAEMON_VERSION);
  app.add_option("--config", result.config_path, "TOML file with the settings below, underscores for dashes")->type_name("PATH");
  app.add_flag("--check-config", check, "check the options and the file, and leave: status 0, or 2 and what is wrong");
  app.add_flag("--default-config", print_default, "print a configuration file with every setting and its default, and leave");
  std::vector<std::string> names = {"--config", "--check-config", "--default-config", "--version", "--help"};
  for (size_t i = 0; i < settings().size(); i++) {
    const Setting& setting = settings()[i];
    names.push_back("--" + std::string(setting.name));
    CLI::Option* option = app.add_option(names.back(), given[i], option_help(setting, defaults));
    option->expected(1)->type_name("TEXT")->group(std::string(setting.section));  // a value each time that it is given
    if (setting.type == SettingType::list) option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& failure) {
    std::ostringstream out, complaint;
    if (app.exit(failure, out, complaint) != 0) return error(complaint_of(failure, names));
    fmt::print("{}", out.str());
    result.exit = 0;
    return result;
  }
  if (print_default) {
    fmt::print("{}", default_file());
    result.exit = 0;
    return result;
  }
  if (!result.config_path.empty()) IOKV_TRY(read_file(result.config_path, result.config));
  for (size_t i = 0; i < settings().size(); i++) {
    for (const std::string& text : given[i]) {
      Status set = settings()[i].set(result.config, text);
      if (!set) return std::move(set.failure()).within("--" + std::string(settings()[i].name));
    }
  }
  if (result.config.model.empty()) {
    return error(fmt::format("no model: --model PATH{} names a directory or a .gguf file",
                             result.config_path.empty() ? "" : ", or model in " + result.config_path + ","));
  }
  if (check) {
    fmt::print("{}: no mistakes\n", result.config_path.empty() ? "the options" : result.config_path);
    result.exit = 0;
  }
  return result;
}

std::vector<ConfigChange> take_over(Config& running, const Config& next) {
  std::vector<ConfigChange> found;
  for (const Setting& setting : settings()) {
    const std::vector<std::string> before = setting.get(running), after = setting.get(next);
    if (before == after) continue;
    found.push_back({fmt::format("{}: {} -> {}", setting.key(), fmt::join(before, ", "), fmt::join(after, ", ")),
                     setting.reloadable});
    if (setting.reloadable) setting.copy(running, next);
  }
  return found;
}

}  // namespace iokv
