// SPDX-License-Identifier: Apache-2.0
// Model: one forward pass of a decoder over the rows of a step, as backend operations. It owns the weights and every
// buffer that a pass needs, and knows sequences only as spans of rows with tables of pool blocks. The executor's thread
// runs it.
//
// Invariants
//  1. forward allocates nothing: activations are sized for ModelLimits::max_rows, host arrays likewise.
//  2. A sequence's logits are the same bits whatever else is in the step, however its tokens were cut into steps,
//     whichever of its blocks are kv and which x, and whatever the blocks' ids are.
//  3. K,V of x blocks exist in scratch only, for the layer and the spans being attended. Scratch holds one sequence of
//     max_context tokens of one layer (max_context · 2·kv_heads·d elements), and spans share it as far as they fit.
//  4. Recomputing reads tokens cached by earlier steps only, so it needs nothing of this step and has its own queue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/base/block_form.h"
#include "daemon/model/spec.h"
#include "daemon/model/weights.h"

namespace iokv {

// One sequence's rows in a step: the tokens at positions first_position, first_position + 1, ...
struct StepSpan {
  uint32_t first_row = 0, rows = 0;
  uint32_t first_position = 0;         // tokens already cached
  std::span<const uint32_t> blocks;    // pool ids of the blocks of positions [0, first_position + rows), in order
  std::span<const BlockForm> forms;    // of each of blocks
};

// All of it is host memory of the caller, except logits.
struct StepInputs {
  std::span<const int32_t> tokens;         // [M], each below the vocabulary's size
  std::span<const uint32_t> positions;     // [M], as the spans say
  std::span<const StepSpan> spans;         // tile rows 0 ... M-1 in order
  std::span<const uint32_t> logits_rows;   // rows whose logits are wanted, ascending
  float* logits = nullptr;                 // [logits_rows.size(), vocab], device memory
};

// Where the blocks of each layer lie. Operations read and write there: host memory if the backend addresses it.
struct PoolView {
  std::byte* base = nullptr;
  size_t layer_stride_bytes = 0;
  size_t unit_bytes = 0;  // ids count units; a block starts at its id and takes block_bytes() of its form

  std::byte* block(uint32_t layer, uint32_t id) const { return base + layer * layer_stride_bytes + id * unit_bytes; }
};

// Bytes of one layer's block in the pool: x is [kBlockTokens][h], kv as KvShape says, in the compute type.
size_t block_bytes(const ModelSpec& spec, DType compute, BlockForm form);

#ifdef NDEBUG
inline constexpr bool kPoisonScratch = false;
#else
inline constexpr bool kPoisonScratch = true;
#endif

struct ModelLimits {
  uint32_t max_rows = 512;
  uint32_t max_spans = 64;
  uint32_t max_context = 0;              // tokens of one sequence; 0 or more than trained for: as many as that
  bool x_blocks = true;                  // false: every block is kv, and no scratch is taken
  bool poison_scratch = kPoisonScratch;  // fill scratch with NaNs before each use
};

class Model {
 public:
  // Takes all memory that forward needs; fails when the backend has too little. The backend outlives the model.
  static Result<std::unique_ptr<Model>> make(Backend& backend, ModelSpec spec, Weights weights,
                                             const ModelLimits& limits);

  // Appends the step's tokens to their sequences' blocks and computes the logits asked for; they are there when it
  // returns. An Error is a lost device, after which blocks and logits of the step are undefined.
  Status forward(const StepInputs& inputs, const PoolView& pool);

  const ModelSpec& spec() const { return spec_; }
  const ModelLimits& limits() const { return limits_; }
  uint64_t weight_bytes() const { return weights_.stored_bytes; }
  uint64_t buffer_bytes() const { return buffer_bytes_; }  // device bytes beside the weights

 private:
  // Spans whose x blocks fit the scratch together, with the rows that they tile.
  struct Group {
    std::span<const StepSpan> spans;
    uint32_t first_row = 0, rows = 0;
    uint32_t x_blocks = 0;
  };

  Model(Backend& backend, ModelSpec spec, Weights weights, const ModelLimits& limits);
  Status take_buffers();
  void check(const StepInputs& inputs) const;

  void attention(uint32_t layer, const StepInputs& inputs, const PoolView& pool);
  void mlp(const LayerWeights& weights, uint32_t rows);
  void logits(const StepInputs& inputs);

  void keep_x(uint32_t layer, const StepSpan& span, const PoolView& pool);
  Group next_group(std::span<const StepSpan> spans) const;
  void place_blocks(uint32_t layer, const Group& group, const PoolView& pool);
  void recompute(uint32_t layer, const Group& group, const PoolView& pool);
  void recompute_block(const LinearWeights& qkv, const std::byte* x, uint32_t first_position, uint32_t tokens,
                       std::byte* kv_block);
  void rotate_and_store();
  void attend();

  void norm(const NormWeights& weights, const float* x, void* y, uint32_t rows);
  void product(const LinearWeights& weights, const void* x, void* y, uint32_t rows, GemmOutput output);
  RopeArgs rope_args() const;

  Backend& backend_;
  const ModelSpec spec_;
  const Weights weights_;
  ModelLimits limits_;
  const size_t element_bytes_;      // of the compute type
  const uint32_t qkv_width_;        // (heads + 2·kv_heads)·d
  uint32_t scratch_blocks_ = 0;     // kv blocks of one layer that scratch holds

  // Device buffers, M = max_rows; compute type unless f32.
  std::unique_ptr<DeviceMemory> hidden_;      // [M, h] f32, the residual
  std::unique_ptr<DeviceMemory> normed_;      // [M, h]
  std::unique_ptr<DeviceMemory> qkv_;         // [M, qkv_width]
  std::unique_ptr<DeviceMemory> attended_;    // [M, heads·d]
  std::unique_ptr<DeviceMemory> gate_up_;     // [M, 2·ffn], or [M, ffn] without a gate
  std::unique_ptr<DeviceMemory> activated_;   // [M, ffn], or null where it is done in place
  std::unique_ptr<DeviceMemory> scratch_;     // [scratch_blocks] kv blocks
  std::unique_ptr<DeviceMemory> recomputed_;  // [kBlockTokens, 2·kv_heads·d], a block's K,V before rope
  std::unique_ptr<DeviceMemory> poison_;      // one kv block of 0xff bytes, or null
  uint64_t buffer_bytes_ = 0;

  // Host arrays that operations of one group read.
  std::vector<void*> block_addresses_;         // of the group's spans, one after the other
  std::vector<AttendSpan> attend_spans_;
  std::vector<RopeRun> row_runs_;              // of the group's rows: where their K,V go
  Ticket scratch_free_;                        // the latest attention over scratch, on the dense queue
};

}  // namespace iokv
