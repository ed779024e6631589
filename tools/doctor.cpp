// SPDX-License-Identifier: Apache-2.0
#include "tools/doctor.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "iokv/iokv.h"
#include "tools/observer.h"

namespace iokv {
namespace {

namespace fs = std::filesystem;
using wire::Counter;

std::string read_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

double gib(uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(1ull << 30); }

// "MemAvailable:   123 kB" of /proc/meminfo, in bytes.
std::optional<uint64_t> meminfo(const std::string& root, const std::string& name) {
  std::ifstream file(root + "/proc/meminfo");
  std::string key, unit;
  for (uint64_t value = 0; file >> key >> value; std::getline(file, unit)) {
    if (key == name + ":") return value * 1024;
  }
  return std::nullopt;
}

// In bytes; nothing where it is unlimited.
std::optional<uint64_t> locked_memory_limit(const std::string& root) {
  constexpr std::string_view kName = "Max locked memory";
  std::ifstream file(root + "/proc/self/limits");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(kName)) continue;
    uint64_t soft = 0;
    std::istringstream values(line.substr(kName.size()));
    if (values >> soft) return soft;
  }
  return std::nullopt;
}

// The chosen one of "always [madvise] never".
std::string chosen(const std::string& line) {
  const size_t open = line.find('['), close = line.find(']');
  return open == std::string::npos || close == std::string::npos ? "" : line.substr(open + 1, close - open - 1);
}

// The socket and the group: what a client of this user meets.
void examine_socket(std::vector<Finding>& findings, Result<CounterSnapshot>& counters) {
  if (counters) {
    const CounterSnapshot& snapshot = *counters;
    Finding found{"socket", Health::good, fmt::format("{}: iokvd, pid {}, answers", snapshot.socket_path, snapshot[Counter::pid]), ""};
    if (snapshot[Counter::ready] == 0) {
      found.health = Health::note;
      found.what += fmt::format("; it is loading its model, {} % done", snapshot[Counter::loading_percent]);
    }
    findings.push_back(found);
    findings.push_back({"group", Health::good, "this user may use the daemon", ""});
    return;
  }
  const Error& failure = counters.failure();
  if (failure.code == IOKV_EACCES) {
    const size_t quoted = failure.message.find('"'), end = failure.message.find('"', quoted + 1);
    const std::string group = quoted == std::string::npos ? "iokv" : failure.message.substr(quoted + 1, end - quoted - 1);
    findings.push_back({"socket", Health::good, "a socket is there", ""});
    findings.push_back({"group", Health::bad, failure.message,
                        fmt::format("sudo usermod -aG {} \"$USER\", then log in again", group)});
    return;
  }
  const bool absent = failure.code == IOKV_ENODAEMON;
  findings.push_back({"socket", Health::bad, failure.message,
                      absent ? "start the daemon: iokvd --model PATH, or systemctl start iokvd; where it is elsewhere, set IOKV_SOCKET"
                             : "look at the daemon's log: journalctl -u iokvd"});
}

struct Gpu {
  std::string address, width, widest, speed, fastest;
};

std::vector<Gpu> nvidia_gpus(const std::string& root) {
  std::vector<Gpu> gpus;
  std::error_code failed;
  for (const auto& device : fs::directory_iterator(root + "/sys/bus/pci/devices", failed)) {
    const fs::path& path = device.path();
    // 0x03: display controllers, compute-only ones included.
    if (read_line(path / "vendor") != "0x10de" || !read_line(path / "class").starts_with("0x03")) continue;
    gpus.push_back({path.filename().string(), read_line(path / "current_link_width"), read_line(path / "max_link_width"),
                    read_line(path / "current_link_speed"), read_line(path / "max_link_speed")});
  }
  std::sort(gpus.begin(), gpus.end(), [](const Gpu& a, const Gpu& b) { return a.address < b.address; });
  return gpus;
}

void examine_driver(std::vector<Finding>& findings, const std::string& root, const std::vector<Gpu>& gpus) {
  const std::string version = read_line(root + "/proc/driver/nvidia/version");
  if (gpus.empty() && version.empty()) {
    findings.push_back({"driver", Health::good, "no NVIDIA GPU here: the CPU computes", ""});
  } else if (version.empty()) {
    findings.push_back({"driver", Health::bad, fmt::format("{} NVIDIA GPU{}, and no driver is loaded", gpus.size(), gpus.size() == 1 ? "" : "s"),
                        "install NVIDIA's driver (Debian: apt-get install nvidia-driver), then modprobe nvidia"});
  } else {
    findings.push_back({"driver", Health::good, version, ""});
  }
}

// Leading digits.
uint64_t number_of(const std::string& text) {
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

void examine_links(std::vector<Finding>& findings, const std::vector<Gpu>& gpus) {
  for (const Gpu& gpu : gpus) {
    const bool narrow = number_of(gpu.width) < number_of(gpu.widest);
    const bool slow = number_of(gpu.speed) < number_of(gpu.fastest);
    Finding found{"PCIe", Health::good, fmt::format("{}: x{} of x{}, {} of {}", gpu.address, gpu.width, gpu.widest, gpu.speed, gpu.fastest), ""};
    if (narrow) {
      found.health = Health::bad;
      found.fix = fmt::format("decoding waits for this link, which has {} of {} lanes: put the card into a slot wired for x{}, "
                              "reseat it, and see that the firmware does not split the slot",
                              gpu.width, gpu.widest, gpu.widest);
    } else if (slow) {
      found.health = Health::note;
      found.fix = "an idle link slows down to save power; if it stays so under load, let the firmware choose its generation";
    }
    findings.push_back(found);
  }
}

void examine_memory(std::vector<Finding>& findings, const std::string& root, Result<CounterSnapshot>& counters, bool has_gpu) {
  const auto available = meminfo(root, "MemAvailable"), total = meminfo(root, "MemTotal");
  if (!available || !total) {
    findings.push_back({"memory", Health::note, root + "/proc/meminfo says nothing", ""});
    return;
  }
  Finding found{"memory", Health::good, fmt::format("{:.1f} of {:.1f} GiB available", gib(*available), gib(*total)), ""};
  if (counters) {
    const uint64_t pool = (*counters)[Counter::pool_bytes], weights = (*counters)[Counter::weights_bytes];
    found.what += fmt::format("; the daemon has a pool of {:.1f} GiB and {:.1f} GiB of weights", gib(pool), gib(weights));
  }
  if (const auto swap = meminfo(root, "SwapTotal"), free = meminfo(root, "SwapFree"); swap && free && *swap - *free > *total / 20) {
    found.health = Health::note;
    found.what += fmt::format("; {:.1f} GiB are swapped out", gib(*swap - *free));
    found.fix = "what is swapped out is read at a disk's speed: a smaller pool (--pool-bytes), or less beside the daemon";
  }
  if (*available < *total / 20) {
    found.health = Health::bad;
    found.fix = "less than a twentieth is left: a smaller pool (--pool-bytes), a smaller model, or less beside the daemon";
  }
  findings.push_back(found);
  const auto limit = locked_memory_limit(root);
  if (has_gpu && limit) {
    findings.push_back({"locked memory", Health::note, fmt::format("this shell may lock {:.2f} GiB (ulimit -l)", gib(*limit)),
                        "the pool is pinned for the GPU: LimitMEMLOCK=infinity in the service, or ulimit -l unlimited"});
  }
}

// The pool is anonymous memory with MADV_HUGEPAGE, or memfds where these have huge pages (daemon/pool/pool_memory.h).
void examine_huge_pages(std::vector<Finding>& findings, const std::string& root) {
  const fs::path directory = root + "/sys/kernel/mm/transparent_hugepage";
  const std::string anonymous = chosen(read_line(directory / "enabled")), shared = chosen(read_line(directory / "shmem_enabled"));
  if (anonymous.empty()) {
    findings.push_back({"huge pages", Health::note, "this kernel has no transparent huge pages",
                        "a pool in pages of 4 KiB is read 6 to 20 % slower: a kernel with CONFIG_TRANSPARENT_HUGEPAGE"});
    return;
  }
  const bool good = anonymous == "always" || anonymous == "madvise";
  findings.push_back({"huge pages", good ? Health::good : Health::bad,
                      fmt::format("transparent_hugepage/enabled is {}, shmem_enabled {}", anonymous, shared.empty() ? "absent" : shared),
                      good ? "" : fmt::format("echo madvise | sudo tee {}", (directory / "enabled").string())});
}

const char* mark_of(Health health) {
  switch (health) {
    case Health::good: return "ok";
    case Health::note: return "note";
    case Health::bad: return "BAD";
  }
  return "";
}

}  // namespace

std::vector<Finding> examine(const std::string& socket_path, const std::string& root) {
  std::vector<Finding> findings;
  Result<CounterSnapshot> counters = read_counters(socket_path);
  const std::vector<Gpu> gpus = nvidia_gpus(root);
  examine_socket(findings, counters);
  examine_driver(findings, root, gpus);
  examine_memory(findings, root, counters, !gpus.empty());
  examine_huge_pages(findings, root);
  examine_links(findings, gpus);
  return findings;
}

std::string doctor_text(const std::vector<Finding>& findings) {
  std::string text;
  for (const Finding& finding : findings) {
    text += fmt::format("{:<5} {:<14} {}\n", mark_of(finding.health), finding.subject, finding.what);
    if (!finding.fix.empty()) text += fmt::format("{:>20} -> {}\n", "", finding.fix);
  }
  return text;
}

std::string doctor_json(const std::vector<Finding>& findings) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const Finding& finding : findings) {
    array.push_back({{"subject", finding.subject}, {"health", mark_of(finding.health)}, {"what", finding.what},
                     {"fix", finding.fix}});
  }
  return array.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace iokv
