// SPDX-License-Identifier: Apache-2.0
// Logits of the committed checkpoints against transformers', with every ISA of this machine and both compute types.
#include <cstdio>

#include "daemon/model/model_files.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"
#include "tests/golden/tolerance.h"

#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

void expect_transformers_logits(const char* checkpoint) {
  Golden golden = read_golden(checkpoint);
  ModelFiles files = must(open_model(directory_of(checkpoint)));
  each_variant([&](const Variant& variant) {
    auto backend = variant.backend();
    Decoder decoder(*backend, files);
    std::vector<Sequence> sequences(golden.prompts.size());
    std::vector<Decoder::Append> appends;
    for (size_t i = 0; i < sequences.size(); ++i) appends.push_back({&sequences[i], golden.prompts[i]});
    double error = relative_error(decoder.step(appends), golden.logits);
    std::printf("%s %s %s: error %.2e\n", checkpoint, name_of(variant.isa), name_of(variant.compute), error);
    assert_true(error <= tolerance(variant.compute));
  });
}

void opt_agrees_with_transformers(void**) { expect_transformers_logits("opt"); }
void llama_with_a_kv_head_for_every_head_agrees_with_transformers(void**) { expect_transformers_logits("llama_mha"); }
void llama_with_shared_kv_heads_and_scaled_rope_agrees_with_transformers(void**) {
  expect_transformers_logits("llama_gqa");
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(opt_agrees_with_transformers),
      cmocka_unit_test(llama_with_a_kv_head_for_every_head_agrees_with_transformers),
      cmocka_unit_test(llama_with_shared_kv_heads_and_scaled_rope_agrees_with_transformers),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
