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
  Blank(Backend& backend, const ModelSpec& spec, const WeightPlacement& placement)
      : backend_(backend), spec_(spec), placement_(placement) {}

  Result<Weights> make() {
    Weights weights;
    const uint32_t h = spec_.hidden;
    IOKV_TRY(matrix(weights.embedding, spec_.vocab, h));
    if (spec_.positions == PositionKind::learned) {
      IOKV_TRY(matrix(weights.positions, spec_.max_context + spec_.learned_position_offset, h));
    }
    if (placement_.layers.streamed > 0) {
      IOKV_TRY_ASSIGN(weights.stream, WeightStream::make(backend_, spec_, placement_));
      stored_bytes_ += weights.stream->device_bytes();
      stream_ = weights.stream.get();
    }
    weights.layers.resize(spec_.layers);
    for (uint32_t i = 0; i < spec_.layers; ++i) {
      if (Status made = layer(i, weights.layers[i]); !made) {
        return std::move(made.failure()).within("weights of layer " + std::to_string(i));
      }
    }
    IOKV_TRY(norm(weights.final_norm));
    if (!spec_.tied_embeddings) IOKV_TRY(matrix(weights.own_head, spec_.vocab, h));
    weights.stored_bytes = stored_bytes_;
    return weights;
  }

 private:
  Status layer(uint32_t index, LayerWeights& weights) {
    IOKV_TRY(norm(weights.attention_norm));
    IOKV_TRY(linear(index, LayerMatrix::qkv, weights.qkv));
    IOKV_TRY(linear(index, LayerMatrix::o, weights.o));
    IOKV_TRY(norm(weights.mlp_norm));
    IOKV_TRY(linear(index, LayerMatrix::gate_up, weights.gate_up));
    IOKV_TRY(linear(index, LayerMatrix::down, weights.down));
    return placement_.layers.streams(index) ? stream_->pin(index) : Status();
  }

  Status linear(uint32_t layer, LayerMatrix which, LinearWeights& weights) {
    const MatrixShape shape = shape_of(which, spec_);
    if (placement_.layers.streams(layer)) {
      IOKV_TRY(stream_->pack(layer, which, Zeros(shape.inputs)));
    } else {
      IOKV_TRY(matrix(weights.matrix, shape.outputs, shape.inputs));
    }
    return has_biases() ? vector(weights.bias, shape.outputs) : Status();
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
  const WeightPlacement& placement_;
  WeightStream* stream_ = nullptr;
  uint64_t stored_bytes_ = 0;
};

}  // namespace

Result<Weights> blank_weights(Backend& backend, const ModelSpec& spec, const WeightPlacement& placement) {
  return Blank(backend, spec, placement).make();
}

}  // namespace iokv
