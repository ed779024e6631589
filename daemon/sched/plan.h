// SPDX-License-Identifier: Apache-2.0
// A Plan is one step of the model over rows of many sequences, complete in itself: the executor needs nothing else and
// decides nothing. The conductor builds it, the executor runs it and fills in the results, the conductor retires it.
// Exactly one of the two threads owns a Plan at any time; they hand it over through bounded queues (runtime/executor.h).
//
// Invariants
//  1. Plans run in the order in which they were issued. A span with token_from_draw reads what the latest earlier Plan
//     with a span of the same slot has drawn.
//  2. blocks cover positions [0, first_position + rows) of their sequence; rows are written to blocks that no other
//     sequence refers to.
//  3. Vectors keep their capacity when a Plan is used again: the steady state does not allocate.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/base/block_form.h"
#include "daemon/base/sampling.h"

namespace iokv {

// Consecutive rows of the step that belong to one sequence: positions first_position, first_position + 1, ...
struct PlanSpan {
  uint32_t slot = 0;             // of the sequence, in the conductor's table
  uint32_t generation = 0;       // of the slot
  uint32_t epoch = 0;            // of the sequence's current operation: draws of an older epoch are discarded
  uint32_t client_slot = 0;
  uint32_t first_row = 0, rows = 0;
  uint32_t first_position = 0;   // tokens already cached
  uint32_t first_block = 0, blocks = 0;  // in Plan::blocks
  uint32_t first_draw = 0, draws = 0;    // in Plan::draws; the rows drawn at are the span's last `draws` rows
  bool token_from_draw = false;  // rows == 1, and its token is what the slot's latest draw gave
  bool decode = false;           // its one token was sampled in the step before: counted apart from prefill
};

struct PlanDraw {
  uint32_t row = 0;
  uint64_t position = 0;         // of the token drawn
  SampleParams params;
  bool keep_logits = false;
  // Results
  int32_t token = 0;
  float logprob = 0;
  std::vector<float> logits;     // [vocab] if keep_logits, else empty
};

struct Plan {
  uint64_t id = 0;               // rising from 1
  std::vector<PlanSpan> spans;
  std::vector<int32_t> tokens;   // [rows]; 0 where token_from_draw
  std::vector<uint32_t> positions;  // [rows]
  std::vector<uint32_t> blocks;  // pool block ids of all spans
  std::vector<BlockForm> forms;  // like blocks
  std::vector<PlanDraw> draws;
  uint32_t clients = 0;          // distinct clients among the spans
  uint64_t taken_ns = 0;         // when the newest entry that this Plan is the first to serve was taken; 0: none
  // Results
  uint64_t started_ns = 0, ended_ns = 0;
  uint64_t recomputed_tokens = 0;  // tokens times layers whose K,V was computed from X
  std::string failure;           // not empty: the device failed and no result is valid

  void clear() {
    spans.clear(), tokens.clear(), positions.clear(), blocks.clear(), forms.clear(), draws.clear();
    clients = 0, taken_ns = started_ns = ended_ns = recomputed_tokens = 0;
    failure.clear();
  }
};

}  // namespace iokv
