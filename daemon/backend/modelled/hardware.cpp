// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/modelled/hardware.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include <fmt/format.h>
#include <toml++/toml.h>

#include "daemon/backend/modelled/hardware_files.h"

namespace iokv {
namespace {

struct Number {
  const char* section;  // "" for the top
  const char* key;
  double scale;         // of the file's unit
  double low, high;     // in the file's unit
  double Hardware::*field;
  bool optional = false;
};

constexpr Number kNumbers[] = {
    {"", "memory_gib", 1024.0 * 1024 * 1024, 0, 1e6, &Hardware::memory_bytes},
    {"link", "h2d_gb_per_s", 1e9, 1e-3, 1e6, &Hardware::h2d_bytes_per_s},
    {"link", "d2h_gb_per_s", 1e9, 1e-3, 1e6, &Hardware::d2h_bytes_per_s},
    {"link", "copy_ns", 1, 0, 1e9, &Hardware::copy_ns},
    {"link", "duplex", 1, 1, 2, &Hardware::duplex},
    {"compute", "matrix_tflop_per_s", 1e12, 1e-6, 1e6, &Hardware::matrix_flop_per_s},
    {"compute", "memory_gb_per_s", 1e9, 1e-3, 1e6, &Hardware::memory_bytes_per_s},
    {"compute", "launch_ns", 1, 0, 1e9, &Hardware::launch_ns},
    {"compute", "contention", 1, 0, 1, &Hardware::contention},
    {"host", "attend_gb_per_s", 1e9, 1e-3, 1e6, &Hardware::host_attend_bytes_per_s, true},
    {"host", "attend_ns", 1, 0, 1e9, &Hardware::host_attend_ns, true},
    {"host", "slows_link", 1, 1, 10, &Hardware::host_slows_link, true},
};
constexpr const char* kTexts[] = {"description", "source"};

std::string dotted(const std::string& section, const std::string& key) {
  return section.empty() ? key : section + "." + key;
}

std::string known_keys() {
  std::string keys;
  for (const char* text : kTexts) keys += std::string(text) + ", ";
  for (const Number& one : kNumbers) keys += (&one == kNumbers ? "" : ", ") + dotted(one.section, one.key);
  return keys;
}

// Fails where there is something that no hardware has.
Status only_known_keys(const toml::table& table, const std::string& section, const std::string& file) {
  for (const auto& [key, value] : table) {
    const std::string name(key.str());
    const auto line = value.source().begin.line;
    if (section.empty() && (name == "link" || name == "compute" || name == "host")) {
      if (!value.is_table()) return error(fmt::format("{}:{}: {} must be a table", file, line, name));
      IOKV_TRY(only_known_keys(*value.as_table(), name, file));
      continue;
    }
    const bool text = section.empty() && std::find(std::begin(kTexts), std::end(kTexts), name) != std::end(kTexts);
    const bool number = std::any_of(std::begin(kNumbers), std::end(kNumbers),
                                    [&](const Number& one) { return section == one.section && name == one.key; });
    if (text && !value.is_string()) return error(fmt::format("{}:{}: {} must be a string", file, line, name));
    if (!text && !number) {
      return error(fmt::format("{}:{}: hardware has no \"{}\"; it has: {}", file, line, dotted(section, name),
                               known_keys()));
    }
  }
  return {};
}

Result<Hardware> read(const toml::table& table, const std::string& name, const std::string& file) {
  IOKV_TRY(only_known_keys(table, "", file));
  Hardware hardware;
  hardware.name = name;
  hardware.description = table["description"].value_or(name);
  hardware.source = table["source"].value_or(std::string("not said"));
  for (const Number& one : kNumbers) {
    const toml::table* section = *one.section == '\0' ? &table : table[one.section].as_table();
    const toml::node* node = section == nullptr ? nullptr : section->get(one.key);
    if (node == nullptr && one.optional) continue;
    if (node == nullptr) {
      // The line of the table in which it should be.
      const auto line = section == nullptr ? table.source().begin.line : section->source().begin.line;
      return error(fmt::format("{}:{}: {} is missing", file, line, dotted(one.section, one.key)));
    }
    const std::optional<double> value = node->value<double>();
    if (!value || !(*value >= one.low && *value <= one.high)) {
      return error(fmt::format("{}:{}: {} must be a number from {:g} to {:g}", file, node->source().begin.line,
                               dotted(one.section, one.key), one.low, one.high));
    }
    hardware.*one.field = *value * one.scale;
  }
  return hardware;
}

bool is_path(const std::string& name) { return name.find('/') != std::string::npos || name.ends_with(".toml"); }

}  // namespace

std::vector<std::string> known_hardware() {
  std::vector<std::string> names;
  for (const HardwareFile& file : kHardwareFiles) names.push_back(file.name);
  std::sort(names.begin(), names.end());
  return names;
}

Result<Hardware> find_hardware(const std::string& name_or_path) {
  try {
    if (is_path(name_or_path) && !std::ifstream(name_or_path)) {
      return error(name_or_path + ": " + std::strerror(errno));
    }
    if (is_path(name_or_path)) return read(toml::parse_file(name_or_path), name_or_path, name_or_path);
    for (const HardwareFile& file : kHardwareFiles) {
      if (name_or_path == file.name) {
        return read(toml::parse(file.text), name_or_path, std::string(file.name) + ".toml");
      }
    }
  } catch (const toml::parse_error& failure) {
    return error(fmt::format("{}:{}: {}", name_or_path, failure.source().begin.line, failure.description()));
  }
  return error(fmt::format("no hardware \"{}\"; there are: {}, or the path of a .toml file", name_or_path,
                           fmt::join(known_hardware(), ", ")));
}

}  // namespace iokv
