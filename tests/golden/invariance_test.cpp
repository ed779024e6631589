// SPDX-License-Identifier: Apache-2.0
// A sequence's logits are the same bits however its tokens were cut into steps, whichever of its blocks are kv and which
// x, whatever the blocks' ids are, whoever else is in the step and however many threads work: compared with the whole
// prompt in one step, alone, in kv blocks, on one thread. With every ISA of this machine and both compute types.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "daemon/model/model_files.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"

#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

using Prompt = std::vector<int32_t>;

std::vector<float> alone(Backend& backend, const ModelFiles& files, const Prompt& prompt) {
  return Decoder(backend, files).run(prompt, static_cast<uint32_t>(prompt.size()));
}

// Bits, and no NaN: a NaN would be equal to itself here.
void expect_same(const float* logits, const float* expected, size_t count, const std::string& what) {
  bool same = std::memcmp(logits, expected, count * sizeof(float)) == 0;
  bool numbers = std::none_of(expected, expected + count, [](float value) { return std::isnan(value); });
  if (!same || !numbers) {
    std::printf("%s: logits %s\n", what.c_str(), numbers ? "differ" : "are not numbers");
    fail();
  }
}

void expect_same(const std::vector<float>& logits, const std::vector<float>& expected, const std::string& what) {
  assert_int_equal(logits.size(), expected.size());
  expect_same(logits.data(), expected.data(), expected.size(), what);
}

template <typename Test>
void each_case(const Test& test) {
  for (const char* checkpoint : kPagedCheckpoints) {
    ModelFiles files = must(open_model(directory_of(checkpoint)));
    each_variant([&](const Variant& variant) {
      std::string what = std::string(checkpoint) + " " + name_of(variant.isa) + " " + name_of(variant.compute);
      test(files, variant, what);
    });
  }
}

// As a checkpoint's vocabulary has, the first ids being special.
Prompt random_prompt(Numbers& numbers, uint32_t tokens, uint32_t vocab) {
  Prompt prompt(tokens);
  for (int32_t& token : prompt) token = static_cast<int32_t>(3 + numbers.below(vocab - 3));
  return prompt;
}

constexpr uint32_t kPromptTokens = 150;  // two blocks and a part

struct Forms {
  const char* name;
  FormOf of;
};
const Forms kForms[] = {{"kv", all_kv}, {"x", all_x}, {"kv, x, kv", kv_then_x}, {"x, kv, x", x_then_kv}};

void the_cut_into_steps_and_the_forms_of_blocks_do_not_change_a_bit(void**) {
  each_case([](const ModelFiles& files, const Variant& variant, const std::string& what) {
    auto backend = variant.backend();
    Numbers numbers(1);
    Prompt prompt = random_prompt(numbers, kPromptTokens, files.spec().vocab);
    std::vector<float> expected = alone(*variant.backend(1), files, prompt);
    for (const Forms& forms : kForms) {
      for (uint32_t chunk : {kPromptTokens, 100u, kBlockTokens, 37u, 1u}) {
        DecoderOptions options;
        options.form = forms.of;
        std::vector<float> logits = Decoder(*backend, files, options).run(prompt, chunk);
        expect_same(logits, expected, what + ", blocks " + forms.name + ", steps of " + std::to_string(chunk));
      }
    }
  });
}

void ids_of_blocks_do_not_change_a_bit(void**) {
  each_case([](const ModelFiles& files, const Variant& variant, const std::string& what) {
    auto backend = variant.backend();
    Numbers numbers(2);
    Prompt prompt = random_prompt(numbers, kPromptTokens, files.spec().vocab);
    std::vector<float> expected = alone(*backend, files, prompt);
    DecoderOptions options;
    options.form = x_then_kv;
    options.descending_ids = true;
    Decoder decoder(*backend, files, options);
    for (int repeat = 0; repeat < 2; ++repeat) expect_same(decoder.run(prompt, 61), expected, what);  // other ids
  });
}

void the_number_of_threads_does_not_change_a_bit(void**) {
  each_case([](const ModelFiles& files, const Variant& variant, const std::string& what) {
    Numbers numbers(3);
    Prompt prompt = random_prompt(numbers, kPromptTokens, files.spec().vocab);
    std::vector<float> expected = alone(*variant.backend(1), files, prompt);
    for (uint32_t threads : {2u, 3u, 5u}) {
      expect_same(alone(*variant.backend(threads), files, prompt), expected, what + " " + std::to_string(threads));
    }
  });
}

// Sequences of different lengths decode together, a token each a step, while one more is prefilled in chunks between
// them: prompt and expected logits of each.
struct Lane {
  Prompt prompt;
  std::vector<float> expected;
  Sequence sequence;
  uint32_t chunk = 1;

  std::span<const int32_t> next() const {
    size_t left = prompt.size() - sequence.length;
    return std::span(prompt).subspan(sequence.length, std::min<size_t>(chunk, left));
  }
};

// Steps until every lane's prompt has been consumed; lanes leave as they end.
void run_together(Decoder& decoder, std::vector<Lane>& lanes, const std::string& what) {
  for (;;) {
    std::vector<Decoder::Append> appends;
    std::vector<const float*> expected;
    for (Lane& lane : lanes) {
      if (lane.next().empty()) continue;
      appends.push_back({&lane.sequence, lane.next()});
      expected.push_back(&lane.expected[size_t{lane.sequence.length} * decoder.vocab()]);
    }
    if (appends.empty()) return;
    std::vector<float> logits = decoder.step(appends);
    size_t at = 0;
    for (size_t i = 0; i < appends.size(); ++i) {
      size_t count = appends[i].tokens.size() * decoder.vocab();
      expect_same(&logits[at], expected[i], count, what + ", sequence " + std::to_string(i));
      at += count;
    }
  }
}

void batches_of_1_8_and_32_and_a_prefill_beside_them_do_not_change_a_bit(void**) {
  each_case([](const ModelFiles& files, const Variant& variant, const std::string& what) {
    auto backend = variant.backend();
    auto one_thread = variant.backend(1);
    Numbers numbers(4);
    std::vector<Lane> all;
    for (uint32_t i = 0; i < 33; ++i) {
      Lane lane;
      uint32_t tokens = i == 0 ? 140 : 60 + i;  // the others cross into their second block one after the other
      lane.prompt = random_prompt(numbers, tokens, files.spec().vocab);
      lane.expected = alone(*one_thread, files, lane.prompt);
      if (i == 0) lane.chunk = 17;
      all.push_back(std::move(lane));
    }
    for (const Forms& forms : kForms) {
      for (size_t batch : {1u, 8u, 32u}) {
        DecoderOptions options;
        options.form = forms.of;
        // Slots of two blocks: 32 sequences of two x blocks are attended to in many rounds.
        Decoder decoder(*backend, files, options);
        std::vector<Lane> lanes(all.end() - static_cast<std::ptrdiff_t>(batch), all.end());
        std::string name = what + ", blocks " + forms.name + ", batch of " + std::to_string(batch);
        // All but the last 20 tokens alone, in one step; then 20 steps together, with the prefill in their midst.
        for (Lane& lane : lanes) {
          auto head = std::span(lane.prompt).first(lane.prompt.size() - 20);
          expect_same(decoder.step({{&lane.sequence, head}}).data(), lane.expected.data(),
                      head.size() * decoder.vocab(), name + ", prefill");
        }
        lanes.insert(lanes.begin() + static_cast<std::ptrdiff_t>(batch / 2), all.front());
        run_together(decoder, lanes, name);
      }
    }
  });
}

void asking_for_fewer_logits_does_not_change_a_bit(void**) {
  each_case([](const ModelFiles& files, const Variant& variant, const std::string& what) {
    auto backend = variant.backend();
    Numbers numbers(5);
    Prompt prompt = random_prompt(numbers, kPromptTokens, files.spec().vocab);
    std::vector<float> expected = alone(*backend, files, prompt);
    const uint32_t wanted[] = {0, 1, 2, 63, 64, 100, 148, 149};
    Decoder decoder(*backend, files);
    Sequence sequence;
    std::vector<float> logits = decoder.step({{&sequence, prompt}}, wanted);
    size_t vocab = decoder.vocab();
    for (size_t i = 0; i < std::size(wanted); ++i) {
      expect_same(&logits[i * vocab], &expected[wanted[i] * vocab], vocab, what + ", row " + std::to_string(wanted[i]));
    }
  });
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(the_cut_into_steps_and_the_forms_of_blocks_do_not_change_a_bit),
      cmocka_unit_test(ids_of_blocks_do_not_change_a_bit),
      cmocka_unit_test(the_number_of_threads_does_not_change_a_bit),
      cmocka_unit_test(batches_of_1_8_and_32_and_a_prefill_beside_them_do_not_change_a_bit),
      cmocka_unit_test(asking_for_fewer_logits_does_not_change_a_bit),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
