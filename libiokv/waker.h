// SPDX-License-Identifier: Apache-2.0
// Waker: iokv_wake. An eventfd inside this process; the daemon never sees it, for a shared one could be filled by either
// side until the other one blocks on it.
#pragma once

#include <sys/eventfd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "libiokv/descriptor.h"
#include "libiokv/detail.h"

namespace iokv {

class Waker {
 public:
  Waker() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!event_) throw system_failure("cannot make an eventfd", errno, IOKV_ENOMEM);
  }

  int descriptor() const { return event_.get(); }

  // Any thread.
  void wake() {
    woken_.store(true, std::memory_order_release);
    // A full counter is as readable as any.
    uint64_t one = 1;
    [[maybe_unused]] ssize_t written = ::write(event_.get(), &one, sizeof one);
  }

  // Reaping thread: whether woken since the last time.
  bool take() {
    if (!woken_.load(std::memory_order_relaxed)) return false;
    // The event is read before the flag is taken: a wake() in between leaves the flag, at worst with a second event
    // that ends a later wait early and unseen.
    uint64_t count;
    [[maybe_unused]] ssize_t got = ::read(event_.get(), &count, sizeof count);
    return woken_.exchange(false, std::memory_order_acquire);
  }

 private:
  Descriptor event_;
  std::atomic<bool> woken_ = false;
};

}  // namespace iokv
