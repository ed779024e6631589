// SPDX-License-Identifier: Apache-2.0
// The room in one client's completion ring and result FIFO, counted from indices alone, so that the conductor can decide
// deterministically and the session only carries out.
//
// Invariants
//  1. Every admitted operation holds one reserved completion slot until its final completion is posted: final
//     completions always have room.
//  2. unreaped + reserved <= entries, always. Proof: the library keeps operations whose final completion it has not
//     reaped at max_operations or fewer, so reserved + unreaped finals <= max_operations; and a completion that is not
//     final is posted only while unreaped + max_operations < entries. A client that lies fails can_reserve and is ended.
//  3. The arithmetic of the FIFO is wire::place: what the session writes lands where it was counted here.
#pragma once

#include <cstdint>

#include "daemon/base/assert.h"
#include "daemon/sched/request.h"
#include "wire/rings.h"

namespace iokv {

// What an outcome's logits and most probable tokens take of the result FIFO.
inline uint32_t result_bytes(const Outcome& outcome) {
  const auto row = static_cast<uint32_t>(outcome.logits.size() * sizeof(float));
  if (outcome.top.empty()) return row;
  return wire::padded(row) + wire::top_bytes(static_cast<uint32_t>(outcome.top.size()));
}

class Credits {
 public:
  // max_operations as told in WELCOME, at most half of the completion entries.
  Credits(const wire::Geometry& geometry, uint32_t max_operations)
      : geometry_(geometry), max_operations_(max_operations) {
    IOKV_ASSERT(max_operations >= 1 && max_operations <= geometry.completion_entries / 2);
  }

  uint32_t unreaped() const { return completion_tail_ - completion_head_; }
  uint32_t reserved() const { return reserved_; }
  uint32_t free_slots() const { return geometry_.completion_entries - unreaped() - reserved_; }
  bool can_reserve() const { return free_slots() > 0; }
  // Room for a completion that is not final, or for one that is but needs `result_bytes` in the FIFO.
  bool can_post_more(uint32_t result_bytes) const {
    return unreaped() + max_operations_ < geometry_.completion_entries && free_slots() > 0 && result_fits(result_bytes);
  }
  bool can_post_final(uint32_t result_bytes) const { return result_fits(result_bytes); }

  void reserve() {
    IOKV_ASSERT(can_reserve());
    reserved_++;
  }
  void unreserve() {
    IOKV_ASSERT(reserved_ > 0);
    reserved_--;
  }
  void post_more(uint32_t result_bytes) {
    IOKV_ASSERT(can_post_more(result_bytes));
    take(result_bytes);
  }
  void post_final(uint32_t result_bytes) {
    IOKV_ASSERT(reserved_ > 0 && can_post_final(result_bytes));
    reserved_--;
    take(result_bytes);
  }
  // The client's heads, already validated to be monotonic and not beyond what was posted.
  void observe(uint32_t completion_head, uint32_t result_head) {
    completion_head_ = completion_head;
    result_head_ = result_head;
  }

  uint32_t completion_tail() const { return completion_tail_; }
  uint32_t result_tail() const { return result_tail_; }

 private:
  bool result_fits(uint32_t bytes) const {
    if (bytes == 0) return true;
    uint32_t end = wire::place(result_tail_, wire::padded(bytes), geometry_.result_bytes) + wire::padded(bytes);
    return end - result_head_ <= geometry_.result_bytes;
  }
  void take(uint32_t bytes) {
    completion_tail_++;
    if (bytes != 0) {
      result_tail_ = wire::place(result_tail_, wire::padded(bytes), geometry_.result_bytes) + wire::padded(bytes);
    }
  }

  wire::Geometry geometry_;
  uint32_t max_operations_;
  uint32_t completion_tail_ = 0, completion_head_ = 0, reserved_ = 0;
  uint32_t result_tail_ = 0, result_head_ = 0;
};

}  // namespace iokv
