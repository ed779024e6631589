// SPDX-License-Identifier: Apache-2.0
// How many threads attend on the host, and on which CPUs: from what the process may use and what else has to run. Reading the
// machine and deciding are apart; nothing here starts a thread or remembers anything.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/result.h"

namespace iokv {

struct HostCpu {
  int id = 0;
  int core = 0;   // the lowest CPU of its core: hardware threads of one core have the same
  int node = -1;  // of memory; -1: not known
};

struct HostMachine {
  std::vector<HostCpu> cpus;  // that this process may run on, rising
  // Of processor time a second, by the tightest control group around the process, which is `group`.
  double quota_cpus = std::numeric_limits<double>::infinity();
  std::string group;
  bool has_kernels = true;  // for its instruction set: AVX2 with FMA and F16C or better
};

// Where the machine is described; tests have trees of their own.
struct HostMachinePaths {
  std::string cpus = "/sys/devices/system/cpu", nodes = "/sys/devices/system/node";
  std::string groups = "/sys/fs/cgroup", own_group = "/proc/self/cgroup";  // of version 2
};

// The machine at hand, with the calling thread's affinity. What is not described there is taken to be simple: each CPU a
// core, no nodes, no quota.
HostMachine read_host_machine(const HostMachinePaths& paths = {});
HostMachine read_host_machine(const HostMachinePaths& paths, const std::vector<int>& allowed_cpus);

struct HostThreads {
  uint32_t threads = 0;
  std::vector<int> cpus;  // of each thread
  std::string reason;     // one line about it, without an end: for the log
};

// cpu_attention: nullopt is auto, 0 off, else as many as it says. `numa_node` is that of the device and of the pool, -1 if it
// is not known.
//
// auto leaves kLeftCores cores of the node, for the conductor, the device's thread and clients, and as much of the quota; of
// the others it takes each once, and where those are fewer than kSiblingsBelow their other hardware threads as well, at most
// kMostAutomatic. 0 where nothing remains or there are no kernels, and `reason` says why. A number is taken as it is, those
// that auto would leave last; it is refused where there are fewer CPUs, the quota is less or there are no kernels.
Result<HostThreads> choose_host_threads(const HostMachine& machine, std::optional<uint32_t> cpu_attention, int numa_node);

// The conductor and the device's thread are busy while a step runs, each with less than a core; clients have what is left.
inline constexpr uint32_t kLeftCores = 2;
// A core reads 8 to 14 GB/s of a server's memory when several do, a link carries up to 55, and memory gives 120 to 200 before
// it has no more: 24 cores are enough for any, and hardware threads beside each other add something below 16.
inline constexpr uint32_t kMostAutomatic = 24, kSiblingsBelow = 16;

}  // namespace iokv
