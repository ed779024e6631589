// SPDX-License-Identifier: Apache-2.0
// The calling thread and its workers run the tasks of one operation. Tasks are claimed one by one, so that a core that
// is busy with something else takes fewer; which thread runs a task must not matter to its result.
//
// Invariants
//  1. run() is called by one thread at a time, and returns when every task has returned; their writes are then visible.
//  2. A job's fields are read only by a thread that has claimed one of its tasks, and stay while one is unfinished.
//  3. Nothing waits for a worker that has claimed nothing: one that is asleep or descheduled only misses the job.
//  4. A worker that finds no task spins for kSpinNanoseconds and then sleeps until the next job.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "daemon/base/result.h"

namespace iokv::cpu {

class ThreadTeam {
 public:
  // `threads` >= 1 in all, the calling one included. Fails when the system refuses a thread.
  static Result<std::unique_ptr<ThreadTeam>> start(uint32_t threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  uint32_t threads() const { return static_cast<uint32_t>(workers_.size()) + 1; }

  // task(index, thread) for every index < tasks, thread < threads() telling scratch memory apart. One task runs on the
  // calling thread and wakes nobody.
  template <typename Task>
  void run(uint32_t tasks, const Task& task) {
    run_job(tasks, &call<Task>, &task);
  }

 private:
  using Function = void (*)(const void* task, uint32_t index, uint32_t thread);

  // From one operation to the next of a step there are a few µs, rarely 50; a futex wake-up costs 5-50 µs.
  static constexpr int64_t kSpinNanoseconds = 100'000;

  ThreadTeam() = default;
  template <typename Task>
  static void call(const void* task, uint32_t index, uint32_t thread) {
    (*static_cast<const Task*>(task))(index, thread);
  }
  void run_job(uint32_t tasks, Function function, const void* task);
  void work(uint32_t thread);
  bool run_claimed(uint32_t thread);

  // Job number (high half) and unclaimed tasks (low half) in one word: a claim of a task of a job that is over fails.
  alignas(64) std::atomic<uint64_t> claims_{0};
  alignas(64) std::atomic<uint32_t> finished_{0};  // tasks of the job
  alignas(64) std::atomic<uint32_t> wakes_{0};     // the futex: one more for every job, and to stop
  std::atomic<bool> stopping_{false};
  Function function_ = nullptr;
  const void* task_ = nullptr;
  uint32_t tasks_ = 0;
  std::vector<std::thread> workers_;
};

}  // namespace iokv::cpu
