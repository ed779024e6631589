// SPDX-License-Identifier: Apache-2.0
// What the benches of the CUDA backend share: OPT-6.7B's shape with random weights, and random numbers in host memory.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/model/layers.h"

namespace iokv::bench {

inline ModelSpec opt_6_7b(uint32_t context) {
  ModelSpec spec;
  spec.family = "opt";
  spec.name = "opt-6.7b";
  spec.layers = 32;
  spec.hidden = 4096;
  spec.heads = spec.kv_heads = 32;
  spec.head_dim = 128;
  spec.ffn = 16384;
  spec.vocab = 50272;
  spec.max_context = context + kBlockTokens;
  spec.norm = NormKind::layer;
  spec.activation = Activation::relu;
  spec.attention_scale = 1.0f / std::sqrt(128.0f);
  spec.positions = PositionKind::learned;
  spec.learned_position_offset = 2;
  spec.tied_embeddings = true;
  return spec;
}

inline uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Uniform numbers of a deviation of about `size`.
class RandomRows final : public RowSource {
 public:
  RandomRows(uint32_t columns, float size, uint64_t seed) : columns_(columns), size_(size), seed_(seed) {}
  void read_row(uint32_t index, float* row) const override {
    uint64_t state = scramble(seed_ * 0x9e3779b97f4a7c15u + index) | 1;
    for (uint32_t i = 0; i < columns_; ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      row[i] = (static_cast<float>(state >> 40) * 0x1p-24f - 0.5f) * 3.46f * size_;
    }
  }

 private:
  uint32_t columns_;
  float size_;
  uint64_t seed_;
};

// Weights whose products keep the size of what they are applied to, and biases.
class RandomWeights {
 public:
  RandomWeights(Backend& backend, const ModelSpec& spec) : backend_(backend), spec_(spec) {}

  Result<Weights> make() {
    Weights weights;
    const uint32_t h = spec_.hidden;
    IOKV_TRY_ASSIGN(weights.embedding, matrix(spec_.vocab, h, 0.05f));
    IOKV_TRY_ASSIGN(weights.positions, matrix(spec_.max_context + spec_.learned_position_offset, h, 0.05f));
    weights.layers.resize(spec_.layers);
    for (LayerWeights& layer : weights.layers) {
      IOKV_TRY(norm(layer.attention_norm));
      IOKV_TRY(linear(layer.qkv, spec_.q_width() + 2 * spec_.kv_width(), h));
      IOKV_TRY(linear(layer.o, h, spec_.q_width()));
      IOKV_TRY(norm(layer.mlp_norm));
      IOKV_TRY(linear(layer.gate_up, spec_.ffn, h));
      IOKV_TRY(linear(layer.down, h, spec_.ffn));
    }
    IOKV_TRY(norm(weights.final_norm));
    return weights;
  }

 private:
  Result<std::unique_ptr<Matrix>> matrix(uint32_t n, uint32_t k, float size) {
    return backend_.load(n, k, RandomRows(k, size, ++seed_));
  }
  Status linear(LinearWeights& to, uint32_t n, uint32_t k) {
    IOKV_TRY_ASSIGN(to.matrix, matrix(n, k, 1.0f / std::sqrt(static_cast<float>(k))));
    return vector(to.bias, n, 0, 0.1f);
  }
  Status norm(NormWeights& to) {
    IOKV_TRY(vector(to.weight, spec_.hidden, 1, 0.1f));
    return vector(to.bias, spec_.hidden, 0, 0.1f);
  }
  Status vector(std::unique_ptr<DeviceMemory>& to, uint32_t count, float middle, float size) {
    std::vector<float> values(count);
    RandomRows(count, size, ++seed_).read_row(0, values.data());
    for (float& value : values) value += middle;
    IOKV_TRY_ASSIGN(to, backend_.alloc(count * sizeof(float)));
    backend_.copy(Queue::h2d, to->data(), values.data(), count * sizeof(float));
    IOKV_TRY(backend_.poll(backend_.record(Queue::h2d), true));
    return {};
  }

  Backend& backend_;
  const ModelSpec& spec_;
  uint64_t seed_ = 0;
};

// Host memory of random numbers of the compute type, pinned until the end of the program.
inline Result<std::byte*> take_pool(Backend& backend, size_t bytes) {
  void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return error("no host memory for " + std::to_string(bytes) + " bytes");
  (void)::madvise(mapped, bytes, MADV_HUGEPAGE);
  auto* words = static_cast<uint64_t*>(mapped);
  const size_t count = bytes / 8, threads = std::max(1u, std::thread::hardware_concurrency());
  // Of either sign and of about 1: exponents of 2^-2 to 2^0 of f16 and bf16, and any of the highest fraction bits.
  const uint64_t exponents = backend.info().compute == DType::f16 ? 0x3400340034003400u : 0x3e803e803e803e80u;
  const uint64_t any = backend.info().compute == DType::f16 ? 0x87ff87ff87ff87ffu : 0x807f807f807f807fu;
  std::vector<std::thread> team;
  for (size_t t = 0; t < threads; ++t) {
    team.emplace_back([=] {
      uint64_t state = scramble(t + 1) | 1;
      for (size_t i = count / threads * t; i < (t + 1 == threads ? count : count / threads * (t + 1)); ++i) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        words[i] = exponents | (state & any);
      }
    });
  }
  for (std::thread& thread : team) thread.join();
  IOKV_TRY(backend.pin(mapped, bytes));
  return static_cast<std::byte*>(mapped);
}

// Device memory of numbers of the pool, again and again.
inline Result<std::unique_ptr<DeviceMemory>> take_filled(Backend& backend, size_t bytes, const std::byte* pool,
                                                         size_t pool_bytes) {
  IOKV_TRY_ASSIGN(auto memory, backend.alloc(bytes));
  for (size_t at = 0; at < bytes; at += pool_bytes) {
    backend.copy(Queue::h2d, static_cast<std::byte*>(memory->data()) + at, pool, std::min(pool_bytes, bytes - at));
  }
  IOKV_TRY(backend.poll(backend.record(Queue::h2d), true));
  return memory;
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace iokv::bench
