// SPDX-License-Identifier: Apache-2.0
// Draws a token from a row of logits, as daemon/base/sampling.h says. One Sampler a thread: it keeps scratch memory of
// 16 bytes a vocabulary entry once a row was not greedy, and 12 more once one had biases, penalties or a mask.
//
// Invariants
//  1. A draw depends on the logits, the parameters and the position only.
//  2. Of equal logits the smaller token id comes first, in greedy choice and at every cut.
//  3. Every cut counts probabilities of what those before it have left, summing to 1 again, as transformers' warpers do.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "daemon/backend/adjustments.h"
#include "daemon/backend/backend.h"
#include "daemon/backend/cpu/kernels.h"

namespace iokv::cpu {

class Sampler {
 public:
  struct Draw {
    int32_t token = 0;
    float logprob = 0.0f;  // log-softmax of the unmodified logits
  };
  // Fills tops[0:row.top].
  Draw draw(const Kernels& kernels, std::span<const float> logits, const SampleRow& row, TokenLogprob* tops);

 private:
  // What is drawn from: the logits themselves, or adjusted_.
  std::span<const float> adjust(std::span<const float> logits, const SampleRow& row);
  void keep_permitted(uint32_t vocab, const uint32_t* mask);
  double mass() const;
  enum class Equals : uint8_t { some, all };
  template <typename Measure>
  void cut(double target, const Measure& measure, Equals equals);
  void cut_atypical(float typical_p);
  template <typename Measure>
  uint32_t kept_of_equals(double missing, const Measure& measure) const;
  uint32_t walk(double uniform_number) const;

  Adjustments adjustments_;
  std::vector<float> adjusted_;      // logits, a copy that the draw may change
  std::vector<float> weights_;       // e^((logit − largest) / temperature) of every token
  std::vector<uint32_t> keys_;       // of every token: larger for one that a cut keeps rather
  std::vector<uint32_t> tokens_;     // those still in, by id
  std::vector<uint32_t> candidates_; // those among which the cut falls, by id
};

}  // namespace iokv::cpu
