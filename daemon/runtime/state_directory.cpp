// SPDX-License-Identifier: Apache-2.0
#include "daemon/runtime/state_directory.h"

#include <cstdlib>

namespace iokv {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::string choose_state_directory(const std::string& setting) {
  if (!setting.empty()) return setting;
  if (std::string own = environment("IOKV_STATE_DIRECTORY"); !own.empty()) return own;
  if (std::string service = environment("STATE_DIRECTORY"); !service.empty()) return service.substr(0, service.find(':'));
  // A relative path there is to be ignored (XDG Base Directory Specification).
  if (std::string state = environment("XDG_STATE_HOME"); state.starts_with('/')) return state + "/iokv";
  if (std::string home = environment("HOME"); home.starts_with('/')) return home + "/.local/state/iokv";
  return "";
}

}  // namespace iokv
