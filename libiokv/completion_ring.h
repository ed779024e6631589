// SPDX-License-Identifier: Apache-2.0
// CompletionRing: the daemon's completions in `down`, and the words with which a client says that it is about to sleep.
// Reaping thread.
//
// Invariants
//  1. head_ <= the daemon's tail <= head_ + entries; else the daemon is broken.
//  2. An entry is copied once and the copy is used.
#pragma once

#include <cstddef>
#include <cstdint>

#include "wire/rings.h"

namespace iokv {

class CompletionRing {
 public:
  CompletionRing(const wire::Geometry& geometry, std::byte* up, const std::byte* down);

  // Completions that are there, from head() on; more than entries() is the daemon's fault.
  uint32_t ready() const;
  uint32_t entries() const { return entry_count_; }
  // The i-th of them.
  wire::Completion peek(uint32_t i) const;
  // Takes the first `count`. true: the daemon waits for room, ring.
  bool advance(uint32_t count);
  // Results are free up to `position`. true: as above.
  bool release_results(uint32_t position);

  // While armed the daemon rings after posting. arm() ends in a full fence: ready() afterwards sees every completion that
  // is not rung for. disarm() too: a completion that ready() does not see then is not rung for.
  void arm();
  void disarm();
  bool armed() const { return armed_; }

 private:
  bool daemon_waits() const;

  std::byte* up_;
  const std::byte* down_;
  const wire::Completion* entries_;
  uint32_t entry_count_;
  uint32_t head_ = 0;
  bool armed_ = false;
};

}  // namespace iokv
