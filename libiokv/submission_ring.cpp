// SPDX-License-Identifier: Apache-2.0
// See submission_ring.h; docs/protocol.md, "Submitting".
#include "libiokv/submission_ring.h"

#include <cstring>

#include "libiokv/shared_index.h"

namespace iokv {

SubmissionRing::SubmissionRing(const wire::Geometry& geometry, std::byte* up, const std::byte* down)
    : up_(up),
      down_(down),
      entries_(reinterpret_cast<wire::Submission*>(up + wire::kUpEntries)),
      arena_(up + wire::arena_offset(geometry)),
      entry_count_(geometry.submission_entries),
      arena_bytes_(geometry.arena_bytes),
      arena_end_(geometry.submission_entries) {}

bool SubmissionRing::has_room(uint32_t payload_bytes) {
  // The daemon's line is read only when the last reading does not suffice.
  auto fits = [&] { return placed_ - head_ < entry_count_ && arena_fits(payload_bytes); };
  return fits() || (refresh() && fits());
}

bool SubmissionRing::arena_fits(uint32_t payload_bytes) const {
  uint32_t bytes = wire::padded(payload_bytes);
  if (bytes > arena_bytes_) return false;
  if (bytes == 0 || arena_tail_ == arena_head_) return true;
  return wire::place(arena_tail_, bytes, arena_bytes_) + bytes - arena_head_ <= arena_bytes_;
}

std::byte* SubmissionRing::place(wire::Submission entry, uint32_t payload_bytes) {
  uint32_t slot = placed_ & (entry_count_ - 1);
  std::byte* payload = nullptr;
  if (payload_bytes != 0) {
    uint32_t bytes = wire::padded(payload_bytes);
    uint32_t position = wire::place(arena_tail_, bytes, arena_bytes_);
    if (arena_tail_ == arena_head_) arena_head_ = position;
    arena_tail_ = position + bytes;
    entry.payload_offset = position;
    entry.payload_bytes = payload_bytes;
    payload = arena_ + (position & (arena_bytes_ - 1));
  }
  std::memcpy(&entries_[slot], &entry, sizeof entry);
  arena_end_[slot] = arena_tail_;
  placed_++;
  return payload;
}

uint32_t SubmissionRing::publish() {
  uint32_t count = placed_ - published_;
  published_ = placed_;
  // Release: pairs with the daemon's acquire load of the tail, which then sees entries and payloads.
  if (count != 0) shared_index(up_, wire::kUpSubmissionTail).store(published_, std::memory_order_release);
  return count;
}

bool SubmissionRing::daemon_sleeps() const {
  full_fence();  // pairs with the daemon's, between setting NEED_WAKEUP and its last look at the tail
  return (shared_index(down_, wire::kDownFlags).load(std::memory_order_relaxed) & wire::kDownNeedWakeup) != 0;
}

bool SubmissionRing::refresh() {
  // Acquire: pairs with the daemon's release store after it has copied entries and payloads out.
  uint32_t head = shared_index(down_, wire::kDownSubmissionHead).load(std::memory_order_acquire);
  if (head == head_) return false;
  if (head - head_ > published_ - head_) {
    broken_ = true;
    return false;
  }
  head_ = head;
  arena_head_ = arena_end_[(head - 1) & (entry_count_ - 1)];
  return true;
}

}  // namespace iokv
