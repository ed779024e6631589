// SPDX-License-Identifier: Apache-2.0
// Which tokens' logits a draw changes before it looks at them, each token once: biases, and what penalties have to know of the
// sequence. One for each thread that draws: it keeps scratch memory of 8 bytes a vocabulary entry once a draw needed it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "daemon/backend/backend.h"

namespace iokv {

struct Adjustment {
  int32_t token = 0;
  float bias = 0.0f;
  uint32_t counted = 0;   // how often it is in SampleRow::counted
  uint32_t repeated = 0;  // 1: it is in SampleRow::repeated
};

// As sampling.h says, operation by operation: every backend rounds as this does.
inline float adjusted(float logit, const Adjustment& adjustment, const SampleParams& params) {
  logit += adjustment.bias;
  if (adjustment.repeated != 0) {
    logit = logit < 0.0f ? logit * params.repetition_penalty : logit / params.repetition_penalty;
  }
  if (adjustment.counted != 0) {
    const float of_frequency = static_cast<float>(adjustment.counted) * params.frequency_penalty;
    logit -= params.presence_penalty + of_frequency;
  }
  return logit;
}

class Adjustments {
 public:
  // In the order in which the row's arrays first name them; valid until the next call.
  std::span<const Adjustment> of(const SampleRow& row, uint32_t vocab) {
    found_.clear();
    if (row.biases.empty() && row.repeated.empty() && row.counted.empty()) return found_;
    place_.resize(vocab, kNowhere);
    for (const TokenBias& bias : row.biases) at(bias.token).bias += bias.bias;
    for (int32_t token : row.repeated) at(token).repeated = 1;
    for (int32_t token : row.counted) at(token).counted++;
    for (const Adjustment& adjustment : found_) place_[static_cast<size_t>(adjustment.token)] = kNowhere;
    return found_;
  }

 private:
  static constexpr uint32_t kNowhere = UINT32_MAX;

  Adjustment& at(int32_t token) {
    uint32_t& place = place_[static_cast<size_t>(token)];
    if (place == kNowhere) {
      place = static_cast<uint32_t>(found_.size());
      found_.push_back({token, 0.0f, 0, 0});
    }
    return found_[place];
  }

  std::vector<uint32_t> place_;  // of every token, in found_
  std::vector<Adjustment> found_;
};

}  // namespace iokv
