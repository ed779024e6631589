// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/blank_weights.h"

#include <algorithm>
#include <string>
#include <utility>

namespace iokv {
namespace {

class Zeros final : public RowSource {
 public:
  explicit Zeros(uint32_t columns) : columns_(columns) {}
  void read_row(uint32_t, float* row) const override { std::fill_n(row, columns_, 0.0f); }

 private:
  uint32_t columns_;
};

class Blank {
 public:
  Blank(Backend& backend, const ModelSpec& spec) : backend_(backend), spec_(spec) {}

  Result<Weights> make() {
    Weights weights;
    const uint32_t h = spec_.hidden;
    IOKV_TRY(matrix(weights.embedding, spec_.vocab, h));
    if (spec_.positions == PositionKind::learned) {
      IOKV_TRY(matrix(weights.positions, spec_.max_context + spec_.learned_position_offset, h));
    }
    weights.layers.resize(spec_.layers);
    for (uint32_t i = 0; i < spec_.layers; ++i) {
      if (Status made = layer(weights.layers[i]); !made) {
        return std::move(made.failure()).within("weights of layer " + std::to_string(i));
      }
    }
    IOKV_TRY(norm(weights.final_norm));
    if (!spec_.tied_embeddings) IOKV_TRY(matrix(weights.own_head, spec_.vocab, h));
    weights.stored_bytes = stored_bytes_;
    return weights;
  }

 private:
  Status layer(LayerWeights& weights) {
    const uint32_t h = spec_.hidden, gates = is_gated(spec_.activation) ? 2 : 1;
    IOKV_TRY(norm(weights.attention_norm));
    IOKV_TRY(linear(weights.qkv, spec_.q_width() + 2 * spec_.kv_width(), h));
    IOKV_TRY(linear(weights.o, h, spec_.q_width()));
    IOKV_TRY(norm(weights.mlp_norm));
    IOKV_TRY(linear(weights.gate_up, gates * spec_.ffn, h));
    return linear(weights.down, h, spec_.ffn);
  }

  Status linear(LinearWeights& weights, uint32_t outputs, uint32_t inputs) {
    IOKV_TRY(matrix(weights.matrix, outputs, inputs));
    return has_biases() ? vector(weights.bias, outputs) : Status();
  }

  Status norm(NormWeights& weights) {
    IOKV_TRY(vector(weights.weight, spec_.hidden));
    return has_biases() ? vector(weights.bias, spec_.hidden) : Status();
  }

  Status matrix(std::unique_ptr<Matrix>& to, uint32_t outputs, uint32_t inputs) {
    IOKV_TRY_ASSIGN(to, backend_.load(outputs, inputs, Zeros(inputs)));
    stored_bytes_ += to->stored_bytes;
    return {};
  }

  Status vector(std::unique_ptr<DeviceMemory>& to, uint32_t elements) {
    IOKV_TRY_ASSIGN(to, backend_.alloc(elements * sizeof(float)));
    stored_bytes_ += to->size_bytes();
    return {};
  }

  bool has_biases() const { return spec_.norm == NormKind::layer; }

  Backend& backend_;
  const ModelSpec& spec_;
  uint64_t stored_bytes_ = 0;
};

}  // namespace

Result<Weights> blank_weights(Backend& backend, const ModelSpec& spec) { return Blank(backend, spec).make(); }

}  // namespace iokv
