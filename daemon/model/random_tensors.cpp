// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/random_tensors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <compare>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/base/assert.h"
#include "daemon/base/dtype.h"
#include "daemon/model/repeated_memory.h"

namespace iokv {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kMostPages = 65'537;
constexpr size_t kElementBytes = 2;
constexpr size_t kDraws = 65'536;  // that numbers are picked from: 16 random bits each

struct Distribution {
  float deviation = 0, middle = 0;
  auto operator<=>(const Distribution&) const = default;
};

struct Tensor {
  std::string name;
  std::vector<uint64_t> shape;
  size_t bytes = 0;
};

Distribution distribution_of(Role role, uint32_t columns, float added) {
  constexpr float kVector = 0.1f, kClear = 1.5f;
  if (columns == 0) {
    const bool multiplies = role == Role::input_norm || role == Role::post_norm || role == Role::final_norm ||
                            role == Role::q_norm || role == Role::k_norm || role == Role::attention_out_norm ||
                            role == Role::mlp_out_norm;
    return {kVector, multiplies ? 1 - added : 0};
  }
  const bool clear = role == Role::q || role == Role::k || role == Role::token_embedding || role == Role::lm_head;
  return {(clear ? kClear : 1) / std::sqrt(static_cast<float>(columns)), 0};
}

using Distributed = std::map<Distribution, std::vector<Tensor>>;

// Each once: several roles may share one, which is distributed as the first of them.
Distributed tensors_of(const Description& description, Naming naming) {
  Distributed tensors;
  std::set<std::string> names;
  for (size_t number = 0; number < kRoles; number++) {
    if (!description.required[number]) continue;
    const Role role = static_cast<Role>(number);
    const uint32_t layers = is_per_layer(role) ? description.spec.layers : 1, columns = shape_of(role, description.spec).columns;
    for (uint32_t layer = 0; layer < layers; layer++) {
      TensorPart part = parts_of(*description.family, naming, description.spec, role, layer).front();
      if (!names.insert(part.name).second) continue;
      Tensor tensor{std::move(part.name), {part.rows}, size_t{part.rows} * std::max(1u, columns) * kElementBytes};
      if (columns > 0) tensor.shape.insert(part.transposed ? tensor.shape.begin() : tensor.shape.end(), columns);
      tensors[distribution_of(role, columns, part.added)].push_back(std::move(tensor));
    }
  }
  return tensors;
}

// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
uint64_t next(uint64_t& state) {
  uint64_t bits = state += 0x9e3779b97f4a7c15u;
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  return bits ^ bits >> 31;
}

void fill(std::span<std::byte> block, const Distribution& distribution, StoredType type, uint64_t seed) {
  std::mt19937_64 source(seed);
  std::normal_distribution<float> normal(distribution.middle, distribution.deviation);
  std::vector<uint16_t> draws(kDraws);
  for (uint16_t& draw : draws) draw = type == StoredType::f16 ? f32_to_f16(normal(source)) : f32_to_bf16(normal(source));
  uint64_t state = source();
  for (size_t at = 0; at < block.size(); at += 4 * kElementBytes) {
    const uint64_t bits = next(state);
    const std::array<uint16_t, 4> four{draws[bits & 0xffff], draws[bits >> 16 & 0xffff], draws[bits >> 32 & 0xffff],
                                       draws[bits >> 48]};
    std::memcpy(block.data() + at, four.data(), sizeof four);
  }
}

}  // namespace

Result<TensorFile> random_tensors(const Description& description, Naming naming, StoredType type, uint64_t seed) {
  IOKV_ASSERT(type == StoredType::f16 || type == StoredType::bf16);
  TensorFile file;
  for (auto& [distribution, tensors] : tensors_of(description, naming)) {
    size_t total = 0, largest = 0;
    for (const Tensor& tensor : tensors) {
      total += tensor.bytes;
      largest = std::max(largest, tensor.bytes);
    }
    const size_t block = std::min(kMostPages, (total + kPageBytes - 1) / kPageBytes) * kPageBytes;
    // A tensor begins in the first repetition.
    auto memory = RepeatedMemory::make(block, std::min(total, block + largest));
    if (!memory) return std::move(memory.failure()).within("memory for random weights");
    fill(memory->block(), distribution, type, seed++);
    const std::span<const std::byte> bytes = file.keep(*std::move(memory)).bytes();
    size_t begin = 0;
    for (Tensor& tensor : tensors) {
      IOKV_TRY(file.add(std::move(tensor.name), {type, type == StoredType::f16 ? "F16" : "BF16"}, std::move(tensor.shape),
                        bytes.subspan(begin % block, tensor.bytes)));
      begin += tensor.bytes;
    }
  }
  return file;
}

}  // namespace iokv
