// SPDX-License-Identifier: Apache-2.0
// SmolLM2-135M-Instruct from its GGUF file in f32: 64 greedy tokens of each of three prompts are those that transformers
// chose with the same file (smollm2.json, by scripts/make_golden.py). The model is where scripts/model keeps it, or
// where IOKV_SMOLLM2 says; without it the program returns 77, and ctest reports the test as skipped.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <nlohmann/json.hpp>

#include "daemon/model/model_files.h"
#include "tests/golden/decoder.h"

#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

constexpr int kSkipped = 77;  // SKIP_RETURN_CODE in CMakeLists.txt

// Where the largest logit leads the second by less, either may win: logits of size 20 that are 1e-5 of themselves away
// from transformers' can change a lead by 4e-4.
constexpr float kTieLead = 1e-3f;

std::string model_path() {
  if (const char* path = std::getenv("IOKV_SMOLLM2")) return path;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::string directory = cache != nullptr && *cache != 0 ? cache : std::string(home != nullptr ? home : "") + "/.cache";
  return directory + "/iokv/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

struct Case {
  std::vector<int32_t> prompt, tokens;
  std::vector<float> leads;  // of the largest logit over the second, at each of tokens
  Sequence sequence;
};

std::vector<Case> read_cases() {
  std::vector<Case> cases;
  for (const auto& entry : nlohmann::json::parse(std::ifstream("tests/golden/smollm2.json"))) {
    Case next;
    entry.at("prompt").get_to(next.prompt);
    entry.at("tokens").get_to(next.tokens);
    entry.at("gaps").get_to(next.leads);
    cases.push_back(std::move(next));
  }
  return cases;
}

// Every step appends transformers' token, so that a tie decided the other way does not end the comparison.
void greedy_tokens_are_those_of_transformers(void**) {
  ModelFiles files = must(open_model(model_path()));
  auto backend = Variant{CpuIsa::automatic, DType::f32}.backend(0);
  DecoderOptions options;
  options.pool_blocks = 16;
  Decoder decoder(*backend, files, options);
  std::vector<Case> cases = read_cases();
  assert_int_equal(cases.size(), 3);
  size_t tokens = cases.front().tokens.size(), ties = 0;
  assert_int_equal(tokens, 64);

  for (size_t i = 0; i < tokens; ++i) {
    std::vector<Decoder::Append> appends;
    std::vector<uint32_t> last_rows;
    size_t rows = 0;
    for (Case& next : cases) {
      auto input = i == 0 ? std::span<const int32_t>(next.prompt) : std::span(next.tokens).subspan(i - 1, 1);
      appends.push_back({&next.sequence, input});
      last_rows.push_back(static_cast<uint32_t>((rows += input.size()) - 1));
    }
    std::vector<float> logits = decoder.step(appends, last_rows);
    for (size_t c = 0; c < cases.size(); ++c) {
      auto row = logits.begin() + static_cast<std::ptrdiff_t>(c * decoder.vocab());
      auto best = static_cast<int32_t>(std::max_element(row, row + decoder.vocab()) - row);
      if (best == cases[c].tokens[i]) continue;
      std::printf("prompt %zu, token %zu: %d, transformers chose %d with a lead of %g\n", c, i, best,
                  cases[c].tokens[i], static_cast<double>(cases[c].leads[i]));
      assert_true(cases[c].leads[i] < kTieLead);
      ++ties;
    }
  }
  std::printf("%zu of %zu tokens are transformers', %zu within a lead of %g\n", 3 * tokens - ties, 3 * tokens, ties,
              static_cast<double>(kTieLead));
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  if (std::string path = model_path(); !std::filesystem::exists(path)) {
    std::printf("skipped: %s is not there; scripts/model fetches it\n", path.c_str());
    return kSkipped;
  }
  const CMUnitTest tests[] = {cmocka_unit_test(greedy_tokens_are_those_of_transformers)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
