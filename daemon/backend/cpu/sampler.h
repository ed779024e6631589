// SPDX-License-Identifier: Apache-2.0
// Draws a token from a row of logits, as daemon/base/sampling.h says. One Sampler a thread: it keeps scratch memory of
// 16 bytes a vocabulary entry once a row was not greedy.
//
// Invariants
//  1. A draw depends on the logits, the parameters and the position only.
//  2. Of equal logits the smaller token id comes first, in greedy choice and at every cut.
//  3. top_p counts probabilities after temperature and top_k, summing to 1 again, as transformers' warpers do.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "daemon/base/sampling.h"
#include "daemon/backend/cpu/kernels.h"

namespace iokv::cpu {

class Sampler {
 public:
  struct Draw {
    int32_t token = 0;
    float logprob = 0.0f;  // log-softmax of the unmodified logits
  };
  Draw draw(const Kernels& kernels, std::span<const float> logits, const SampleParams& params, uint64_t position);

 private:
  template <typename Measure>
  void cut(double target, const Measure& measure);
  template <typename Measure>
  uint32_t kept_of_equals(double missing, const Measure& measure) const;
  uint32_t walk(double uniform_number) const;

  std::vector<float> weights_;       // e^((logit − largest) / temperature) of every token
  std::vector<uint32_t> keys_;       // of every token: larger for a larger logit
  std::vector<uint32_t> tokens_;     // those still in, by id
  std::vector<uint32_t> candidates_; // those among which the cut falls, by id
};

}  // namespace iokv::cpu
