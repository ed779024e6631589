// SPDX-License-Identifier: Apache-2.0
// See sampler.h. Cuts are found by radix selection on the bits of the logits, three digits from the top: each pass
// looks only at the tokens that share the digits so far, so nothing is ever sorted and the worst case is three passes.
#include "daemon/backend/cpu/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
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

// Fills `out` with the largest logits, the largest first, the smaller id first among equals.
void most_probable(std::span<const float> logits, std::span<TokenLogprob> out) {
  if (out.empty()) return;
  size_t count = 0;
  for (size_t token = 0; token < logits.size(); ++token) {
    // Rising ids: an equal one goes behind those that are there.
    if (count == out.size() && !(logits[token] > out[count - 1].logprob)) continue;
    size_t place = count < out.size() ? count++ : count - 1;
    for (; place > 0 && logits[token] > out[place - 1].logprob; --place) out[place] = out[place - 1];
    out[place] = {static_cast<int32_t>(token), logits[token]};
  }
}

}  // namespace

Sampler::Draw Sampler::draw(const Kernels& kernels, std::span<const float> logits, const SampleRow& row,
                            TokenLogprob* tops) {
  IOKV_ASSERT(!logits.empty() && row.top <= kMaxTopLogprobs && row.top <= logits.size());
  const float model_largest = kernels.largest(logits.data(), logits.size());
  const float sum = kernels.sum_exp(logits.data(), logits.size(), model_largest, 1.0f, nullptr);
  auto logprob = [&](size_t token) {
    return static_cast<float>(double{logits[token]} - double{model_largest} - std::log(double{sum}));
  };
  most_probable(logits, {tops, row.top});
  for (TokenLogprob& top : std::span(tops, row.top)) top.logprob = logprob(static_cast<size_t>(top.token));

  const std::span<const float> drawn_from = adjust(logits, row);
  const SampleParams& params = row.params;
  const float largest = drawn_from.data() == logits.data() ? model_largest : kernels.largest(drawn_from.data(), drawn_from.size());
  if (!(params.temperature > 0.0f)) {
    const auto first = std::find(drawn_from.begin(), drawn_from.end(), largest);
    const size_t greedy = first == drawn_from.end() ? 0 : static_cast<size_t>(first - drawn_from.begin());
    return {static_cast<int32_t>(greedy), logprob(greedy)};
  }

  weights_.resize(logits.size());
  kernels.sum_exp(drawn_from.data(), drawn_from.size(), largest, params.temperature, weights_.data());
  keep_permitted(static_cast<uint32_t>(logits.size()), row.mask);
  bool by_rank = params.top_k != 0 && params.top_k < tokens_.size(), by_mass = params.top_p < 1.0f;
  if (by_rank || by_mass) {
    keys_.resize(logits.size());
    std::transform(drawn_from.begin(), drawn_from.end(), keys_.begin(), key_of);
  }
  const auto weight = [this](uint32_t token) { return double{weights_[token]}; };
  if (by_rank) cut(params.top_k, [](uint32_t) { return 1.0; }, Equals::some);
  if (by_mass) cut(double{params.top_p} * mass(), weight, Equals::some);
  // The most probable token's weight is 1, and no cut takes it out.
  if (params.min_p > 0.0f) std::erase_if(tokens_, [&](uint32_t token) { return weights_[token] < params.min_p; });
  if (params.typical_p < 1.0f) cut_atypical(params.typical_p);
  uint32_t token = walk(uniform(params.seed, row.position));
  return {static_cast<int32_t>(token), logprob(token)};
}

std::span<const float> Sampler::adjust(std::span<const float> logits, const SampleRow& row) {
  const auto adjustments = adjustments_.of(row, static_cast<uint32_t>(logits.size()));
  if (adjustments.empty() && row.mask == nullptr) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  for (const Adjustment& adjustment : adjustments) {
    float& logit = adjusted_[static_cast<size_t>(adjustment.token)];
    logit = adjusted(logit, adjustment, row.params);
  }
  if (row.mask == nullptr) return adjusted_;
  for (uint32_t token = 0; token < adjusted_.size(); ++token) {
    if (!permits(row.mask, token)) adjusted_[token] = -std::numeric_limits<float>::infinity();
  }
  return adjusted_;
}

void Sampler::keep_permitted(uint32_t vocab, const uint32_t* mask) {
  tokens_.resize(vocab);
  std::iota(tokens_.begin(), tokens_.end(), 0u);
  if (mask != nullptr) std::erase_if(tokens_, [mask](uint32_t token) { return !permits(mask, token); });
}

double Sampler::mass() const {
  double mass = 0;
  for (uint32_t token : tokens_) mass += double{weights_[token]};
  return mass;
}

// Meister, Pimentel, Wiher, Cotterell: "Locally Typical Sampling" (TACL 2023).
void Sampler::cut_atypical(float typical_p) {
  const double total = mass();
  auto surprise = [&](uint32_t token) { return std::log(total) - std::log(double{weights_[token]}); };
  std::erase_if(tokens_, [this](uint32_t token) { return weights_[token] == 0.0f; });
  double entropy = 0;
  for (uint32_t token : tokens_) entropy += double{weights_[token]} / total * surprise(token);
  keys_.resize(weights_.size());
  for (uint32_t token : tokens_) keys_[token] = key_of(-static_cast<float>(std::abs(surprise(token) - entropy)));
  cut(double{typical_p} * total, [this](uint32_t token) { return double{weights_[token]}; }, Equals::all);
}

// Reduces tokens_ to the fewest of the largest keys whose measures reach the target; one at least. Of those with the last
// key either all stay, or as many as are needed.
template <typename Measure>
void Sampler::cut(double target, const Measure& measure, Equals which) {
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
  uint32_t last_key = keys_[candidates_.front()], equals = static_cast<uint32_t>(candidates_.size());
  if (which == Equals::some) equals = kept_of_equals(target - above, measure);
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
