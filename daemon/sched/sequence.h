// SPDX-License-Identifier: Apache-2.0
// A sequence as the conductor sees it: its tokens, what of them is cached in the pool, and the operations that wait.
//
// Invariants
//  1. tokens.size() is the sequence's length: every token appended and every token sampled and accepted.
//  2. cached <= tokens.size() + draws_in_flight; positions [0, cached) have K,V or X in `blocks`, or will have once the
//     Plans in flight have run. blocks.size() * kBlockTokens >= cached.
//  3. operations.front() is the only one that runs; it stays until its final completion has been posted.
//  4. parked is not empty only while the client has no room; nothing of the sequence is planned meanwhile.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "daemon/base/units.h"
#include "daemon/sched/block_table.h"
#include "daemon/sched/request.h"

namespace iokv {

inline constexpr uint32_t kTimedSteps = 8;  // of a sequence, for `iokv explain`

struct Sequence {
  bool open = false;
  bool active = false;            // in Conductor::active_
  uint32_t slot = 0;
  uint32_t generation = 0;        // of the slot: Plans name (slot, generation)
  ClientId client;
  uint64_t id = 0;                // the client's
  SampleParams sampling;
  std::vector<TokenBias> biases;  // of `sampling`
  int16_t priority = 0;

  std::vector<int32_t> tokens;
  BlockTable blocks;
  uint32_t cached = 0;
  // Of its contexts, that the host attends to: fixed with its first Plan, where bits may not depend on others.
  std::optional<double> host_share;
  uint32_t plans_in_flight = 0;
  uint64_t last_plan = 0;         // id of the latest Plan with a span of this sequence
  std::array<uint64_t, kTimedSteps> times{};  // of the last steps that retired, a ring: wire/times.h
  std::array<uint16_t, kTimedSteps> host_times{};  // likewise, of attention on the host
  uint32_t steps = 0;             // that have retired; the latest is times[(steps - 1) % kTimedSteps]
  uint64_t ready_ns = 0;          // since when it could be computed

  std::deque<Request> operations;
  bool awaits_fork = false;       // the child of a fork that is still queued: its operations wait
  bool starting = false;          // operations are being started: see Conductor::start_next

  // Of operations.front():
  bool started = false;           // its tokens have been appended
  uint32_t epoch = 0;             // changes whenever a front operation starts or ends
  uint32_t length_before = 0;     // tokens before its own were appended
  uint32_t sampled = 0;           // tokens drawn and accepted
  uint32_t draws_in_flight = 0;   // tokens that Plans in flight will append
  uint32_t predicted = 0;         // EACH: appended tokens predicted at, including those in flight
  uint64_t arrival = 0;           // order of starting
  uint32_t turn = 0;              // at the pool: see Conductor::give_turns
  uint64_t started_plan = 0;      // id of the latest Plan when it started
  uint64_t taken_ns = 0;          // when its entry was taken, until its first Plan; then 0

  uint64_t token_ns = 0;          // when its latest token came, or it could begin

  std::deque<Outcome> parked;
  uint64_t parked_since_ns = 0;
  uint64_t failed_part = 0;       // operation whose part failed: later parts are dropped ...
  int32_t failed_part_code = 0;   // ... and its last STEP ends with this
};

}  // namespace iokv
