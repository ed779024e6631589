// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/ring_client.h"

#include <cstring>

#include "daemon/base/assert.h"

namespace iokv::sim {

RingClient::RingClient(const wire::Geometry& geometry)
    : geometry_(geometry),
      up_(wire::up_bytes(geometry) / sizeof(uint64_t)),
      down_(wire::down_bytes(geometry) / sizeof(uint64_t)),
      arena_ends_(geometry.submission_entries) {}

uint32_t RingClient::load(const std::byte* base, size_t offset) const {
  uint32_t value;
  std::memcpy(&value, base + offset, sizeof value);
  return value;
}

void RingClient::store(size_t offset, uint32_t value) { std::memcpy(up() + offset, &value, sizeof value); }

bool RingClient::has_room(uint32_t payload_bytes, uint32_t entries) {
  const uint32_t head = load(down(), wire::kDownSubmissionHead);
  if (submission_tail_ + entries - head > geometry_.submission_entries) return false;
  const uint32_t arena_head = head == 0 ? 0 : arena_ends_[(head - 1) % geometry_.submission_entries];
  const uint32_t bytes = wire::padded(payload_bytes);
  return wire::place(arena_position_, bytes, geometry_.arena_bytes) + bytes - arena_head <= geometry_.arena_bytes;
}

void RingClient::place(wire::Submission entry, std::span<const std::byte> payload) {
  IOKV_ASSERT(has_room(static_cast<uint32_t>(payload.size())));
  if (!payload.empty()) {
    const uint32_t bytes = wire::padded(static_cast<uint32_t>(payload.size()));
    const uint32_t at = wire::place(arena_position_, bytes, geometry_.arena_bytes);
    std::memcpy(up() + wire::arena_offset(geometry_) + at % geometry_.arena_bytes, payload.data(), payload.size());
    entry.payload_offset = at;
    entry.payload_bytes = static_cast<uint32_t>(payload.size());
    arena_position_ = at + bytes;
  }
  const uint32_t slot = submission_tail_ % geometry_.submission_entries;
  std::memcpy(up() + wire::kUpEntries + size_t{slot} * sizeof entry, &entry, sizeof entry);
  arena_ends_[slot] = arena_position_;
  submission_tail_++;
}

bool RingClient::submit() {
  store(wire::kUpSubmissionTail, submission_tail_);
  return (load(down(), wire::kDownFlags) & wire::kDownNeedWakeup) != 0;
}

std::optional<RingClient::Reaped> RingClient::reap() {
  if (load(down(), wire::kDownCompletionTail) == completion_head_) return std::nullopt;
  Reaped reaped;
  const uint32_t slot = completion_head_ % geometry_.completion_entries;
  std::memcpy(&reaped.completion, down() + wire::kDownEntries + size_t{slot} * wire::kEntryBytes, wire::kEntryBytes);
  completion_head_++;
  if (const uint32_t bytes = reaped.completion.result_bytes; bytes != 0) {
    const uint32_t at = reaped.completion.result_position;
    IOKV_ASSERT(at == wire::place(result_head_, wire::padded(bytes), geometry_.result_bytes));
    reaped.logits.resize(bytes / sizeof(float));
    std::memcpy(reaped.logits.data(), down() + wire::result_offset(geometry_) + at % geometry_.result_bytes, bytes);
    result_head_ = at + wire::padded(bytes);
  }
  return reaped;
}

bool RingClient::give_back() {
  store(wire::kUpCompletionHead, completion_head_);
  store(wire::kUpResultHead, result_head_);
  return (load(down(), wire::kDownFlags) & wire::kDownNeedReap) != 0;
}

bool RingClient::arm() {
  store(wire::kUpFlags, wire::kUpNeedWakeup | wire::kUpNeedRoom);
  return load(down(), wire::kDownCompletionTail) != completion_head_;
}

void RingClient::disarm() { store(wire::kUpFlags, 0); }

int32_t RingClient::end_code() const {
  return static_cast<int32_t>(load(reinterpret_cast<const std::byte*>(down_.data()), wire::kDownEndCode));
}

}  // namespace iokv::sim
