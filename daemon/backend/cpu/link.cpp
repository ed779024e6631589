// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/cpu/link.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "daemon/base/monotonic.h"

namespace iokv::cpu {
namespace {

// Bytes between two looks at the clock: 0.5 ms at 0.5 GB/s, 32 µs at 8 GB/s.
constexpr size_t kPieceBytes = size_t{256} << 10;
// A sleep that would be shorter is left to the next piece, or to the next command: waking up takes some 10 µs.
constexpr double kLeastSleepNs = 20'000;
// How far a link that has work may lag behind its rate and still catch up: late wake-ups, not slow memory.
constexpr double kMostCreditNs = 500'000;

void sleep_until(double ns) {
  const auto whole = static_cast<uint64_t>(ns);
  timespec until{};
  until.tv_sec = static_cast<time_t>(whole / 1'000'000'000);
  until.tv_nsec = static_cast<long>(whole % 1'000'000'000);
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

}  // namespace

Result<std::unique_ptr<Link>> Link::start(double bytes_per_s) {
  std::unique_ptr<Link> link(new Link(bytes_per_s));
  try {
    link->thread_ = std::thread([raw = link.get()] { raw->run(); });
  } catch (const std::system_error& refused) {
    return error(std::string("no thread for the link: ") + refused.what());
  }
  return link;
}

Link::Link(double bytes_per_s) : ns_per_byte_(1e9 / bytes_per_s), commands_(kCommands), times_(Backend::kTimedTickets) {
  IOKV_ASSERT(bytes_per_s > 0);
}

Link::~Link() {
  if (!thread_.joinable()) return;
  Command stop;
  stop.kind = Command::Kind::stop;
  issue(stop);
  thread_.join();
}

void Link::copy(std::span<const CopyRun> runs) {
  for (const CopyRun& run : runs) {
    Command command;
    command.run = run;
    issue(command);
  }
}

void Link::wait_for(const Link& other, uint64_t value) {
  Command command;
  command.kind = Command::Kind::wait;
  command.other = &other;
  command.ticket = value;
  issue(command);
}

uint64_t Link::record() {
  Command command;
  command.kind = Command::Kind::record;
  command.ticket = ++recorded_;
  issue(command);
  return recorded_;
}

void Link::wait_until(uint64_t ticket) const {
  for (uint64_t now = reached_.load(std::memory_order_acquire); now < ticket;) {
    reached_.wait(now, std::memory_order_acquire);
    now = reached_.load(std::memory_order_acquire);
  }
}

void Link::issue(const Command& command) {
  const uint32_t index = issued_.load(std::memory_order_relaxed);
  for (uint32_t done = done_.load(std::memory_order_acquire); index - done == kCommands;) {
    done_.wait(done, std::memory_order_acquire);
    done = done_.load(std::memory_order_acquire);
  }
  commands_[index % kCommands] = command;
  issued_.store(index + 1, std::memory_order_release);
  issued_.notify_one();
}

void Link::run() {
  ::pthread_setname_np(::pthread_self(), "iokvd-link");
  ::prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);  // sleeps end when they should, not up to 50 µs later
  start_anew();
  for (uint32_t index = 0;; ++index) {
    if (issued_.load(std::memory_order_acquire) == index) {
      issued_.wait(index, std::memory_order_acquire);
      start_anew();
    }
    const Command& command = commands_[index % kCommands];
    switch (command.kind) {
      case Command::Kind::copy:
        carry(command.run);
        break;
      case Command::Kind::wait:
        if (!command.other->reached(command.ticket)) {
          command.other->wait_until(command.ticket);
          start_anew();
        }
        break;
      case Command::Kind::record:
        times_[command.ticket % times_.size()].store(monotonic_ns(), std::memory_order_relaxed);
        reached_.store(command.ticket, std::memory_order_release);
        reached_.notify_all();
        break;
      case Command::Kind::stop:
        return;
    }
    done_.store(index + 1, std::memory_order_release);
    done_.notify_one();
  }
}

// The link has been idle, and owes nothing.
void Link::start_anew() { free_ns_ = std::max(free_ns_, static_cast<double>(monotonic_ns())); }

void Link::carry(const CopyRun& run) {
  free_ns_ = std::max(free_ns_, static_cast<double>(monotonic_ns()) - kMostCreditNs);
  auto* to = static_cast<std::byte*>(run.to);
  const auto* from = static_cast<const std::byte*>(run.from);
  size_t unpaced = 0;
  for (uint32_t row = 0; row < run.rows; ++row) {
    for (size_t at = 0; at < run.bytes;) {
      const size_t bytes = std::min(run.bytes - at, kPieceBytes - unpaced);
      std::memcpy(to + row * run.to_pitch_bytes + at, from + row * run.from_pitch_bytes + at, bytes);
      at += bytes;
      unpaced += bytes;
      if (unpaced < kPieceBytes) continue;
      keep_to_rate(unpaced);
      unpaced = 0;
    }
  }
  keep_to_rate(unpaced);
}

void Link::keep_to_rate(size_t bytes) {
  free_ns_ += static_cast<double>(bytes) * ns_per_byte_;
  if (free_ns_ - static_cast<double>(monotonic_ns()) >= kLeastSleepNs) sleep_until(free_ns_);
}

}  // namespace iokv::cpu
