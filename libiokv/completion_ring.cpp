// SPDX-License-Identifier: Apache-2.0
// See completion_ring.h; docs/protocol.md, "Waking" and "Results".
#include "libiokv/completion_ring.h"

#include <cstring>

#include "libiokv/shared_index.h"

namespace iokv {

CompletionRing::CompletionRing(const wire::Geometry& geometry, std::byte* up, const std::byte* down)
    : up_(up),
      down_(down),
      entries_(reinterpret_cast<const wire::Completion*>(down + wire::kDownEntries)),
      entry_count_(geometry.completion_entries) {}

uint32_t CompletionRing::ready() const {
  // Acquire: pairs with the daemon's release store after it has written entries and results.
  return shared_index(down_, wire::kDownCompletionTail).load(std::memory_order_acquire) - head_;
}

wire::Completion CompletionRing::peek(uint32_t i) const {
  wire::Completion entry;
  std::memcpy(&entry, &entries_[(head_ + i) & (entry_count_ - 1)], sizeof entry);
  return entry;
}

bool CompletionRing::advance(uint32_t count) {
  head_ += count;
  // Release: the entries have been copied; pairs with the daemon's acquire load before it writes them again.
  shared_index(up_, wire::kUpCompletionHead).store(head_, std::memory_order_release);
  return daemon_waits();
}

bool CompletionRing::release_results(uint32_t position) {
  // Release: the rows have been read; pairs with the daemon's acquire load before it writes them again.
  shared_index(up_, wire::kUpResultHead).store(position, std::memory_order_release);
  return daemon_waits();
}

bool CompletionRing::daemon_waits() const {
  full_fence();  // pairs with the daemon's, between setting NEED_REAP and its last look at the heads
  return (shared_index(down_, wire::kDownFlags).load(std::memory_order_relaxed) & wire::kDownNeedReap) != 0;
}

void CompletionRing::arm() {
  if (!armed_) shared_index(up_, wire::kUpFlags).fetch_or(wire::kUpNeedWakeup, std::memory_order_relaxed);
  armed_ = true;
  full_fence();  // pairs with the daemon's, between storing the completion tail and loading these flags
}

void CompletionRing::disarm() {
  shared_index(up_, wire::kUpFlags).fetch_and(~uint32_t{wire::kUpNeedWakeup}, std::memory_order_relaxed);
  armed_ = false;
  full_fence();  // as in arm()
}

}  // namespace iokv
