// SPDX-License-Identifier: Apache-2.0
// The blob of BlobKind::sequences: every open sequence, and what the time of its last steps went to. SequencesHeader, then
// `sequences` rows of row_bytes each. A reader goes by the sizes in the header and passes over what it does not know of a
// row.
#pragma once

#include <cstddef>
#include <cstdint>

namespace iokv::wire {

inline constexpr uint32_t kRowSteps = 8;

struct SequencesHeader {
  uint32_t header_bytes;
  uint32_t row_bytes;
  uint32_t sequences;
  uint32_t reserved;
};

enum class SequenceState : uint32_t {
  idle = 0,     // nothing to do
  running = 1,  // in a step that has been issued
  waiting = 2,  // has something to compute, and is in no step
  parked = 3,   // waits until its client makes room for completions
};

struct SequenceRow {
  uint64_t client_id;         // as in WELCOME
  uint64_t id;                // as the client chose it; others may have the same
  uint32_t client_slot;
  int32_t pid;                // of the client; 0: not visible to the daemon
  char client_name[32];       // NUL-terminated
  uint32_t length;            // tokens
  uint32_t cached;            // of these, with K,V or X in the pool
  uint32_t kv_blocks, x_blocks;
  int32_t priority;
  SequenceState state;
  uint32_t operations;        // that have not ended
  uint32_t steps;             // in `times`
  uint64_t times[kRowSteps];  // of its last steps, oldest first: wire/times.h
  uint16_t host_times[kRowSteps];  // attention on the host of these, as pack_duration has it; 0: none
};

static_assert(sizeof(SequencesHeader) == 16 && sizeof(SequenceRow) == 168);

}  // namespace iokv::wire
