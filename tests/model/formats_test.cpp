// SPDX-License-Identifier: Apache-2.0
// Model files as bytes: quantised blocks against the Python package gguf (quantised.json, made by
// scripts/make_quantised.py), and what is refused. Whole models against transformers: tests/golden.
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <nlohmann/json.hpp>

#include "daemon/base/dtype.h"
#include "daemon/model/gguf.h"
#include "daemon/model/model_files.h"
#include "daemon/model/safetensors.h"
#include "daemon/model/stored_type.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

const std::string kGguf = "tests/fuzz/seeds/gguf/llama", kSafetensors = "tests/fuzz/seeds/safetensors/three";
const std::string kModel = "tests/golden/llama_gqa";

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::byte> from_hex(const std::string& text) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i < text.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

class Scratch {
 public:
  Scratch() {
    char path[] = "/tmp/iokv-test-XXXXXX";
    path_ = ::mkdtemp(path);
  }
  ~Scratch() { fs::remove_all(path_); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << bytes;
    return path_ + "/" + name;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// One line that names the file and something more.
void assert_refusal(const std::string& message, const std::string& path, const std::string& what) {
  if (message.find(path) == std::string::npos || message.find(what) == std::string::npos ||
      message.find('\n') != std::string::npos) {
    fail_msg("\"%s\" does not name %s and \"%s\" in one line", message.c_str(), path.c_str(), what.c_str());
  }
}

void quantised_blocks_decode_bit_for_bit_as_in_gguf(void**) {
  const json cases = json::parse(contents("tests/model/quantised.json"));
  const std::pair<const char*, StoredType> types[] = {
      {"Q4_0", StoredType::q4_0}, {"Q4_1", StoredType::q4_1}, {"Q5_0", StoredType::q5_0}, {"Q5_1", StoredType::q5_1},
      {"Q8_0", StoredType::q8_0}, {"Q2_K", StoredType::q2_k}, {"Q3_K", StoredType::q3_k}, {"Q4_K", StoredType::q4_k},
      {"Q5_K", StoredType::q5_k}, {"Q6_K", StoredType::q6_k}, {"IQ4_NL", StoredType::iq4_nl}};
  assert_int_equal(std::size(types), cases.size());
  for (const auto& [name, type] : types) {
    const auto stored = from_hex(cases[name]["bytes"].get<std::string>());
    const auto expected = from_hex(cases[name]["f32"].get<std::string>());
    const size_t count = expected.size() / sizeof(float);
    assert_int_equal(stored_bytes_of(type, count), stored.size());
    std::vector<float> values(count);
    dequantize_row(type, stored, values.data(), count);
    if (std::memcmp(values.data(), expected.data(), expected.size()) != 0) fail_msg("%s differs", name);
    // And as quants, in its own form and in the widest one.
    const QuantForm form = quant_form_of(type), widest = common_form(form, {8, 16, true, false, {}});
    for (const QuantForm& to : {form, widest}) {
      std::vector<uint8_t> quants(count);
      std::vector<float> scales(count / to.block), minima(count / to.block);
      const size_t blocks = count / form.block;
      read_quants(type, stored, {quants, std::span(scales).first(blocks), std::span(minima).first(blocks)});
      widen(form, to, {quants, scales, minima});
      for (size_t i = 0; i < count; ++i) {
        const int quant = to.bits == 4 ? to.values[quants[i]] : static_cast<int8_t>(quants[i]);
        const float product = static_cast<float>(quant) * scales[i / to.block];
        if (product + minima[i / to.block] != values[i]) fail_msg("%s differs as quants, element %zu", name, i);
        if (to.halves) assert_true(f16_to_f32(f32_to_f16(scales[i / to.block])) == scales[i / to.block]);
      }
    }
    assert_string_equal(std::string(layout_of(type).name).c_str(), name);
  }
}

void a_gguf_model_is_described_by_its_metadata(void**) {
  auto opened = open_model(kGguf);
  if (!opened) fail_msg("%s", opened.failure().message.c_str());
  const ModelSpec& spec = opened->spec();
  assert_int_equal(spec.layers, 1);
  assert_int_equal(spec.heads, 2);
  assert_int_equal(spec.kv_heads, 1);
  assert_int_equal(spec.head_dim, 16);
  assert_int_equal(spec.vocab, 8);
  assert_true(spec.tied_embeddings);
  const TokenizerExport& text = opened->tokenizer();
  assert_int_equal(text.token_bytes.size(), 8);
  assert_string_equal(text.token_bytes[6].c_str(), " a");
  assert_string_equal(text.token_bytes[0].c_str(), "<s>");
  const json tokenizer = json::parse(text.tokenizer_json);
  assert_int_equal(tokenizer["added_tokens"].size(), 2);
  assert_int_equal(tokenizer["model"]["merges"].size(), 2);
  assert_string_equal(tokenizer["pre_tokenizer"]["pretokenizers"][0]["type"].get<std::string>().c_str(), "Digits");
}

// Overwrites a number behind a text of the file.
template <typename T>
std::string with_number(std::string bytes, const std::string& text, size_t behind, T number) {
  const size_t at = text.empty() ? behind : bytes.find(text) + text.size() + behind;
  assert_true(at + sizeof number <= bytes.size());
  return bytes.replace(at, sizeof number, reinterpret_cast<const char*>(&number), sizeof number);
}

void a_gguf_file_that_cannot_be_is_refused_by_name(void**) {
  const std::string whole = contents(kGguf), tensor = "blk.0.attn_q.weight";
  std::string mamba = whole;
  mamba.replace(mamba.find("general.architecture") + 20 + 4 + 8, 5, "mamba");
  // Behind a tensor's name: dimension count u32, two dimensions u64, type u32, offset u64.
  const std::pair<std::string, const char*> cases[] = {
      {mamba, "mamba"},
      {with_number(whole, "", 4, uint32_t{1}), "version 1"},
      {with_number(whole, "", 8, uint64_t{1} << 60), "tensor count"},
      {with_number(whole, "", 16, uint64_t{1} << 60), "metadata count"},
      {with_number(whole, "tokenizer.ggml.tokens", 8, uint64_t{1} << 60), "array's length"},
      {with_number(whole, tensor, 0, uint32_t{1} << 31), "dimensions"},
      {with_number(whole, tensor, 4, uint64_t{1} << 62), tensor.c_str()},
      {with_number(whole, tensor, 12, uint64_t{1} << 40), "truncated"},
      {with_number(whole, tensor, 12, uint64_t{16}), "shape"},
      {with_number(whole, tensor, 20, uint32_t{22}), "IQ2_S"},
      {with_number(whole, tensor, 20, uint32_t{999}), "999"},
      {with_number(whole, tensor, 24, uint64_t{1} << 62), tensor.c_str()},
      {with_number(whole, "llama.block_count", 4, uint32_t{2}), "blk.1."},
      {with_number(whole, "llama.block_count", 4, uint32_t{0xffffffff}), "llama.block_count"},
      {with_number(whole, "llama.attention.head_count_kv", 4, uint32_t{3}), "evenly"},
  };
  Scratch scratch;
  for (const auto& [bytes, mentions] : cases) {
    auto opened = open_model(scratch.write("m.gguf", bytes));
    if (opened) fail_msg("accepted: %s", mentions);
    assert_refusal(opened.failure().message, "m.gguf", mentions);
  }
}

void every_shortened_gguf_file_is_refused(void**) {
  const std::string whole = contents(kGguf);
  Scratch scratch;
  for (size_t size = 1; size < whole.size(); size += size < 2000 ? 1 : 97) {
    auto opened = open_model(scratch.write("m.gguf", whole.substr(0, size)));
    if (opened) fail_msg("%zu of %zu bytes were enough", size, whole.size());
    assert_refusal(opened.failure().message, "m.gguf", "");
  }
}

void every_shortened_safetensors_file_is_refused(void**) {
  const std::string whole = contents(kSafetensors);
  Scratch scratch;
  assert_true(static_cast<bool>(open_safetensors(kSafetensors)));
  for (size_t size = 1; size < whole.size(); size++) {
    auto opened = open_safetensors(scratch.write("m.safetensors", whole.substr(0, size)));
    if (opened) fail_msg("%zu of %zu bytes were enough", size, whole.size());
  }
}

void a_sharded_model_is_the_same_model(void**) {
  Scratch scratch;
  auto single = open_model(kModel);
  fs::copy(kModel + "/model.safetensors", scratch.path() + "/model-00001-of-00001.safetensors");
  fs::copy(kModel + "/config.json", scratch.path() + "/config.json");
  json map = json::object();
  auto tensors = open_safetensors(kModel + "/model.safetensors");
  for (const auto& [name, tensor] : tensors->tensors()) map[name] = "model-00001-of-00001.safetensors";
  scratch.write("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  auto sharded = open_model(scratch.path());
  if (!sharded) fail_msg("%s", sharded.failure().message.c_str());
  assert_memory_equal(sharded->digest().data(), single->digest().data(), single->digest().size());
  map["model.norm.weight"] = "../model.safetensors";
  scratch.write("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  assert_refusal(open_model(scratch.path()).failure().message, "index.json", "plain name");
}

// A copy of the golden model with one setting changed, and what the refusal must mention.
void settings_that_cannot_be_are_refused_by_name(void**) {
  const std::tuple<const char*, json, const char*> cases[] = {
      {"model_type", "mamba", "there are: llama, mistral, qwen2, qwen3, phi3, olmo, gemma2, opt, gpt2, gpt_neox, phi"},
      {"model_type", nullptr, "architecture"},
      {"num_hidden_layers", -1, "num_hidden_layers"},
      {"num_hidden_layers", 4, "missing"},
      {"hidden_size", 1e30, "hidden_size"},
      {"hidden_size", "64", "hidden_size"},
      {"vocab_size", 1ull << 60, "vocab_size"},
      {"vocab_size", 129, "shape"},
      {"num_key_value_heads", 3, "evenly"},
      {"head_dim", 25, "odd"},
      {"hidden_act", "swish2", "hidden_act"},
      {"rms_norm_eps", 0, "rms_norm_eps"},
      {"max_position_embeddings", 0, "max_position_embeddings"},
      {"rope_parameters", {{"rope_type", "spiral"}, {"rope_theta", 1e4}},
       "there are: default, linear, dynamic, llama3, yarn, longrope"},
      {"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}, "factor"},
      {"rope_parameters", {{"rope_type", "longrope"}, {"short_factor", {1, 2}}}, "short_factor"},
      {"rope_parameters", {{"partial_rotary_factor", 0.3}}, "partial_rotary_factor"},
      {"rope_parameters", {{"rope_type", "llama3"}, {"rope_theta", 1e4}}, "factor"},
      {"rope_parameters", 7, "rope_parameters"},
      {"mlp_bias", true, "missing"},
      {"eos_token_id", "end", "eos_token_id"},
  };
  const json config = json::parse(contents(kModel + "/config.json"));
  Scratch scratch;
  fs::copy(kModel + "/model.safetensors", scratch.path() + "/model.safetensors");
  for (const auto& [key, value, mentions] : cases) {
    json changed = config;
    changed[key] = value;
    scratch.write("config.json", changed.dump());
    auto opened = open_model(scratch.path());
    if (opened) fail_msg("%s = %s was accepted", key, value.dump().c_str());
    assert_refusal(opened.failure().message, scratch.path(), mentions);
  }
}

void older_configurations_mean_the_same(void**) {
  // rope_scaling and rope_theta beside each other, as before transformers 5.
  json config = json::parse(contents(kModel + "/config.json"));
  const json rope = config["rope_parameters"];
  config.erase("rope_parameters");
  config["rope_theta"] = rope["rope_theta"];
  config["rope_scaling"] = rope;
  config["rope_scaling"].erase("rope_theta");
  Scratch scratch;
  fs::copy(kModel + "/model.safetensors", scratch.path() + "/model.safetensors");
  scratch.write("config.json", config.dump());
  auto now = open_model(kModel), before = open_model(scratch.path());
  assert_true(now->spec().rope_inverse_frequency == before->spec().rope_inverse_frequency);
}

void linear_scaling_divides_every_frequency(void**) {
  json config = json::parse(contents(kModel + "/config.json"));
  config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 1e4}};
  Scratch scratch;
  fs::copy(kModel + "/model.safetensors", scratch.path() + "/model.safetensors");
  scratch.write("config.json", config.dump());
  auto opened = open_model(scratch.path());
  if (!opened) fail_msg("%s", opened.failure().message.c_str());
  const auto& frequencies = opened->spec().rope_inverse_frequency;
  assert_int_equal(frequencies.size(), opened->spec().head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); i++) {
    const double expected = std::pow(1e4, -2.0 * static_cast<double>(i) / opened->spec().head_dim) / 4;
    assert_true(std::abs(frequencies[i] - expected) <= 1e-6 * expected);
  }
}

// Against transformers' own functions (scripts/make_golden_families.py --rope).
void rope_of_every_type_has_the_frequencies_of_transformers(void**) {
  const json cases = json::parse(contents("tests/model/rope.json"));
  assert_true(cases.size() >= 12);
  for (const json& one : cases) {
    const json config = {{"model_type", "llama"},   {"num_hidden_layers", 1},  {"hidden_size", 64},
                         {"num_attention_heads", 2}, {"intermediate_size", 64}, {"vocab_size", 8},
                         {"head_dim", 32},           {"rms_norm_eps", 1e-5},    {"max_position_embeddings", 2048},
                         {"rope_parameters", one["rope_parameters"]}};
    auto described = describe(Naming::hf, config);
    if (!described) fail_msg("%s", described.failure().message.c_str());
    const auto& frequencies = described->spec.rope_inverse_frequency;
    assert_int_equal(frequencies.size(), one["inverse_frequency"].size());
    for (size_t i = 0; i < frequencies.size(); i++) {
      const double expected = one["inverse_frequency"][i].get<double>();
      if (std::abs(frequencies[i] - expected) > 1e-6 * expected) {
        fail_msg("%s: frequency %zu is %.9g, not %.9g", one["rope_parameters"].dump().c_str(), i,
                 double{frequencies[i]}, expected);
      }
    }
    assert_true(std::abs(described->spec.rope_attention_scale - one["attention_factor"].get<double>()) <= 1e-6);
  }
}

// Where a file has no list of its layers' kinds, Qwen's windows begin at a layer.
void windows_of_older_configurations_follow_their_rules(void**) {
  json config = {{"model_type", "qwen2"},    {"num_hidden_layers", 4},    {"hidden_size", 64},
                 {"num_attention_heads", 2}, {"intermediate_size", 64},   {"vocab_size", 8},
                 {"rms_norm_eps", 1e-5},     {"use_sliding_window", true}, {"max_position_embeddings", 2048},
                 {"sliding_window", 128},    {"max_window_layers", 3}};
  assert_true((describe(Naming::hf, config)->spec.windows == std::vector<uint32_t>{0, 0, 0, 128}));
  config["use_sliding_window"] = false;
  assert_true(describe(Naming::hf, config)->spec.windows.empty());
  config["use_sliding_window"] = true;
  config["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "chunked_attention"};
  auto refused = describe(Naming::hf, config);
  assert_false(static_cast<bool>(refused));
  assert_refusal(refused.failure().message, "layer_types", "chunked_attention");
}

void end_tokens_come_from_both_files(void**) {
  Scratch scratch;
  fs::copy(kModel + "/model.safetensors", scratch.path() + "/model.safetensors");
  fs::copy(kModel + "/config.json", scratch.path() + "/config.json");
  scratch.write("generation_config.json", R"({"eos_token_id": [2, 9]})");
  auto opened = open_model(scratch.path());
  assert_true((opened->spec().end_tokens == std::vector<int32_t>{2, 9}));
  assert_int_equal(opened->spec().begin_token, 1);
}

void what_is_not_a_model_is_called_by_its_name(void**) {
  assert_refusal(open_model("/nonexistent-iokv").failure().message, "/nonexistent-iokv", "no such file");
  Scratch scratch;
  assert_refusal(open_model(scratch.path()).failure().message, "config.json", "");
  assert_refusal(open_model(scratch.write("m.gguf", "not a model at all")).failure().message, "m.gguf", "not a GGUF");
  assert_refusal(open_model(kModel + "/model.safetensors").failure().message, "model.safetensors", "directory");
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(quantised_blocks_decode_bit_for_bit_as_in_gguf),
      cmocka_unit_test(a_gguf_model_is_described_by_its_metadata),
      cmocka_unit_test(a_gguf_file_that_cannot_be_is_refused_by_name),
      cmocka_unit_test(every_shortened_gguf_file_is_refused),
      cmocka_unit_test(every_shortened_safetensors_file_is_refused),
      cmocka_unit_test(a_sharded_model_is_the_same_model),
      cmocka_unit_test(settings_that_cannot_be_are_refused_by_name),
      cmocka_unit_test(older_configurations_mean_the_same),
      cmocka_unit_test(linear_scaling_divides_every_frequency),
      cmocka_unit_test(rope_of_every_type_has_the_frequencies_of_transformers),
      cmocka_unit_test(windows_of_older_configurations_follow_their_rules),
      cmocka_unit_test(end_tokens_come_from_both_files),
      cmocka_unit_test(what_is_not_a_model_is_called_by_its_name),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
