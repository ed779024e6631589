// SPDX-License-Identifier: Apache-2.0
// Model: the parts of a decoder's forward pass over the rows of a step, as backend operations. It owns the weights, the
// hidden states of the step's rows and the activations of a micro-batch of them; where K and V lie, and when they come to
// be there, is its caller's business (daemon/runtime/pipeline.h), who calls begin, then for each layer and micro-batch
// project, recompute, store and attend as the Plan says, and finish, then logits. The executor's thread runs it.
//
// Invariants
//  1. No call allocates: memory is sized for ModelLimits.
//  2. A sequence's logits are the same bits whatever else is in the step, however its tokens were cut into steps,
//     whichever of its K,V are recomputed, and however its pieces are cut into operations.
//  3. Everything is issued to Queue::dense but recompute, which needs nothing of this step, and fetch_weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "daemon/backend/backend.h"
#include "daemon/base/block_form.h"
#include "daemon/model/spec.h"
#include "daemon/model/weights.h"

namespace iokv {

// Bytes of one layer's block in the pool: x is [kBlockTokens][h], kv as KvShape says, in the compute type.
size_t block_bytes(const ModelSpec& spec, DType compute, BlockForm form);

struct ModelLimits {
  uint32_t max_rows = 512;        // of a step
  uint32_t batch_rows = UINT32_MAX;  // of a micro-batch; more than max_rows are as many as these
  uint32_t recompute_rows = 64;   // of one call of recompute; 0: nothing is ever recomputed
};

class Model {
 public:
  // Takes all memory that the calls need; fails when the backend has too little. The backend outlives the model.
  static Result<std::unique_ptr<Model>> make(Backend& backend, ModelSpec spec, Weights weights,
                                             const ModelLimits& limits);

  // Host arrays [M], 0 < M <= max_rows, each token below the vocabulary's size; read before it returns.
  void begin(std::span<const int32_t> tokens, std::span<const uint32_t> positions);

  // Of a layer that streams: a part of its weights to a slot of the ring, on Queue::h2d; returns the bytes carried. What
  // is called for the layer behind it reads that slot: use_slot says so first, before project and recompute.
  uint64_t fetch_weights(uint32_t layer, uint32_t slot, WeightPart part) const;
  void use_slot(uint32_t slot) { slot_ = slot; }

  // The micro-batch begins: rows [first_row, first_row + rows) of the step, 0 < rows <= batch_rows, are rows 0 ... of the
  // calls up to finish. q, k and v of them, q rotated. `rotations` are the rows with their positions, without blocks. Until
  // the call after the next one kept_x(keep) is the input of the K,V projection, [rows, h]; keep is 0 and 1 in turn.
  void project(uint32_t layer, uint32_t first_row, uint32_t rows, uint32_t keep, std::span<const RopeRun> rotations);
  const std::byte* kept_x(uint32_t keep) const { return static_cast<std::byte*>(kept_x_[keep]->data()); }

  // K,V of rows of X, [rows, h] with rows <= recompute_rows, to the blocks of `runs`: the bits that project and store
  // gave when the rows were new. On Queue::recompute.
  void recompute(uint32_t layer, const void* x, uint32_t rows, std::span<const RopeRun> runs);

  // K,V of the layer and of rows of the micro-batch to the blocks of `runs`, K rotated.
  void store(uint32_t layer, std::span<const RopeRun> runs);

  // Attention of the rows of the spans over a run of pieces each; see AttendArgs.
  void attend(uint32_t layer, std::span<const AttendSpan> spans);

  // Of rows of the micro-batch (rising, host array) that the host has a part in: their queries to pinned host memory,
  // [rows.size(), heads·d]; what it has found, [rows.size(), heads, attend_state_floats(d)] f32, merged with what the
  // device has.
  void hand_over(std::span<const uint32_t> rows, void* to);
  void merge(std::span<const uint32_t> rows, const float* other);
  // The host's part, on Queue::host. Spans name rows of `q` and of `state`.
  void attend_host(uint32_t layer, std::span<const AttendSpan> spans, const void* q, float* state);

  // The output projection of what was attended, and the rest of the layer.
  void finish(uint32_t layer);

  // Of the step's rows named (ascending, host array, no more than batch_rows), f32 [rows.size(), vocab] in device memory.
  void logits(std::span<const uint32_t> rows, float* to);

  // What make takes beside the weights.
  static uint64_t buffer_bytes(const ModelSpec& spec, DType compute, const ModelLimits& limits);

  const ModelSpec& spec() const { return spec_; }
  const ModelLimits& limits() const { return limits_; }
  const Weights& weights() const { return weights_; }
  uint64_t weight_bytes() const { return weights_.stored_bytes; }

 private:
  Model(Backend& backend, ModelSpec spec, Weights weights, const ModelLimits& limits);
  struct BufferSizes;
  static BufferSizes sizes_of(const ModelSpec& spec, DType compute, const ModelLimits& limits);
  Status take_buffers();
  void norm(const NormWeights& weights, const float* x, void* y, uint32_t rows, NormOutput output = NormOutput::store);
  LayerMatrices matrices(uint32_t layer) const { return weights_.matrices(layer, slot_); }
  void product(const Matrix& matrix, const LinearWeights& weights, const void* x, void* y, GemmOutput output);
  void add_product(const Matrix& matrix, const LinearWeights& weights, const void* x, const NormWeights& out_norm);
  RopeArgs rope_args(uint32_t layer) const;
  AttendArgs attend_args(uint32_t layer, std::span<const AttendSpan> spans) const;

  Backend& backend_;
  const ModelSpec spec_;
  const Weights weights_;
  const ModelLimits limits_;
  const size_t element_bytes_;      // of the compute type
  const uint32_t qkv_width_;        // (heads + 2·kv_heads)·d
  uint32_t rows_ = 0;               // M of the step
  uint32_t first_row_ = 0, batch_rows_ = 0;  // of the micro-batch
  void* kept_ = nullptr;                     // its kept_x
  uint32_t slot_ = 0;               // where the layer's weights are, if it streams

  float* hidden() const;            // of the micro-batch

  // Device buffers, M = batch_rows; compute type unless f32.
  std::unique_ptr<DeviceMemory> hidden_;        // [max_rows, h] f32, the residual
  std::unique_ptr<DeviceMemory> kept_x_[2];     // [M, h] of micro-batches in turn
  std::unique_ptr<DeviceMemory> normed_;        // [M, h]
  std::unique_ptr<DeviceMemory> qkv_;           // [M, qkv_width]
  std::unique_ptr<DeviceMemory> attend_state_;  // [M, heads, attend_state_floats] f32
  std::unique_ptr<DeviceMemory> attended_;      // [M, heads·d]
  std::unique_ptr<DeviceMemory> gate_up_;       // [M, 2·ffn], or [M, ffn] without a gate
  std::unique_ptr<DeviceMemory> activated_;     // [M, ffn], or null where it is done in place
  std::unique_ptr<DeviceMemory> added_;         // [M, h] f32, what is normalised before it is added, or null
  std::unique_ptr<DeviceMemory> recomputed_;    // [recompute_rows, 2·kv_heads·d], K,V before rope
};

}  // namespace iokv
