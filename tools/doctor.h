// SPDX-License-Identifier: Apache-2.0
// `iokv doctor`: what this machine lacks for iokvd to run well, each with what mends it. Reads /proc and /sys and asks the
// daemon, if there is one, for its counters; changes nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace iokv {

enum class Health : uint8_t { good, note, bad };  // note: it works, and could be better

struct Finding {
  std::string subject;  // "socket", "group", "driver", "memory", "huge pages", "PCIe"
  Health health = Health::good;
  std::string what;
  std::string fix;      // empty where there is nothing to do
};

// root: of /proc and /sys, "" for the machine's own. socket_path empty: where libiokv looks.
std::vector<Finding> examine(const std::string& socket_path, const std::string& root);

std::string doctor_text(const std::vector<Finding>& findings);
std::string doctor_json(const std::vector<Finding>& findings);

}  // namespace iokv
