// SPDX-License-Identifier: Apache-2.0
// A Plan is one step of the model over rows of many sequences, complete in itself: the executor needs nothing else and
// decides nothing. The conductor fills in what is to be computed, plan_build.h turns it into operations, the executor
// runs them and fills in the results, the conductor retires the Plan. Exactly one of the two threads owns a Plan at any
// time; they hand it over through bounded queues (daemon/runtime/device_thread.h).
//
// Operations. All layers do the same with other weights and other parts of the pool, so one list of operations, the
// program, stands for every layer. It is cut into rounds: a round brings K,V of some blocks to the device, straight or
// by recomputing them from X, into the areas of a slot of the staging ring, and attention goes over the slot. While one
// round is attended to, the link fills the slots behind it, those of the next layer and of the next Plan included.
//
// Micro-batches. A step of more rows than the device computes at once is cut into several, which go through a layer one
// behind the other before the next layer begins: its weights are read, or brought, once for all of them. A span may be
// cut, at the end of a block: later rows attend to K,V of earlier ones where these have been kept for the layer's time,
// and else fetch what was written back. The program is that of all micro-batches, each with rounds of its own.
//
// Host. K,V that lie in the host pool need not cross the link: of a row that decodes, the last of the cached tokens may be
// attended to by the host's CPU. It gets the micro-batch's queries, works beside all rounds, and what it has found is
// merged with what the device has found in the others before the micro-batch finishes.
//
// Invariants
//  1. Plans run in the order in which they were issued. A span with token_from_draw reads what the latest earlier Plan
//     with a span of the same slot has drawn.
//  2. The runs of a span cover the blocks of positions [0, first_position + rows); rows are written to blocks that no
//     other sequence refers to.
//  3. Of a span's rows in a micro-batch pieces are attended to in position order, and none of them twice in one round's
//     attention.
//  4. Vectors keep their capacity when a Plan is used again: the steady state does not allocate.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/base/block_form.h"
#include "daemon/base/queue.h"
#include "daemon/base/sampling.h"
#include "daemon/base/units.h"
#include "daemon/sched/cost.h"

namespace iokv {

inline constexpr uint32_t kNoBlock = UINT32_MAX;
inline constexpr uint32_t kNoSlot = UINT32_MAX;
inline constexpr uint32_t kNoDraw = UINT32_MAX;
inline constexpr uint32_t kNoMask = UINT32_MAX;

// Consecutive blocks of one sequence whose ids follow each other, each a block's units behind the one before it.
struct BlockRun {
  uint32_t id = 0;                       // in the host pool, of the first block
  uint32_t device_id = kNoBlock;         // of its copy that the device reads in place; it is what is used then
  uint32_t blocks = 0;
  BlockForm form = BlockForm::kv;        // in the host pool
  BlockForm device_form = BlockForm::kv; // of the copy
  bool shared = false;                   // other sequences may refer to them: they are full
  // One block that is stored as both, form == x: of its tokens the first x_tokens are recomputed from block `id`, the
  // others come from block kv_id. Elsewhere kNoBlock.
  uint32_t kv_id = kNoBlock;
  uint32_t x_tokens = 0;

  bool resident() const { return device_id != kNoBlock; }
  BlockForm used_form() const { return resident() ? device_form : form; }
};

// What a sequence's blocks need of the staging ring: areas, and of the link as many units as they have in the pool.
struct RingLoad {
  uint32_t areas = 0, link_units = 0;
  bool operator==(const RingLoad&) const = default;
};

// A part of one of a Plan's arrays.
struct PlanSlice {
  uint32_t first = 0, count = 0;
};

// Consecutive rows of the step that belong to one sequence: positions first_position, first_position + 1, ...
struct PlanSpan {
  uint32_t slot = 0;             // of the sequence, in the conductor's table; kNoSlot: an audit's rows
  uint32_t generation = 0;       // of the slot
  uint32_t epoch = 0;            // of the sequence's current operation: draws of an older epoch are discarded
  uint32_t client_slot = 0;
  uint32_t first_row = 0, rows = 0;
  uint32_t first_position = 0;   // tokens already cached
  uint32_t first_run = 0, runs = 0;    // in Plan::runs
  RingLoad load;                       // of the runs, about; 0 where nobody says
  uint32_t first_draw = 0, draws = 0;  // in Plan::draws; the rows drawn at are the span's last `draws` rows
  bool token_from_draw = false;  // rows == 1, and its token is what the slot's latest draw gave; so is then the last of
                                 // its history
  PlanSlice history;             // in Plan::history: tokens up to the span's last row that its draws have to know
  bool decode = false;           // its one token was sampled in the step before: counted apart from prefill
  // A block's start, with rows == 1: cached tokens from here on, in blocks of K,V of the host pool, are attended to by the
  // host. kAllOnDevice: none.
  uint32_t host_from = kAllOnDevice;
  double host_share = 0;          // of its context, where that is fixed: daemon/sched/host_division.h

  uint32_t host_tokens() const { return host_from == kAllOnDevice ? 0 : first_position - host_from; }
};

struct PlanDraw {
  uint32_t row = 0;
  uint64_t position = 0;         // of the token drawn
  SampleParams params;
  PlanSlice repeated, counted;   // in Plan::history, as SampleRow has them
  PlanSlice biases;              // in Plan::biases
  uint32_t mask = kNoMask;       // its first word in Plan::masks
  uint32_t top = 0;              // most probable tokens wanted
  bool keep_logits = false;
  // Results
  int32_t token = 0;
  float logprob = 0;
  std::vector<float> logits;     // [vocab] if keep_logits, else empty
  std::vector<TokenLogprob> tops;  // [top]
};

// ---- the program ----------------------------------------------------------------------------------------------------

// Cached tokens of one span that are brought, or recomputed, together: of blocks that follow each other in the pool
// from `first_token` of block `id` on, into as many neighbouring areas.
struct PlanPart {
  uint32_t id = 0;               // in the host pool, or of a resident part on the device
  uint32_t first_token = 0;      // of the first block, < kBlockTokens
  uint32_t tokens = 0;
  uint32_t position = 0;         // of the first token in its sequence
  uint32_t area = 0;             // of the first block, in the round's slot
  uint32_t x_row = 0;            // of the first token in the slot's X, when X is staged
  bool resident = false;         // X on the device that is copied there, behind what is staged, for one product of both
};

// New rows of one span within one block: their K,V go to an area or a resident block, so that attention finds them, and
// they are written back to the host as the block's form says.
struct PlanStore {
  uint32_t row = 0, rows = 0;    // of the step
  uint32_t position = 0;         // of the first row
  uint32_t area = 0;             // in the round's slot, or of the kept K,V; not used where device_id is a block
  uint32_t device_id = kNoBlock;
  uint32_t id = 0;               // block of the host pool
  BlockForm form = BlockForm::kv;         // in the host pool
  BlockForm device_form = BlockForm::kv;  // of the copy on the device, if there is one
  bool kept = false;             // the area is one of those that keep K,V for the layer's later micro-batches
  uint32_t device_x_id = kNoBlock;        // the copy, where it is X and not the host's block itself
};

// Pieces, as AttendSpan numbers them, of a span that lie behind each other, in areas of a round's slot, in areas of kept K,V, or in resident K,V
// blocks; for its rows in the operation's micro-batch.
struct PlanAttend {
  uint32_t round = 0;
  uint32_t span = 0;
  uint32_t first_piece = 0, pieces = 0;
  uint32_t area = 0;
  uint32_t device_id = kNoBlock;
  bool kept = false;
};

// Rows of the step that go through a layer together.
struct PlanBatch {
  uint32_t first_row = 0, rows = 0;
};

// What a span has of a micro-batch; rows == 0: nothing.
struct SpanPart {
  uint32_t first_row = 0, rows = 0;  // of the step
  uint32_t first_position = 0;
};
inline SpanPart part_of(const PlanSpan& span, const PlanBatch& batch) {
  const uint32_t begin = std::max(span.first_row, batch.first_row);
  const uint32_t end = std::min(span.first_row + span.rows, batch.first_row + batch.rows);
  if (begin >= end) return {};
  return {begin, end - begin, span.first_position + (begin - span.first_row)};
}

enum class OpKind : uint8_t {
  project,    // norm, q, k and v of the micro-batch's rows, q rotated
  fetch_x,    // parts' X into the slot's X                             h2d
  fetch_kv,   // parts' K,V into areas                                  h2d
  recompute,  // K,V of parts from the slot's X, or from resident X     recompute
  store,      // K,V of new rows into areas and resident blocks
  attend,     // over the round's pieces
  append,     // new rows to the host pool                              d2h
  hand_over,    // queries of rows that the host has a part in, to it
  attend_host,  // the host's part of them                              host
  merge,        // what host and device have found of them
  fetch_kv_weights,  // W_K and W_V of a layer that streams             h2d
  fetch_weights,     // its other matrices                              h2d
  finish      // output projection and the rest of the layer, of the micro-batch
};
const char* name_of(OpKind kind);

// What an operation waits for, besides those before it in its own queue.
struct PlanWait {
  enum class For : uint8_t {
    nothing,
    operation,  // number `op` of the program, of the same layer
    x_slot,     // that recomputation has read what was last in the X slot
    kv_slot,    // that attention and write-back have read what was last in the K,V slot
    appended,   // all that earlier Plans have written back to this layer's part of the host pool
    kept_x,     // that the X of the projection before the last one has been written back: it shares a buffer with this one's
    weight_slot // that the layer whose weights were last in the slot of the weight ring has finished
  } what = For::nothing;
  uint32_t op = 0;
};

struct PlanOp {
  OpKind kind = OpKind::project;
  Queue queue = Queue::dense;
  uint16_t batch = 0;            // the micro-batch
  uint32_t round = 0;            // of no meaning for project, finish, weights and what is the host's
  uint32_t first = 0, count = 0; // of parts, stores, attends or divided spans
  uint32_t tokens = 0;           // of the parts
  std::array<PlanWait, 3> after{};
};

struct PlanRound {
  uint32_t areas = 0;            // blocks of K,V in its slot; 0: it takes no K,V slot
  uint32_t x_rows = 0;           // 0: it takes no X slot
};

// What the device has done, by its own counts and clock.
struct StepMeasure {
  uint64_t h2d_bytes = 0, d2h_bytes = 0;
  uint64_t recomputed_tokens = 0;             // tokens times layers whose K,V was computed from X
  std::array<uint64_t, kQueues> busy_ns{};    // time in operations; of dense, embedding, logits and draws included
  uint64_t device_busy_ns = 0;                // with dense or recompute busy, or both
  uint64_t started_ns = 0, ended_ns = 0;      // on the device's clock: its first operation, its last draw
  uint64_t step_ns = 0;                       // from its start, or the end of the Plan before it if that was later
};

// When one operation of one layer ran, on the device's clock.
struct OpTime {
  uint64_t begin_ns = 0, end_ns = 0;
  uint64_t bytes = 0;            // over the link
  uint32_t tokens = 0;           // of its parts or stores, in its pieces, or of the step
  uint32_t round = 0;
  uint16_t layer = 0;
  OpKind kind = OpKind::project;
  Queue queue = Queue::dense;
};
// That a Plan's times are kept of, at the most: 80 layers of 100 operations. 40 bytes each, 320 KiB a Plan.
inline constexpr size_t kMostTimedOps = 8192;

struct Plan {
  uint64_t id = 0;               // rising from 1
  std::vector<PlanSpan> spans;
  std::vector<int32_t> tokens;   // [rows]; 0 where token_from_draw
  std::vector<uint32_t> positions;  // [rows]
  std::vector<BlockRun> runs;    // of all spans
  std::vector<PlanDraw> draws;
  std::vector<int32_t> history;  // of all spans
  std::vector<TokenBias> biases; // of all draws; those of a span share them
  std::vector<uint32_t> masks;   // of all draws
  uint32_t clients = 0;          // distinct clients among the spans
  uint32_t audited_draw = kNoDraw;  // whose logits are kept to be compared: daemon/audit.h ...
  bool audited_only = false;        // ... and for nothing else
  uint64_t taken_ns = 0;         // when the newest entry that this Plan is the first to serve was taken; 0: none

  // The program: see plan_build.h.
  std::vector<PlanRound> rounds;
  std::vector<PlanBatch> batches;  // all rows, in order
  // Micro-batches in order; of each project first, what the host is given next, merge and finish last, and of a round
  // together, rounds in order. Where weights
  // stream, W_K and W_V are fetched first of all, for the first round's X to be recomputed while the others are on the
  // wire; these follow that X, and the first project follows them. In a layer whose weights stay both fetches do nothing,
  // and end at once.
  std::vector<PlanOp> ops;
  std::vector<PlanPart> parts;
  std::vector<PlanStore> stores;
  std::vector<PlanAttend> attends;  // of a round together
  std::vector<uint32_t> divided;   // spans that the host has a part in, those of a micro-batch together
  LayerWork work;                // of one layer
  StepCost predicted;            // all zero where nothing is known of the device
  uint32_t fit = 0;              // of the profile that it was predicted with: Drift::fits

  // Results
  uint64_t started_ns = 0, ended_ns = 0;
  StepMeasure measured;
  std::vector<OpTime> times;     // of its operations, layer by layer, where they are traced; at most kMostTimedOps
  uint32_t times_left_out = 0;   // operations whose times are not there
  std::string failure;           // not empty: the device failed and no result is valid

  void clear() {
    spans.clear(), tokens.clear(), positions.clear(), runs.clear(), draws.clear();
    history.clear(), biases.clear(), masks.clear();
    rounds.clear(), ops.clear(), parts.clear(), stores.clear(), attends.clear(), batches.clear(), divided.clear();
    clients = 0, taken_ns = started_ns = ended_ns = 0;
    audited_draw = kNoDraw, audited_only = false;
    work = {}, predicted = {}, fit = 0, measured = {};
    times.clear(), times_left_out = 0;
    failure.clear();
  }
};

}  // namespace iokv
