// SPDX-License-Identifier: Apache-2.0
// The queues of a device as times only: work that lasts so long, tickets and waits, on a clock that nobody's time moves
// but the one who asks. Event by event: from one end of work to the next.
//
// Invariants
//  1. The state is that of the clock's time: what is issued begins then at the earliest.
//  2. Work of a queue runs in order of issue. While dense and recompute both run, each is 1 + contention times as slow,
//     so that overlapped work a <= b takes b + contention·a; h2d and d2h are duplex times as slow, and host_slows_link
//     times while the host's queue runs.
//     A ticket is waited for after it was recorded, so that queues cannot wait for each other.
//  3. The same calls give the same times, bit for bit. Issuing allocates only where a queue is longer than ever before.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "daemon/backend/backend.h"

namespace iokv {

class VirtualQueues {
 public:
  // contention >= 0, duplex >= 1, host_slows_link >= 1.
  VirtualQueues(double contention, double duplex, double host_slows_link = 1);

  void work(Queue queue, double ns);
  Ticket record(Queue queue);
  void wait(Queue queue, Ticket ticket);

  // Up to when the ticket is reached.
  void run_until(Ticket ticket);
  // A time that has passed changes nothing.
  void advance_to(uint64_t ns) { run_to(static_cast<double>(ns)); }
  void advance_by(double ns) { run_to(at_ns_ + ns); }
  // When the next work ends if nothing more is issued; nothing when none runs.
  std::optional<uint64_t> next_end_ns();

  bool reached(Ticket ticket);
  // Of a ticket that has been reached, among the latest Backend::kTimedTickets. Times are rounded up to nanoseconds: at
  // that time, given to advance_to, the ticket has been reached.
  uint64_t reached_ns(Ticket ticket);
  uint64_t now_ns() const { return rounded(at_ns_); }
  double busy_ns(Queue queue) const { return lanes_[static_cast<size_t>(queue)].busy_ns; }

 private:
  struct Item {
    enum class Kind : uint8_t { work, record, wait } kind = Kind::work;
    Queue after = Queue::dense;  // of a wait
    double work_ns = 0;
    uint64_t value = 0;          // of a record or wait
  };

  // First in, first out, in a power of two of places.
  class Items {
   public:
    bool empty() const { return begin_ == end_; }
    const Item& front() const { return places_[begin_ & (places_.size() - 1)]; }
    void pop() { ++begin_; }
    void push(const Item& item) {
      if (end_ - begin_ == places_.size()) grow();
      places_[end_++ & (places_.size() - 1)] = item;
    }

   private:
    void grow();

    std::vector<Item> places_ = std::vector<Item>(64);
    size_t begin_ = 0, end_ = 0;
  };

  struct Lane {
    Items items;
    bool running = false;
    double left_ns = 0;  // of the work that runs, were it alone
    double busy_ns = 0;
    uint64_t recorded = 0, reached = 0;
    std::vector<double> times_ns;  // of the latest tickets
  };

  struct End {
    double after_ns = 0;
    size_t lane = kQueues;  // kQueues: nothing runs
  };

  static uint64_t rounded(double ns);
  void settle();
  double slowness(size_t lane) const;
  End next_end() const;
  void progress(double ns, size_t ending_lane);
  void run_to(double ns);

  const double contention_, duplex_, host_slows_link_;
  double at_ns_ = 0;
  std::array<Lane, kQueues> lanes_;
};

}  // namespace iokv
