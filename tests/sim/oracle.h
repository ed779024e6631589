// SPDX-License-Identifier: Apache-2.0
// A language model made of a hash: the token after a sequence is a function of all its tokens, so whatever goes wrong
// with blocks, order or batches shows in the tokens. The modelled device computes it step by step through the pool's
// blocks; honest clients compute it at once from the tokens they have seen.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "daemon/base/sampling.h"

namespace iokv::sim {

inline constexpr uint32_t kVocabulary = 96;

inline uint64_t mix(uint64_t value) {  // splitmix64
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

// The state after `token` in a sequence whose state was `before`; 0 before the first.
inline uint64_t advance(uint64_t before, int32_t token) { return mix(before ^ (static_cast<uint64_t>(token) + 1)); }

inline uint64_t state_of(std::span<const int32_t> tokens) {
  uint64_t state = 0;
  for (int32_t token : tokens) state = advance(state, token);
  return state;
}

inline int32_t draw(uint64_t state, const SampleParams& params, uint64_t position) {
  const uint64_t random = params.temperature > 0 ? mix(params.seed ^ mix(position)) : 0;
  return static_cast<int32_t>(mix(state ^ random) % kVocabulary);
}

inline float logprob(uint64_t state) { return -static_cast<float>(state % 4096) / 256; }

inline std::vector<float> logits(uint64_t state) {
  std::vector<float> values(kVocabulary);
  for (uint32_t i = 0; i < kVocabulary; i++) values[i] = static_cast<float>(mix(state + i) % 65536);
  return values;
}

}  // namespace iokv::sim
