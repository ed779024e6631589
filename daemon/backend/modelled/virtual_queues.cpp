// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/modelled/virtual_queues.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace iokv {
namespace {

// Sums of durations err by parts of this: a double of 10^12 ns, a quarter of an hour, has steps of 0.0001 ns.
constexpr double kRoundingNs = 0x1p-10;

constexpr size_t index(Queue queue) { return static_cast<size_t>(queue); }

constexpr size_t partner_of(size_t lane) {
  switch (static_cast<Queue>(lane)) {
    case Queue::dense: return index(Queue::recompute);
    case Queue::recompute: return index(Queue::dense);
    case Queue::h2d: return index(Queue::d2h);
    case Queue::d2h: return index(Queue::h2d);
    case Queue::host: return lane;  // none
  }
  return lane;
}

}  // namespace

VirtualQueues::VirtualQueues(double contention, double duplex, double host_slows_link)
    : contention_(contention), duplex_(duplex), host_slows_link_(host_slows_link) {
  IOKV_ASSERT(contention >= 0 && duplex >= 1 && host_slows_link >= 1);
  for (Lane& lane : lanes_) lane.times_ns.resize(Backend::kTimedTickets);
}

void VirtualQueues::work(Queue queue, double ns) {
  IOKV_ASSERT(ns >= 0 && std::isfinite(ns));
  if (ns > 0) lanes_[index(queue)].items.push({Item::Kind::work, queue, ns, 0});
}

Ticket VirtualQueues::record(Queue queue) {
  Lane& lane = lanes_[index(queue)];
  lane.items.push({Item::Kind::record, queue, 0, ++lane.recorded});
  return {queue, lane.recorded};
}

void VirtualQueues::wait(Queue queue, Ticket ticket) {
  const Lane& after = lanes_[index(ticket.queue)];
  IOKV_ASSERT(ticket.value <= after.recorded);
  if (ticket.queue == queue || ticket.value <= after.reached) return;
  lanes_[index(queue)].items.push({Item::Kind::wait, ticket.queue, 0, ticket.value});
}

void VirtualQueues::run_until(Ticket ticket) {
  while (!reached(ticket)) {
    const End end = next_end();
    IOKV_ASSERT(end.lane != kQueues);  // invariant 2: something runs
    progress(end.after_ns, end.lane);
  }
}

void VirtualQueues::run_to(double ns) {
  for (settle(); at_ns_ < ns; settle()) {
    const End end = next_end();
    if (end.lane == kQueues || at_ns_ + end.after_ns > ns + kRoundingNs) {
      progress(ns - at_ns_, kQueues);
      at_ns_ = ns;
    } else {
      progress(end.after_ns, end.lane);
    }
  }
}

std::optional<uint64_t> VirtualQueues::next_end_ns() {
  settle();
  const End end = next_end();
  if (end.lane == kQueues) return {};
  return rounded(at_ns_ + end.after_ns);
}

bool VirtualQueues::reached(Ticket ticket) {
  const Lane& lane = lanes_[index(ticket.queue)];
  IOKV_ASSERT(ticket.value <= lane.recorded);
  if (ticket.value > lane.reached) settle();
  return ticket.value <= lane.reached;
}

uint64_t VirtualQueues::reached_ns(Ticket ticket) {
  IOKV_ASSERT(reached(ticket));
  const Lane& lane = lanes_[index(ticket.queue)];
  IOKV_ASSERT(lane.recorded - ticket.value < Backend::kTimedTickets);
  return rounded(lane.times_ns[ticket.value % Backend::kTimedTickets]);
}

uint64_t VirtualQueues::rounded(double ns) { return static_cast<uint64_t>(std::max(0.0, std::ceil(ns - kRoundingNs))); }

// All that takes no time: tickets, waits that are over, the begin of work. A ticket can end another queue's wait.
void VirtualQueues::settle() {
  for (bool recorded = true; recorded;) {
    recorded = false;
    for (Lane& lane : lanes_) {
      while (!lane.running && !lane.items.empty()) {
        const Item& item = lane.items.front();
        if (item.kind == Item::Kind::wait && lanes_[index(item.after)].reached < item.value) break;
        if (item.kind == Item::Kind::work) {
          lane.running = true;
          lane.left_ns = item.work_ns;
        } else if (item.kind == Item::Kind::record) {
          lane.reached = item.value;
          lane.times_ns[item.value % Backend::kTimedTickets] = at_ns_;
          recorded = true;
        }
        lane.items.pop();
      }
    }
  }
}

double VirtualQueues::slowness(size_t lane) const {
  if (lane == index(Queue::host)) return 1;
  const bool beside = lanes_[partner_of(lane)].running;
  if (lane <= index(Queue::recompute)) return beside ? 1 + contention_ : 1;
  return (beside ? duplex_ : 1) * (lanes_[index(Queue::host)].running ? host_slows_link_ : 1);
}

VirtualQueues::End VirtualQueues::next_end() const {
  End end{std::numeric_limits<double>::infinity(), kQueues};
  for (size_t i = 0; i < kQueues; ++i) {
    if (!lanes_[i].running) continue;
    const double after_ns = lanes_[i].left_ns * slowness(i);
    if (after_ns < end.after_ns) end = {after_ns, i};
  }
  return end;
}

// Nothing ends before `ns` have passed; then ending_lane does, and what ends with it but for rounding.
void VirtualQueues::progress(double ns, size_t ending_lane) {
  std::array<double, kQueues> slow;
  for (size_t i = 0; i < kQueues; ++i) slow[i] = slowness(i);
  at_ns_ += ns;
  for (size_t i = 0; i < kQueues; ++i) {
    Lane& lane = lanes_[i];
    if (!lane.running) continue;
    lane.busy_ns += ns;
    lane.left_ns -= ns / slow[i];
    lane.running = i != ending_lane && lane.left_ns > kRoundingNs / 1024;
  }
}

void VirtualQueues::Items::grow() {
  std::vector<Item> larger(2 * places_.size());
  for (size_t i = begin_; i != end_; ++i) larger[i - begin_] = places_[i & (places_.size() - 1)];
  end_ -= begin_;
  begin_ = 0;
  places_ = std::move(larger);
}

}  // namespace iokv
