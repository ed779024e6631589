// SPDX-License-Identifier: Apache-2.0
// The host's queue of a device: worker threads that attend, in the order of issue, to K,V that lie in host memory, and meet
// the device in words of memory that both can reach. Nothing here knows what device that is.
//
// Invariants
//  1. One thread issues (attend, wait, record, abandon); any thread may ask what has been reached. Operations run in order:
//     one begins when all before it have completed. Issuing never waits, unless kOperations are outstanding.
//  2. Who completes an operation begins the next one: `advance`, by whichever thread comes first. Nobody waits for a thread
//     that has taken no item, so one that is not running delays at most what it has taken.
//  3. Workers spin while anything issued is outstanding, and for kIdleNanoseconds after; then they sleep, and issuing wakes
//     them. Between issue and completion there is no lock, no system call and no allocation (but for a job that is larger
//     than any before).
//  4. Results do not depend on the number of threads or on what else is attended to (host_job.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/backend/host/host_job.h"
#include "daemon/backend/simd/cpu_isa.h"
#include "daemon/base/result.h"

namespace iokv {

struct HostLaneOptions {
  uint32_t threads = 1;
  std::vector<int> cpus;    // of which worker i runs on cpus[i] only; empty: where the system has them run
  DType type = DType::f16;  // of q, K and V
  CpuIsa isa = CpuIsa::automatic;
  // Where the low 32 bits of the latest ticket that has been reached are stored, with release; a device may wait for them.
  // null: nowhere. It outlives the lane, and has 128 bytes for itself.
  volatile uint32_t* reached_word = nullptr;
};

class HostLane {
 public:
  // Fails where the machine cannot run the ISA, and where the system refuses a thread or a CPU. Workers are named
  // iokvd-attend-N and run below the process's other threads (by kNiceness), clients' among them.
  static Result<std::unique_ptr<HostLane>> make(const HostLaneOptions& options);
  // What is outstanding is abandoned.
  ~HostLane();
  HostLane(const HostLane&) = delete;
  HostLane& operator=(const HostLane&) = delete;

  uint32_t threads() const { return static_cast<uint32_t>(workers_.size()); }
  CpuIsa isa() const { return isa_; }

  // Of each span (rows == 1), row r at position p = first_position: attends for row first_row of q, of all heads, to the
  // cached tokens [max(host_from, p + 1 − window), p), not to p itself, in kv_blocks, which begin with piece first_piece
  // <= host_from / kBlockTokens, and leaves sums, sum of weights and largest score in args.state at row first_row. A row
  // that sees nothing there has sums and sum 0 and a largest score of minus infinity. `out` is not used. Spans and block
  // addresses are copied; q, state and the blocks stay as they are until a later record has been reached.
  void attend(const AttendArgs& args);
  // What is issued later begins once int32_t(*word − value) >= 0. A device writes the word; what it has written before is
  // then seen. The word outlives the lane, and has 128 bytes for itself.
  void wait(const volatile uint32_t* word, uint32_t value);
  // A ticket, rising from 1 by 1: reached when everything issued before has completed.
  uint64_t record();

  bool reached(uint64_t ticket) const { return reached_.load(std::memory_order_acquire) >= ticket; }
  void wait_reached(uint64_t ticket) const;
  // When it was, on CLOCK_MONOTONIC; of a ticket that has been reached and is one of the latest Backend::kTimedTickets.
  uint64_t reached_ns(uint64_t ticket) const;

  // The device is lost and will not write its words: everything issued, and whatever will be, counts as reached, and nothing
  // is computed any more. On return no worker touches memory that an operation has named, but for words.
  void abandon();

  // Operations between issue and completion. A step has three for each layer, and two steps are out at once: 500 layers.
  static constexpr uint32_t kOperations = 4096;
  // From the end of a step to the next one, if they do not overlap, sampling and the conductor's decisions pass: some 100 µs.
  // Being woken from a futex takes 50 µs and more, of which a layer has 60 in all.
  static constexpr uint64_t kIdleNanoseconds = 200'000;
  // Added to the process's: a core that both want goes to a client for three quarters of the time.
  static constexpr int kNiceness = 5;

 private:
  enum class Kind : uint8_t { attend, wait, record };
  struct Operation {
    Kind kind = Kind::record;
    uint32_t value = 0;
    const volatile uint32_t* word = nullptr;
    host::HostJob* job = nullptr;
    uint64_t ticket = 0;
  };
  struct Claim {
    host::HostJob* job = nullptr;  // null: none
    uint32_t item = 0;
  };

  HostLane() = default;
  Status start(const HostLaneOptions& options);
  void issue(const Operation& operation);
  host::HostJob* free_job();
  bool advance();
  bool can_advance() const;
  bool complete(const Operation& operation);
  void begin(host::HostJob* job);
  void reach(uint64_t ticket);
  bool idle() const;
  void work();
  void sleep();
  Claim claim();
  void run(Claim claimed, host::Floats& scratch, Claim* next);

  // What follows is in lines of its own by who writes it: 128 bytes, since processors fetch lines in pairs.
  // Written by the issuing thread:
  alignas(128) std::atomic<uint64_t> issued_{0};  // operations
  uint64_t tickets_ = 0, reclaimed_ = 0;
  std::vector<std::unique_ptr<host::HostJob>> jobs_;
  std::vector<host::HostJob*> free_jobs_;
  std::unique_ptr<Operation[]> operations_;  // of number n: [n % kOperations]
  // By whoever takes items: a job's number (high half), and of its items those that are unclaimed (low half, kNone of them: 0).
  alignas(128) std::atomic<uint64_t> claims_{kNone};
  // By whoever ends them.
  alignas(128) std::atomic<uint32_t> ended_{0};
  // By whoever advances:
  alignas(128) std::atomic<bool> advancing_{false};
  alignas(128) std::atomic<uint64_t> completed_{0};  // operations
  std::atomic<uint32_t> running_items_{0};           // of the first one that has not, if it is attend; 0: it has not begun
  std::atomic<uint32_t> awaited_value_{0};           // likewise, if it is wait
  std::atomic<const volatile uint32_t*> awaited_word_{nullptr};
  host::HostJob* running_ = nullptr;
  alignas(128) std::atomic<uint64_t> reached_{0};  // the latest ticket
  // By whoever sleeps or wakes:
  alignas(128) mutable std::atomic<uint32_t> sleepers_{0};
  std::atomic<uint32_t> wakes_{0};  // the futex
  // Rarely:
  alignas(128) std::atomic<bool> abandoned_{false};
  std::atomic<bool> stopping_{false};
  volatile uint32_t* reached_word_ = nullptr;
  const host::Kernels* kernels_ = nullptr;
  CpuIsa isa_ = CpuIsa::portable;
  DType type_ = DType::f16;
  std::unique_ptr<std::atomic<uint64_t>[]> times_;  // of ticket t: [t % Backend::kTimedTickets]
  std::vector<std::thread> workers_;

  // Threads that find nothing left take from the count all the same, once each: it may fall below.
  static constexpr uint64_t kNone = uint64_t{1} << 31;
};

}  // namespace iokv
