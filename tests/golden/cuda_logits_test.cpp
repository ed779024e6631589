// SPDX-License-Identifier: Apache-2.0
// Whole models on the GPU, whose memory is apart from the host's: logits of the committed checkpoints against
// transformers', with blocks of every form fetched, recomputed and written back; and the same bits for every form, ring
// and cut into steps.
#include <cstdio>

#include "daemon/model/model_files.h"
#include "tests/backend/cuda_fixture.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"

namespace iokv::test {
namespace {

struct Way {
  const char* name;
  FormOf form;
  uint32_t chunk_tokens;
  Ring ring;
};

// All tokens of the prompts side by side, so many of each a step: logits in the order of the golden file.
std::vector<float> decode(Backend& backend, const ModelFiles& files, const Golden& golden, const Way& way) {
  DecoderOptions options;
  options.form = way.form;
  options.ring = way.ring;
  options.pool_blocks = 200;
  Decoder decoder(backend, files, options);
  std::vector<Sequence> sequences(golden.prompts.size());
  std::vector<std::vector<float>> logits(golden.prompts.size());
  for (size_t at = 0;; at += way.chunk_tokens) {
    std::vector<Decoder::Append> appends;
    std::vector<size_t> whose;
    for (size_t i = 0; i < golden.prompts.size(); ++i) {
      if (at >= golden.prompts[i].size()) continue;
      std::span<const int32_t> left = std::span(golden.prompts[i]).subspan(at);
      appends.push_back({&sequences[i], left.first(std::min<size_t>(way.chunk_tokens, left.size()))});
      whose.push_back(i);
    }
    if (appends.empty()) break;
    const std::vector<float> step = decoder.step(appends);
    size_t row = 0;
    for (size_t i = 0; i < appends.size(); ++i) {
      const size_t count = appends[i].tokens.size() * decoder.vocab();
      logits[whose[i]].insert(logits[whose[i]].end(), step.begin() + static_cast<std::ptrdiff_t>(row),
                              step.begin() + static_cast<std::ptrdiff_t>(row + count));
      row += count;
    }
  }
  std::vector<float> all;
  for (const auto& of_prompt : logits) all.insert(all.end(), of_prompt.begin(), of_prompt.end());
  return all;
}

void expect_logits_of(std::span<const char* const> checkpoints) {
  for (const char* checkpoint : checkpoints) {
    const Golden golden = read_golden(checkpoint);
    ModelFiles files = must(open_model(directory_of(checkpoint)));
    each_compute_type([&](Backend& backend) {
      const DType compute = backend.info().compute;
      std::vector<float> first;
      for (const Way& way : {Way{"K,V", all_kv, 1000, {}}, {"X", all_x, 50, {}}, {"K,V then X", kv_then_x, 70, {}},
                             {"X then K,V", x_then_kv, 64, {1, 2, 2, 16}}, {"X, token by token", all_x, 1, {4, 3, 3, 0}},
                             {"K,V, token by token", all_kv, 1, {4, 2, 2, 0}}}) {
        const std::vector<float> logits = decode(backend, files, golden, way);
        const double error = relative_error(logits, golden.logits);
        std::printf("%s %s %s: error %.2e\n", checkpoint, name_of(compute), way.name, error);
        assert_true(error <= largest_error(compute));
        if (first.empty()) first = logits;
        if (std::memcmp(first.data(), logits.data(), logits.size() * sizeof(float)) == 0) continue;
        std::printf("%s %s %s: other bits, %.2e away\n", checkpoint, name_of(compute), way.name,
                    relative_error(logits, first));
        fail();
      }
    });
  }
}

void logits_agree_with_transformers_whatever_is_stored_and_how_it_comes(void**) { expect_logits_of(kCheckpoints); }
void logits_of_every_family_do_too(void**) { expect_logits_of(kFamilies); }

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  if (!has_gpu()) return kSkipped;
  const CMUnitTest tests[] = {
      cmocka_unit_test(logits_agree_with_transformers_whatever_is_stored_and_how_it_comes),
      cmocka_unit_test(logits_of_every_family_do_too),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
