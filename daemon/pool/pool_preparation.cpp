// SPDX-License-Identifier: Apache-2.0
#include "daemon/pool/pool_preparation.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "daemon/base/monotonic.h"

namespace iokv {
namespace {

constexpr size_t kPageBytes = 4096;
// A page table entry of 8 bytes for each page of 4 KiB.
constexpr uint64_t kPageTableShare = kPageBytes / 8;
// For the daemon itself: two threads' stacks, clients' rings, and files that are being read.
constexpr uint64_t kBesideBytes = uint64_t{256} << 20;
// What a thread takes at once: whole huge pages, 20 ms of a thread that gets a 16th of 12 GiB/s.
constexpr size_t kPieceBytes = size_t{16} << 20;
constexpr uint64_t kReportNs = 1'000'000'000;

std::string gib(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (uint64_t{1} << 30));
  return text;
}

uint32_t usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return static_cast<uint32_t>(CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

// mbind by its number: libnuma's function is this call, and its library a dependency that prints for itself.
int bind_memory(std::byte* base, size_t bytes, int policy, int node) {
  constexpr size_t kWordBits = sizeof(unsigned long) * CHAR_BIT;
  std::array<unsigned long, 1024 / kWordBits> nodes{};  // as many as Linux has at the most
  if (static_cast<size_t>(node) >= nodes.size() * kWordBits) return EINVAL;
  nodes[static_cast<size_t>(node) / kWordBits] = 1ul << static_cast<size_t>(node) % kWordBits;
  // The kernel takes one bit less than it is told.
  const long bound = ::syscall(SYS_mbind, base, bytes, policy, nodes.data(), nodes.size() * kWordBits + 1, 0u);
  return bound == 0 ? 0 : errno;
}

void bind(const PoolMemory& memory, const PoolPreparation& how) {
  const size_t bytes = memory.bytes();
  const auto free = free_on_node(how.numa_node);
  // A node that is bound to and has too little would have this process ended, whatever other nodes have.
  const bool fits = free && *free >= bytes + bytes / kPageTableShare;
  const int refused = bind_memory(memory.base(), bytes, fits ? MPOL_BIND : MPOL_PREFERRED, how.numa_node);
  if (!how.warn) return;
  const std::string node = "NUMA node " + std::to_string(how.numa_node);
  if (refused != 0) {
    how.warn("the pool is not bound to " + node + ", the device's: " + std::strerror(refused));
  } else if (!fits) {
    how.warn("part of the pool will lie on other nodes than " + node + ", the device's: " +
             (free ? gib(*free) + " are free there" : "it is not known what is free there"));
  }
}

// Gives pages to a range, with what they hold left alone. An errno.
int populate(std::byte* at, size_t bytes) {
  for (;;) {
    // Unlike a touch it has an answer where there is no memory, and no exception for each page.
    if (::madvise(at, bytes, MADV_POPULATE_WRITE) == 0) return 0;
    if (errno == EINVAL) break;  // before Linux 5.14
    if (errno != EINTR && errno != EAGAIN) return errno;
  }
  for (size_t offset = 0; offset < bytes; offset += kPageBytes) {
    auto* word = reinterpret_cast<volatile unsigned char*>(at + offset);
    *word = *word;
  }
  return 0;
}

Status touch(const PoolMemory& memory, const PoolPreparation& how) {
  const uint64_t begun_ns = monotonic_ns();
  const size_t bytes = memory.bytes(), files = (bytes + memory.file_bytes() - 1) / memory.file_bytes();
  const size_t pieces_a_file = (memory.file_bytes() + kPieceBytes - 1) / kPieceBytes;
  std::atomic<size_t> next{0}, touched{0};
  std::atomic<int> refused{0};
  std::atomic<bool> stop{false};
  // Pieces of all files in turn, so that threads seldom add pages to the same one. Relaxed throughout: the pages are
  // handed on by the joins.
  auto take_piece = [&] {
    const size_t index = next.fetch_add(1, std::memory_order_relaxed), in_file = index / files * kPieceBytes;
    if (index >= files * pieces_a_file || stop.load(std::memory_order_relaxed)) return false;
    const size_t at = index % files * memory.file_bytes() + in_file;
    if (at >= bytes) return true;  // the last file is shorter
    const size_t piece = std::min({kPieceBytes, memory.file_bytes() - in_file, bytes - at});
    if (const int number = populate(memory.base() + at, piece); number != 0) {
      refused.store(number, std::memory_order_relaxed);
      stop.store(true, std::memory_order_relaxed);
      return false;
    }
    touched.fetch_add(piece, std::memory_order_relaxed);
    return true;
  };

  const size_t threads = std::min<size_t>(how.threads != 0 ? how.threads : usable_cores(), files * pieces_a_file);
  std::vector<std::thread> team;
  try {
    while (team.size() + 1 < threads) {
      team.emplace_back([&] {
        while (take_piece()) continue;
      });
    }
  } catch (const std::system_error&) {  // no more threads are to be had: it takes longer
  }
  bool interrupted = false;
  for (uint64_t reported_ns = begun_ns; take_piece();) {
    if (how.go_on && !how.go_on()) {
      interrupted = true;
      stop.store(true, std::memory_order_relaxed);
    }
    if (const uint64_t now_ns = monotonic_ns(); how.progress && now_ns - reported_ns >= kReportNs) {
      how.progress({touched.load(std::memory_order_relaxed), bytes, now_ns - begun_ns});
      reported_ns = now_ns;
    }
  }
  for (std::thread& thread : team) thread.join();
  if (const int number = refused.load(std::memory_order_relaxed); number != 0) {
    return error("the kernel gave " + gib(touched) + " of the pool's " + gib(bytes) + " (--pool-bytes): " +
                 std::strerror(number));
  }
  if (interrupted) return error("loading was interrupted");
  return {};
}

}  // namespace

Status prepare_pool(const PoolMemory& memory, const PoolPreparation& how) {
  IOKV_TRY(expect_room(memory.bytes(), free_memory()));
  if (how.numa_node >= 0) bind(memory, how);
  return touch(memory, how);
}

Status expect_room(uint64_t pool_bytes, const FreeMemory& free) {
  const uint64_t usable = free.bytes - std::min(free.bytes, kBesideBytes);
  const uint64_t most = usable / (kPageTableShare + 1) * kPageTableShare;
  if (pool_bytes <= most) return {};
  return error("a pool of " + gib(pool_bytes) + " (--pool-bytes): " + gib(free.bytes) + " of memory are free " + free.where +
               ", enough for one of " + std::to_string(most >> 20) + "MiB");
}

double PoolProgress::bytes_per_second() const {
  return elapsed_ns == 0 ? 0 : static_cast<double>(touched_bytes) * 1e9 / static_cast<double>(elapsed_ns);
}

double PoolProgress::seconds_left() const {
  const double rate = bytes_per_second();
  return rate == 0 ? 0 : static_cast<double>(total_bytes - touched_bytes) / rate;
}

}  // namespace iokv
