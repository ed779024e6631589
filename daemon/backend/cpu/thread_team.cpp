// SPDX-License-Identifier: Apache-2.0
// See thread_team.h. `claims_` hands a job over: released by run_job after the job's fields, acquired by the claim of
// a task, whose read-modify-writes continue the release sequence. `finished_` hands its results back: released by the
// thread that finished a task, acquired by run_job.
#include "daemon/backend/cpu/thread_team.h"

#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <string>
#include <system_error>

#include "daemon/base/relax.h"

namespace iokv::cpu {
namespace {

int64_t now_ns() {
  auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// Spins until ready() or for the given time; returns ready().
template <typename Ready>
bool spin(int64_t nanoseconds, const Ready& ready) {
  int64_t deadline = 0;
  for (;;) {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      relax();
    }
    int64_t now = now_ns();
    if (deadline == 0) deadline = now + nanoseconds;
    if (now >= deadline) return ready();
  }
}

constexpr uint32_t unclaimed(uint64_t claims) { return static_cast<uint32_t>(claims); }

}  // namespace

Result<std::unique_ptr<ThreadTeam>> ThreadTeam::start(uint32_t threads) {
  IOKV_ASSERT(threads >= 1);
  std::unique_ptr<ThreadTeam> team(new ThreadTeam);
  team->workers_.reserve(threads - 1);
  // Signals are for the threads that expect them.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::string refusal;
  for (uint32_t i = 1; i < threads && refusal.empty(); ++i) {
    try {
      team->workers_.emplace_back([raw = team.get(), i] { raw->work(i); });
      pthread_setname_np(team->workers_.back().native_handle(), ("iokv-cpu-" + std::to_string(i)).c_str());
    } catch (const std::system_error& failure) {
      refusal = failure.what();
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!refusal.empty()) {
    return error("cannot start thread " + std::to_string(team->workers_.size() + 1) + " of " + std::to_string(threads) +
                 " for the CPU backend (" + refusal + "); lower the number of threads or raise the process limit");
  }
  return team;
}

ThreadTeam::~ThreadTeam() {
  stopping_.store(true, std::memory_order_relaxed);  // ordered by the release of wakes_
  wakes_.fetch_add(1, std::memory_order_release);
  wakes_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::run_job(uint32_t tasks, Function function, const void* task) {
  if (tasks == 0) return;
  if (tasks == 1 || workers_.empty()) {
    for (uint32_t i = 0; i < tasks; ++i) function(task, i, 0);
    return;
  }
  function_ = function;
  task_ = task;
  tasks_ = tasks;
  finished_.store(0, std::memory_order_relaxed);
  uint64_t job = (claims_.load(std::memory_order_relaxed) >> 32) + 1;
  claims_.store((job << 32) | tasks, std::memory_order_release);
  wakes_.fetch_add(1, std::memory_order_release);
  wakes_.notify_all();  // no system call while nobody sleeps

  while (run_claimed(0)) {
  }
  auto all_finished = [this, tasks] { return finished_.load(std::memory_order_acquire) == tasks; };
  while (!spin(kSpinNanoseconds, all_finished)) {
    uint32_t finished = finished_.load(std::memory_order_acquire);
    if (finished != tasks) finished_.wait(finished, std::memory_order_acquire);
  }
}

// Claims and runs one task; false when none is left.
bool ThreadTeam::run_claimed(uint32_t thread) {
  uint64_t claims = claims_.load(std::memory_order_relaxed);
  do {
    if (unclaimed(claims) == 0) return false;
  } while (!claims_.compare_exchange_weak(claims, claims - 1, std::memory_order_acquire, std::memory_order_relaxed));
  uint32_t tasks = tasks_;
  function_(task_, tasks - unclaimed(claims), thread);
  // The job may be over, and this object's next one begun, as soon as the last task is counted.
  if (finished_.fetch_add(1, std::memory_order_release) + 1 == tasks) finished_.notify_one();
  return true;
}

void ThreadTeam::work(uint32_t thread) {
  for (;;) {
    uint32_t wakes = wakes_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;
    while (run_claimed(thread)) {
    }
    auto has_work = [this, wakes] {
      return unclaimed(claims_.load(std::memory_order_relaxed)) != 0 || wakes_.load(std::memory_order_relaxed) != wakes;
    };
    if (!spin(kSpinNanoseconds, has_work)) wakes_.wait(wakes, std::memory_order_acquire);
  }
}

}  // namespace iokv::cpu
