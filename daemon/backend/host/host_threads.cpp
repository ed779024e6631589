// SPDX-License-Identifier: Apache-2.0
// See host_threads.h.
#include "daemon/backend/host/host_threads.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "daemon/backend/simd/cpu_isa.h"

namespace iokv {
namespace {

std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

// "0-3,8,10-11", as the kernel writes sets of CPUs.
std::vector<int> cpu_list(const std::string& text) {
  std::vector<int> cpus;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    char* end = nullptr;
    const long first = std::strtol(part.c_str(), &end, 10);
    if (end == part.c_str()) continue;
    const long last = *end == '-' ? std::strtol(end + 1, nullptr, 10) : first;
    for (long cpu = first; cpu <= last; ++cpu) cpus.push_back(static_cast<int>(cpu));
  }
  return cpus;
}

std::string text_of(const std::vector<int>& cpus) {
  std::string text;
  for (size_t i = 0; i < cpus.size();) {
    size_t end = i + 1;
    while (end < cpus.size() && cpus[end] == cpus[end - 1] + 1) ++end;
    if (i > 0) text += ',';
    text += end == i + 1 ? fmt::format("{}", cpus[i]) : fmt::format("{}-{}", cpus[i], cpus[end - 1]);
    i = end;
  }
  return text;
}

std::string counted(size_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

void read_nodes(const std::string& path, std::vector<HostCpu>& cpus) {
  const auto online = first_line(path + "/online");
  if (!online) return;
  for (int node : cpu_list(*online)) {
    const auto list = first_line(fmt::format("{}/node{}/cpulist", path, node));
    const std::vector<int> of_node = cpu_list(list.value_or(""));
    for (HostCpu& cpu : cpus) {
      if (std::find(of_node.begin(), of_node.end(), cpu.id) != of_node.end()) cpu.node = node;
    }
  }
}

// cpu.max is "max 100000" or microseconds of quota and of period. A group has at most what each one around it has.
void read_quota(const HostMachinePaths& paths, HostMachine& machine) {
  std::ifstream file(paths.own_group);
  std::string group;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("0::", 0) == 0) group = line.substr(3);
  }
  while (!group.empty() && group.back() == '/') group.pop_back();
  for (;;) {
    std::istringstream limit(first_line(paths.groups + group + "/cpu.max").value_or("max"));
    double quota = 0, period = 0;
    if (limit >> quota >> period && period > 0 && quota / period < machine.quota_cpus) {
      machine.quota_cpus = quota / period;
      machine.group = group.empty() ? "/" : group;
    }
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return;
    group.resize(slash);
  }
}

// Those that attend sooner come first: of the node, cores before their further hardware threads, and what is left to others
// behind all of them.
struct Order {
  std::vector<int> cores, siblings;  // of the node (of any, if it has none), but those left
  std::vector<int> elsewhere, left;
};

Order order_of(const HostMachine& machine, int numa_node) {
  const bool on_node = std::any_of(machine.cpus.begin(), machine.cpus.end(),
                                   [&](const HostCpu& cpu) { return cpu.node == numa_node; });
  Order order;
  auto has = [](const std::vector<int>& cores, int core) {
    return std::find(cores.begin(), cores.end(), core) != cores.end();
  };
  std::vector<int> seen, left_cores, elsewhere_siblings, left_siblings;
  for (const HostCpu& cpu : machine.cpus) {
    const bool first = !has(seen, cpu.core);
    if (first) seen.push_back(cpu.core);
    if (on_node && cpu.node != numa_node) {
      (first ? order.elsewhere : elsewhere_siblings).push_back(cpu.id);
    } else if (first && left_cores.size() < kLeftCores) {
      left_cores.push_back(cpu.core);
      order.left.push_back(cpu.id);
    } else if (has(left_cores, cpu.core)) {
      left_siblings.push_back(cpu.id);
    } else {
      (first ? order.cores : order.siblings).push_back(cpu.id);
    }
  }
  order.elsewhere.insert(order.elsewhere.end(), elsewhere_siblings.begin(), elsewhere_siblings.end());
  order.left.insert(order.left.begin(), left_siblings.begin(), left_siblings.end());
  return order;
}

std::string numbers_of(const HostMachine& machine) {
  const std::string cpus = counted(machine.cpus.size(), "CPU");
  if (!std::isfinite(machine.quota_cpus)) return cpus;
  return fmt::format("{} and a quota of {} (cpu.max of {})", cpus, machine.quota_cpus, machine.group);
}

HostThreads taken(std::vector<int> cpus) {
  HostThreads chosen;
  chosen.threads = static_cast<uint32_t>(cpus.size());
  chosen.cpus = std::move(cpus);
  std::vector<int> sorted = chosen.cpus;
  std::sort(sorted.begin(), sorted.end());
  chosen.reason =
      fmt::format("{} on CPU{} {}", counted(chosen.threads, "thread"), chosen.threads == 1 ? "" : "s", text_of(sorted));
  return chosen;
}

HostThreads choose_automatically(const HostMachine& machine, int numa_node) {
  if (!machine.has_kernels) return {0, {}, "none, since this CPU has no AVX2 with FMA and F16C"};
  const Order order = order_of(machine, numa_node);
  std::vector<int> cpus = order.cores;
  for (size_t i = 0; i < order.siblings.size() && cpus.size() < kSiblingsBelow; ++i) cpus.push_back(order.siblings[i]);
  size_t most = kMostAutomatic;
  if (std::isfinite(machine.quota_cpus)) {
    const double whole = std::floor(machine.quota_cpus);
    most = std::min(most, whole > kLeftCores ? static_cast<size_t>(whole) - kLeftCores : 0);
  }
  if (cpus.size() > most) cpus.resize(most);
  if (!cpus.empty()) return taken(std::move(cpus));
  return {0, {}, fmt::format("none, since of {} {} cores are for the conductor, the device's thread and clients",
                             numbers_of(machine), kLeftCores)};
}

}  // namespace

HostMachine read_host_machine(const HostMachinePaths& paths) {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> allowed;
  // Fails on machines with more CPUs than a set has: then CPU numbers say nothing, and none is chosen.
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) allowed.push_back(cpu);
    }
  }
  return read_host_machine(paths, allowed);
}

HostMachine read_host_machine(const HostMachinePaths& paths, const std::vector<int>& allowed_cpus) {
  HostMachine machine;
  for (int id : allowed_cpus) {
    HostCpu cpu{id, id, -1};
    const std::string topology = fmt::format("{}/cpu{}/topology/thread_siblings_list", paths.cpus, id);
    for (int sibling : cpu_list(first_line(topology).value_or(""))) cpu.core = std::min(cpu.core, sibling);
    machine.cpus.push_back(cpu);
  }
  std::sort(machine.cpus.begin(), machine.cpus.end(), [](const HostCpu& a, const HostCpu& b) { return a.id < b.id; });
  read_nodes(paths.nodes, machine.cpus);
  read_quota(paths, machine);
  machine.has_kernels = cpu_supports(CpuIsa::avx2);
  return machine;
}

Result<HostThreads> choose_host_threads(const HostMachine& machine, std::optional<uint32_t> cpu_attention, int numa_node) {
  if (!cpu_attention) return choose_automatically(machine, numa_node);
  const uint32_t wanted = *cpu_attention;
  if (wanted == 0) return HostThreads{0, {}, "none, as cpu_attention says"};
  if (!machine.has_kernels) {
    return error(fmt::format("cpu_attention = {}: this CPU has no AVX2 with FMA and F16C; set it to off or auto", wanted));
  }
  if (wanted > machine.cpus.size() || wanted > machine.quota_cpus) {
    const auto most = static_cast<size_t>(std::min(static_cast<double>(machine.cpus.size()), machine.quota_cpus));
    return error(fmt::format("cpu_attention = {} is more threads than iokvd may run: it has {}; set it to {} (auto takes {}), or "
                             "give iokvd more (CPUAffinity= and CPUQuota= of its unit)",
                             wanted, numbers_of(machine), most == 0 ? "off" : fmt::format("{} at most", most),
                             choose_automatically(machine, numa_node).threads));
  }
  const Order order = order_of(machine, numa_node);
  std::vector<int> cpus;
  for (const std::vector<int>* group : {&order.cores, &order.siblings, &order.elsewhere, &order.left}) {
    for (size_t i = 0; i < group->size() && cpus.size() < wanted; ++i) cpus.push_back((*group)[i]);
  }
  return taken(std::move(cpus));
}

}  // namespace iokv
