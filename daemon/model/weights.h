// SPDX-License-Identifier: Apache-2.0
// Weights: every tensor of a model in the backend's memory, converted once; the matrices of some layers may live in host
// memory instead and cross the link in every step (weight_stream.h). Matrices that read the same input are fused
// by rows, so that one product serves them: [q | k | v] and [gate | up].
//
// The loading thread makes it; afterwards the executor's thread reads it through Model (layers.h), which owns it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/model/spec.h"
#include "daemon/model/weight_stream.h"

namespace iokv {

class ModelFiles;

struct NormWeights {
  std::unique_ptr<DeviceMemory> weight;  // [h] f32
  std::unique_ptr<DeviceMemory> bias;    // [h] f32, or null
};

struct LinearWeights {
  std::unique_ptr<Matrix> matrix;        // [outputs, inputs]; null where the layer streams
  std::unique_ptr<DeviceMemory> bias;    // [outputs] f32, or null
};

struct LayerWeights {
  NormWeights attention_norm;
  NormWeights mlp_norm;   // no weight: the feed-forward reads what attention read
  NormWeights attention_out_norm, mlp_out_norm;    // of what is added to the residual; no weight: it is added as it is
  std::unique_ptr<DeviceMemory> q_norm, k_norm;    // [d] f32, of each head by itself; or null
  LinearWeights qkv;      // rows: heads·d of q, then kv_heads·d of k, then as many of v; inputs h
  LinearWeights o;        // [h, heads·d]
  LinearWeights gate_up;  // [2·ffn, h] gate, then up, for a gated activation; otherwise fc1 [ffn, h]
  LinearWeights down;     // [h, ffn]
};

struct Weights {
  std::unique_ptr<Matrix> embedding;   // [vocab, h]
  std::unique_ptr<Matrix> positions;   // [max_context + offset, h] of learned positions, or null
  std::vector<LayerWeights> layers;
  NormWeights final_norm;
  std::unique_ptr<Matrix> own_head;    // [vocab, h], or null where the embedding is the head
  std::unique_ptr<WeightStream> stream;  // null: every layer is on the device
  uint64_t stored_bytes = 0;           // device bytes of all of it, the stream's slots included

  std::unique_ptr<DeviceMemory> head_bias;  // [vocab] f32, or null

  // Of a layer that streams: those in the slot. Of any other its own.
  LayerMatrices matrices(uint32_t layer, uint32_t slot) const {
    const LayerWeights& own = layers[layer];
    if (own.qkv.matrix == nullptr) return stream->slot(slot);
    return {own.qkv.matrix.get(), own.o.matrix.get(), own.gate_up.matrix.get(), own.down.matrix.get()};
  }
  const Matrix& head() const { return own_head != nullptr ? *own_head : *embedding; }
};

// Device bytes of what never streams: embeddings, head, norms and biases; a bound, since a file may have fewer biases.
uint64_t fixed_weight_bytes(const Backend& backend, const ModelSpec& spec);

// What loading takes, before anything is read.
struct WeightNeed {
  uint64_t device_bytes = 0;  // of the device, without the ring that streamed layers cross it through
  uint64_t host_bytes = 0;    // of the host, for the images of streamed layers
  uint64_t file_bytes = 0;    // that are read for them
};
Result<WeightNeed> weight_need(const Backend& backend, const ModelFiles& files, const WeightPlacement& placement = {});

// Called with the percentage of the weights' numbers that has been loaded, each time it has risen; 100 comes last. false
// interrupts the loading.
using LoadProgress = std::function<bool(uint32_t percent)>;

// Reads and converts all weights. Fails with one line that names the tensor when one is missing, has another shape than
// the spec says or cannot be read, and when there is no memory for it. `files` is not needed afterwards.
Result<Weights> load_weights(Backend& backend, const ModelFiles& files, const LoadProgress& progress,
                             const WeightPlacement& placement = {});

}  // namespace iokv
