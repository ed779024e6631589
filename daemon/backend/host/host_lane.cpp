// SPDX-License-Identifier: Apache-2.0
// See host_lane.h. What orders memory:
//  - `issued_` hands operations and their jobs over: released by issue, acquired by advance.
//  - `advancing_` is held for the few hundred nanoseconds in which a thread advances; it orders those who do. A thread that
//    does not get it goes on polling.
//  - `claims_` hands a job's items over: released by begin, acquired by claim, whose read-modify-writes continue the release
//    sequence.
//  - `ended_` hands results back: released by the thread that ended an item, acquired by advance.
//  - `completed_` gives a job back to the issuing thread: released by advance, acquired by free_job.
//  - `reached_` and the device's word give results to who waits: released by reach.
#include "daemon/backend/host/host_lane.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <system_error>

#include "daemon/backend/host/isa.h"
#include "daemon/base/monotonic.h"
#include "daemon/base/relax.h"

namespace iokv {
namespace {

// Polls between two looks at the clock, which costs as much as a poll or two.
constexpr uint32_t kPollsBetweenTimes = 64;
// Who polls for longer, for a device's word say, lets others have the core between polls if they want it. Where nobody does,
// that is a system call of 0.3 µs every 3 µs.
constexpr uint64_t kYieldNanoseconds = 50'000;
// Of the issuing thread, when more than a thousand layers are outstanding.
constexpr auto kFullPause = std::chrono::microseconds(50);

bool word_reached(const volatile uint32_t* word, uint32_t value) {
  return static_cast<int32_t>(__atomic_load_n(word, __ATOMIC_ACQUIRE) - value) >= 0;
}

int32_t unclaimed(uint64_t claims) { return static_cast<int32_t>(static_cast<uint32_t>(claims) - (uint32_t{1} << 31)); }

// Of the calling thread, which is one for the kernel; nobody needs leave to be nicer.
void be_nicer(int by) {
  const auto thread = static_cast<id_t>(gettid());
  (void)setpriority(PRIO_PROCESS, thread, std::min(19, getpriority(PRIO_PROCESS, thread) + by));
}

}  // namespace

Result<std::unique_ptr<HostLane>> HostLane::make(const HostLaneOptions& options) {
  if (options.threads == 0) return error("attention on the host needs one thread at least");
  if (!options.cpus.empty() && options.cpus.size() < options.threads) {
    return error("attention on the host by " + std::to_string(options.threads) + " threads has " +
                 std::to_string(options.cpus.size()) + " CPUs to run on; name one for each, or none");
  }
  if (!cpu_supports(options.isa)) {
    return error(std::string("this machine cannot run ") + name_of(options.isa) + " kernels of attention on the host");
  }
  std::unique_ptr<HostLane> lane(new HostLane);
  IOKV_TRY(lane->start(options));
  return lane;
}

Status HostLane::start(const HostLaneOptions& options) {
  reached_word_ = options.reached_word;
  type_ = options.type;
  isa_ = options.isa == CpuIsa::automatic ? host::best_isa(type_) : options.isa;
  kernels_ = &host::kernels_for(isa_, type_);
  operations_ = std::make_unique<Operation[]>(kOperations);
  times_ = std::make_unique<std::atomic<uint64_t>[]>(Backend::kTimedTickets);
  workers_.reserve(options.threads);
  // Signals are for the threads that expect them.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::string refusal;
  for (uint32_t i = 0; i < options.threads && refusal.empty(); ++i) {
    try {
      workers_.emplace_back([this] { work(); });
      const pthread_t thread = workers_.back().native_handle();
      pthread_setname_np(thread, ("iokvd-attend-" + std::to_string(i)).c_str());
      if (options.cpus.empty()) continue;
      cpu_set_t cpus;
      CPU_ZERO(&cpus);
      CPU_SET(options.cpus[i], &cpus);
      const int code = pthread_setaffinity_np(thread, sizeof cpus, &cpus);
      if (code != 0) refusal = "CPU " + std::to_string(options.cpus[i]) + ": " + std::strerror(code);
    } catch (const std::system_error& failure) {
      refusal = failure.what();
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (refusal.empty()) return {};
  return error("cannot start thread " + std::to_string(workers_.size()) + " of " + std::to_string(options.threads) +
               " for attention on the host (" + refusal + "); lower cpu_attention or raise the process's limits");
}

HostLane::~HostLane() {
  abandon();
  stopping_.store(true, std::memory_order_relaxed);  // ordered by the release of wakes_
  wakes_.fetch_add(1, std::memory_order_release);
  wakes_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void HostLane::attend(const AttendArgs& args) {
  host::HostJob* job = free_job();
  job->prepare(args, type_);
  issue({.kind = Kind::attend, .job = job});
}

void HostLane::wait(const volatile uint32_t* word, uint32_t value) {
  issue({.kind = Kind::wait, .value = value, .word = word});
}

uint64_t HostLane::record() {
  issue({.kind = Kind::record, .ticket = ++tickets_});
  return tickets_;
}

// The one that was given back last: as few as are outstanding at once are in use, and their memory stays in the caches.
host::HostJob* HostLane::free_job() {
  for (const uint64_t completed = completed_.load(std::memory_order_acquire); reclaimed_ < completed; ++reclaimed_) {
    Operation& operation = operations_[reclaimed_ % kOperations];
    if (operation.job != nullptr) free_jobs_.push_back(operation.job);
    operation.job = nullptr;
  }
  if (free_jobs_.empty()) {
    jobs_.push_back(std::make_unique<host::HostJob>());
    free_jobs_.push_back(jobs_.back().get());
  }
  host::HostJob* job = free_jobs_.back();
  free_jobs_.pop_back();
  return job;
}

// Begins the operation at once if nothing is before it. Workers need waking only if something remains to be done; a store
// of issued_ before the load of sleepers_ here, and sleepers_ before issued_ in sleep: one of the two sees the other.
void HostLane::issue(const Operation& operation) {
  const uint64_t number = issued_.load(std::memory_order_relaxed);
  while (number - completed_.load(std::memory_order_acquire) >= kOperations) std::this_thread::sleep_for(kFullPause);
  if (reclaimed_ + kOperations == number) {  // the slot's job has not been taken back yet
    if (operations_[number % kOperations].job != nullptr) free_jobs_.push_back(operations_[number % kOperations].job);
    ++reclaimed_;
  }
  operations_[number % kOperations] = operation;
  issued_.store(number + 1, std::memory_order_seq_cst);
  advance();
  if (idle() || sleepers_.load(std::memory_order_seq_cst) == 0) return;
  wakes_.fetch_add(1, std::memory_order_release);
  wakes_.notify_one();  // who wakes others
}

void HostLane::wait_reached(uint64_t ticket) const {
  const uint64_t start_ns = monotonic_ns();
  for (uint32_t polls = 1; !reached(ticket); ++polls) {
    relax();
    if (polls % kPollsBetweenTimes != 0 || monotonic_ns() - start_ns < kIdleNanoseconds) continue;
    const uint64_t latest = reached_.load(std::memory_order_acquire);
    if (latest < ticket) reached_.wait(latest, std::memory_order_acquire);
  }
}

uint64_t HostLane::reached_ns(uint64_t ticket) const {
  IOKV_ASSERT(reached(ticket));
  return times_[ticket % Backend::kTimedTickets].load(std::memory_order_relaxed);
}

void HostLane::abandon() {
  abandoned_.store(true, std::memory_order_release);
  while (!idle()) {
    if (!advance()) sched_yield();
  }
}

bool HostLane::idle() const {
  return completed_.load(std::memory_order_acquire) == issued_.load(std::memory_order_acquire);
}

// Whether the first operation that has not completed may be able to, or to begin. It may be another one by now, or someone
// else's to advance: only advance knows.
bool HostLane::can_advance() const {
  if (const uint32_t items = running_items_.load(std::memory_order_relaxed); items != 0) {
    return ended_.load(std::memory_order_relaxed) == items;
  }
  if (abandoned_.load(std::memory_order_relaxed)) return !idle();
  if (const volatile uint32_t* word = awaited_word_.load(std::memory_order_acquire); word != nullptr) {
    return word_reached(word, awaited_value_.load(std::memory_order_relaxed));
  }
  return !idle();
}

// Completes what has ended, and begins what comes next; whether there was any.
bool HostLane::advance() {
  if (advancing_.exchange(true, std::memory_order_acquire)) return false;
  uint64_t number = completed_.load(std::memory_order_relaxed);
  const uint64_t before = number;
  while (number != issued_.load(std::memory_order_acquire) && complete(operations_[number % kOperations])) {
    completed_.store(++number, std::memory_order_release);
  }
  advancing_.store(false, std::memory_order_release);
  return number != before;
}

// Whether the operation has completed; if not, attend has begun, and of wait the word is known that is waited for.
bool HostLane::complete(const Operation& operation) {
  const bool abandoned = abandoned_.load(std::memory_order_acquire);
  switch (operation.kind) {
    case Kind::attend: {
      const uint32_t items = running_items_.load(std::memory_order_relaxed);
      if (items == 0) {
        if (abandoned || operation.job->items() == 0) return true;
        begin(operation.job);
        return false;
      }
      if (ended_.load(std::memory_order_acquire) != items) return false;
      running_items_.store(0, std::memory_order_relaxed);
      return true;
    }
    case Kind::wait:
      if (!abandoned && !word_reached(operation.word, operation.value)) {
        awaited_value_.store(operation.value, std::memory_order_relaxed);
        awaited_word_.store(operation.word, std::memory_order_release);
        return false;
      }
      awaited_word_.store(nullptr, std::memory_order_relaxed);
      return true;
    case Kind::record: reach(operation.ticket); return true;
  }
  return true;
}

void HostLane::begin(host::HostJob* job) {
  running_ = job;
  ended_.store(0, std::memory_order_relaxed);
  running_items_.store(job->items(), std::memory_order_relaxed);
  const uint64_t number = (claims_.load(std::memory_order_relaxed) >> 32) + 1;
  claims_.store((number << 32 | kNone) + job->items(), std::memory_order_release);
}

void HostLane::reach(uint64_t ticket) {
  times_[ticket % Backend::kTimedTickets].store(monotonic_ns(), std::memory_order_relaxed);
  reached_.store(ticket, std::memory_order_release);
  if (reached_word_ != nullptr) __atomic_store_n(reached_word_, static_cast<uint32_t>(ticket), __ATOMIC_RELEASE);
  reached_.notify_all();  // no system call while nobody sleeps
}

HostLane::Claim HostLane::claim() {
  if (unclaimed(claims_.load(std::memory_order_relaxed)) <= 0) return {};
  const int32_t left = unclaimed(claims_.fetch_sub(1, std::memory_order_acquire));
  if (left <= 0) return {};
  return {running_, running_->items() - static_cast<uint32_t>(left)};
}

void HostLane::work() {
  be_nicer(kNiceness);
  host::Floats scratch;
  Claim claimed;
  uint64_t polling_since_ns = 0, idle_since_ns = 0;
  for (uint32_t polls = 1; !stopping_.load(std::memory_order_relaxed); ++polls) {
    if (claimed.job == nullptr) claimed = claim();
    if (claimed.job != nullptr) {
      Claim next;
      run(claimed, scratch, &next);
      claimed = next;
      polling_since_ns = idle_since_ns = 0;
      continue;
    }
    if (can_advance() && advance()) continue;
    relax();
    if (polls % kPollsBetweenTimes != 0) continue;
    const uint64_t now_ns = monotonic_ns();
    if (polling_since_ns == 0) polling_since_ns = now_ns;
    if (now_ns - polling_since_ns >= kYieldNanoseconds) sched_yield();
    if (!idle()) {
      idle_since_ns = 0;
    } else if (idle_since_ns == 0) {
      idle_since_ns = now_ns;
    } else if (now_ns - idle_since_ns >= kIdleNanoseconds) {
      sleep();
      polling_since_ns = idle_since_ns = 0;
    }
  }
}

// Before the item's last block is computed with, the next item is taken, and the block that it begins with asked for: the
// memory is never idle between two items of a thread.
void HostLane::run(Claim claimed, host::Floats& scratch, Claim* next) {
  const uint32_t items = claimed.job->items();
  if (!abandoned_.load(std::memory_order_relaxed)) {
    claimed.job->run(claimed.item, *kernels_, scratch, [&]() -> const void* {
      *next = claim();
      return next->job == nullptr ? nullptr : next->job->first_read(next->item);
    });
  }
  // The job may be over, and its memory another one's, as soon as its last item is counted.
  if (ended_.fetch_add(1, std::memory_order_acq_rel) + 1 == items) advance();
}

// The woken wake two others each: the issuing thread makes one system call, and the last of 16 is woken by the fourth in turn.
void HostLane::sleep() {
  const uint32_t wakes = wakes_.load(std::memory_order_acquire);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  if (issued_.load(std::memory_order_seq_cst) == completed_.load(std::memory_order_acquire) &&
      !stopping_.load(std::memory_order_relaxed)) {
    wakes_.wait(wakes, std::memory_order_acquire);
  }
  if (sleepers_.fetch_sub(1, std::memory_order_seq_cst) > 1) {
    wakes_.notify_one();
    wakes_.notify_one();
  }
}

}  // namespace iokv
