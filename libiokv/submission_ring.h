// SPDX-License-Identifier: Apache-2.0
// SubmissionRing: this client's entries in `up` and the arena that their payloads lie in. The submitting thread's; while a
// long append is pending, of whoever feeds it (long_append.h).
//
// Invariants
//  1. head_ <= published_ <= placed_, each free-running, at most `entries` apart.
//  2. The arena is a FIFO in the order of the entries: what an entry holds is free once the daemon's head has passed it.
//  3. A payload is contiguous and lies where wire::place puts it. An empty arena starts at any position, so that a
//     payload as large as the arena fits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "wire/rings.h"

namespace iokv {

class SubmissionRing {
 public:
  SubmissionRing(const wire::Geometry& geometry, std::byte* up, const std::byte* down);

  uint32_t arena_bytes() const { return arena_bytes_; }

  // Whether one entry with so much payload can be placed now.
  bool has_room(uint32_t payload_bytes);
  // Places an entry, which has_room() must have allowed; returns where its payload goes, to be written before publish().
  std::byte* place(wire::Submission entry, uint32_t payload_bytes);
  // Makes what was placed visible to the daemon; returns how many entries.
  uint32_t publish();
  // After publish(): whether the daemon sleeps and must be rung for.
  bool daemon_sleeps() const;
  // Loads the daemon's head. true: it has moved.
  bool refresh();
  // The daemon's head has been where it cannot be.
  bool broken() const { return broken_; }

 private:
  bool arena_fits(uint32_t payload_bytes) const;

  std::byte* up_;
  const std::byte* down_;
  wire::Submission* entries_;
  std::byte* arena_;
  uint32_t entry_count_;
  uint32_t arena_bytes_;
  std::vector<uint32_t> arena_end_;  // [slot]: the arena's tail after that entry
  uint32_t placed_ = 0, published_ = 0, head_ = 0;
  uint32_t arena_tail_ = 0, arena_head_ = 0;
  bool broken_ = false;
};

}  // namespace iokv
