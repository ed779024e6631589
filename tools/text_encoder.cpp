// SPDX-License-Identifier: Apache-2.0
#include "tools/text_encoder.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <queue>
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unicode/normalizer2.h>
#include <unicode/regex.h>
#include <unicode/unistr.h>

namespace iokv {
namespace {

using nlohmann::json;
using Pieces = std::vector<std::string>;
using Normaliser = std::function<std::string(std::string)>;
using PreTokeniser = std::function<Pieces(Pieces)>;

Error unknown(const char* what, const std::string& type) {
  return error(fmt::format("the model's tokenizer has a {} of type {}, which iokv generate does not know: use iokv-chat", what, type));
}

std::string type_of(const json& part) { return part.value("type", std::string("?")); }

// The bytes of the character at `at`.
size_t character_bytes(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const size_t bytes = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  return std::min(bytes, text.size() - at);
}

void append_code(std::string& text, uint32_t code) {
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else {
    text += static_cast<char>(0xc0 | code >> 6);
    text += static_cast<char>(0x80 | (code & 0x3f));
  }
}

// As GPT-2 writes bytes: printable Latin-1 as itself, the other 68 from U+0100 on, in order.
std::string as_byte_level(std::string_view text) {
  static const auto kShown = [] {
    std::vector<std::string> shown(256);
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
      append_code(shown[byte], printable ? byte : next++);
    }
    return shown;
  }();
  std::string out;
  for (char byte : text) out += kShown[static_cast<unsigned char>(byte)];
  return out;
}

std::string replace_all(std::string_view text, const std::string& from, const std::string& to) {
  std::string out;
  size_t at = 0;
  for (size_t found; !from.empty() && (found = text.find(from, at)) != std::string::npos; at = found + from.size()) {
    out.append(text.substr(at, found - at)).append(to);
  }
  return out.append(text.substr(at));
}

enum class Keep : uint8_t { isolated, removed, with_previous, with_next };

// A piece into what matches and what lies between.
class Splitter {
 public:
  static Result<Splitter> make(const std::string& expression, Keep keep, bool invert) {
    UErrorCode failed = U_ZERO_ERROR;
    std::shared_ptr<icu::RegexPattern> pattern(
        icu::RegexPattern::compile(icu::UnicodeString::fromUTF8(expression), 0, failed));
    if (U_FAILURE(failed)) {
      return error(fmt::format("the model's tokenizer splits by an expression that ICU does not take ({}): use iokv-chat", u_errorName(failed)));
    }
    return Splitter(std::move(pattern), keep, invert);
  }

  Pieces operator()(const std::string& piece) const {
    UErrorCode failed = U_ZERO_ERROR;
    const icu::UnicodeString text = icu::UnicodeString::fromUTF8(piece);
    std::unique_ptr<icu::RegexMatcher> matcher(pattern_->matcher(text, failed));
    Pieces out;
    std::string carried;  // of a match that goes with what follows
    int32_t end = 0;
    auto add = [&](int32_t from, int32_t to, bool match) {
      if (from == to) return;
      std::string part;
      text.tempSubStringBetween(from, to).toUTF8String(part);
      if (!match) {
        out.push_back(std::exchange(carried, "") + part);
      } else if (keep_ == Keep::isolated) {
        out.push_back(part);
      } else if (keep_ == Keep::with_previous) {
        out.empty() ? out.push_back(part) : void(out.back() += part);
      } else if (keep_ == Keep::with_next) {
        carried += part;
      }
    };
    while (matcher->find(failed) && U_SUCCESS(failed)) {
      const int32_t from = matcher->start(failed), to = matcher->end(failed);
      add(end, from, invert_);
      add(from, to, !invert_);
      end = to;
    }
    add(end, text.length(), invert_);
    if (!carried.empty()) out.push_back(carried);
    return out;
  }

 private:
  Splitter(std::shared_ptr<icu::RegexPattern> pattern, Keep keep, bool invert)
      : pattern_(std::move(pattern)), keep_(keep), invert_(invert) {}

  std::shared_ptr<icu::RegexPattern> pattern_;  // std::function copies what it holds
  Keep keep_;
  bool invert_;
};

PreTokeniser for_each(std::function<Pieces(const std::string&)> split) {
  return [split = std::move(split)](const Pieces& pieces) {
    Pieces out;
    for (const std::string& piece : pieces) {
      for (std::string& part : split(piece)) out.push_back(std::move(part));
    }
    return out;
  };
}

Result<std::vector<Normaliser>> normalisers_of(const json& part) {
  std::vector<Normaliser> found;
  if (part.is_null()) return found;
  const std::string type = type_of(part);
  if (type == "Sequence") {
    for (const json& inner : part.at("normalizers")) {
      IOKV_TRY_ASSIGN(std::vector<Normaliser> more, normalisers_of(inner));
      found.insert(found.end(), more.begin(), more.end());
    }
  } else if (type == "NFC" || type == "NFKC") {
    UErrorCode failed = U_ZERO_ERROR;
    const icu::Normalizer2* form =
        type == "NFC" ? icu::Normalizer2::getNFCInstance(failed) : icu::Normalizer2::getNFKCInstance(failed);
    if (U_FAILURE(failed)) return error(fmt::format("ICU has no {}: {}", type, u_errorName(failed)));
    found.push_back([form](const std::string& text) {
      UErrorCode ignored = U_ZERO_ERROR;
      std::string out;
      form->normalize(icu::UnicodeString::fromUTF8(text), ignored).toUTF8String(out);
      return out;
    });
  } else if (type == "Prepend") {
    found.push_back([with = part.at("prepend").get<std::string>()](std::string text) {
      return text.empty() ? text : with + text;
    });
  } else if (type == "Replace" && part.at("pattern").contains("String")) {
    found.push_back([from = part.at("pattern").at("String").get<std::string>(),
                     to = part.at("content").get<std::string>()](const std::string& text) { return replace_all(text, from, to); });
  } else {
    return unknown("normaliser", type);
  }
  return found;
}

// As ByteLevel splits where use_regex says so.
constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string escaped(const std::string& text) {
  std::string out;
  for (char letter : text) {
    if (std::string_view(R"(\^$.|?*+()[]{})").find(letter) != std::string_view::npos) out += '\\';
    out += letter;
  }
  return out;
}

Result<std::vector<PreTokeniser>> pre_tokenisers_of(const json& part) {
  std::vector<PreTokeniser> found;
  if (part.is_null()) return found;
  const std::string type = type_of(part);
  if (type == "Sequence") {
    for (const json& inner : part.at("pretokenizers")) {
      IOKV_TRY_ASSIGN(std::vector<PreTokeniser> more, pre_tokenisers_of(inner));
      found.insert(found.end(), more.begin(), more.end());
    }
  } else if (type == "Split") {
    const json& pattern = part.at("pattern");
    const std::string expression = pattern.contains("Regex") ? pattern.at("Regex").get<std::string>()
                                                             : escaped(pattern.at("String").get<std::string>());
    const std::string behaviour = part.at("behavior");
    const std::pair<const char*, Keep> known[] = {{"Isolated", Keep::isolated}, {"Removed", Keep::removed},
                                                  {"MergedWithPrevious", Keep::with_previous}, {"MergedWithNext", Keep::with_next}};
    const auto keep = std::find_if(std::begin(known), std::end(known), [&](const auto& one) { return one.first == behaviour; });
    if (keep == std::end(known)) return unknown("pre-tokeniser that splits", behaviour);
    IOKV_TRY_ASSIGN(Splitter splitter, Splitter::make(expression, keep->second, part.value("invert", false)));
    found.push_back(for_each(splitter));
  } else if (type == "Digits") {
    IOKV_TRY_ASSIGN(Splitter splitter, Splitter::make(part.value("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)", Keep::isolated, false));
    found.push_back(for_each(splitter));
  } else if (type == "ByteLevel") {
    if (part.value("add_prefix_space", true)) {
      found.push_back(for_each([](const std::string& piece) { return Pieces{piece.starts_with(' ') ? piece : " " + piece}; }));
    }
    if (part.value("use_regex", true)) {
      IOKV_TRY_ASSIGN(Splitter splitter, Splitter::make(kGpt2, Keep::isolated, false));
      found.push_back(for_each(splitter));
    }
    found.push_back(for_each([](const std::string& piece) { return Pieces{as_byte_level(piece)}; }));
  } else if (type == "Metaspace") {
    const std::string space = part.value("replacement", std::string("\xe2\x96\x81"));
    const std::string scheme = part.value("prepend_scheme", std::string(part.value("add_prefix_space", true) ? "always" : "never"));
    found.push_back([space, scheme, splits = part.value("split", true)](const Pieces& pieces) {
      Pieces out;
      for (const std::string& piece : pieces) {
        std::string text = replace_all(piece, " ", space);
        if (scheme != "never" && !text.starts_with(space)) text = space + text;
        size_t begin = 0;
        for (size_t next; splits && (next = text.find(space, begin + 1)) != std::string::npos; begin = next) {
          out.push_back(text.substr(begin, next - begin));
        }
        out.push_back(text.substr(begin));
      }
      return out;
    });
  } else {
    return unknown("pre-tokeniser", type);
  }
  return found;
}

}  // namespace

struct TextEncoder::State {
  std::unordered_map<std::string, int32_t> vocabulary;
  std::unordered_map<std::string, uint32_t> ranks;  // of "left\nright"; no token has a line feed in it
  bool byte_fallback = false, ignore_merges = false;
  std::optional<int32_t> unknown_token;
  std::vector<std::pair<std::string, int32_t>> added;  // the longest first
  std::vector<Normaliser> normalisers;
  std::vector<PreTokeniser> pre_tokenisers;
  std::vector<int32_t> before, behind;

  Status read_model(const json& model);
  Status read_added(const json& tokens);
  Status read_template(const json& processor);
  Status encode_text(std::string_view text, std::vector<int32_t>& out) const;
  Status encode_piece(const std::string& piece, std::vector<int32_t>& out) const;
  Status append_symbol(const std::string& symbol, std::vector<int32_t>& out) const;
  std::vector<std::string> merge(const std::string& piece) const;
};

Status TextEncoder::State::read_model(const json& model) {
  const std::string type = model.contains("type") ? type_of(model) : "BPE";
  if (type != "BPE") return unknown("model", type);
  if (model.contains("dropout") && !model.at("dropout").is_null()) return unknown("model", "BPE with dropout");
  for (const auto& [text, id] : model.at("vocab").items()) vocabulary.emplace(text, id.get<int32_t>());
  uint32_t rank = 0;
  for (const json& merge : model.at("merges")) {
    std::string pair;
    if (merge.is_array()) {
      pair = merge.at(0).get<std::string>() + "\n" + merge.at(1).get<std::string>();
    } else {
      pair = merge.get<std::string>();
      const size_t space = pair.find(' ', 1);
      if (space == std::string::npos) return error("the model's tokenizer has a merge that is no pair");
      pair[space] = '\n';
    }
    ranks.emplace(std::move(pair), rank++);
  }
  byte_fallback = model.value("byte_fallback", false);
  ignore_merges = model.value("ignore_merges", false);
  if (model.contains("unk_token") && model.at("unk_token").is_string()) {
    const auto found = vocabulary.find(model.at("unk_token").get<std::string>());
    if (found != vocabulary.end()) unknown_token = found->second;
  }
  return {};
}

Status TextEncoder::State::read_added(const json& tokens) {
  for (const json& token : tokens) added.emplace_back(token.at("content").get<std::string>(), token.at("id").get<int32_t>());
  std::erase_if(added, [](const auto& one) { return one.first.empty(); });
  std::stable_sort(added.begin(), added.end(), [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
  return {};
}

// What is put around one text.
Status TextEncoder::State::read_template(const json& processor) {
  if (processor.is_null()) return {};
  const std::string type = type_of(processor);
  if (type == "ByteLevel") return {};  // of offsets alone
  if (type == "Sequence") {
    for (const json& inner : processor.at("processors")) IOKV_TRY(read_template(inner));
    return {};
  }
  if (type != "TemplateProcessing") return unknown("post-processor", type);
  bool behind_text = false;
  for (const json& part : processor.at("single")) {
    if (part.contains("Sequence")) {
      behind_text = true;
      continue;
    }
    const std::string name = part.at("SpecialToken").at("id");
    for (const json& id : processor.at("special_tokens").at(name).at("ids")) {
      (behind_text ? behind : before).push_back(id.get<int32_t>());
    }
  }
  return {};
}

// Pairs are joined by rising rank, of equal ones from the left.
std::vector<std::string> TextEncoder::State::merge(const std::string& piece) const {
  struct Symbol {
    std::string text;
    int previous, next;
  };
  struct Candidate {
    uint32_t rank;
    int left;
    size_t bytes;  // of both: else one of them has been joined to another
    bool operator>(const Candidate& other) const { return std::tie(rank, left) > std::tie(other.rank, other.left); }
  };
  std::vector<Symbol> symbols;
  for (size_t at = 0; at < piece.size();) {
    const size_t bytes = character_bytes(piece, at);
    const int index = static_cast<int>(symbols.size());
    symbols.push_back({piece.substr(at, bytes), index - 1, index + 1});
    at += bytes;
  }
  if (symbols.empty()) return {};
  symbols.back().next = -1;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  auto consider = [&](int left) {
    if (left < 0 || symbols[static_cast<size_t>(left)].next < 0) return;
    const Symbol& first = symbols[static_cast<size_t>(left)];
    const Symbol& second = symbols[static_cast<size_t>(first.next)];
    const auto found = ranks.find(first.text + "\n" + second.text);
    if (found != ranks.end()) candidates.push({found->second, left, first.text.size() + second.text.size()});
  };
  for (int i = 0; i < static_cast<int>(symbols.size()); ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbols[static_cast<size_t>(best.left)];
    if (left.text.empty() || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    const auto found = ranks.find(left.text + "\n" + right.text);
    if (left.text.size() + right.text.size() != best.bytes || found == ranks.end() || found->second != best.rank) continue;
    left.text += std::exchange(right.text, "");
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  std::vector<std::string> out;
  for (int i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) out.push_back(symbols[static_cast<size_t>(i)].text);
  return out;
}

Status TextEncoder::State::append_symbol(const std::string& symbol, std::vector<int32_t>& out) const {
  if (const auto found = vocabulary.find(symbol); found != vocabulary.end()) {
    out.push_back(found->second);
    return {};
  }
  if (byte_fallback) {
    std::vector<int32_t> bytes;
    for (char byte : symbol) {
      const auto found = vocabulary.find(fmt::format("<0x{:02X}>", static_cast<unsigned char>(byte)));
      if (found != vocabulary.end()) bytes.push_back(found->second);
    }
    if (bytes.size() == symbol.size()) {
      out.insert(out.end(), bytes.begin(), bytes.end());
      return {};
    }
  }
  if (!unknown_token) return error(fmt::format("the model's vocabulary has no token for \"{}\"", symbol));
  out.push_back(*unknown_token);
  return {};
}

Status TextEncoder::State::encode_piece(const std::string& piece, std::vector<int32_t>& out) const {
  if (ignore_merges) {
    if (const auto whole = vocabulary.find(piece); whole != vocabulary.end()) {
      out.push_back(whole->second);
      return {};
    }
  }
  for (const std::string& symbol : merge(piece)) IOKV_TRY(append_symbol(symbol, out));
  return {};
}

Status TextEncoder::State::encode_text(std::string_view text, std::vector<int32_t>& out) const {
  if (text.empty()) return {};
  std::string normal(text);
  for (const Normaliser& normaliser : normalisers) normal = normaliser(std::move(normal));
  Pieces pieces{std::move(normal)};
  for (const PreTokeniser& pre_tokeniser : pre_tokenisers) pieces = pre_tokeniser(std::move(pieces));
  for (const std::string& piece : pieces) IOKV_TRY(encode_piece(piece, out));
  return {};
}

Result<TextEncoder> TextEncoder::make(std::span<const char> tokenizer_json) {
  const json file = json::parse(tokenizer_json.begin(), tokenizer_json.end(), nullptr, false);
  if (!file.is_object()) return error("the model's tokenizer is not JSON");
  auto state = std::make_unique<State>();
  auto part = [&file](const char* name) { return file.contains(name) ? file.at(name) : json(); };
  // at() and get() throw where the file is not as `tokenizers` writes it.
  try {
    IOKV_TRY(state->read_model(file.at("model")));
    if (file.contains("added_tokens")) IOKV_TRY(state->read_added(file.at("added_tokens")));
    IOKV_TRY_ASSIGN(state->normalisers, normalisers_of(part("normalizer")));
    IOKV_TRY_ASSIGN(state->pre_tokenisers, pre_tokenisers_of(part("pre_tokenizer")));
    IOKV_TRY(state->read_template(part("post_processor")));
  } catch (const json::exception& failure) {
    return error(fmt::format("the model's tokenizer is not as `tokenizers` writes it: {}", failure.what()));
  }
  return TextEncoder(std::move(state));
}

TextEncoder::TextEncoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
TextEncoder::TextEncoder(TextEncoder&&) noexcept = default;
TextEncoder::~TextEncoder() = default;

Result<std::vector<int32_t>> TextEncoder::encode(std::string_view text) const {
  std::vector<int32_t> out = state_->before;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const auto found = std::find_if(state_->added.begin(), state_->added.end(),
                                    [&](const auto& one) { return text.substr(at).starts_with(one.first); });
    if (found == state_->added.end()) {
      ++at;
      continue;
    }
    IOKV_TRY(state_->encode_text(text.substr(begin, at - begin), out));
    out.push_back(found->second);
    begin = at += found->first.size();
  }
  IOKV_TRY(state_->encode_text(text.substr(begin), out));
  out.insert(out.end(), state_->behind.begin(), state_->behind.end());
  return out;
}

}  // namespace iokv
