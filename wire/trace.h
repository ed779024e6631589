// SPDX-License-Identifier: Apache-2.0
// The blob of BlobKind::trace: when each operation of the last steps ran, beside what was predicted. In this order, each
// part right behind the one before it:
//
//   TraceHeader
//   lane names, char[kTraceNameBytes] each; a lane is one queue of the device, and its operations never overlap
//   kind names, likewise: what an operation does
//   steps, step_bytes each, oldest first
//   operations, op_bytes each: those of the first step, then those of the next
//
// Names are NUL-terminated. A reader goes by the sizes in the header and passes over what it does not know of a step or an
// operation. Times are ns of the device's clock.
#pragma once

#include <cstddef>
#include <cstdint>

namespace iokv::wire {

inline constexpr uint32_t kTraceLanes = 5;
inline constexpr uint32_t kTraceNameBytes = 16;

struct TraceHeader {
  uint32_t header_bytes;
  uint32_t lanes, kinds;  // names of each
  uint32_t step_bytes, op_bytes;
  uint32_t steps;
  uint64_t ops;           // of all steps
};

struct TraceStep {
  uint64_t id;                           // of the Plan, rising
  uint64_t started_ns, ended_ns;         // its first operation, its last draw
  uint64_t step_ns;                      // to its end, from its start or the end of the step before, whichever was later
  uint64_t predicted_ns;                 // of step_ns; 0: nothing was known of the device
  uint64_t lane_predicted_ns[kTraceLanes];
  uint32_t rows, sequences;              // tokens computed, for how many
  uint32_t ops;
  uint32_t ops_left_out;                 // beyond what a step may have in a trace, or too long ago when it ended
};

struct TraceOp {
  uint64_t begin_ns, end_ns;
  uint64_t bytes;   // over the link
  uint32_t tokens;  // fetched, recomputed, stored, in the blocks attended to, or (project, finish) of the step
  uint32_t round;
  uint16_t layer;
  uint8_t lane, kind;
  uint32_t reserved;
};

static_assert(sizeof(TraceHeader) == 32 && sizeof(TraceStep) == 96 && sizeof(TraceOp) == 40);

}  // namespace iokv::wire
