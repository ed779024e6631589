// SPDX-License-Identifier: Apache-2.0
// A client written from wire/rings.h alone, without libiokv: it can be honest and it can lie. Shared words are written
// with atomics, so that the thread sanitizer sees both ends of a ring as the languages' memory model does.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "wire/rings.h"

namespace iokv {

inline void full_fence_of_test() {
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
  std::atomic_thread_fence(std::memory_order_seq_cst);
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}

// Zeroed memory as both ends see it.
class RawMemory {
 public:
  explicit RawMemory(size_t bytes) : words_(bytes / 8) {}
  std::byte* data() { return reinterpret_cast<std::byte*>(words_.data()); }
  size_t bytes() const { return words_.size() * 8; }

 private:
  std::vector<uint64_t> words_;
};

class RawClient {
 public:
  RawClient(const wire::Geometry& geometry, std::byte* up, std::byte* down)
      : geometry_(geometry), up_(up), down_(down) {}

  std::atomic_ref<uint32_t> up_word(size_t offset) { return word(up_, offset); }
  std::atomic_ref<uint32_t> down_word(size_t offset) { return word(down_, offset); }

  // Writes bytes of a payload at an arena position, whether or not it may lie there.
  void write_arena(uint32_t position, const void* bytes, size_t count) {
    std::byte* arena = up_ + wire::arena_offset(geometry_);
    store(arena, position & (geometry_.arena_bytes - 1), bytes, count);
  }

  // Places the entry behind the last one; announce() makes it visible.
  void place(const wire::Submission& entry) {
    size_t slot = placed_ & (geometry_.submission_entries - 1);
    store(up_ + wire::kUpEntries, slot * wire::kEntryBytes, &entry, sizeof entry);
    placed_++;
  }
  // The same with a payload where the FIFO wants it.
  void place(wire::Submission entry, const std::vector<std::byte>& payload) {
    uint32_t bytes = (static_cast<uint32_t>(payload.size()) + 7) / 8 * 8;
    uint32_t offset = arena_ % geometry_.arena_bytes;
    if (offset + bytes > geometry_.arena_bytes) arena_ += geometry_.arena_bytes - offset;
    entry.payload_offset = arena_;
    entry.payload_bytes = static_cast<uint32_t>(payload.size());
    write_arena(arena_, payload.data(), payload.size());
    arena_ += bytes;
    place(entry);
  }
  void announce() { up_word(wire::kUpSubmissionTail).store(placed_, std::memory_order_release); }

  uint32_t placed() const { return placed_; }
  uint32_t arena() const { return arena_; }
  uint32_t taken_by_daemon() { return down_word(wire::kDownSubmissionHead).load(std::memory_order_acquire); }

  // Completions not yet taken.
  uint32_t ready() { return down_word(wire::kDownCompletionTail).load(std::memory_order_acquire) - reaped_; }
  wire::Completion take() {
    wire::Completion completion;
    size_t slot = reaped_ & (geometry_.completion_entries - 1);
    std::memcpy(&completion, down_ + wire::kDownEntries + slot * wire::kEntryBytes, sizeof completion);
    reaped_++;
    return completion;
  }
  std::vector<float> logits_of(const wire::Completion& completion) {
    std::vector<float> logits(completion.result_bytes / sizeof(float));
    size_t offset = completion.result_position & (geometry_.result_bytes - 1);
    std::memcpy(logits.data(), down_ + wire::result_offset(geometry_) + offset, completion.result_bytes);
    return logits;
  }
  void give_back_completions() { up_word(wire::kUpCompletionHead).store(reaped_, std::memory_order_release); }
  void give_back_results(uint32_t position) {
    up_word(wire::kUpResultHead).store(position, std::memory_order_release);
  }

 private:
  static std::atomic_ref<uint32_t> word(std::byte* region, size_t offset) {
    return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(region + offset));
  }
  // In 8-byte words; a payload's last word is filled up with zeros.
  static void store(std::byte* region, size_t offset, const void* bytes, size_t count) {
    for (size_t done = 0; done < count; done += 8) {
      uint64_t value = 0;
      std::memcpy(&value, static_cast<const std::byte*>(bytes) + done, count - done < 8 ? count - done : 8);
      std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(region + offset + done))
          .store(value, std::memory_order_relaxed);
    }
  }

  wire::Geometry geometry_;
  std::byte* up_;
  std::byte* down_;
  uint32_t placed_ = 0, arena_ = 0, reaped_ = 0;
};

// A payload as wire/rings.h lays it out: of `head` as much as its struct_bytes says (0: as at 1.0), then zeros up to them.
inline std::vector<std::byte> step_payload(const std::vector<int32_t>& tokens, const std::vector<int32_t>& stop_tokens,
                                           wire::StepPayload head = {}) {
  if (head.struct_bytes == 0) head.struct_bytes = wire::kFirstStepPayloadBytes;
  head.stop_tokens = static_cast<uint32_t>(stop_tokens.size());
  std::vector<std::byte> payload(head.struct_bytes + (tokens.size() + stop_tokens.size()) * 4);
  std::memcpy(payload.data(), &head, std::min<size_t>(sizeof head, head.struct_bytes));
  size_t at = head.struct_bytes;
  for (const auto* list : {&tokens, &stop_tokens}) {
    for (int32_t token : *list) std::memcpy(payload.data() + at, &token, 4), at += 4;
  }
  return payload;
}

inline constexpr uint64_t kSequence = (uint64_t{1} << 32) | 7;

inline wire::Submission entry_of(wire::Opcode opcode, uint64_t operation) {
  wire::Submission entry{};
  entry.opcode = opcode;
  entry.operation = operation;
  entry.user_data = operation * 1000;
  if (opcode != wire::Opcode::nop) entry.sequence = kSequence;
  return entry;
}

inline wire::Submission step_of(uint64_t operation, uint32_t n, uint32_t m = 1, uint16_t flags = 0) {
  wire::Submission entry = entry_of(wire::Opcode::step, operation);
  entry.n = n;
  entry.m = m;
  entry.flags = flags;
  return entry;
}

}  // namespace iokv
