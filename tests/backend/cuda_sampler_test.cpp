// SPDX-License-Identifier: Apache-2.0
// sample of the CUDA backend: against a sort of the vocabulary and a softmax in double, by what is ever drawn and how
// often, and against the draws of the CPU backend.
#include <algorithm>
#include <map>
#include <numeric>

#include "tests/backend/cuda_fixture.h"
#include "tests/backend/sampling_oracle.h"

namespace iokv::test {
namespace {

struct Drawn {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
};

Drawn sample(Backend& backend, const Array& logits, uint32_t vocab, std::vector<SampleRow> rows) {
  Drawn drawn{std::vector<int32_t>(rows.size(), -1), std::vector<float>(rows.size(), NAN)};
  // At most so many at once.
  for (size_t first = 0; first < rows.size(); first += 1500) {
    const size_t count = std::min<size_t>(1500, rows.size() - first);
    backend.sample(Queue::dense, {logits.floats(), vocab, std::span(rows).subspan(first, count),
                                  drawn.tokens.data() + first, drawn.logprobs.data() + first});
  }
  std::fill(rows.begin(), rows.end(), SampleRow{});  // they have been read
  finish(backend);
  return drawn;
}

// One row of logits, drawn from at the positions 0 .. draws − 1.
Drawn draw_often(Backend& backend, const std::vector<float>& logits, SampleParams params, uint32_t draws) {
  std::vector<SampleRow> rows(draws);
  for (uint32_t i = 0; i < draws; ++i) rows[i] = {params, 0, i};
  return sample(backend, Array::of(backend, logits), static_cast<uint32_t>(logits.size()), rows);
}

std::vector<float> random_logits(size_t count, Numbers& numbers, float deviation) {
  std::vector<float> logits(count);
  for (float& logit : logits) logit = numbers.normal(deviation);
  return logits;
}

// What sampling.h says, by sorting: the probability of every token that can be drawn.
std::map<int32_t, double> probabilities(const std::vector<float>& logits, SampleParams params) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  auto logit = [&](int32_t token) { return double{logits[static_cast<size_t>(token)]}; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  if (params.top_k != 0 && params.top_k < order.size()) order.resize(params.top_k);
  std::vector<double> weights;
  for (int32_t token : order) {
    weights.push_back(std::exp((logit(token) - logit(order[0])) / double{params.temperature}));
  }
  const double mass = std::accumulate(weights.begin(), weights.end(), 0.0);
  double sum = 0;
  size_t kept = 0;
  while (kept < order.size() && (kept == 0 || sum < double{params.top_p} * mass)) sum += weights[kept++];
  std::map<int32_t, double> result;
  for (size_t i = 0; i < kept; ++i) result[order[i]] = weights[i] / sum;
  return result;
}

// Draws do not depend on the compute type: one backend will do.
Backend& gpu() {
  static std::unique_ptr<Backend> backend = *open_gpu(DType::f16);
  return *backend;
}

void greedy_takes_the_smallest_id_of_the_largest_logit(void**) {
  Numbers numbers(641);
  for (uint32_t vocab : {1u, 15u, 16u, 17u, 1000u, 49152u, 200000u}) {
    auto logits = random_logits(vocab, numbers, 2.0f);
    const uint32_t first = numbers.below(vocab), second = numbers.below(vocab);
    logits[first] = logits[second] = 50.0f;
    for (int32_t token : draw_often(gpu(), logits, {}, 3).tokens) assert_int_equal(token, std::min(first, second));
  }
  assert_int_equal(draw_often(gpu(), {-3.0f, -1.0f, -1.0f, -2.0f}, {}, 1).tokens[0], 1);
}

void logprobs_are_the_log_softmax_of_the_unmodified_logits(void**) {
  Numbers numbers(642);
  for (uint32_t vocab : {1u, 19u, 49152u}) {
    auto logits = random_logits(vocab, numbers, 3.0f);
    double sum = 0;
    for (float logit : logits) sum += std::exp(double{logit});
    for (SampleParams params : {SampleParams{}, SampleParams{2.0f, 0.9f, 7, 5}}) {
      Drawn drawn = draw_often(gpu(), logits, params, 8);
      for (size_t i = 0; i < drawn.tokens.size(); ++i) {
        const double expected = double{logits[static_cast<size_t>(drawn.tokens[i])]} - std::log(sum);
        assert_near(double{drawn.logprobs[i]}, expected, 2e-5);
      }
    }
  }
}

// Pearson's statistic over the tokens expected five times or more, the others together; its mean is the number of
// classes less one, its variance twice that. Six deviations: one wrong alarm in some 10^6 seeds.
void tokens_come_as_often_as_the_softmax_says(void**) {
  constexpr uint32_t kDraws = 20000;
  Numbers numbers(643);
  auto logits = random_logits(60, numbers, 2.0f);
  for (SampleParams params : {SampleParams{1.0f, 1.0f, 0, 1}, {0.6f, 1.0f, 0, 2}, {1.7f, 1.0f, 9, 3},
                              {1.0f, 0.8f, 0, 4}, {1.3f, 0.7f, 30, 5}, {2.0f, 1.0f, 60, ~0ull}}) {
    auto expected = probabilities(logits, params);
    std::map<int32_t, uint32_t> seen;
    for (int32_t token : draw_often(gpu(), logits, params, kDraws).tokens) ++seen[token];
    for (auto [token, count] : seen) assert_true(expected.contains(token));
    double statistic = 0, rare = 0, rare_seen = 0, classes = 0;
    for (auto [token, probability] : expected) {
      const double mean = probability * kDraws;
      if (mean < 5) {
        rare += mean;
        rare_seen += seen[token];
        continue;
      }
      statistic += std::pow(seen[token] - mean, 2) / mean;
      ++classes;
    }
    if (rare > 5) statistic += std::pow(rare_seen - rare, 2) / rare, ++classes;
    assert_near(statistic, classes - 1, 6 * std::sqrt(2 * classes) + 6);
  }
}

void nothing_outside_the_cuts_is_drawn_from_a_large_vocabulary(void**) {
  Numbers numbers(644);
  auto logits = random_logits(49152, numbers, 1.0f);
  for (SampleParams params : {SampleParams{1.0f, 1.0f, 1, 1}, {5.0f, 1.0f, 40, 2}, {1.0f, 0.05f, 0, 3},
                              {3.0f, 0.5f, 100, 4}, {1.0f, 0.0f, 0, 5}}) {
    auto expected = probabilities(logits, params);
    std::map<int32_t, uint32_t> seen;
    const uint32_t draws = expected.size() == 1 ? 20 : 400;
    for (int32_t token : draw_often(gpu(), logits, params, draws).tokens) ++seen[token];
    for (auto [token, count] : seen) assert_true(expected.contains(token));
    if (expected.size() <= 40) assert_int_equal(seen.size(), expected.size());
  }
}

void equal_logits_are_cut_from_the_largest_id(void**) {
  // With top_p: 27.74 of a mass of 2 + 98 · e^(−4/50) are the two zeros and 28 others.
  std::vector<float> equal(100, -4.0f);
  equal[70] = 0.0f * -1.0f;  // the negative zero: equal to the other one
  equal[20] = 0.0f;
  SampleParams by_rank{50.0f, 1.0f, 5, 1}, by_mass{50.0f, 0.30f, 0, 2};
  for (auto [params, last] : {std::pair{by_rank, 2}, {by_mass, 28}}) {
    std::map<int32_t, uint32_t> seen;
    for (int32_t token : draw_often(gpu(), equal, params, 600).tokens) ++seen[token];
    assert_true(seen.contains(20) && seen.contains(70) && seen.contains(last));
    seen.erase(20), seen.erase(70);
    assert_int_equal(seen.rbegin()->first, last);
  }
}

// Weights are rounded otherwise there, so that a number between two tokens' shares may fall to either.
void tokens_are_those_that_the_cpu_draws(void**) {
  Numbers numbers(645);
  constexpr uint32_t kRows = 60, kVocab = 5000;
  const std::vector<float> logits = random_logits(size_t{kRows} * kVocab, numbers, 2.0f);
  std::vector<SampleRow> rows;
  for (uint32_t i = 0; i < 1200; ++i) {
    SampleParams params{i % 7 == 0 ? 0.0f : 0.5f + 0.25f * static_cast<float>(i % 5), i % 3 == 0 ? 0.9f : 1.0f, i % 4 * 50,
                        1000 + i % 2};
    rows.push_back({params, i % kRows, uint64_t{i / 2} << (i % 2 * 40)});
  }
  auto cpu = Variant{CpuIsa::automatic, DType::f32}.backend(2);
  Drawn expected{std::vector<int32_t>(rows.size()), std::vector<float>(rows.size())};
  cpu->sample(Queue::dense, {logits.data(), kVocab, rows, expected.tokens.data(), expected.logprobs.data()});
  const Array on_device = Array::of(gpu(), logits);
  Drawn together = sample(gpu(), on_device, kVocab, rows);
  size_t others = 0;
  for (size_t i = 0; i < rows.size(); ++i) others += together.tokens[i] != expected.tokens[i] ? 1 : 0;
  if (others != 0) std::printf("%zu of %zu tokens are not the CPU's\n", others, rows.size());
  assert_true(others <= rows.size() / 200);
  for (size_t i = 0; i < rows.size(); i += 13) {
    Drawn alone = sample(gpu(), on_device, kVocab, {rows[i]});
    assert_int_equal(alone.tokens[0], together.tokens[i]);
    assert_memory_equal(&alone.logprobs[0], &together.logprobs[i], sizeof(float));
  }
}

// Each draw has a row of logits of its own: backend.h. The borders' rounding: that of transformers' f32, and expf's.
void tokens_are_those_of_transformers_processors(void**) {
  constexpr uint32_t kDrawsOfCase = 120;
  const Oracle oracle = Oracle::read(IOKV_SAMPLING_GOLDEN);
  for (const OracleCase& one : oracle.cases) {
    std::vector<float> logits;
    std::vector<SampleRow> rows = oracle.rows_of(one, 0, kDrawsOfCase);
    for (uint32_t i = 0; i < kDrawsOfCase; ++i) {
      logits.insert(logits.end(), oracle.logits[one.row].begin(), oracle.logits[one.row].end());
      rows[i].logits_row = i;
    }
    Array on_device = Array::of(gpu(), logits);
    const Drawn drawn = sample(gpu(), on_device, oracle.vocab(), rows);
    const size_t wrong = Oracle::wrong(one, drawn.tokens, 1e-5);
    if (wrong != 0) std::printf("%s: %zu of %u tokens are not transformers'\n", one.text.c_str(), wrong, kDrawsOfCase);
    assert_int_equal(wrong, 0);
    // What a draw has changed of them is as before.
    on_device.get();
    for (size_t i = 0; i < logits.size(); ++i) assert_true(on_device[i] == double{logits[i]});
  }
}

void the_most_probable_come_with_their_logprobs(void**) {
  Numbers numbers(646);
  for (uint32_t vocab : {64u, 3000u, 128256u}) {
    std::vector<float> logits = random_logits(size_t{2} * vocab, numbers, 2.0f);
    logits[5] = logits[vocab - 1] = logits[40] = 20.0f;
    std::vector<SampleRow> rows(5);
    const uint32_t wanted[] = {3, 0, 64, 1, 20};
    for (uint32_t i = 0; i < 5; ++i) {
      rows[i].logits_row = i % 2;
      rows[i].top = wanted[i];
    }
    std::vector<TokenLogprob> tops(88);
    std::vector<int32_t> tokens(5);
    const Array on_device = Array::of(gpu(), logits);
    gpu().sample(Queue::dense, {on_device.floats(), vocab, rows, tokens.data(), nullptr, tops.data()});
    finish(gpu());
    size_t at = 0;
    for (const SampleRow& row : rows) {
      const std::span<const float> own(logits.data() + row.logits_row * vocab, vocab);
      std::vector<int32_t> order(vocab);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int32_t a, int32_t b) { return own[static_cast<size_t>(a)] > own[static_cast<size_t>(b)]; });
      double sum = 0;
      for (float logit : own) sum += std::exp(double{logit});
      for (uint32_t i = 0; i < row.top; ++i, ++at) {
        assert_int_equal(tops[at].token, order[i]);
        assert_near(double{tops[at].logprob}, double{own[static_cast<size_t>(order[i])]} - std::log(sum), 2e-5);
      }
    }
  }
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  if (!has_gpu()) return kSkipped;
  const CMUnitTest tests[] = {
      cmocka_unit_test(greedy_takes_the_smallest_id_of_the_largest_logit),
      cmocka_unit_test(logprobs_are_the_log_softmax_of_the_unmodified_logits),
      cmocka_unit_test(tokens_come_as_often_as_the_softmax_says),
      cmocka_unit_test(nothing_outside_the_cuts_is_drawn_from_a_large_vocabulary),
      cmocka_unit_test(equal_logits_are_cut_from_the_largest_id),
      cmocka_unit_test(tokens_are_those_that_the_cpu_draws),
      cmocka_unit_test(tokens_are_those_of_transformers_processors),
      cmocka_unit_test(the_most_probable_come_with_their_logprobs),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
