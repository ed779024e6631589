// SPDX-License-Identifier: Apache-2.0
// See random_model.h.
#include "tests/golden/random_model.h"

#include <cmath>
#include <vector>

#include "tests/golden/decoder.h"

namespace iokv::test {
namespace {

uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Uniform whole numbers from -range to range, 64 <= range < 128, times a power of two: at most 7 bits and a sign, which
// the 8 of bf16 and the 11 of f16 hold.
class ExactRows final : public RowSource {
 public:
  ExactRows(uint32_t columns, double deviation, uint64_t seed) : columns_(columns), seed_(seed) {
    const double largest = deviation * std::sqrt(3.0);
    const int exponent = static_cast<int>(std::floor(std::log2(largest))) - 6;
    range_ = static_cast<int32_t>(std::ldexp(largest, -exponent));
    unit_ = std::ldexp(1.0f, exponent);
  }
  void read_row(uint32_t index, float* row) const override {
    uint64_t state = scramble((seed_ << 32) + index + 1) | 1;
    for (uint32_t i = 0; i < columns_; ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      const auto count = static_cast<uint64_t>(2 * range_ + 1);
      row[i] = static_cast<float>(static_cast<int32_t>((state >> 32) * count >> 32) - range_) * unit_;
    }
  }

 private:
  uint32_t columns_;
  uint64_t seed_;
  int32_t range_ = 0;
  float unit_ = 0;
};

class Maker {
 public:
  Maker(Backend& backend, const ModelSpec& spec) : backend_(backend), spec_(spec) {}

  Weights make() {
    Weights weights;
    const uint32_t h = spec_.hidden;
    const bool gated = is_gated(spec_.activation);
    // Logits are products of a normed row with the head.
    const double head = 1.5 / std::sqrt(h);
    weights.embedding = matrix(spec_.vocab, h, spec_.tied_embeddings ? head : 0.5);
    if (!spec_.tied_embeddings) weights.own_head = matrix(spec_.vocab, h, head);
    if (spec_.positions == PositionKind::learned) {
      weights.positions = matrix(spec_.max_context + spec_.learned_position_offset, h, head);
    }
    weights.layers.resize(spec_.layers);
    for (LayerWeights& layer : weights.layers) {
      norm(layer.attention_norm);
      // q and k of deviation 1.45: their product over sqrt(d) has 2.1.
      linear(layer.qkv, spec_.q_width() + 2 * spec_.kv_width(), h, 1.45);
      linear(layer.o, h, spec_.q_width(), 1);
      norm(layer.mlp_norm);
      linear(layer.gate_up, (gated ? 2 : 1) * spec_.ffn, h, 1);
      linear(layer.down, h, spec_.ffn, 1);
    }
    norm(weights.final_norm);
    return weights;
  }

 private:
  bool biased() const { return spec_.norm == NormKind::layer; }
  std::unique_ptr<Matrix> matrix(uint32_t n, uint32_t k, double deviation) {
    return must(backend_.load(n, k, ExactRows(k, deviation, ++seed_)));
  }
  // gain: of the deviation of a row.
  void linear(LinearWeights& to, uint32_t n, uint32_t k, double gain) {
    to.matrix = matrix(n, k, gain / std::sqrt(k));
    if (biased()) to.bias = vector(n, 0, 0.1);
  }
  void norm(NormWeights& to) {
    to.weight = vector(spec_.hidden, 1, 0.1);
    if (biased()) to.bias = vector(spec_.hidden, 0, 0.1);
  }
  std::unique_ptr<DeviceMemory> vector(uint32_t count, float middle, double deviation) {
    std::vector<float> values(count);
    ExactRows(count, deviation, ++seed_).read_row(0, values.data());
    for (float& value : values) value += middle;
    auto memory = must(backend_.alloc(count * sizeof(float)));
    backend_.copy(Queue::h2d, memory->data(), values.data(), count * sizeof(float));
    must(backend_.poll(backend_.record(Queue::h2d), true));
    return memory;
  }

  Backend& backend_;
  const ModelSpec& spec_;
  uint64_t seed_ = 0;
};

ModelSpec spec_of(uint32_t layers) {
  ModelSpec spec;
  spec.layers = layers;
  spec.hidden = 4096;
  spec.heads = spec.kv_heads = 32;
  spec.head_dim = 128;
  spec.vocab = 4096;
  spec.max_context = 2048;
  spec.attention_scale = 1.0f / std::sqrt(128.0f);
  return spec;
}

}  // namespace

ModelSpec opt_6_7b_of(uint32_t layers) {
  ModelSpec spec = spec_of(layers);
  spec.family = "opt";
  spec.name = "opt-6.7b's widths";
  spec.ffn = 16384;
  spec.norm = NormKind::layer;
  spec.activation = Activation::relu;
  spec.positions = PositionKind::learned;
  spec.learned_position_offset = 2;
  spec.tied_embeddings = true;
  return spec;
}

ModelSpec llama_3_8b_of(uint32_t layers) {
  ModelSpec spec = spec_of(layers);
  spec.family = "llama";
  spec.name = "llama-3-8b's widths";
  spec.kv_heads = 8;
  spec.ffn = 14336;
  for (uint32_t i = 0; i < spec.head_dim / 2; ++i) {
    spec.rope_inverse_frequency.push_back(static_cast<float>(std::pow(500000.0, -2.0 * i / spec.head_dim)));
  }
  return spec;
}

Weights random_weights(Backend& backend, const ModelSpec& spec) { return Maker(backend, spec).make(); }

}  // namespace iokv::test
