// SPDX-License-Identifier: Apache-2.0
// From spans and the runs of their blocks to the program of a Plan: which blocks cross the link in which round, what is
// recomputed, and what waits for what. Pure; one object is used by one thread.
//
// Order. One span after the other, each in position order; spans of which much crosses the link take turns with those of
// which little does. So a round holds what the link brings and what is recomputed in about the share that the batch has of
// them: then link and device have as much to do in every round, and neither waits for the other, however small the ring is
// beside the batch. (All X of the batch first would let the link wait while it is recomputed, and the device while K,V
// come.) Within a round X goes first, so that recomputation runs while K,V are on the wire. A block that
// several spans refer to crosses the link once, where the first of them has it, as long as the others have come no
// further.
//
// Micro-batches are cut at the ends of blocks. Of a span that is cut, whole blocks of new rows up to the last cut are kept,
// as many as there are areas for. That these are free again in the next layer needs no wait of its own: what is kept is
// written back by a micro-batch with another one behind it, which the next layer's first projection waits for with its X.
//
// The host's part of a micro-batch is one operation, given right behind the projection that made the queries and merged
// when all rounds have been attended to. What it reads was written back by earlier steps, which whoever hands the queries
// over has waited for.
//
// Waits are as few as order needs: a queue that has waited for something stays behind it, so that of a round only the
// first operation in a queue waits for the slot, and of the program only the first for earlier write-backs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "daemon/base/streamed_layers.h"
#include "daemon/sched/plan.h"

namespace iokv {

// Weights that cross the link in every step: of which layers, and through how many slots on the device.
struct WeightRing {
  StreamedLayers layers;
  uint32_t slots = 1;
  uint64_t kv_bytes = 0, rest_bytes = 0;  // of a layer: what W_K and W_V need, and all other matrices

  bool used() const { return layers.streamed > 0; }
  uint64_t layer_bytes() const { return kv_bytes + rest_bytes; }
  uint64_t step_bytes() const { return layers.streamed * layer_bytes(); }
  uint64_t mean_layer_bytes() const { return used() ? step_bytes() / layers.layers : 0; }  // those that stay included
};

// The staging ring of a device, as the runtime has taken it.
struct StagingShape {
  uint32_t slot_blocks = 1;      // areas of a K,V slot; an X slot has kBlockTokens rows for each
  uint32_t kv_slots = 2, x_slots = 2;
  uint32_t tile_tokens = 64;     // at most so many tokens are fetched, or recomputed in one product, by one operation
  uint32_t kv_units = 1, x_units = 1;  // between the ids of neighbouring blocks, in either pool
  bool in_place = false;         // the device reads and writes the host pool: nothing is written back
  uint32_t batch_rows = UINT32_MAX;  // of a micro-batch; kBlockTokens at least where steps are cut
  uint32_t kept_blocks = 0;      // areas that keep K,V of a layer for its later micro-batches
  WeightRing weights;
};

class PlanBuilder {
 public:
  explicit PlanBuilder(const StagingShape& shape);

  // Fills in micro-batches, the program and plan.work; spans and runs are there. Takes time in proportion to the runs and rounds, and
  // to the distinct blocks of shared runs; no memory once the largest Plan has been seen. New rows keep a copy on the
  // device up to date if it is K,V; no new row may fall into a block whose copy is X, unless that is in place.
  void build(Plan& plan);

  const StagingShape& shape() const { return shape_; }

 private:
  // Up to where the span's blocks have been dealt with.
  struct Cursor {
    uint32_t run = 0;            // of Plan::runs
    uint32_t block = 0;          // of the span
  };
  // What tokens are made K,V in an area from. Operations of a round come in this order.
  enum class Source : uint8_t { x, resident_x, kv };
  static constexpr size_t kSources = 3;
  struct Tile {
    uint32_t first = 0, count = 0;  // of the lane's parts
    uint32_t tokens = 0;
  };
  // Parts of the open round that come from one source, and the tiles that they are cut into, the last one open.
  struct Lane {
    std::vector<PlanPart> own;   // where another lane's parts go to the Plan at once
    std::vector<PlanPart>* parts = nullptr;
    std::vector<Tile> tiles;
  };

  // Blocks of a span that is cut whose K,V later micro-batches find in areas of kept K,V.
  struct Kept {
    uint32_t first_block = 0, blocks = 0;
    uint32_t area = 0;
  };

  void begin(Plan& plan);
  void finish();
  void order_spans(uint32_t first, uint32_t end);
  void cut_batches();
  void build_batch(uint32_t batch);
  void emit_part(const PlanSpan& part, uint32_t span_index);
  void emit_divided(const PlanSpan& span, uint32_t span_index);
  void add_host();
  void emit_kept(const PlanSpan& part, uint32_t span_index, const BlockRun& run, uint32_t first_block, uint32_t area);
  BlockRun cut(const BlockRun& run, uint32_t offset, uint32_t blocks) const;
  Kept& kept_of(uint32_t span_index);
  void choose_direct_lane();
  void add_project();
  void emit_span(const PlanSpan& span, uint32_t span_index);
  bool emit_whole_runs(const PlanSpan& span, uint32_t span_index, Cursor& cursor);
  void emit_run(const PlanSpan& span, uint32_t span_index, const BlockRun& run, uint32_t first_block);
  void emit_resident(const PlanSpan& span, uint32_t span_index, const BlockRun& run, uint32_t first_block);
  void emit_shared(const PlanSpan& span, uint32_t span_index, const BlockRun& run, uint32_t first_block);
  void emit_blocks(const PlanSpan& span, uint32_t span_index, const BlockRun& run, uint32_t offset, uint32_t first_block,
                   uint32_t blocks);
  void emit_tokens(Source source, uint32_t id, uint32_t units, uint32_t first_token, uint32_t tokens, uint32_t position,
                   uint32_t area);
  void emit_stores(const PlanSpan& span, const BlockRun& run, uint32_t offset, uint32_t first_block, uint32_t blocks,
                   uint32_t area, bool kept = false);
  void attend(uint32_t round, uint32_t span, uint32_t first_piece, uint32_t pieces, uint32_t area, uint32_t device_id,
              bool kept = false);
  bool is_first_round() const { return plan_->rounds.size() == first_round_; }
  uint32_t round();
  void open_round();
  void close_round();
  void add_tiles(Source source);
  bool join_staged(const Tile& tile);
  void wait_for_batches(PlanOp& op, bool& waited);
  PlanOp& add(OpKind kind, Queue queue);
  void sort_attends();

  Lane& lane(Source source) { return lanes_[static_cast<size_t>(source)]; }
  uint32_t slot_room() const { return shape_.slot_blocks - areas_; }
  uint32_t next_op() const { return static_cast<uint32_t>(plan_->ops.size()); }
  uint32_t units_of(BlockForm form) const { return form == BlockForm::kv ? shape_.kv_units : shape_.x_units; }

  // Blocks of a shared run that have been brought for a span: they lie behind each other in both memories.
  struct Extent {
    uint32_t id = 0, end = 0;    // that are used, of the first block and behind the last one
    uint32_t round = 0, area = 0;
    uint32_t next = kNoExtent;   // of the chunk, an older one
  };
  static constexpr uint32_t kNoExtent = UINT32_MAX;
  // The extents, of either memory, that have blocks among kChunkIds neighbouring ids.
  struct Chunk {
    uint32_t key = 0;
    uint32_t build = 0;          // chunks of an older build are empty
    uint32_t latest = kNoExtent;
  };
  static constexpr uint32_t kChunkIds = 64;
  // Where a run goes on: so many blocks that nobody has brought, or that are out of reach; behind them some of an extent.
  struct Reached {
    uint32_t missing = 0, blocks = 0;
    uint32_t round = 0, area = 0;
  };
  Reached reach(const BlockRun& run, uint32_t id, uint32_t units, uint32_t blocks, uint32_t least_round);
  void remember(const BlockRun& run, uint32_t id, uint32_t units, uint32_t round, uint32_t area, uint32_t blocks);
  Chunk& chunk_of(uint32_t id, bool resident);
  void grow_chunks();

  const StagingShape shape_;
  Plan* plan_ = nullptr;
  std::array<Lane, kSources> lanes_;
  std::vector<Chunk> chunks_;
  std::vector<Extent> extents_;
  uint32_t chunks_used_ = 0, build_ = 0;
  struct {
    uint32_t id = kNoBlock, blocks = 0, round = 0, area = 0;
    bool resident = false;
  } found_;                           // the extent that was reached last
  static constexpr uint32_t kShares = 16;  // of what the link could bring for a span's areas, this much in steps
  std::vector<uint8_t> shares_;       // by span
  std::vector<uint32_t> by_share_;    // spans, in their order within a share
  std::vector<uint32_t> order_;       // of emission
  std::vector<uint32_t> span_round_;  // the round of the span's latest piece
  std::vector<PlanAttend> sorted_;
  std::vector<uint32_t> starts_;

  bool attached_ = false;             // attends are not in the order of rounds
  // The micro-batch.
  uint16_t batch_ = 0;
  uint32_t first_round_ = 0;
  uint32_t earlier_append_ = kNoBlock, latest_append_ = kNoBlock;  // operations; of earlier micro-batches, and of all
  bool fetches_again_ = false;        // what an earlier one has written back, for which h2d or recomputation ...
  bool fetch_waited_ = false, recompute_waited_ = false;  // ... has waited
  // Of the layer.
  struct SpanRange {
    uint32_t first = 0, end = 0;
  };
  std::vector<SpanRange> batch_spans_;  // of each micro-batch: with rows in it
  std::vector<std::pair<uint32_t, Kept>> kept_;  // by span, rising; of those that are cut
  uint32_t kept_areas_ = 0;           // taken
  // The open round.
  bool round_open_ = false, writes_ = false;
  uint32_t areas_ = 0, x_rows_ = 0;
  uint32_t first_store_ = 0, first_attend_ = 0;
  uint32_t last_recompute_ = kNoBlock, last_fetch_kv_ = kNoBlock;  // operations
  // Of the program: whether the queue has waited for earlier write-backs.
  bool fetches_ = false, reads_in_place_ = false;
  bool projects_ = false;             // the projection is there
  uint32_t first_divided_ = 0;        // of the micro-batch
  uint32_t attend_host_ = kNoBlock;   // operation
  bool recomputes_ = false;           // recomputation has waited for its weights
};

}  // namespace iokv
