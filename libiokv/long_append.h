// SPDX-License-Identifier: Apache-2.0
// LongAppend: a step whose tokens do not fit the arena at once. The library keeps a copy and passes it on in parts
// (wire::kSubmissionPart) as the daemon takes them; the last entry is the step itself.
//
// Invariants
//  1. At most one is pending. While it is, nothing else is placed: the parts follow each other.
//  2. Either thread may feed it: a caller who only reaps must not have to submit again. The ring then belongs to whoever
//     holds feeding_, which is only ever tried, never waited for. pending_ is set last by the submitting thread (start)
//     and cleared last by the feeder, so that while it is clear the submitting thread has the ring to itself.
//  3. While it is pending NEED_ROOM is set, and the daemon rings when its submission head moves.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "libiokv/arguments.h"
#include "libiokv/submission_ring.h"

namespace iokv {

class LongAppend {
 public:
  bool pending() const { return pending_.load(std::memory_order_acquire); }

  // Submitting thread, none pending. Copies what the payload points to; may throw bad_alloc and then has done nothing.
  void prepare(const wire::Submission& step, const Payload& payload);
  // Submitting thread, after prepare(): from here on either thread may announce the step.
  void start();

  struct Fed {
    uint32_t entries = 0;  // that became visible
    bool ring = false;     // the daemon sleeps
    bool broken = false;   // SubmissionRing::broken()
  };
  // Passes on as much as there is room for. Both threads; does nothing when none is pending or the other one feeds.
  Fed feed(SubmissionRing& ring, std::byte* up);

 private:
  // Of the payload that comes next.
  uint32_t next_bytes(uint32_t arena_bytes) const;
  // Places it; true: it was the last.
  bool place_next(SubmissionRing& ring);

  std::atomic<bool> pending_ = false;
  std::atomic_flag feeding_;
  wire::Submission step_{};
  wire::StepPayload header_{};
  std::vector<int32_t> tokens_;
  std::vector<std::byte> behind_;  // the tokens, in the payload: one part of it
  size_t passed_ = 0;  // tokens
};

}  // namespace iokv
