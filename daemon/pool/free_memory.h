// SPDX-License-Identifier: Apache-2.0
// How much memory this process may still take before the kernel ends it for taking too much: what the machine has left,
// what every control group around the process allows, and what a NUMA node has. Read from files, so what it says is a
// moment's. Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace iokv {

struct FreeMemory {
  uint64_t bytes = UINT64_MAX;  // where nothing can be read
  std::string where;            // "on this machine (MemAvailable)": what it is free in, and by whose word
};

// The least of what the machine and the control groups (v2, or the memory group of v1) have. Pages of files count as
// free, since the kernel drops them first; swap does not. `root` is put before every path: tests have a tree of their own.
FreeMemory free_memory(const std::string& root = "");

// Of one NUMA node; nothing where there is no such node.
std::optional<uint64_t> free_on_node(int node, const std::string& root = "");

}  // namespace iokv
