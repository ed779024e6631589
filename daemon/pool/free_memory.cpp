// SPDX-License-Identifier: Apache-2.0
#include "daemon/pool/free_memory.h"

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <sstream>
#include <string_view>

namespace iokv {
namespace {

// The number behind `key` at the beginning of a line: "MemAvailable:   123 kB", "inactive_file 123".
std::optional<uint64_t> value_of(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    std::istringstream rest(line.substr(key.size()));
    uint64_t value = 0;
    if (rest >> value) return value;
  }
  return std::nullopt;
}

// A file of one number. Nothing also for "max".
std::optional<uint64_t> number_in(const std::string& path) { return value_of(path, ""); }

uint64_t sum_of(const std::string& path, std::initializer_list<std::string_view> keys) {
  uint64_t sum = 0;
  for (std::string_view key : keys) sum += value_of(path, key).value_or(0);
  return sum;
}

// Whether `name` is one of `names`, which commas part.
bool lists(std::string_view names, std::string_view name) {
  while (names.size() > name.size()) {
    if (names.starts_with(name) && names[name.size()] == ',') return true;
    const size_t comma = names.find(',');
    if (comma == std::string_view::npos) return false;
    names.remove_prefix(comma + 1);
  }
  return names == name;
}

// How the files of a version of control groups are called.
struct Groups {
  const char* mount;
  std::initializer_list<const char*> limits;
  const char* used;
  std::initializer_list<std::string_view> droppable;  // of memory.stat: used, and given up before anybody is ended
};
// Beyond memory.high nobody is ended, but everything that takes memory is held up without end.
const Groups kVersion2 = {"/sys/fs/cgroup", {"memory.max", "memory.high"}, "memory.current",
                          {"inactive_file ", "active_file ", "slab_reclaimable "}};
const Groups kVersion1 = {"/sys/fs/cgroup/memory", {"memory.limit_in_bytes"}, "memory.usage_in_bytes",
                          {"total_inactive_file ", "total_active_file "}};

// The group `path` and all around it: a limit holds for everything within.
void apply(const Groups& groups, std::string path, const std::string& root, FreeMemory& free) {
  for (;;) {
    const std::string directory = root + groups.mount + path + "/";
    for (const char* name : groups.limits) {
      const auto limit = number_in(directory + name), used = number_in(directory + groups.used);
      if (!limit || !used) continue;
      const uint64_t held = *used - std::min(*used, sum_of(directory + "memory.stat", groups.droppable));
      const uint64_t left = *limit - std::min(*limit, held);
      if (left < free.bytes) free = {left, "in its control group (" + (groups.mount + path) + "/" + name + ")"};
    }
    if (path.empty()) return;
    path.resize(path.rfind('/'));
  }
}

}  // namespace

FreeMemory free_memory(const std::string& root) {
  FreeMemory free;
  if (const auto available_kib = value_of(root + "/proc/meminfo", "MemAvailable:")) {
    free = {*available_kib << 10, "on this machine (MemAvailable)"};
  }
  // Lines are number:controllers:path, with no number 0 but that of version 2.
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string_view controllers = std::string_view(line).substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    // What lies outside of the namespace cannot be looked at.
    if (!path.starts_with('/') || path == "/" || path.starts_with("/..")) path.clear();
    if (controllers.empty()) apply(kVersion2, path, root, free);
    if (lists(controllers, "memory")) apply(kVersion1, path, root, free);
  }
  return free;
}

std::optional<uint64_t> free_on_node(int node, const std::string& root) {
  const std::string number = std::to_string(node), path = root + "/sys/devices/system/node/node" + number + "/meminfo";
  const std::string line = "Node " + number + " ";
  const auto free_kib = value_of(path, line + "MemFree:");
  if (!free_kib) return std::nullopt;
  return (*free_kib + value_of(path, line + "Active(file):").value_or(0) + value_of(path, line + "Inactive(file):").value_or(0) +
          value_of(path, line + "SReclaimable:").value_or(0))
         << 10;
}

}  // namespace iokv
