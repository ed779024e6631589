// SPDX-License-Identifier: Apache-2.0
// How many threads attend on the host and where, on machines that are files: sockets, hardware threads, affinities, quotas.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include <fmt/format.h>

#include "daemon/backend/host/host_threads.h"
#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

namespace fs = std::filesystem;

// Trees as the kernel has them, in a directory that goes away.
class Machine {
 public:
  Machine() {
    std::string pattern = fs::temp_directory_path() / "iokv-host-threads-XXXXXX";
    assert_non_null(mkdtemp(pattern.data()));
    root_ = pattern;
  }
  ~Machine() { fs::remove_all(root_); }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  HostMachinePaths paths() const {
    return {(root_ / "cpu").string(), (root_ / "node").string(), (root_ / "cgroup").string(),
            (root_ / "own_cgroup").string()};
  }
  void write(const std::string& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text << "\n";
  }
  // `cores` cores of `threads` hardware threads: thread t of core c is CPU c + t · cores, as Linux numbers them. Sockets have
  // as many cores each.
  void build(int cores, int threads, int nodes) {
    std::vector<std::vector<int>> of_node(nodes);
    for (int core = 0; core < cores; ++core) {
      std::vector<int> siblings;
      for (int t = 0; t < threads; ++t) siblings.push_back(core + t * cores);
      std::vector<int>& own = of_node[core * nodes / cores];
      own.insert(own.end(), siblings.begin(), siblings.end());
      for (int cpu : siblings) {
        write(fmt::format("cpu/cpu{}/topology/thread_siblings_list", cpu), fmt::format("{}", fmt::join(siblings, ",")));
      }
    }
    write("node/online", nodes == 1 ? "0" : fmt::format("0-{}", nodes - 1));
    for (int node = 0; node < nodes; ++node) {
      write(fmt::format("node/node{}/cpulist", node), fmt::format("{}", fmt::join(of_node[node], ",")));
    }
    for (int cpu = 0; cpu < cores * threads; ++cpu) all_.push_back(cpu);
  }
  HostMachine read(std::vector<int> allowed = {}) const {
    HostMachine machine = read_host_machine(paths(), allowed.empty() ? all_ : allowed);
    machine.has_kernels = true;
    return machine;
  }

 private:
  fs::path root_;
  std::vector<int> all_;
};

std::vector<int> range(int first, int last) {
  std::vector<int> cpus;
  for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  return cpus;
}
std::vector<int> operator+(std::vector<int> a, const std::vector<int>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

constexpr auto kAuto = std::nullopt;

HostThreads chosen(const HostMachine& machine, std::optional<uint32_t> wanted, int node = -1) {
  auto result = choose_host_threads(machine, wanted, node);
  if (!result) std::printf("%s\n", result.failure().message.c_str());
  assert_true(static_cast<bool>(result));
  assert_int_equal(result->threads, result->cpus.size());
  return *std::move(result);
}
void expect_cpus(const HostThreads& threads, const std::vector<int>& cpus) {
  if (threads.cpus != cpus) {
    for (int cpu : threads.cpus) std::printf("%d ", cpu);
    std::printf("(%s)\n", threads.reason.c_str());
    fail();
  }
}
void expect_words(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words) {
    if (text.find(word) == std::string::npos) fail_msg("'%s' is not in: %s", word, text.c_str());
  }
}
void expect_refused(const HostMachine& machine, uint32_t wanted, std::initializer_list<const char*> words, int node = -1) {
  auto result = choose_host_threads(machine, wanted, node);
  assert_false(static_cast<bool>(result));
  expect_words(result.failure().message, words);
}

void auto_leaves_two_cores(void**) {
  Machine files;
  files.build(16, 1, 1);
  const HostThreads threads = chosen(files.read(), kAuto, 0);
  expect_cpus(threads, range(2, 15));
  expect_words(threads.reason, {"14 threads", "CPUs 2-15"});
  expect_cpus(chosen(files.read(), kAuto, -1), range(2, 15));
}

void two_cores_or_fewer_are_left_alone(void**) {
  for (int cores : {1, 2}) {
    Machine files;
    files.build(cores, 2, 1);
    const HostThreads threads = chosen(files.read(), kAuto);
    expect_cpus(threads, {});
    expect_words(threads.reason, {"none", cores == 1 ? "2 CPUs" : "4 CPUs", "2 cores"});
  }
  Machine files;
  files.build(3, 1, 1);
  const HostThreads threads = chosen(files.read(), kAuto);
  expect_cpus(threads, {2});
  expect_words(threads.reason, {"1 thread on CPU 2"});
}

void cores_come_before_their_other_hardware_threads(void**) {
  Machine files;
  files.build(8, 2, 1);  // CPU 8 is beside CPU 0
  expect_cpus(chosen(files.read(), kAuto), range(2, 7) + range(10, 15));
  Machine many;
  many.build(17, 2, 1);  // 15 cores remain, and one more thread makes 16
  expect_cpus(chosen(many.read(), kAuto), range(2, 16) + range(19, 19));
  Machine enough;
  enough.build(18, 2, 1);
  expect_cpus(chosen(enough.read(), kAuto), range(2, 17));
  Machine large;
  large.build(64, 2, 1);
  expect_cpus(chosen(large.read(), kAuto), range(2, 25));
}

void threads_stay_on_the_devices_node(void**) {
  Machine files;
  files.build(24, 2, 2);  // node 1: cores 12 to 23 and threads 36 to 47
  expect_cpus(chosen(files.read(), kAuto, 1), range(14, 23) + range(38, 43));
  expect_cpus(chosen(files.read(), kAuto, 0), range(2, 11) + range(26, 31));
  // Where the process may not run on it, or it is not known, any does.
  expect_cpus(chosen(files.read(range(0, 7)), kAuto, 1), range(2, 7));
  expect_cpus(chosen(files.read(), kAuto, -1), range(2, 23));
}

void only_cpus_that_the_process_may_use_count(void**) {
  Machine files;
  files.build(8, 2, 1);
  expect_cpus(chosen(files.read({1, 3, 5, 7, 15}), kAuto), {5, 7, 15});
  expect_cpus(chosen(files.read({9, 1, 8}), kAuto), {});  // two cores, of which one has two threads here
  expect_refused(files.read({1, 3, 5, 7}), 5, {"cpu_attention = 5", "4 CPUs", "4 at most", "auto takes 2"});
}

void a_quota_is_the_least_of_all_groups_around_the_process(void**) {
  Machine files;
  files.build(16, 1, 1);
  files.write("own_cgroup", "1:name=systemd:/elsewhere\n0::/system.slice/iokvd.service");
  files.write("cgroup/system.slice/iokvd.service/cpu.max", "max 100000");
  assert_true(std::isinf(files.read().quota_cpus));
  expect_cpus(chosen(files.read(), kAuto), range(2, 15));
  files.write("cgroup/system.slice/cpu.max", "850000 100000");
  assert_true(files.read().quota_cpus == 8.5);
  expect_cpus(chosen(files.read(), kAuto), range(2, 7));
  files.write("cgroup/system.slice/iokvd.service/cpu.max", "450000 50000");
  assert_true(files.read().quota_cpus == 8.5);
  files.write("cgroup/cpu.max", "300000 100000");
  assert_true(files.read().quota_cpus == 3);
  expect_cpus(chosen(files.read(), kAuto), {2});
  files.write("cgroup/system.slice/iokvd.service/cpu.max", "290000 100000");
  const HostThreads none = chosen(files.read(), kAuto);
  expect_cpus(none, {});
  expect_words(none.reason, {"16 CPUs", "quota of 2.9", "/system.slice/iokvd.service"});
  expect_refused(files.read(), 3, {"cpu_attention = 3", "quota of 2.9", "2 at most", "auto takes 0", "CPUQuota="});
  expect_cpus(chosen(files.read(), 2), {2, 3});
}

void in_a_container_the_process_is_in_the_root_group(void**) {
  Machine files;
  files.build(16, 1, 1);
  files.write("own_cgroup", "0::/");
  files.write("cgroup/cpu.max", "500000 100000");
  expect_cpus(chosen(files.read(), kAuto), range(2, 4));
}

void a_number_is_taken_as_it_is_or_refused(void**) {
  Machine files;
  files.build(8, 2, 2);  // node 0: cores 0 to 3 and threads 8 to 11
  expect_cpus(chosen(files.read(), 2, 0), {2, 3});
  // The node's cores, their other threads, the other node, and last what auto would leave: there the other threads first.
  expect_cpus(chosen(files.read(), 16, 0),
              range(2, 3) + range(10, 11) + range(4, 7) + range(12, 15) + range(8, 9) + range(0, 1));
  expect_refused(files.read(), 17, {"cpu_attention = 17", "16 CPUs", "16 at most", "auto takes 4"}, 0);
}

void off_is_no_thread(void**) {
  Machine files;
  files.build(16, 1, 1);
  const HostThreads threads = chosen(files.read(), 0);
  expect_cpus(threads, {});
  expect_words(threads.reason, {"none", "cpu_attention"});
}

void a_cpu_without_avx2_attends_to_nothing(void**) {
  Machine files;
  files.build(16, 1, 1);
  HostMachine machine = files.read();
  machine.has_kernels = false;
  const HostThreads threads = chosen(machine, kAuto);
  expect_cpus(threads, {});
  expect_words(threads.reason, {"AVX2"});
  expect_refused(machine, 1, {"cpu_attention = 1", "AVX2", "off"});
}

void a_machine_that_says_nothing_is_taken_to_be_simple(void**) {
  Machine files;
  expect_cpus(chosen(files.read({0, 1, 2, 3}), kAuto, 1), {2, 3});
}

// Of the machine at hand: what is chosen may be used.
void the_machine_at_hand_can_be_read(void**) {
  const HostMachine machine = read_host_machine();
  assert_true(!machine.cpus.empty());
  const HostThreads threads = chosen(machine, kAuto);
  std::printf("here: %s\n", threads.reason.c_str());
  for (int cpu : threads.cpus) {
    assert_true(std::any_of(machine.cpus.begin(), machine.cpus.end(), [&](const HostCpu& own) { return own.id == cpu; }));
  }
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(auto_leaves_two_cores),
      cmocka_unit_test(two_cores_or_fewer_are_left_alone),
      cmocka_unit_test(cores_come_before_their_other_hardware_threads),
      cmocka_unit_test(threads_stay_on_the_devices_node),
      cmocka_unit_test(only_cpus_that_the_process_may_use_count),
      cmocka_unit_test(a_quota_is_the_least_of_all_groups_around_the_process),
      cmocka_unit_test(in_a_container_the_process_is_in_the_root_group),
      cmocka_unit_test(a_number_is_taken_as_it_is_or_refused),
      cmocka_unit_test(off_is_no_thread),
      cmocka_unit_test(a_cpu_without_avx2_attends_to_nothing),
      cmocka_unit_test(a_machine_that_says_nothing_is_taken_to_be_simple),
      cmocka_unit_test(the_machine_at_hand_can_be_read),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
