// SPDX-License-Identifier: Apache-2.0
// Every setting of the daemon, described once: the command line, --help, the configuration file, the commented default
// file and the table of iokvd.toml(5) all come from this list. A new setting is a member of Config (config.h) and a row
// of settings.cpp.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/config.h"

namespace iokv {

// How a value is written in the file: text and sizes in quotes, numbers without, a list as an array of texts.
enum class SettingType : uint8_t { text, size, number, choice, list };

struct Setting {
  std::string_view section;  // a heading of the file and of --help
  std::string_view name;     // as on the command line, without dashes; the file's key has underscores
  SettingType type;
  bool reloadable;           // SIGHUP applies a changed value; else the next start does
  std::string allowed;       // what a value may be
  std::string_view help;
  // Error: what is wrong with the text, and what is allowed. A list's is called once for each of its texts.
  std::function<Status(Config&, const std::string&)> set;
  // The texts that `set` makes this configuration of: one, or those of a list. The defaults are those of Config{}.
  std::function<std::vector<std::string>(const Config&)> get;

  std::function<void(Config& to, const Config& from)> copy;

  std::string key() const;   // of the file
};

// In the order in which they are shown; sections are contiguous.
const std::vector<Setting>& settings();

// The one of `names` that `name` was probably meant to be, or nothing.
std::string nearest(std::string_view name, const std::vector<std::string>& names);

// A configuration file that says nothing: every key with its default, behind "#", and what it means.
std::string default_file();
// The rows of iokvd.toml(5), in man(7)'s macros.
std::string manual_rows();

// "65536", "512MiB", "2GiB"; powers of 1024.
Result<uint64_t> parse_bytes(const std::string& text);

}  // namespace iokv
