// SPDX-License-Identifier: Apache-2.0
// The text encoder of `iokv generate` against Hugging Face `tokenizers`, by files of the kinds that models have
// (tokenizers.json, written by scripts/make_tokenizer_golden.py); and what it does not know.
#include "tools/text_encoder.h"

#include <cstdio>
#include <cstring>
#include <fstream>

#include <nlohmann/json.hpp>

#include "tests/cmocka_cpp.h"

namespace iokv::test {
namespace {

using nlohmann::json;

Result<TextEncoder> encoder_of(const json& tokenizer) {
  const std::string text = tokenizer.dump();
  return TextEncoder::make(text);
}

void tokens_are_those_of_hugging_faces_tokenizers(void**) {
  const json file = json::parse(std::ifstream(IOKV_TOKENIZERS));
  for (const json& one : file.at("cases")) {
    auto encoder = encoder_of(one.at("tokenizer"));
    assert_true(static_cast<bool>(encoder));
    for (size_t i = 0; i < file.at("texts").size(); ++i) {
      const std::string text = file.at("texts").at(i);
      auto tokens = encoder->encode(text);
      assert_true(static_cast<bool>(tokens));
      const bool same = *tokens == one.at("tokens").at(i).get<std::vector<int32_t>>();
      if (!same) std::printf("%s: \"%s\"\n", one.at("name").get<std::string>().c_str(), text.c_str());
      assert_true(same);
    }
  }
}

// The last letter of a text changes its tokens: the comparison above can fail.
void texts_that_differ_have_other_tokens(void**) {
  const json file = json::parse(std::ifstream(IOKV_TOKENIZERS));
  for (const json& one : file.at("cases")) {
    auto encoder = encoder_of(one.at("tokenizer"));
    assert_false(*encoder->encode("the quick brown fox") == *encoder->encode("the quick brown foz"));
  }
}

void what_is_not_known_is_named(void**) {
  const json file = json::parse(std::ifstream(IOKV_TOKENIZERS));
  const auto message_of = [](const json& tokenizer) {
    auto encoder = encoder_of(tokenizer);
    assert_false(static_cast<bool>(encoder));
    return encoder.failure().message;
  };
  json changed = file.at("cases").at(0).at("tokenizer");
  changed["normalizer"] = {{"type", "BertNormalizer"}};
  assert_non_null(std::strstr(message_of(changed).c_str(), "normaliser of type BertNormalizer"));
  changed["normalizer"] = nullptr;
  changed["pre_tokenizer"] = {{"type", "UnicodeScripts"}};
  assert_non_null(std::strstr(message_of(changed).c_str(), "pre-tokeniser of type UnicodeScripts"));
  changed["model"] = {{"type", "Unigram"}};
  assert_non_null(std::strstr(message_of(changed).c_str(), "model of type Unigram"));
  changed.erase("model");
  assert_non_null(std::strstr(message_of(changed).c_str(), "not as `tokenizers` writes it"));
  const std::string broken = "{\"model\": ";
  auto encoder = TextEncoder::make(broken);
  assert_false(static_cast<bool>(encoder));
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(tokens_are_those_of_hugging_faces_tokenizers),
      cmocka_unit_test(texts_that_differ_have_other_tokens),
      cmocka_unit_test(what_is_not_known_is_named),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
