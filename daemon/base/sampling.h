// SPDX-License-Identifier: Apache-2.0
// How the next token is drawn from logits; one meaning for the client's API, the scheduler and the backends.
#pragma once

#include <cstdint>

namespace iokv {

// First, in this order: biases are added; the logit of a token that the sequence holds from position repetition_from on is
// divided by repetition_penalty if it is positive and else multiplied; that of a token which it holds n > 0 times from
// position frequency_from on loses presence_penalty + n · frequency_penalty; a mask takes tokens out. Then, with
// temperature 0, the smallest token id of the largest logit. Otherwise logits are divided by temperature, cut to the top_k
// largest (0 = all), to the smallest set of most probable tokens whose probability reaches top_p, to those at least min_p
// times as probable as the most probable, and to the smallest set of those whose −log p is nearest to the entropy (equals
// together) whose probability reaches typical_p; one is drawn with a uniform number that depends on (seed, position)
// only. Each of them counts probabilities of what those before it have left, summing to 1 again.
//
// These are the processors and warpers of Hugging Face transformers in their order (bias, repetition penalty, temperature,
// top-k, top-p, min-p, typical-p); presence and frequency penalties are OpenAI's.
struct SampleParams {
  float temperature = 0.0f;
  float top_p = 1.0f;
  uint32_t top_k = 0;
  uint64_t seed = 0;
  float min_p = 0.0f;
  float typical_p = 1.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint32_t repetition_from = 0, frequency_from = 0;

  bool repeats() const { return repetition_penalty != 1.0f; }
  bool counts() const { return presence_penalty != 0.0f || frequency_penalty != 0.0f; }
};

// u32 of a mask: token t may be drawn where bit t % 32 of word t / 32 is set.
constexpr uint32_t mask_words(uint32_t vocab) { return vocab / 32 + (vocab % 32 != 0 ? 1 : 0); }
inline bool permits(const uint32_t* mask, uint32_t token) { return (mask[token / 32] >> token % 32 & 1) != 0; }
inline constexpr uint32_t kMaxTopLogprobs = 64;

struct TokenBias {
  int32_t token = 0;
  float bias = 0.0f;
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0.0f;  // log-softmax of the unmodified logits
};

}  // namespace iokv
