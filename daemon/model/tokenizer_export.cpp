// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/tokenizer_export.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <optional>
#include <string_view>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "daemon/model/gguf.h"
#include "daemon/model/json_file.h"
#include "daemon/model/tensor_file.h"

namespace iokv {
namespace {

using nlohmann::json;

// ---- from vocabulary entries to bytes -------------------------------------------------------------------------------

std::string utf8_of(uint32_t code) {
  std::string text;
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else {
    text += static_cast<char>(0xc0 | code >> 6);
    text += static_cast<char>(0x80 | (code & 0x3f));
  }
  return text;
}

// GPT-2 writes each byte as a printable character: printable Latin-1 as itself, the other 68 from U+0100 on, in order.
const std::unordered_map<std::string, char>& byte_characters() {
  static const auto kCharacters = [] {
    std::unordered_map<std::string, char> characters;
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; byte++) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
      characters.emplace(utf8_of(printable ? byte : next++), static_cast<char>(byte));
    }
    return characters;
  }();
  return kCharacters;
}

// The bytes of a byte-level entry; text that is not in GPT-2's alphabet stands for itself.
std::string bytes_of_byte_level(std::string_view entry) {
  std::string bytes;
  for (size_t i = 0; i < entry.size();) {
    const unsigned char lead = static_cast<unsigned char>(entry[i]);
    const size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    const auto found = byte_characters().find(std::string(entry.substr(i, length)));
    if (found == byte_characters().end()) return std::string(entry);
    bytes += found->second;
    i += length;
  }
  return bytes;
}

// SentencePiece: "<0x0A>" is a byte, U+2581 a space.
std::string bytes_of_sentencepiece(std::string_view entry) {
  unsigned value = 0;
  if (entry.size() == 6 && entry.starts_with("<0x") && entry.ends_with(">")) {
    const auto [end, failed] = std::from_chars(entry.data() + 3, entry.data() + 5, value, 16);
    if (failed == std::errc() && end == entry.data() + 5) return std::string(1, static_cast<char>(value));
  }
  constexpr std::string_view kSpace = "\xe2\x96\x81";
  std::string bytes;
  for (size_t i = 0; i < entry.size();) {
    const bool space = entry.substr(i, kSpace.size()) == kSpace;
    bytes += space ? ' ' : entry[i];
    i += space ? kSpace.size() : 1;
  }
  return bytes;
}

// ---- GGUF -----------------------------------------------------------------------------------------------------------

// As GGUF's tokenizer.ggml.token_type numbers them.
enum class TokenType : int { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

json byte_level(bool splits) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", splits}};
}

json split_by(const char* expression) {
  return {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}};
}

// How text is cut before merging, by the name that llama.cpp's converter gives the pre-tokenizer.
struct PreTokenizer {
  json steps;
  bool ignore_merges = false;
};

std::optional<PreTokenizer> pre_tokenizer_named(std::string_view name) {
  if (name == "gpt-2" || name == "default" || name.empty()) return PreTokenizer{byte_level(true)};
  if (name == "smollm") {
    return PreTokenizer{{{"type", "Sequence"},
                         {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, byte_level(true)}}}};
  }
  if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") {
    const json split = split_by(
        R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)");
    return PreTokenizer{{{"type", "Sequence"}, {"pretokenizers", {split, byte_level(false)}}}, true};
  }
  return std::nullopt;
}

json added_token(size_t id, std::string_view text, bool special) {
  return {{"id", id},       {"content", text}, {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

json put_first(std::string_view text, size_t id) {
  const json special = {{"SpecialToken", {{"id", text}, {"type_id", 0}}}};
  const json sequence_a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json sequence_b = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  return {{"type", "TemplateProcessing"},
          {"single", {special, sequence_a}},
          {"pair", {special, sequence_a, sequence_b}},
          {"special_tokens", {{text, {{"id", text}, {"ids", {id}}, {"tokens", {text}}}}}}};
}

std::string text_of_json(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

class GgufTokenizer {
 public:
  explicit GgufTokenizer(const GgufFile& file)
      : file_(file),
        tokens_(strings_of(file.find("tokenizer.ggml.tokens"))),
        types_(numbers_of(file.find("tokenizer.ggml.token_type"))) {}

  TokenizerExport take() {
    TokenizerExport result;
    result.chat_template = text_of(file_.find("tokenizer.chat_template"));
    if (tokens_.empty()) return result;
    const std::string_view model = text_of(file_.find("tokenizer.ggml.model"));
    const bool byte_level_bpe = model == "gpt2";
    for (size_t id = 0; id < tokens_.size(); id++) {
      const bool plain = type_of(id) == TokenType::normal || type_of(id) == TokenType::byte;
      result.token_bytes.push_back(!plain           ? std::string(tokens_[id])
                                   : byte_level_bpe ? bytes_of_byte_level(tokens_[id])
                                                    : bytes_of_sentencepiece(tokens_[id]));
    }
    const auto begin = special("tokenizer.ggml.bos_token_id"), end = special("tokenizer.ggml.eos_token_id");
    if (begin) result.begin_text = tokens_[*begin];
    if (end) result.end_text = tokens_[*end];
    result.adds_begin = begin && flag("tokenizer.ggml.add_bos_token", model == "llama");
    if (byte_level_bpe) {
      result.tokenizer_json = byte_level_json(result, begin);
    } else {
      result.note = "the model's tokenizer is " + shown(model) + ": clients get its tokens' bytes, but no tokenizer.json";
    }
    return result;
  }

 private:
  TokenType type_of(size_t id) const {
    const double type = id < types_.size() ? types_[id] : 0;
    return type >= 1 && type <= 6 ? static_cast<TokenType>(static_cast<int>(type)) : TokenType::normal;
  }
  bool flag(std::string_view key, bool absent) const {
    const GgufValue* value = file_.find(key);
    return value == nullptr || value->type != GgufType::boolean ? absent : value->bytes[0] != std::byte{0};
  }
  std::optional<size_t> special(std::string_view key) const {
    const GgufValue* value = file_.find(key);
    if (value == nullptr || value->bytes.size() != sizeof(uint32_t)) return std::nullopt;
    uint32_t id;
    std::copy_n(value->bytes.begin(), sizeof id, reinterpret_cast<std::byte*>(&id));
    return id < tokens_.size() ? std::optional<size_t>(id) : std::nullopt;
  }

  std::string byte_level_json(TokenizerExport& result, std::optional<size_t> begin) const {
    const std::string_view name = text_of(file_.find("tokenizer.ggml.pre"));
    std::optional<PreTokenizer> pre = pre_tokenizer_named(name);
    if (!pre) {
      result.note = "pre-tokenizer " + shown(name) + " is not known: GPT-2's is exported, which may cut text differently";
      pre = pre_tokenizer_named("gpt-2");
    }
    json vocabulary = json::object(), added = json::array();
    for (size_t id = 0; id < tokens_.size(); id++) {
      vocabulary[std::string(tokens_[id])] = id;
      const TokenType type = type_of(id);
      if (type == TokenType::control || type == TokenType::user_defined || type == TokenType::unknown) {
        added.push_back(added_token(id, tokens_[id], type != TokenType::user_defined));
      }
    }
    json merges = json::array();
    for (std::string_view merge : strings_of(file_.find("tokenizer.ggml.merges"))) merges.push_back(merge);
    const json tokenizer = {
        {"version", "1.0"},
        {"truncation", nullptr},
        {"padding", nullptr},
        {"added_tokens", added},
        {"normalizer", nullptr},
        {"pre_tokenizer", pre->steps},
        {"post_processor", result.adds_begin && begin ? put_first(tokens_[*begin], *begin) : byte_level(true)},
        {"decoder", byte_level(true)},
        {"model",
         {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", pre->ignore_merges},
          {"vocab", vocabulary},
          {"merges", merges}}}};
    return text_of_json(tokenizer);
  }

  const GgufFile& file_;
  const std::vector<std::string_view> tokens_;
  const std::vector<double> types_;
};

// ---- Hugging Face directories ---------------------------------------------------------------------------------------

// Whether any step of the decoder or pre-tokenizer is of the type.
bool uses(const json& step, std::string_view type) {
  if (!step.is_object()) return false;
  if (step.value("type", "") == type) return true;
  for (const char* key : {"decoders", "pretokenizers"}) {
    auto steps = step.find(key);
    if (steps == step.end() || !steps->is_array()) continue;
    if (std::any_of(steps->begin(), steps->end(), [=](const json& one) { return uses(one, type); })) return true;
  }
  return false;
}

json member(const json& object, const char* key) {
  auto found = object.is_object() ? object.find(key) : object.end();
  return found == object.end() ? json() : *found;
}

// A special token's text: a string, or an object with "content".
std::string special_text(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  const json content = member(value, "content");
  return content.is_string() ? content.get<std::string>() : "";
}

std::vector<std::string> bytes_by_id(const json& tokenizer) {
  constexpr uint64_t kMostTokens = 1u << 22;
  std::vector<std::string> tokens;
  auto put = [&](const json& id, std::string bytes) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMostTokens) return;
    if (id.get<uint64_t>() >= tokens.size()) tokens.resize(id.get<uint64_t>() + 1);
    tokens[id.get<uint64_t>()] = std::move(bytes);
  };
  const bool byte_level_bpe = uses(member(tokenizer, "decoder"), "ByteLevel") ||
                              uses(member(tokenizer, "pre_tokenizer"), "ByteLevel");
  const json vocabulary = member(member(tokenizer, "model"), "vocab");
  if (vocabulary.is_object()) {
    for (const auto& [entry, id] : vocabulary.items()) {
      put(id, byte_level_bpe ? bytes_of_byte_level(entry) : bytes_of_sentencepiece(entry));
    }
  }
  for (const json& added : member(tokenizer, "added_tokens")) put(member(added, "id"), special_text(added));
  return tokens;
}

// A string, or a list of named ones of which "default" is meant.
std::string template_text(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return "";
  for (const json& named : value) {
    if (special_text(json{{"content", member(named, "name")}}) == "default") {
      return special_text(json{{"content", member(named, "template")}});
    }
  }
  return "";
}

}  // namespace

TokenizerExport export_tokenizer(const GgufFile& file) { return GgufTokenizer(file).take(); }

Result<TokenizerExport> export_tokenizer(const std::string& directory) {
  namespace fs = std::filesystem;
  TokenizerExport result;
  if (const std::string path = directory + "/tokenizer.json"; fs::exists(path)) {
    IOKV_TRY_ASSIGN(result.tokenizer_json, read_text(path));
    IOKV_TRY_ASSIGN(const json tokenizer, parse_json_object(result.tokenizer_json, path));
    result.token_bytes = bytes_by_id(tokenizer);
  }
  if (const std::string path = directory + "/tokenizer_config.json"; fs::exists(path)) {
    IOKV_TRY_ASSIGN(const json config, read_json_object(path));
    result.chat_template = template_text(member(config, "chat_template"));
    result.begin_text = special_text(member(config, "bos_token"));
    result.end_text = special_text(member(config, "eos_token"));
    result.adds_begin = member(config, "add_bos_token") == true;
  }
  if (const std::string path = directory + "/chat_template.jinja"; fs::exists(path)) {
    IOKV_TRY_ASSIGN(result.chat_template, read_text(path));
  }
  return result;
}

}  // namespace iokv
