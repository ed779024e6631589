// SPDX-License-Identifier: Apache-2.0
// The memory behind the pool: what its seals refuse, what preparing it touches, and what is said where there is too
// little. How much the kernel says it has given is asked of the kernel: st_blocks of the memfd, mincore, get_mempolicy.
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "daemon/pool/free_memory.h"
#include "daemon/pool/host_pool.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr PoolLayout kLayout{2, 2 * 65536, 65536};

HostPool pool_of(uint64_t bytes, PoolPages pages = PoolPages::memfds) {
  auto pool = HostPool::create(kLayout, bytes, pages);
  assert_true(static_cast<bool>(pool));
  return *std::move(pool);
}

uint64_t given_bytes(const HostPool& pool) {
  uint64_t bytes = 0;
  for (const Descriptor& file : pool.memory().files()) {
    struct stat about{};
    assert_int_equal(::fstat(file.number(), &about), 0);
    bytes += static_cast<uint64_t>(about.st_blocks) * 512;
  }
  return bytes;
}

bool says(const std::string& message, const char* words) {
  if (message.find(words) != std::string::npos) return true;
  std::printf("no \"%s\" in: %s\n", words, message.c_str());
  return false;
}

void its_size_is_sealed_and_so_are_its_seals(void**) {
  for (const uint64_t bytes : {16 * kMiB, 400 * kMiB}) {
    HostPool pool = pool_of(bytes);
    uint64_t whole = 0;
    for (const Descriptor& file : pool.memory().files()) {
      struct stat about{};
      assert_int_equal(::fstat(file.number(), &about), 0);
      whole += static_cast<uint64_t>(about.st_size);
      for (const off_t size : {off_t{0}, about.st_size - 4096, about.st_size + 4096}) {
        errno = 0;
        assert_int_equal(::ftruncate(file.number(), size), -1);
        assert_int_equal(errno, EPERM);
      }
      errno = 0;
      assert_int_equal(::fcntl(file.number(), F_ADD_SEALS, F_SEAL_WRITE), -1);
      assert_int_equal(errno, EPERM);
      assert_int_equal(::fcntl(file.number(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    }
    assert_int_equal(whole, pool.bytes());
  }
}

void whoever_has_the_descriptors_sees_the_same_pages_one_file_behind_the_other(void**) {
  HostPool pool = pool_of(399 * kMiB);
  const PoolMemory& memory = pool.memory();
  assert_true(memory.files().size() > 1);
  for (uint64_t at = 0; at < pool.bytes(); at += kMiB) pool.base()[at] = static_cast<std::byte>(at / kMiB + 1);
  for (size_t i = 0; i < memory.files().size(); i++) {
    const size_t begin = i * memory.file_bytes(), bytes = std::min(memory.file_bytes(), pool.bytes() - begin);
    void* again = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, memory.files()[i].number(), 0);
    assert_true(again != MAP_FAILED);
    assert_int_equal(begin % kMiB, 0);
    for (size_t at = 0; at < bytes; at += kMiB) {
      assert_true(static_cast<const std::byte*>(again)[at] == static_cast<std::byte>((begin + at) / kMiB + 1));
    }
    ::munmap(again, bytes);
  }
}

size_t resident_pages(const HostPool& pool) {
  std::vector<unsigned char> there(pool.bytes() / 4096);
  assert_int_equal(::mincore(pool.base(), pool.bytes(), there.data()), 0);
  return static_cast<size_t>(std::ranges::count_if(there, [](unsigned char page) { return (page & 1) != 0; }));
}

void anonymous_pages_are_touched_as_they_are_used_or_at_once(void**) {
  HostPool pool = pool_of(64 * kMiB, PoolPages::anonymous);
  assert_true(pool.memory().files().empty());
  assert_int_equal(resident_pages(pool), 0);
  pool.base()[pool.bytes() - 1] = std::byte{42};
  assert_true(static_cast<bool>(pool.prepare({})));
  assert_int_equal(resident_pages(pool), pool.bytes() / 4096);
  assert_int_equal(static_cast<uint8_t>(pool.base()[pool.bytes() - 1]), 42);
}

// Where memfds have 4 KiB pages only, a device would read them slowly.
void a_pool_is_in_memfds_where_they_have_huge_pages(void**) {
  const HostPool pool = pool_of(16 * kMiB, PoolPages::automatic);
  assert_true(pool.memory().files().empty() != memfds_have_huge_pages());
}

void it_is_touched_as_it_is_used(void**) {
  HostPool pool = pool_of(64 * kMiB);
  assert_int_equal(given_bytes(pool), 0);
  pool.base()[5 * kMiB] = std::byte{1};
  assert_in_range(given_bytes(pool), 1, 2 * kMiB);
}

void preparing_it_touches_every_page_and_keeps_what_is_there(void**) {
  HostPool pool = pool_of(331 * kMiB);  // no whole number of anybody's pieces, and files of two lengths
  for (uint64_t at = 0; at < pool.bytes(); at += 7 * kMiB + 13) pool.base()[at] = static_cast<std::byte>(at);
  PoolPreparation how;
  how.threads = 5;
  Status ready = pool.prepare(how);
  assert_true(static_cast<bool>(ready));
  assert_true(given_bytes(pool) >= pool.bytes());
  std::vector<unsigned char> resident(pool.bytes() / 4096);
  assert_int_equal(::mincore(pool.base(), pool.bytes(), resident.data()), 0);
  assert_true(std::ranges::all_of(resident, [](unsigned char page) { return (page & 1) != 0; }));
  for (uint64_t at = 0; at < pool.bytes(); at += 7 * kMiB + 13) assert_true(pool.base()[at] == static_cast<std::byte>(at));
  assert_true(pool.base()[1] == std::byte{0});
}

void a_preparation_that_is_told_to_stop_stops(void**) {
  HostPool pool = pool_of(256 * kMiB);
  int asked = 0;
  PoolPreparation how;
  how.threads = 1;
  how.go_on = [&] { return ++asked < 3; };
  Status stopped = pool.prepare(how);
  assert_false(static_cast<bool>(stopped));
  assert_true(says(stopped.failure().message, "interrupted"));
  assert_int_equal(asked, 3);
  assert_in_range(given_bytes(pool), 1, pool.bytes() - 1);
}

uint64_t machine_bytes() {
  return static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

void more_than_is_free_is_refused_before_anything_is_touched(void**) {
  HostPool pool = pool_of(machine_bytes() + 64 * kMiB);
  bool asked = false;
  PoolPreparation how;
  how.go_on = [&] { return asked = true; };
  Status refused = pool.prepare(how);
  assert_false(static_cast<bool>(refused));
  for (const char* words : {"--pool-bytes", "are free", "enough for one of"}) {
    assert_true(says(refused.failure().message, words));
  }
  assert_false(asked);
  assert_int_equal(given_bytes(pool), 0);
}

void what_a_refusal_says_would_fit_fits(void**) {
  for (const uint64_t free_bytes : {uint64_t{1} << 30, uint64_t{77} << 30, uint64_t{128'123'456'789}}) {
    const FreeMemory free{free_bytes, "somewhere"};
    Status refused = expect_room(free_bytes, free);
    assert_false(static_cast<bool>(refused));
    const std::string message = refused.failure().message;
    const char* word = "enough for one of ";
    const uint64_t mib = std::stoull(message.substr(message.find(word) + std::strlen(word)));
    assert_true(static_cast<bool>(expect_room(mib << 20, free)));
    assert_false(static_cast<bool>(expect_room((mib + 1) << 20, free)));
    assert_true(says(message, "somewhere"));
    // Page tables are a 512th.
    assert_true((mib << 20) + (mib << 20) / 512 + (uint64_t{256} << 20) <= free_bytes);
  }
  assert_false(static_cast<bool>(expect_room(1, {0, "nowhere"})));
}

void a_node_that_is_not_there_is_a_warning(void**) {
  HostPool pool = pool_of(32 * kMiB);
  std::vector<std::string> warnings;
  PoolPreparation how;
  how.numa_node = 1000;
  how.warn = [&](const std::string& line) { warnings.push_back(line); };
  assert_true(static_cast<bool>(pool.prepare(how)));
  assert_int_equal(warnings.size(), 1);
  assert_true(says(warnings[0], "NUMA node 1000"));
  assert_true(given_bytes(pool) >= pool.bytes());
}

void memory_lies_on_the_node_that_was_named(void**) {
  HostPool pool = pool_of(32 * kMiB);
  std::vector<std::string> warnings;
  PoolPreparation how;
  how.numa_node = 0;
  how.warn = [&](const std::string& line) { warnings.push_back(line); };
  assert_true(static_cast<bool>(pool.prepare(how)));
  if (!warnings.empty()) {  // this kernel, or what contains this process, does not let memory be bound
    std::printf("%s\n", warnings[0].c_str());
    skip();
  }
  int policy = -1;
  unsigned long nodes[1024 / 64] = {};
  assert_int_equal(::syscall(SYS_get_mempolicy, &policy, nodes, 1024 + 1, pool.base() + kMiB, MPOL_F_ADDR), 0);
  assert_int_equal(policy, MPOL_BIND);
  assert_int_equal(nodes[0], 1);
  assert_int_equal(::syscall(SYS_get_mempolicy, &policy, nullptr, 0, pool.base() + kMiB, MPOL_F_ADDR | MPOL_F_NODE), 0);
  assert_int_equal(policy, 0);  // the node that the page is on
}

void progress_is_told_in_seconds_at_the_rate_until_now(void**) {
  const PoolProgress progress{uint64_t{20} << 30, uint64_t{64} << 30, 4'000'000'000};
  assert_true(std::fabs(progress.bytes_per_second() - 5.0 * (uint64_t{1} << 30)) < 1);
  assert_true(std::fabs(progress.seconds_left() - 44.0 / 5.0) < 1e-9);
  assert_true(PoolProgress{}.seconds_left() == 0);
}

// A tree of files in place of the machine's /proc and /sys.
class Tree {
 public:
  Tree() {
    char name[] = "/tmp/iokv-free-memory.XXXXXX";
    assert_non_null(::mkdtemp(name));
    root_ = name;
  }
  ~Tree() { std::filesystem::remove_all(root_); }
  Tree& put(const std::string& path, const std::string& text) {
    const std::filesystem::path whole = root_ + path;
    std::filesystem::create_directories(whole.parent_path());
    std::ofstream(whole) << text;
    return *this;
  }
  FreeMemory free() const { return free_memory(root_); }
  const std::string& root() const { return root_; }

 private:
  std::string root_;
};

const char* kMeminfo = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n";

void without_control_groups_the_machine_counts(void**) {
  Tree tree;
  tree.put("/proc/meminfo", kMeminfo).put("/proc/self/cgroup", "0::/\n");
  assert_int_equal(tree.free().bytes, uint64_t{8'000'000} << 10);
  assert_true(says(tree.free().where, "MemAvailable"));
  assert_int_equal(Tree().free().bytes, UINT64_MAX);
}

void the_tightest_of_all_groups_around_the_process_counts(void**) {
  Tree tree;
  tree.put("/proc/meminfo", kMeminfo).put("/proc/self/cgroup", "0::/a.slice/b.service\n");
  tree.put("/sys/fs/cgroup/a.slice/b.service/memory.max", "max\n");
  tree.put("/sys/fs/cgroup/a.slice/b.service/memory.current", "1000\n");
  assert_int_equal(tree.free().bytes, uint64_t{8'000'000} << 10);
  tree.put("/sys/fs/cgroup/a.slice/memory.max", "5000000\n").put("/sys/fs/cgroup/a.slice/memory.current", "3000000\n");
  assert_int_equal(tree.free().bytes, 2'000'000);
  assert_true(says(tree.free().where, "/sys/fs/cgroup/a.slice/memory.max"));
  // Pages of files are given up first.
  tree.put("/sys/fs/cgroup/a.slice/memory.stat", "anon 9\nfile 999999\ninactive_file 500000\nactive_file 100000\n");
  assert_int_equal(tree.free().bytes, 2'600'000);
  tree.put("/sys/fs/cgroup/a.slice/b.service/memory.high", "301000\n");
  assert_int_equal(tree.free().bytes, 300'000);
  assert_true(says(tree.free().where, "b.service/memory.high"));
  // More used than allowed is none left.
  tree.put("/sys/fs/cgroup/a.slice/b.service/memory.current", "400000\n");
  assert_int_equal(tree.free().bytes, 0);
}

void a_containers_own_group_is_found_at_the_mount(void**) {
  for (const char* self : {"0::/\n", "0::/../../host.slice\n"}) {
    Tree tree;
    tree.put("/proc/meminfo", kMeminfo).put("/proc/self/cgroup", self);
    tree.put("/sys/fs/cgroup/memory.max", "7000\n").put("/sys/fs/cgroup/memory.current", "2000\n");
    assert_int_equal(tree.free().bytes, 5000);
  }
}

void groups_of_version_1_count_too(void**) {
  Tree tree;
  tree.put("/proc/meminfo", kMeminfo).put("/proc/self/cgroup", "12:cpu,cpuacct:/x\n9:memory:/docker/1\n1:name=systemd:/y\n");
  tree.put("/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "9000\n");
  tree.put("/sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes", "8000\n");
  tree.put("/sys/fs/cgroup/memory/docker/1/memory.stat", "inactive_file 1\ntotal_inactive_file 3000\n");
  assert_int_equal(tree.free().bytes, 4000);
}

void a_nodes_free_memory_is_its_own(void**) {
  Tree tree;
  tree.put("/sys/devices/system/node/node1/meminfo",
           "Node 1 MemTotal:  900 kB\nNode 1 MemFree:   100 kB\nNode 1 Active(file):  20 kB\nNode 1 Inactive(file):  3 kB\n");
  assert_int_equal(free_on_node(1, tree.root()).value_or(0), uint64_t{123} << 10);
  assert_false(free_on_node(0, tree.root()).has_value());
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(its_size_is_sealed_and_so_are_its_seals),
      cmocka_unit_test(anonymous_pages_are_touched_as_they_are_used_or_at_once),
      cmocka_unit_test(a_pool_is_in_memfds_where_they_have_huge_pages),
      cmocka_unit_test(whoever_has_the_descriptors_sees_the_same_pages_one_file_behind_the_other),
      cmocka_unit_test(it_is_touched_as_it_is_used),
      cmocka_unit_test(preparing_it_touches_every_page_and_keeps_what_is_there),
      cmocka_unit_test(a_preparation_that_is_told_to_stop_stops),
      cmocka_unit_test(more_than_is_free_is_refused_before_anything_is_touched),
      cmocka_unit_test(what_a_refusal_says_would_fit_fits),
      cmocka_unit_test(a_node_that_is_not_there_is_a_warning),
      cmocka_unit_test(memory_lies_on_the_node_that_was_named),
      cmocka_unit_test(progress_is_told_in_seconds_at_the_rate_until_now),
      cmocka_unit_test(without_control_groups_the_machine_counts),
      cmocka_unit_test(the_tightest_of_all_groups_around_the_process_counts),
      cmocka_unit_test(a_containers_own_group_is_found_at_the_mount),
      cmocka_unit_test(groups_of_version_1_count_too),
      cmocka_unit_test(a_nodes_free_memory_is_its_own),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
