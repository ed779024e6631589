// SPDX-License-Identifier: Apache-2.0
#include "tools/inspect.h"

#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace iokv {
namespace {

struct Stored {
  uint64_t tensors = 0, elements = 0, bytes = 0;
};

struct Facts {
  std::map<std::string, Stored, std::less<>> by_type;
  uint64_t elements = 0, bytes = 0;
};

// For a line of text, or as a key: cut and made printable, without the quotes.
std::string plain(std::string_view name) {
  const std::string quoted = shown(name);
  return quoted.substr(1, quoted.size() - 2);
}

Facts facts_of(const ModelFiles& files) {
  Facts facts;
  for (const auto& [name, tensor] : files.tensors().tensors()) {
    Stored& stored = facts.by_type[plain(tensor.type_name)];
    const uint64_t elements = element_count(tensor.shape).value_or(0);
    stored.tensors++;
    stored.elements += elements;
    stored.bytes += tensor.bytes.size();
    facts.elements += elements;
    facts.bytes += tensor.bytes.size();
  }
  return facts;
}

// Of all layers, in a compute type of two bytes.
uint64_t kv_bytes_a_token(const ModelSpec& spec) { return uint64_t{2} * spec.layers * spec.kv_width() * 2; }
uint64_t x_bytes_a_token(const ModelSpec& spec) { return uint64_t{spec.layers} * spec.hidden * 2; }

double mib(uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(1 << 20); }
double kib(uint64_t bytes) { return static_cast<double>(bytes) / 1024; }

std::string hex(const Digest& digest) {
  std::string text;
  for (uint8_t byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

std::string tokens_text(const std::vector<int32_t>& tokens) {
  return tokens.empty() ? "none" : fmt::format("{}", fmt::join(tokens, ", "));
}

}  // namespace

std::string model_text(const ModelFiles& files, bool tensors) {
  const ModelSpec& spec = files.spec();
  const Facts facts = facts_of(files);
  const TokenizerExport& text_side = files.tokenizer();
  std::string text = fmt::format("{}\n\n", files.path());
  auto line = [&text](const char* name, const std::string& value) { text += fmt::format("{:<14} {}\n", name, value); };
  line("name", spec.name);
  line("family", spec.family);
  line("shape", fmt::format("{} layers, hidden {}, {} heads of {} on {} KV heads, feed-forward {}", spec.layers, spec.hidden,
                            spec.heads, spec.head_dim, spec.kv_heads, spec.ffn));
  line("vocabulary", fmt::format("{} tokens{}", spec.vocab, spec.tied_embeddings ? ", embeddings tied" : ""));
  line("context", fmt::format("{} tokens, positions {}", spec.max_context,
                              spec.positions == PositionKind::rope ? "rotary" : "learned"));
  line("begin, end", fmt::format("{}; {}", spec.begin_token < 0 ? "none" : std::to_string(spec.begin_token), tokens_text(spec.end_tokens)));
  line("parameters", fmt::format("{:.1f} million", static_cast<double>(facts.elements) / 1e6));
  line("stored", fmt::format("{:.1f} MiB", mib(facts.bytes)));
  for (const auto& [type, stored] : facts.by_type) {
    line("", fmt::format("{:<6} {:>5} tensors {:>10.1f} MiB, {:.2f} bits a parameter", type, stored.tensors, mib(stored.bytes),
                         stored.elements == 0 ? 0 : 8.0 * static_cast<double>(stored.bytes) / static_cast<double>(stored.elements)));
  }
  line("loaded", fmt::format("{:.1f} MiB in a type of 16 bits, {:.1f} MiB in f32", mib(2 * facts.elements), mib(4 * facts.elements)));
  line("a token", fmt::format("{:.1f} KiB as K,V, {:.1f} KiB as X, of 16 bits: {}", kib(kv_bytes_a_token(spec)), kib(x_bytes_a_token(spec)),
                              x_bytes_a_token(spec) < kv_bytes_a_token(spec) ? "X is the smaller on the link" : "K,V is the smaller on the link"));
  line("tokenizer", text_side.tokenizer_json.empty() ? "none: clients send tokens" : "there");
  line("chat template", text_side.chat_template.empty() ? "none" : fmt::format("{} bytes", text_side.chat_template.size()));
  if (!text_side.note.empty()) line("note", text_side.note);
  line("digest", hex(files.digest()));
  if (!tensors) return text;
  text += "\n";
  for (const auto& [name, tensor] : files.tensors().tensors()) {
    text += fmt::format("{:<44} {:<6} {}\n", plain(name), plain(tensor.type_name), shape_text(tensor.shape));
  }
  return text;
}

std::string model_json(const ModelFiles& files, bool tensors) {
  const ModelSpec& spec = files.spec();
  const Facts facts = facts_of(files);
  nlohmann::ordered_json types = nlohmann::ordered_json::object();
  for (const auto& [type, stored] : facts.by_type) {
    types[type] = {{"tensors", stored.tensors}, {"elements", stored.elements}, {"bytes", stored.bytes}};
  }
  nlohmann::ordered_json object = {{"path", files.path()},
                                   {"name", spec.name},
                                   {"family", spec.family},
                                   {"layers", spec.layers},
                                   {"hidden", spec.hidden},
                                   {"heads", spec.heads},
                                   {"kv_heads", spec.kv_heads},
                                   {"head_dim", spec.head_dim},
                                   {"ffn", spec.ffn},
                                   {"vocabulary", spec.vocab},
                                   {"max_context", spec.max_context},
                                   {"tied_embeddings", spec.tied_embeddings},
                                   {"begin_token", spec.begin_token},
                                   {"end_tokens", spec.end_tokens},
                                   {"parameters", facts.elements},
                                   {"stored_bytes", facts.bytes},
                                   {"types", types},
                                   {"kv_bytes_a_token", kv_bytes_a_token(spec)},
                                   {"x_bytes_a_token", x_bytes_a_token(spec)},
                                   {"has_tokenizer", !files.tokenizer().tokenizer_json.empty()},
                                   {"has_chat_template", !files.tokenizer().chat_template.empty()},
                                   {"digest", hex(files.digest())}};
  if (tensors) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const auto& [name, tensor] : files.tensors().tensors()) {
      list.push_back({{"name", plain(name)}, {"type", plain(tensor.type_name)}, {"shape", tensor.shape}});
    }
    object["tensors"] = list;
  }
  return object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace iokv
