// SPDX-License-Identifier: Apache-2.0
// One direction of a link that is slow on purpose: copies run on a thread of their own, one after the other, and end no
// sooner than a link of the given rate would have carried them. So a machine without a GPU shows what a slow link does
// to a step, with the same queues and tickets.
//
// Invariants
//  1. Commands run in the order of issue. One thread issues, waits and asks; the link's own thread does the rest.
//  2. Copies take bytes/rate each after the one before, or after they could start: a link that was idle owes nothing.
//  3. An idle link sleeps on a futex.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "daemon/backend/backend.h"

namespace iokv::cpu {

class Link {
 public:
  // Commands that may be outstanding; the issuing thread waits when there are more.
  static constexpr size_t kCommands = 8192;

  // bytes_per_s > 0. Fails when the system refuses a thread.
  static Result<std::unique_ptr<Link>> start(double bytes_per_s);
  ~Link();  // after what was issued has run
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  void copy(std::span<const CopyRun> runs);
  // What is issued later begins after the other link's ticket `value` has been reached.
  void wait_for(const Link& other, uint64_t value);
  // The next ticket's value, rising from 1.
  uint64_t record();

  bool reached(uint64_t ticket) const { return reached_.load(std::memory_order_acquire) >= ticket; }
  void wait_until(uint64_t ticket) const;
  // Of a ticket that was reached, among the latest Backend::kTimedTickets.
  uint64_t reached_ns(uint64_t ticket) const { return times_[ticket % times_.size()].load(std::memory_order_relaxed); }

 private:
  struct Command {
    enum class Kind : uint8_t { copy, wait, record, stop } kind = Kind::copy;
    CopyRun run;
    const Link* other = nullptr;
    uint64_t ticket = 0;
  };

  explicit Link(double bytes_per_s);
  void issue(const Command& command);
  void run();
  void start_anew();
  void carry(const CopyRun& run);
  void keep_to_rate(size_t bytes);

  const double ns_per_byte_;
  std::vector<Command> commands_;
  std::vector<std::atomic<uint64_t>> times_;
  uint64_t recorded_ = 0;
  double free_ns_ = 0;  // when the modelled link has carried everything so far
  // Release when a command has been written, acquire before it is read; done_ likewise, for its slot to be used again.
  alignas(64) std::atomic<uint32_t> issued_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<uint64_t> reached_{0};
  std::thread thread_;
};

}  // namespace iokv::cpu
