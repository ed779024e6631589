// SPDX-License-Identifier: Apache-2.0
// `iokv top`: what a running daemon does, second by second: from two readings of its counters and its table of sequences.
// Looking costs the daemon nothing but that table, which it makes in a twentieth of its time at most.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/observer.h"
#include "wire/sequences.h"

namespace iokv {

struct TopFrame {
  CounterSnapshot before, now;
  uint64_t elapsed_ns = 0;                    // between the two
  uint64_t now_ns = 0;                        // of CLOCK_MONOTONIC
  std::vector<wire::SequenceRow> sequences;   // open now
};

// Pure.
std::string top_text(const TopFrame& frame);

// Prints frames until the daemon is gone or `frames` have been printed (0: no limit); on a terminal each in the place of the
// one before it. Errors: as read_counters.
Status top(const std::string& socket_path, double interval_s, uint32_t frames);

}  // namespace iokv
