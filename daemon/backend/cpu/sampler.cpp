// SPDX-License-Identifier: Apache-2.0
// See sampler.h. Cuts are found by radix selection on the bits of the logits, three digits from the top: each pass
// looks only at the tokens that share the digits so far, so nothing is ever sorted and the worst case is three passes.
#include "daemon/backend/cpu/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>

#include "daemon/backend/cpu/philox.h"
#include "daemon/base/assert.h"

namespace iokv::cpu {
namespace {

// Unsigned order of keys is the order of logits; both zeros have one key.
uint32_t key_of(float logit) {
  uint32_t bits = std::bit_cast<uint32_t>(logit + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// 11, 11 and 10 bits: a histogram of 2,048 sums is 16 KiB and stays in the first-level cache.
constexpr uint32_t kDigits = 2048;
struct Digit {
  uint32_t shift, mask;
  uint32_t of(uint32_t key) const { return (key >> shift) & mask; }
};
constexpr std::array<Digit, 3> kRadix = {{{21, 2047}, {10, 2047}, {0, 1023}}};

}  // namespace

Sampler::Draw Sampler::draw(const Kernels& kernels, std::span<const float> logits, const SampleParams& params,
                            uint64_t position) {
  IOKV_ASSERT(!logits.empty());
  float largest = kernels.largest(logits.data(), logits.size());
  float sum = kernels.sum_exp(logits.data(), logits.size(), largest, 1.0f, nullptr);
  auto logprob = [&](size_t token) {
    return static_cast<float>(double{logits[token]} - double{largest} - std::log(double{sum}));
  };
  auto first = std::find(logits.begin(), logits.end(), largest);
  size_t greedy = first == logits.end() ? 0 : static_cast<size_t>(first - logits.begin());
  if (!(params.temperature > 0.0f)) return {static_cast<int32_t>(greedy), logprob(greedy)};

  weights_.resize(logits.size());
  kernels.sum_exp(logits.data(), logits.size(), largest, params.temperature, weights_.data());
  tokens_.resize(logits.size());
  std::iota(tokens_.begin(), tokens_.end(), 0u);
  bool by_rank = params.top_k != 0 && params.top_k < logits.size(), by_mass = params.top_p < 1.0f;
  if (by_rank || by_mass) {
    keys_.resize(logits.size());
    std::transform(logits.begin(), logits.end(), keys_.begin(), key_of);
  }
  if (by_rank) cut(params.top_k, [](uint32_t) { return 1.0; });
  if (by_mass) {
    double mass = 0;
    for (uint32_t token : tokens_) mass += double{weights_[token]};
    cut(double{params.top_p} * mass, [this](uint32_t token) { return double{weights_[token]}; });
  }
  uint32_t token = walk(uniform(params.seed, position));
  return {static_cast<int32_t>(token), logprob(token)};
}

// Reduces tokens_ to the fewest of the largest logits whose measures reach the target; one at least.
template <typename Measure>
void Sampler::cut(double target, const Measure& measure) {
  candidates_ = tokens_;
  double above = 0;  // measure of the tokens above all candidates
  std::array<double, kDigits> sums;
  for (Digit digit : kRadix) {
    sums.fill(0);
    uint32_t lowest = kDigits - 1, highest = 0;
    for (uint32_t token : candidates_) {
      uint32_t value = digit.of(keys_[token]);
      sums[value] += measure(token);
      lowest = std::min(lowest, value);
      highest = std::max(highest, value);
    }
    uint32_t value = highest;
    for (; value > lowest && above + sums[value] < target; --value) above += sums[value];
    std::erase_if(candidates_, [&](uint32_t token) { return digit.of(keys_[token]) != value; });
  }
  uint32_t last_key = keys_[candidates_.front()], equals = kept_of_equals(target - above, measure);
  size_t kept = 0;
  for (uint32_t token : tokens_) {
    bool equal = keys_[token] == last_key && equals > 0;
    if (equal) --equals;
    if (equal || keys_[token] > last_key) tokens_[kept++] = token;
  }
  tokens_.resize(kept);
}

// How many of the candidates, which all have one logit, are needed for what is missing.
template <typename Measure>
uint32_t Sampler::kept_of_equals(double missing, const Measure& measure) const {
  double sum = 0;
  uint32_t count = 0;
  for (uint32_t token : candidates_) {
    sum += measure(token);
    ++count;
    if (sum >= missing) break;
  }
  return count;
}

// The token at which the running sum of weights passes the number's share of their total.
uint32_t Sampler::walk(double uniform_number) const {
  double total = 0;
  for (uint32_t token : tokens_) total += double{weights_[token]};
  double target = uniform_number * total, sum = 0;
  uint32_t last = tokens_.front();
  for (uint32_t token : tokens_) {
    if (weights_[token] == 0.0f) continue;
    last = token;
    sum += double{weights_[token]};
    if (sum > target) break;
  }
  return last;
}

}  // namespace iokv::cpu
