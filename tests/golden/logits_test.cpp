// SPDX-License-Identifier: Apache-2.0
// Logits of the committed checkpoints against transformers', with every ISA of this machine and both compute types.
#include <cstdio>
#include <filesystem>

#include "daemon/model/model_files.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"
#include "tests/golden/tolerance.h"

#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

void expect_logits(const std::string& path, const Golden& golden, const Variant& variant) {
  ModelFiles files = must(open_model(path));
  auto backend = variant.backend();
  Decoder decoder(*backend, files);
  std::vector<Sequence> sequences(golden.prompts.size());
  std::vector<Decoder::Append> appends;
  for (size_t i = 0; i < sequences.size(); ++i) appends.push_back({&sequences[i], golden.prompts[i]});
  double error = relative_error(decoder.step(appends), golden.logits);
  std::printf("%s %s %s: error %.2e\n", path.c_str(), name_of(variant.isa), name_of(variant.compute), error);
  assert_true(error <= tolerance(variant.compute));
}

void expect_transformers_logits(const char* checkpoint) {
  Golden golden = read_golden(checkpoint);
  each_variant([&](const Variant& variant) { expect_logits(directory_of(checkpoint), golden, variant); });
}

void every_family_agrees_with_transformers(void**) {
  for (const char* family : kFamilies) expect_transformers_logits(family);
}

void every_family_is_the_same_from_gguf(void**) {
  int read = 0;
  for (const char* family : kFamilies) {
    const std::string path = directory_of(family) + "/model.gguf";
    if (!std::filesystem::exists(path)) continue;
    Golden golden = read_golden(family);
    for (DType compute : {DType::f32, DType::bf16}) expect_logits(path, golden, {CpuIsa::automatic, compute});
    ++read;
  }
  assert_int_equal(read, std::size(kFamilies) - 1);
}

void what_weights_need_is_known_before_they_are_read(void**) {
  std::vector<std::string> paths;
  for (const char* checkpoint : kCheckpoints) paths.push_back(directory_of(checkpoint));
  for (const char* family : kFamilies) paths.push_back(directory_of(family));
  for (const std::string& path : paths) {
    ModelFiles files = must(open_model(path));
    for (DType compute : {DType::f32, DType::bf16}) {
      auto backend = Variant{CpuIsa::automatic, compute}.backend();
      const WeightNeed need = must(weight_need(*backend, files));
      assert_int_equal(need.device_bytes, must(load_weights(*backend, files, {})).stored_bytes);
      assert_int_equal(need.file_bytes, files.stored_bytes());
    }
  }
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
      cmocka_unit_test(what_weights_need_is_known_before_they_are_read),
      cmocka_unit_test(every_family_agrees_with_transformers),
      cmocka_unit_test(every_family_is_the_same_from_gguf),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
