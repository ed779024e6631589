// SPDX-License-Identifier: Apache-2.0
// The team of threads: every task once, results visible on return, whatever the numbers of tasks, threads and cores;
// and no processor time while there is no work.
#include <time.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#include "daemon/backend/cpu/thread_team.h"
#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

std::unique_ptr<cpu::ThreadTeam> team_of(uint32_t threads) {
  auto team = cpu::ThreadTeam::start(threads);
  assert_true(static_cast<bool>(team));
  return *std::move(team);
}

int64_t nanoseconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// Tasks write plain memory, which the caller reads and the next job writes again: tsan would see a lost ordering.
void every_task_runs_once_and_its_writes_are_seen(void**) {
  for (uint32_t threads : {1u, 2u, 3u, 9u}) {
    auto team = team_of(threads);
    std::vector<uint32_t> runs(300);
    for (uint32_t job = 0; job < 2000; ++job) {
      uint32_t tasks = job % 7 == 0 ? job % 300 : job % 5;
      std::fill(runs.begin(), runs.end(), 0);
      team->run(tasks, [&](uint32_t index, uint32_t thread) {
        IOKV_ASSERT(thread < threads && index < tasks);
        ++runs[index];
      });
      for (uint32_t i = 0; i < runs.size(); ++i) assert_int_equal(runs[i], i < tasks ? 1 : 0);
    }
  }
}

void two_tasks_never_share_a_thread_number(void**) {
  auto team = team_of(5);
  std::atomic<uint32_t> inside[5] = {};
  for (int job = 0; job < 500; ++job) {
    team->run(64, [&](uint32_t, uint32_t thread) {
      IOKV_ASSERT(inside[thread].fetch_add(1) == 0);
      inside[thread].fetch_sub(1);
    });
  }
}

// Several teams of more threads than this machine has cores, all at work: each finishes by its caller alone if need be.
void teams_that_share_the_cores_all_finish(void**) {
  std::vector<std::thread> callers;
  std::atomic<uint64_t> sum{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      auto team = team_of(6);
      for (int job = 0; job < 300; ++job) team->run(16, [&](uint32_t index, uint32_t) { sum += index; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  assert_int_equal(sum.load(), 4 * 300 * 120);
}

// Waits, in slices of wall-clock time, until a slice passes in which the process used less than a hundredth of it: a
// worker that polled would never let one pass.
void a_team_without_work_uses_no_processor_time(void**) {
  auto team = team_of(4);
  team->run(100, [](uint32_t, uint32_t) {});
  for (int slice = 0; slice < 100; ++slice) {
    int64_t before = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
    timespec slice_time{0, 20'000'000};
    nanosleep(&slice_time, nullptr);
    if (nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - before < 200'000) return;
  }
  fail_msg("the workers were never idle for 20 ms");
}

void a_team_starts_and_ends_without_a_job(void**) {
  for (uint32_t round = 0; round < 50; ++round) team_of(1 + round % 6);
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_task_runs_once_and_its_writes_are_seen),
      cmocka_unit_test(two_tasks_never_share_a_thread_number),
      cmocka_unit_test(teams_that_share_the_cores_all_finish),
      cmocka_unit_test(a_team_without_work_uses_no_processor_time),
      cmocka_unit_test(a_team_starts_and_ends_without_a_job),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
