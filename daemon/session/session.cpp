// SPDX-License-Identifier: Apache-2.0
#include "daemon/session/session.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "daemon/base/assert.h"
#include "daemon/session/credits.h"
#include "include/iokv/iokv.h"

namespace iokv {
namespace {

// atomic_ref wants a non-const object; nothing is written through the result.
std::atomic_ref<uint32_t> word_at(const std::byte* address) {
  return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(const_cast<std::byte*>(address)));
}

// Loads every word exactly once. Relaxed atomics, because a hostile client may write at the same time: with memcpy that
// would be a data race, and the compiler would be free to read twice. An honest client's words were ordered by the
// acquire load of the submission tail. bytes is a multiple of 8, both ends are 8-aligned.
void copy_once(uint64_t* to, const std::byte* from, size_t bytes) {
  auto* words = reinterpret_cast<uint64_t*>(const_cast<std::byte*>(from));
  for (size_t i = 0; i < bytes / 8; i++) {
    to[i] = std::atomic_ref<uint64_t>(words[i]).load(std::memory_order_relaxed);
  }
}

// Between a store and a load of different words: the store is visible before the load is done. Its partner is the same
// fence on the client's side, between its store of what we load and its load of what we store; one of the two sees.
void full_fence() {
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
  // gcc: thread sanitizer knows no fences. Nothing is proven race-free by these: every datum has an acquire of its own.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
  std::atomic_thread_fence(std::memory_order_seq_cst);
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}

bool valid(const wire::Geometry& geometry) {
  auto power_of_two = [](uint32_t value) { return value != 0 && (value & (value - 1)) == 0; };
  return power_of_two(geometry.submission_entries) && power_of_two(geometry.completion_entries) &&
         power_of_two(geometry.arena_bytes) && power_of_two(geometry.result_bytes) &&
         geometry.arena_bytes >= wire::kPageBytes && geometry.result_bytes >= wire::kPageBytes;
}

}  // namespace

Session::Session(const wire::Geometry& geometry, std::byte* up, std::byte* down, const SessionLimits& limits)
    : geometry_(geometry),
      up_(up),
      down_(down),
      copy_bytes_per_pass_(limits.copy_bytes_per_pass),
      rules_(limits, geometry.arena_bytes),
      payload_(rules_.max_payload_bytes() / sizeof(uint64_t)) {
  IOKV_ASSERT(valid(geometry));
  std::memcpy(down_ + wire::kDownGeometry, &geometry_, sizeof geometry_);
}

Session::Pass Session::drain(std::vector<Request>& requests) {
  // Acquire: with the client's release after it has written the entries and payloads up to this tail.
  const uint32_t tail = word_at(up_ + wire::kUpSubmissionTail).load(std::memory_order_acquire);
  if (tail - submission_head_ > geometry_.submission_entries ||
      tail - submission_head_ < submission_tail_seen_ - submission_head_) {
    broken("the submission tail went back or beyond the ring");
    return Pass::broken;
  }
  submission_tail_seen_ = tail;

  uint64_t copied_bytes = 0;
  for (bool first = true; submission_head_ != tail; first = false) {
    wire::Submission entry;
    const uint32_t slot = submission_head_ & (geometry_.submission_entries - 1);
    uint64_t words[sizeof entry / sizeof(uint64_t)];
    copy_once(words, up_ + wire::kUpEntries + size_t{slot} * wire::kEntryBytes, sizeof entry);
    std::memcpy(&entry, words, sizeof entry);

    copied_bytes += std::min(entry.payload_bytes, rules_.max_payload_bytes());
    if (!first && copied_bytes > copy_bytes_per_pass_) return Pass::more;
    if (!take(entry, requests.emplace_back())) {
      requests.pop_back();
      return Pass::broken;
    }
    submission_head_++;
  }
  return Pass::drained;
}

bool Session::take(const wire::Submission& entry, Request& request) {
  const char* reason = rules_.check_entry(entry, request);
  if (reason == nullptr) {
    // check_entry has bounded the payload: it lies within the arena, whole and aligned.
    const uint32_t bytes = rules_.payload_to_read(entry, request);
    IOKV_ASSERT(bytes <= payload_.size() * sizeof(uint64_t));
    const size_t offset = entry.payload_offset & (geometry_.arena_bytes - 1);
    copy_once(payload_.data(), up_ + wire::arena_offset(geometry_) + offset, bytes);
    reason = rules_.check_payload(entry, std::as_bytes(std::span(payload_.data(), bytes / sizeof(uint64_t))), request);
  }
  return reason == nullptr || broken("submission entry " + std::to_string(submission_head_) + ": " + reason);
}

bool Session::observe_heads() {
  // Acquire, both: with the client's release after it has read what it gives back; what we write there next cannot
  // overtake that.
  const uint32_t completion = word_at(up_ + wire::kUpCompletionHead).load(std::memory_order_acquire);
  const uint32_t result = word_at(up_ + wire::kUpResultHead).load(std::memory_order_acquire);
  if (completion - completion_head_ > completion_tail_published_ - completion_head_) {
    return broken("the completion head went back or beyond what was posted");
  }
  if (result - result_head_ > result_tail_published_ - result_head_) {
    return broken("the result head went back or beyond what was posted");
  }
  completion_head_ = completion;
  result_head_ = result;
  return true;
}

void Session::post(const Outcome& outcome) {
  IOKV_ASSERT(completion_tail_ - completion_head_ < geometry_.completion_entries);
  IOKV_ASSERT(outcome.logits.empty() == ((outcome.flags & IOKV_COMPLETION_LOGITS) == 0));
  IOKV_ASSERT(outcome.top.empty() == ((outcome.flags & IOKV_COMPLETION_TOP) == 0));
  wire::Completion completion{};
  completion.user_data = outcome.user_data;
  completion.operation = outcome.operation;
  completion.sequence = outcome.sequence;
  completion.result = outcome.result;
  completion.flags = outcome.flags;
  completion.token = outcome.token;
  completion.logprob = outcome.logprob;
  completion.index = outcome.index;
  completion.length = outcome.length;
  completion.times = outcome.times;
  completion.result_bytes = result_bytes(outcome);
  if (completion.result_bytes != 0) completion.result_position = write_result(outcome);
  const uint32_t slot = completion_tail_ & (geometry_.completion_entries - 1);
  std::memcpy(down_ + wire::kDownEntries + size_t{slot} * wire::kEntryBytes, &completion, sizeof completion);
  completion_tail_++;
}

uint32_t Session::write_result(const Outcome& outcome) {
  const uint32_t bytes = result_bytes(outcome);
  IOKV_ASSERT(bytes <= geometry_.result_bytes);
  const uint32_t position = wire::place(result_tail_, wire::padded(bytes), geometry_.result_bytes);
  result_tail_ = position + wire::padded(bytes);
  IOKV_ASSERT(result_tail_ - result_head_ <= geometry_.result_bytes);
  std::byte* to = down_ + wire::result_offset(geometry_) + (position & (geometry_.result_bytes - 1));
  const auto row = static_cast<uint32_t>(outcome.logits.size() * sizeof(float));
  if (row != 0) std::memcpy(to, outcome.logits.data(), row);
  if (outcome.top.empty()) return position;
  static_assert(sizeof(TokenLogprob) == sizeof(wire::TokenLogprob));
  to += wire::padded(row);
  const wire::TopHeader header{static_cast<uint32_t>(outcome.top.size()), 0};
  std::memset(to, 0, wire::top_bytes(header.count));
  std::memcpy(to, &header, sizeof header);
  std::memcpy(to + sizeof header, outcome.top.data(), outcome.top.size() * sizeof(TokenLogprob));
  return position;
}

bool Session::publish() {
  const bool took = submission_head_ != submission_head_published_;
  const bool posted = completion_tail_ != completion_tail_published_;
  if (!took && !posted) return false;
  // Release, both, the head first (wire/rings.h, invariant 5): with the client's acquire loads before it writes to entries
  // and arena again, and before it reads completions and results.
  word_at(down_ + wire::kDownSubmissionHead).store(submission_head_, std::memory_order_release);
  word_at(down_ + wire::kDownCompletionTail).store(completion_tail_, std::memory_order_release);
  submission_head_published_ = submission_head_;
  completion_tail_published_ = completion_tail_;
  result_tail_published_ = result_tail_;
  // With the client's fence between setting its flags and looking at head and tail for the last time before it blocks.
  full_fence();
  const uint32_t flags = word_at(up_ + wire::kUpFlags).load(std::memory_order_relaxed);
  return (posted && (flags & wire::kUpNeedWakeup) != 0) || (took && (flags & wire::kUpNeedRoom) != 0);
}

bool Session::arm(bool need_reap) {
  const uint32_t flags = wire::kDownNeedWakeup | (need_reap ? uint32_t{wire::kDownNeedReap} : 0u);
  word_at(down_ + wire::kDownFlags).store(flags, std::memory_order_relaxed);
  // With the client's fence between storing a tail or head and looking at these flags.
  full_fence();
  // Only compared here: drain and observe_heads load them again, with acquire, and check them.
  auto peek = [this](size_t offset) { return word_at(up_ + offset).load(std::memory_order_relaxed); };
  if (peek(wire::kUpSubmissionTail) != submission_head_) return true;
  return need_reap && (peek(wire::kUpCompletionHead) != completion_head_ || peek(wire::kUpResultHead) != result_head_);
}

void Session::disarm() {
  // Relaxed: a client that still sees the flag rings once too often.
  word_at(down_ + wire::kDownFlags).store(0, std::memory_order_relaxed);
}

void Session::end(int32_t code) {
  // Release: with the client's acquire; completions published before are found before the end is.
  word_at(down_ + wire::kDownEndCode).store(static_cast<uint32_t>(code), std::memory_order_release);
}

bool Session::broken(const std::string& reason) {
  broken_reason_ = reason;
  return false;
}

}  // namespace iokv
