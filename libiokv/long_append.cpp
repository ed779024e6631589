// SPDX-License-Identifier: Apache-2.0
// See long_append.h; docs/protocol.md, "Long appends".
#include "libiokv/long_append.h"

#include <algorithm>

#include "libiokv/shared_index.h"

namespace iokv {
namespace {

// A quarter of the arena: the daemon copies one part while the next ones are written. With what is behind the tokens, which
// is at most half of the arena (arguments.h), the last one fits as well.
uint32_t part_tokens(uint32_t arena_bytes) {
  return (arena_bytes / 4 - static_cast<uint32_t>(sizeof(wire::StepPayload))) / static_cast<uint32_t>(sizeof(int32_t));
}

}  // namespace

void LongAppend::prepare(const wire::Submission& step, const Payload& payload) {
  std::vector<int32_t> tokens(payload.tokens.begin(), payload.tokens.end());
  std::vector<std::byte> behind;
  for (const auto& part : payload.behind) behind.insert(behind.end(), part.begin(), part.end());
  step_ = step;
  header_ = payload.header;
  tokens_ = std::move(tokens);
  behind_ = std::move(behind);
  passed_ = 0;
}

void LongAppend::start() {
  pending_.store(true, std::memory_order_release);  // invariant 2: pairs with the loads of pending()
}

LongAppend::Fed LongAppend::feed(SubmissionRing& ring, std::byte* up) {
  Fed fed;
  if (!pending() || feeding_.test_and_set(std::memory_order_acquire)) return fed;
  bool done = !pending();  // the other thread may have passed the last part on before feeding_ was ours
  while (!done) {
    while (!done && ring.has_room(next_bytes(ring.arena_bytes()))) done = place_next(ring);
    fed.entries += ring.publish();
    if (done) break;
    shared_index(up, wire::kUpFlags).fetch_or(wire::kUpNeedRoom, std::memory_order_relaxed);
    full_fence();  // pairs with the daemon's, between storing the submission head and loading these flags
    if (!ring.refresh()) break;
  }
  fed.ring = fed.entries != 0 && ring.daemon_sleeps();
  fed.broken = ring.broken();
  if (done && pending()) {
    shared_index(up, wire::kUpFlags).fetch_and(~uint32_t{wire::kUpNeedRoom}, std::memory_order_relaxed);
    pending_.store(false, std::memory_order_release);  // invariant 2
  }
  feeding_.clear(std::memory_order_release);
  return fed;
}

uint32_t LongAppend::next_bytes(uint32_t arena_bytes) const {
  uint32_t part = part_tokens(arena_bytes);
  size_t left = tokens_.size() - passed_;
  size_t behind = left > part ? 0 : behind_.size();
  return static_cast<uint32_t>(sizeof(wire::StepPayload) + std::min<size_t>(left, part) * sizeof(int32_t) + behind);
}

bool LongAppend::place_next(SubmissionRing& ring) {
  uint32_t part = part_tokens(ring.arena_bytes());
  size_t left = tokens_.size() - passed_;
  bool last = left <= part;
  wire::Submission entry = step_;
  Payload payload;
  payload.tokens = std::span(tokens_).subspan(passed_, last ? left : part);
  if (last) {
    payload.header = header_;
    payload.behind[0] = behind_;
  } else {
    entry.flags = wire::kSubmissionPart;
    entry.m = 0;
  }
  entry.n = static_cast<uint32_t>(payload.tokens.size());
  write_payload(payload, ring.place(entry, static_cast<uint32_t>(payload.bytes())));
  passed_ += payload.tokens.size();
  return last;
}

}  // namespace iokv
