// SPDX-License-Identifier: Apache-2.0
// sample of the CPU backend: against a sort of the vocabulary and a softmax in double, by what is ever drawn and how
// often; and the generator against the known answers of its authors' library, Random123.
#include <algorithm>
#include <map>
#include <numeric>

#include "daemon/backend/cpu/philox.h"
#include "tests/backend/cpu_fixture.h"
#include "tests/backend/sampling_oracle.h"

namespace iokv::test {
namespace {

struct Drawn {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
};

Drawn sample(Backend& backend, const std::vector<float>& logits, uint32_t vocab, const std::vector<SampleRow>& rows) {
  Drawn drawn{std::vector<int32_t>(rows.size(), -1), std::vector<float>(rows.size(), NAN)};
  backend.sample(Queue::dense, {logits.data(), vocab, rows, drawn.tokens.data(), drawn.logprobs.data()});
  return drawn;
}

// One row of logits, drawn from at the positions 0 .. draws − 1.
Drawn draw_often(Backend& backend, const std::vector<float>& logits, SampleParams params, uint32_t draws) {
  std::vector<SampleRow> rows(draws);
  for (uint32_t i = 0; i < draws; ++i) rows[i] = {params, 0, i};
  return sample(backend, logits, static_cast<uint32_t>(logits.size()), rows);
}

std::vector<float> random_logits(uint32_t vocab, Numbers& numbers, float deviation) {
  std::vector<float> logits(vocab);
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
  double mass = std::accumulate(weights.begin(), weights.end(), 0.0), sum = 0;
  size_t kept = 0;
  while (kept < order.size() && (kept == 0 || sum < double{params.top_p} * mass)) sum += weights[kept++];
  std::map<int32_t, double> result;
  for (size_t i = 0; i < kept; ++i) result[order[i]] = weights[i] / sum;
  return result;
}

void philox_gives_the_known_answers(void**) {
  using Words = std::array<uint32_t, 4>;
  assert_true((cpu::philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  assert_true((cpu::philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  assert_true((cpu::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
               Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

void greedy_takes_the_smallest_id_of_the_largest_logit(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(41);
    for (uint32_t vocab : {1u, 15u, 16u, 17u, 1000u, 49152u}) {
      auto logits = random_logits(vocab, numbers, 2.0f);
      uint32_t first = numbers.below(vocab), second = numbers.below(vocab);
      logits[first] = logits[second] = 50.0f;
      Drawn drawn = draw_often(*backend, logits, {}, 3);
      for (int32_t token : drawn.tokens) assert_int_equal(token, std::min(first, second));
    }
    assert_int_equal(draw_often(*backend, {-3.0f, -1.0f, -1.0f, -2.0f}, {}, 1).tokens[0], 1);
  });
}

void logprobs_are_the_log_softmax_of_the_unmodified_logits(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(42);
    for (uint32_t vocab : {1u, 19u, 49152u}) {
      auto logits = random_logits(vocab, numbers, 3.0f);
      double sum = 0;
      for (float logit : logits) sum += std::exp(double{logit});
      for (SampleParams params : {SampleParams{}, SampleParams{2.0f, 0.9f, 7, 5}}) {
        Drawn drawn = draw_often(*backend, logits, params, 8);
        for (size_t i = 0; i < drawn.tokens.size(); ++i) {
          double expected = double{logits[static_cast<size_t>(drawn.tokens[i])]} - std::log(sum);
          assert_near(double{drawn.logprobs[i]}, expected, 2e-5);
        }
      }
    }
  });
}

// Pearson's statistic over the tokens expected five times or more, the others together; its mean is the number of
// classes less one, its variance twice that. Six deviations: one wrong alarm in some 10^6 seeds.
void tokens_come_as_often_as_the_softmax_says(void**) {
  constexpr uint32_t kDraws = 20000;
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(43);
    auto logits = random_logits(60, numbers, 2.0f);
    for (SampleParams params : {SampleParams{1.0f, 1.0f, 0, 1}, {0.6f, 1.0f, 0, 2}, {1.7f, 1.0f, 9, 3},
                                {1.0f, 0.8f, 0, 4}, {1.3f, 0.7f, 30, 5}, {2.0f, 1.0f, 60, ~0ull}}) {
      auto expected = probabilities(logits, params);
      std::map<int32_t, uint32_t> seen;
      for (int32_t token : draw_often(*backend, logits, params, kDraws).tokens) ++seen[token];
      for (auto [token, count] : seen) assert_true(expected.contains(token));
      double statistic = 0, rare = 0, rare_seen = 0, classes = 0;
      for (auto [token, probability] : expected) {
        double mean = probability * kDraws;
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
  });
}

void nothing_outside_the_cuts_is_drawn_from_a_large_vocabulary(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(44);
    auto logits = random_logits(49152, numbers, 1.0f);
    for (SampleParams params : {SampleParams{1.0f, 1.0f, 1, 1}, {5.0f, 1.0f, 40, 2}, {1.0f, 0.05f, 0, 3},
                                {3.0f, 0.5f, 100, 4}, {1.0f, 0.0f, 0, 5}}) {
      auto expected = probabilities(logits, params);
      std::map<int32_t, uint32_t> seen;
      // Enough to see all of a few, and no more: sanitized, each takes long.
      const uint32_t draws = expected.size() == 1 ? 20 : expected.size() <= 40 ? 400 : 60;
      for (int32_t token : draw_often(*backend, logits, params, draws).tokens) ++seen[token];
      for (auto [token, count] : seen) assert_true(expected.contains(token));
      if (expected.size() <= 40) assert_int_equal(seen.size(), expected.size());
    }
  });
}

void equal_logits_are_cut_from_the_largest_id(void**) {
  // With top_p: 27.74 of a mass of 2 + 98 · e^(−4/50) are the two zeros and 28 others.
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    std::vector<float> equal(100, -4.0f);
    equal[70] = 0.0f * -1.0f;  // the negative zero: equal to the other one
    equal[20] = 0.0f;
    SampleParams by_rank{50.0f, 1.0f, 5, 1}, by_mass{50.0f, 0.30f, 0, 2};
    for (auto [params, last] : {std::pair{by_rank, 2}, {by_mass, 28}}) {
      std::map<int32_t, uint32_t> seen;
      for (int32_t token : draw_often(*backend, equal, params, 600).tokens) ++seen[token];
      assert_true(seen.contains(20) && seen.contains(70) && seen.contains(last));
      seen.erase(20), seen.erase(70);
      assert_int_equal(seen.rbegin()->first, last);
    }
  });
}

void a_draw_depends_on_seed_and_position_and_not_on_its_row(void**) {
  each_variant([](Variant variant) {
    Numbers numbers(45);
    constexpr uint32_t kRows = 40, kVocab = 500;
    auto logits = random_logits(kRows * kVocab, numbers, 1.0f);
    std::vector<SampleRow> rows;
    for (uint32_t r = 0; r < kRows; ++r) {
      SampleParams params{r % 5 == 0 ? 0.0f : 1.0f, r % 3 == 0 ? 0.9f : 1.0f, r % 4 * 50, 1000 + r % 2};
      rows.push_back({params, r, uint64_t{r / 2} << (r % 2 * 40)});
    }
    Drawn together = sample(*variant.backend(4), logits, kVocab, rows);
    auto single = variant.backend(1);
    for (size_t r = kRows; r-- > 0;) {
      Drawn alone = sample(*single, logits, kVocab, {rows[r]});
      assert_int_equal(alone.tokens[0], together.tokens[r]);
      assert_memory_equal(&alone.logprobs[0], &together.logprobs[r], sizeof(float));
    }
    std::vector<float> row(logits.begin(), logits.begin() + kVocab);
    Drawn one = draw_often(*single, row, {1.0f, 1.0f, 0, 1}, 100);
    assert_true(one.tokens == draw_often(*single, row, {1.0f, 1.0f, 0, 1}, 100).tokens);
    assert_false(one.tokens == draw_often(*single, row, {1.0f, 1.0f, 0, uint64_t{1} << 32 | 1}, 100).tokens);
  });
}

// To the borders' rounding in transformers' f32: 61 probabilities of 2^-24 each.
void tokens_are_those_of_transformers_processors(void**) {
  const Oracle oracle = Oracle::read(IOKV_SAMPLING_GOLDEN);
  each_variant([&](Variant variant) {
    auto backend = variant.backend();
    for (const OracleCase& one : oracle.cases) {
      const Drawn drawn = sample(*backend, oracle.logits[one.row], oracle.vocab(), oracle.rows_of(one, 0, 250));
      const size_t wrong = Oracle::wrong(one, drawn.tokens, 4e-6);
      if (wrong != 0) std::printf("%s: %zu of 250 tokens are not transformers'\n", one.text.c_str(), wrong);
      assert_int_equal(wrong, 0);
    }
  });
}

// Every parameter left out of one case at a time: the oracle notices each.
void leaving_a_processor_out_is_noticed(void**) {
  const Oracle oracle = Oracle::read(IOKV_SAMPLING_GOLDEN);
  auto backend = Variant{CpuIsa::automatic, DType::f32}.backend(1);
  const std::pair<const char*, void (*)(SampleRow&)> mutants[] = {
      {"min_p", [](SampleRow& row) { row.params.min_p = 0; }},
      {"typical_p", [](SampleRow& row) { row.params.typical_p = 1; }},
      {"repetition_penalty", [](SampleRow& row) { row.params.repetition_penalty = 1; }},
      {"repetition_from", [](SampleRow& row) { row.repeated = row.repeated.last(row.repeated.size() - 1); }},
      {"presence_penalty", [](SampleRow& row) { row.params.presence_penalty = 0; }},
      {"frequency_penalty", [](SampleRow& row) { row.params.frequency_penalty = 0; }},
      {"biases", [](SampleRow& row) { row.biases = row.biases.last(row.biases.size() - 1); }},
      {"mask", [](SampleRow& row) { row.mask = nullptr; }},
      {"top_k", [](SampleRow& row) { row.params.top_k += 1; }},
      {"top_p", [](SampleRow& row) { row.params.top_p = 1; }}};
  for (const auto& [name, mutate] : mutants) {
    size_t wrong = 0, mutated = 0;
    for (const OracleCase& one : oracle.cases) {
      if (!one.names.contains(name)) continue;
      auto rows = oracle.rows_of(one, 0, 250);
      for (SampleRow& row : rows) mutate(row);
      const Drawn drawn = sample(*backend, oracle.logits[one.row], oracle.vocab(), rows);
      ++mutated;
      wrong += Oracle::wrong(one, drawn.tokens, 4e-6);
    }
    std::printf("%s: %zu of %zu draws notice\n", name, wrong, mutated * 250);
    assert_true(mutated > 0 && wrong > 0);
  }
}

void the_most_probable_come_with_their_logprobs(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend(2);
    Numbers numbers(46);
    constexpr uint32_t kVocab = 3000;
    std::vector<float> logits = random_logits(2 * kVocab, numbers, 2.0f);
    logits[5] = logits[1700] = logits[40] = 20.0f;
    std::vector<SampleRow> rows(5);
    const uint32_t wanted[] = {3, 0, 64, 1, 20};
    for (uint32_t i = 0; i < 5; ++i) {
      rows[i].logits_row = i % 2;
      rows[i].top = wanted[i];
    }
    // They are of the unmodified distribution.
    const TokenBias bias{7, 100.0f};
    rows[2].biases = {&bias, 1};
    std::vector<TokenLogprob> tops(88);
    std::vector<int32_t> tokens(5);
    backend->sample(Queue::dense, {logits.data(), kVocab, rows, tokens.data(), nullptr, tops.data()});
    assert_int_equal(tokens[2], 7);
    size_t at = 0;
    for (const SampleRow& row : rows) {
      const std::span<const float> own(logits.data() + row.logits_row * kVocab, kVocab);
      std::vector<int32_t> order(kVocab);
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
  });
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(philox_gives_the_known_answers),
      cmocka_unit_test(greedy_takes_the_smallest_id_of_the_largest_logit),
      cmocka_unit_test(logprobs_are_the_log_softmax_of_the_unmodified_logits),
      cmocka_unit_test(tokens_come_as_often_as_the_softmax_says),
      cmocka_unit_test(nothing_outside_the_cuts_is_drawn_from_a_large_vocabulary),
      cmocka_unit_test(equal_logits_are_cut_from_the_largest_id),
      cmocka_unit_test(a_draw_depends_on_seed_and_position_and_not_on_its_row),
      cmocka_unit_test(tokens_are_those_of_transformers_processors),
      cmocka_unit_test(leaving_a_processor_out_is_noticed),
      cmocka_unit_test(the_most_probable_come_with_their_logprobs),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
