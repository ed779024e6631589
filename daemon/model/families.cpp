// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/families.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <numbers>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "daemon/model/tensor_file.h"

namespace iokv {
namespace {

using nlohmann::json;

// ---- reading settings -----------------------------------------------------------------------------------------------

// Typed access to an object of settings. The first failure is kept; later reads return defaults.
class Settings {
 public:
  explicit Settings(const json& values) : values_(values) {}

  // A whole number in [least, most]; `absent` where the key is missing or null, and an Error where that is nothing.
  uint32_t count(std::string_view key, uint64_t least, uint64_t most, std::optional<uint32_t> absent = std::nullopt) {
    const json* value = find(key);
    if (value == nullptr) return absent ? *absent : (fail(key, "is missing"), 0);
    if (!value->is_number_integer() || value->get<double>() < static_cast<double>(least) ||
        value->get<double>() > static_cast<double>(most)) {
      fail(key, "must be a whole number from " + std::to_string(least) + " to " + std::to_string(most));
      return static_cast<uint32_t>(least);
    }
    return value->get<uint32_t>();
  }
  // A finite number above zero.
  double positive(std::string_view key, std::optional<double> absent = std::nullopt) {
    const json* value = find(key);
    if (value == nullptr) return absent ? *absent : (fail(key, "is missing"), 1.0);
    const double number = value->is_number() ? value->get<double>() : 0;
    if (!(number > 0) || !std::isfinite(number)) fail(key, "must be a number above zero");
    return number;
  }
  bool flag(std::string_view key, bool absent) {
    const json* value = find(key);
    if (value == nullptr) return absent;
    if (!value->is_boolean()) fail(key, "must be true or false");
    return value->is_boolean() && value->get<bool>();
  }
  std::string text(std::string_view key, std::string_view absent) {
    const json* value = find(key);
    if (value == nullptr) return std::string(absent);
    if (!value->is_string()) fail(key, "must be a string");
    return value->is_string() ? value->get<std::string>() : std::string();
  }
  // A setting that this daemon computes in one way only.
  void only(std::string_view key, bool supported, bool absent) {
    if (flag(key, absent) != supported) fail(key, std::string("other than ") + (supported ? "true" : "false") + " is not supported");
  }
  // One token, or a list of them; missing: none.
  std::vector<int32_t> tokens(std::string_view key) {
    const json* value = find(key);
    std::vector<int32_t> found;
    if (value == nullptr) return found;
    for (const json& token : value->is_array() ? *value : json::array({*value})) {
      if (!token.is_number_integer() || token.get<double>() < 0 || token.get<double>() > kMaxVocab) {
        fail(key, "must be a token or a list of tokens");
        return {};
      }
      found.push_back(token.get<int32_t>());
    }
    return found;
  }
  const json* object(std::string_view key) {
    const json* value = find(key);
    if (value != nullptr && !value->is_object()) fail(key, "must be an object");
    return value != nullptr && value->is_object() ? value : nullptr;
  }
  bool has(std::string_view key) const { return find(key) != nullptr; }

  void fail(std::string_view key, const std::string& why) {
    if (failure_.empty()) failure_ = std::string(key) + " " + why;
  }
  Status status() const { return failure_.empty() ? Status() : Status(error(failure_)); }

 private:
  const json* find(std::string_view key) const {
    auto found = values_.find(key);
    return found == values_.end() || found->is_null() ? nullptr : &*found;
  }

  const json& values_;
  std::string failure_;
};

// ---- rotary embedding -----------------------------------------------------------------------------------------------

// 1 / theta^(2i/d), as f32 like the reference implementations.
std::vector<float> rope_frequencies(double theta, uint32_t rotary_dim) {
  std::vector<float> frequencies(rotary_dim / 2);
  for (uint32_t i = 0; i < frequencies.size(); i++) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary_dim);
    frequencies[i] = 1.0f / std::pow(static_cast<float>(theta), exponent);
  }
  return frequencies;
}

// Llama 3.1's scaling: long wavelengths are stretched by `factor`, short ones kept, those between interpolated. As in
// Meta's llama-models (apply_scaling) and transformers (rope type "llama3").
void scale_llama3(std::vector<float>& frequencies, Settings& scaling) {
  const auto factor = static_cast<float>(scaling.positive("factor"));
  const auto low = static_cast<float>(scaling.positive("low_freq_factor"));
  const auto high = static_cast<float>(scaling.positive("high_freq_factor"));
  const auto trained = static_cast<float>(scaling.positive("original_max_position_embeddings"));
  if (high <= low) scaling.fail("high_freq_factor", "must be above low_freq_factor");
  for (float& frequency : frequencies) {
    const float wavelength = 2 * std::numbers::pi_v<float> / frequency;
    if (wavelength < trained / high) continue;
    if (wavelength > trained / low) {
      frequency /= factor;
    } else {
      const float smooth = (trained / wavelength - low) / (high - low);
      frequency = (1 - smooth) * frequency / factor + smooth * frequency;
    }
  }
}

Status read_hf_rope(Settings& settings, ModelSpec& spec) {
  // "rope_parameters" since transformers 5, with theta inside; "rope_scaling" before, null where there is none.
  const json* object = settings.object("rope_parameters");
  if (object == nullptr) object = settings.object("rope_scaling");
  const json none = json::object();
  Settings scaling(object == nullptr ? none : *object);
  const double theta = scaling.positive("rope_theta", settings.positive("rope_theta", 10000.0));
  spec.rope_inverse_frequency = rope_frequencies(theta, spec.head_dim);
  const std::string type = scaling.text("rope_type", scaling.text("type", "default"));
  if (type == "linear") {
    const auto factor = static_cast<float>(scaling.positive("factor"));
    for (float& frequency : spec.rope_inverse_frequency) frequency /= factor;
  } else if (type == "llama3") {
    scale_llama3(spec.rope_inverse_frequency, scaling);
  } else if (type != "default") {
    scaling.fail("rope_type", shown(type) + " is not supported; there are: default, linear, llama3");
  }
  Status read = scaling.status();
  return read ? Status() : Status(std::move(read.failure()).within("rope_parameters"));
}

// GGUF keeps llama3's scaling as a tensor of factors (Role::rope_factors), so only theta and linear are settings.
Status read_gguf_rope(Settings& settings, ModelSpec& spec) {
  spec.rope_inverse_frequency = rope_frequencies(settings.positive("llama.rope.freq_base", 10000.0), spec.head_dim);
  const std::string type = settings.text("llama.rope.scaling.type", "none");
  if (type == "linear") {
    const auto factor = static_cast<float>(settings.positive("llama.rope.scaling.factor"));
    for (float& frequency : spec.rope_inverse_frequency) frequency /= factor;
  } else if (type != "none") {
    settings.fail("llama.rope.scaling.type", shown(type) + " is not supported; there are: none, linear");
  }
  if (settings.count("llama.rope.dimension_count", 1, kMaxHeadDim, spec.head_dim) != spec.head_dim) {
    settings.fail("llama.rope.dimension_count", "other than the head's size is not supported");
  }
  return {};
}

// ---- the table ------------------------------------------------------------------------------------------------------

// Keys of the sizes that every decoder has; empty: follows from the others, or is fixed.
struct SizeKeys {
  std::string_view layers, hidden, heads, kv_heads, head_dim, ffn, vocab, context, norm_epsilon;
};

struct RoleName {
  Role role;
  std::string_view name;  // "{}" stands for the layer
};

struct Dialect {  // how one naming writes a family
  std::string_view architecture;  // empty: the family does not exist in this naming
  SizeKeys keys;
  Status (*read_rest)(Settings&, Description&) = nullptr;
  std::span<const RoleName> names;
  bool interleaved_heads = false;
};

constexpr std::initializer_list<Role> kMatrices = {Role::token_embedding, Role::q, Role::k, Role::v, Role::o, Role::up,
                                                   Role::down};
constexpr std::initializer_list<Role> kNorms = {Role::input_norm, Role::post_norm, Role::final_norm};
constexpr std::initializer_list<Role> kNormBiases = {Role::input_norm_bias, Role::post_norm_bias, Role::final_norm_bias};
constexpr std::initializer_list<Role> kAttentionBiases = {Role::q_bias, Role::k_bias, Role::v_bias, Role::o_bias};

void require(Description& description, std::initializer_list<Role> roles) {
  for (Role role : roles) {
    description.required.set(static_cast<size_t>(role));
    description.possible.set(static_cast<size_t>(role));
  }
}
void allow(Description& description, std::initializer_list<Role> roles) {
  for (Role role : roles) description.possible.set(static_cast<size_t>(role));
}

void be_llama(Description& description) {
  ModelSpec& spec = description.spec;
  spec.norm = NormKind::rms;
  spec.activation = Activation::silu_glu;
  spec.positions = PositionKind::rope;
  require(description, kMatrices);
  require(description, kNorms);
  require(description, {Role::gate});
}

Status read_hf_llama(Settings& settings, Description& description) {
  be_llama(description);
  ModelSpec& spec = description.spec;
  const std::string activation = settings.text("hidden_act", "silu");
  if (activation != "silu") settings.fail("hidden_act", shown(activation) + " is not supported; there is: silu");
  if (settings.flag("attention_bias", false)) require(description, kAttentionBiases);
  if (settings.flag("mlp_bias", false)) require(description, {Role::gate_bias, Role::up_bias, Role::down_bias});
  spec.tied_embeddings = settings.flag("tie_word_embeddings", false);
  if (!spec.tied_embeddings) require(description, {Role::lm_head});
  return read_hf_rope(settings, spec);
}

Status read_gguf_llama(Settings& settings, Description& description) {
  be_llama(description);
  allow(description, kAttentionBiases);
  // No setting says whether the head is the embedding: it is where there is no head.
  allow(description, {Role::lm_head, Role::rope_factors});
  if (settings.count("llama.expert_count", 0, kMaxLayers, 0) != 0) {
    settings.fail("llama.expert_count", "other than 0 is not supported: this is a mixture of experts");
  }
  return read_gguf_rope(settings, description.spec);
}

Status read_hf_opt(Settings& settings, Description& description) {
  ModelSpec& spec = description.spec;
  spec.norm = NormKind::layer;
  spec.norm_epsilon = 1e-5f;
  spec.positions = PositionKind::learned;
  spec.learned_position_offset = 2;
  const std::string activation = settings.text("activation_function", "relu");
  if (activation == "gelu") {
    spec.activation = Activation::gelu;
  } else if (activation == "relu") {
    spec.activation = Activation::relu;
  } else {
    settings.fail("activation_function", shown(activation) + " is not supported; there are: relu, gelu");
  }
  // OPT-350m normalises after attention and projects its embeddings: a different network.
  settings.only("do_layer_norm_before", true, true);
  settings.only("_remove_final_layer_norm", false, false);
  settings.only("layer_norm_elementwise_affine", true, true);
  if (settings.count("word_embed_proj_dim", 1, kMaxHidden, spec.hidden) != spec.hidden) {
    settings.fail("word_embed_proj_dim", "other than hidden_size is not supported");
  }
  require(description, kMatrices);
  require(description, kNorms);
  require(description, kNormBiases);
  require(description, {Role::position_embedding});
  if (settings.flag("enable_bias", true)) {
    require(description, kAttentionBiases);
    require(description, {Role::up_bias, Role::down_bias});
  }
  spec.tied_embeddings = settings.flag("tie_word_embeddings", true);
  if (!spec.tied_embeddings) require(description, {Role::lm_head});
  return {};
}

constexpr RoleName kHfLlamaNames[] = {
    {Role::token_embedding, "model.embed_tokens.weight"},
    {Role::input_norm, "model.layers.{}.input_layernorm.weight"},
    {Role::q, "model.layers.{}.self_attn.q_proj.weight"},
    {Role::q_bias, "model.layers.{}.self_attn.q_proj.bias"},
    {Role::k, "model.layers.{}.self_attn.k_proj.weight"},
    {Role::k_bias, "model.layers.{}.self_attn.k_proj.bias"},
    {Role::v, "model.layers.{}.self_attn.v_proj.weight"},
    {Role::v_bias, "model.layers.{}.self_attn.v_proj.bias"},
    {Role::o, "model.layers.{}.self_attn.o_proj.weight"},
    {Role::o_bias, "model.layers.{}.self_attn.o_proj.bias"},
    {Role::post_norm, "model.layers.{}.post_attention_layernorm.weight"},
    {Role::gate, "model.layers.{}.mlp.gate_proj.weight"},
    {Role::gate_bias, "model.layers.{}.mlp.gate_proj.bias"},
    {Role::up, "model.layers.{}.mlp.up_proj.weight"},
    {Role::up_bias, "model.layers.{}.mlp.up_proj.bias"},
    {Role::down, "model.layers.{}.mlp.down_proj.weight"},
    {Role::down_bias, "model.layers.{}.mlp.down_proj.bias"},
    {Role::final_norm, "model.norm.weight"},
    {Role::lm_head, "lm_head.weight"},
};

constexpr RoleName kGgufLlamaNames[] = {
    {Role::token_embedding, "token_embd.weight"},
    {Role::input_norm, "blk.{}.attn_norm.weight"},
    {Role::q, "blk.{}.attn_q.weight"},
    {Role::q_bias, "blk.{}.attn_q.bias"},
    {Role::k, "blk.{}.attn_k.weight"},
    {Role::k_bias, "blk.{}.attn_k.bias"},
    {Role::v, "blk.{}.attn_v.weight"},
    {Role::v_bias, "blk.{}.attn_v.bias"},
    {Role::o, "blk.{}.attn_output.weight"},
    {Role::o_bias, "blk.{}.attn_output.bias"},
    {Role::post_norm, "blk.{}.ffn_norm.weight"},
    {Role::gate, "blk.{}.ffn_gate.weight"},
    {Role::up, "blk.{}.ffn_up.weight"},
    {Role::down, "blk.{}.ffn_down.weight"},
    {Role::final_norm, "output_norm.weight"},
    {Role::lm_head, "output.weight"},
    {Role::rope_factors, "rope_freqs.weight"},
};

constexpr RoleName kHfOptNames[] = {
    {Role::token_embedding, "model.decoder.embed_tokens.weight"},
    {Role::position_embedding, "model.decoder.embed_positions.weight"},
    {Role::input_norm, "model.decoder.layers.{}.self_attn_layer_norm.weight"},
    {Role::input_norm_bias, "model.decoder.layers.{}.self_attn_layer_norm.bias"},
    {Role::q, "model.decoder.layers.{}.self_attn.q_proj.weight"},
    {Role::q_bias, "model.decoder.layers.{}.self_attn.q_proj.bias"},
    {Role::k, "model.decoder.layers.{}.self_attn.k_proj.weight"},
    {Role::k_bias, "model.decoder.layers.{}.self_attn.k_proj.bias"},
    {Role::v, "model.decoder.layers.{}.self_attn.v_proj.weight"},
    {Role::v_bias, "model.decoder.layers.{}.self_attn.v_proj.bias"},
    {Role::o, "model.decoder.layers.{}.self_attn.out_proj.weight"},
    {Role::o_bias, "model.decoder.layers.{}.self_attn.out_proj.bias"},
    {Role::post_norm, "model.decoder.layers.{}.final_layer_norm.weight"},
    {Role::post_norm_bias, "model.decoder.layers.{}.final_layer_norm.bias"},
    {Role::up, "model.decoder.layers.{}.fc1.weight"},
    {Role::up_bias, "model.decoder.layers.{}.fc1.bias"},
    {Role::down, "model.decoder.layers.{}.fc2.weight"},
    {Role::down_bias, "model.decoder.layers.{}.fc2.bias"},
    {Role::final_norm, "model.decoder.final_layer_norm.weight"},
    {Role::final_norm_bias, "model.decoder.final_layer_norm.bias"},
    {Role::lm_head, "lm_head.weight"},
};

}  // namespace

struct Family {
  std::string_view name;
  Dialect hf, gguf;
};

namespace {

// Llama 1-3 and what was built like it, such as SmolLM2; OPT.
constexpr Family kFamilies[] = {
    {.name = "llama",
     .hf = {.architecture = "llama",
            .keys = {.layers = "num_hidden_layers",
                     .hidden = "hidden_size",
                     .heads = "num_attention_heads",
                     .kv_heads = "num_key_value_heads",
                     .head_dim = "head_dim",
                     .ffn = "intermediate_size",
                     .vocab = "vocab_size",
                     .context = "max_position_embeddings",
                     .norm_epsilon = "rms_norm_eps"},
            .read_rest = read_hf_llama,
            .names = kHfLlamaNames},
     .gguf = {.architecture = "llama",
              .keys = {.layers = "llama.block_count",
                       .hidden = "llama.embedding_length",
                       .heads = "llama.attention.head_count",
                       .kv_heads = "llama.attention.head_count_kv",
                       .head_dim = "llama.attention.key_length",
                       .ffn = "llama.feed_forward_length",
                       .vocab = "llama.vocab_size",
                       .context = "llama.context_length",
                       .norm_epsilon = "llama.attention.layer_norm_rms_epsilon"},
              .read_rest = read_gguf_llama,
              .names = kGgufLlamaNames,
              .interleaved_heads = true}},
    {.name = "opt",
     .hf = {.architecture = "opt",
            .keys = {.layers = "num_hidden_layers",
                     .hidden = "hidden_size",
                     .heads = "num_attention_heads",
                     .ffn = "ffn_dim",
                     .vocab = "vocab_size",
                     .context = "max_position_embeddings"},
            .read_rest = read_hf_opt,
            .names = kHfOptNames}},
};

const Dialect& dialect_of(const Family& family, Naming naming) { return naming == Naming::hf ? family.hf : family.gguf; }

Result<const Family*> family_of(Naming naming, const std::string& architecture) {
  std::string known;
  for (const Family& family : kFamilies) {
    const Dialect& dialect = dialect_of(family, naming);
    if (dialect.architecture.empty()) continue;
    if (dialect.architecture == architecture) return &family;
    known += (known.empty() ? "" : ", ") + std::string(dialect.architecture);
  }
  return error("architecture " + shown(architecture) + " is not supported; there are: " + known);
}

void read_sizes(const SizeKeys& keys, Naming naming, Settings& settings, ModelSpec& spec) {
  spec.layers = settings.count(keys.layers, 1, kMaxLayers);
  spec.hidden = settings.count(keys.hidden, 1, kMaxHidden);
  spec.heads = settings.count(keys.heads, 1, kMaxHeads);
  spec.kv_heads = keys.kv_heads.empty() ? spec.heads : settings.count(keys.kv_heads, 1, kMaxHeads, spec.heads);
  const uint32_t head_dim = spec.hidden / std::max(spec.heads, 1u);
  spec.head_dim = keys.head_dim.empty() ? head_dim : settings.count(keys.head_dim, 1, kMaxHeadDim, head_dim);
  if (!settings.has(keys.head_dim) && head_dim * spec.heads != spec.hidden) {
    settings.fail(keys.hidden, "is no multiple of " + std::string(keys.heads));
  }
  spec.ffn = settings.count(keys.ffn, 1, kMaxFfn);
  // GGUF files made by older converters have the vocabulary's size only as the length of its list.
  std::optional<uint32_t> listed;
  if (const json* tokens = naming == Naming::gguf ? settings.object("tokenizer.ggml.tokens") : nullptr) {
    listed = Settings(*tokens).count("length", 1, kMaxVocab, 0);
    if (*listed == 0) listed.reset();
  }
  spec.vocab = settings.count(keys.vocab, 1, kMaxVocab, listed);
  spec.max_context = settings.count(keys.context, 1, kMaxContext);
  if (!keys.norm_epsilon.empty()) spec.norm_epsilon = static_cast<float>(settings.positive(keys.norm_epsilon, 1e-6));
  spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
}

void read_tokens(Naming naming, Settings& settings, ModelSpec& spec) {
  const bool hf = naming == Naming::hf;
  spec.end_tokens = settings.tokens(hf ? "eos_token_id" : "tokenizer.ggml.eos_token_id");
  if (!hf) {
    for (int32_t token : settings.tokens("tokenizer.ggml.eot_token_id")) spec.end_tokens.push_back(token);
  }
  const std::vector<int32_t> begin = settings.tokens(hf ? "bos_token_id" : "tokenizer.ggml.bos_token_id");
  const bool put_first = hf || settings.flag("tokenizer.ggml.add_bos_token",
                                             settings.text("tokenizer.ggml.model", "") == "llama");
  if (put_first && !begin.empty()) spec.begin_token = begin.front();
  auto outside = [&](int32_t token) { return static_cast<uint32_t>(token) >= spec.vocab; };
  std::erase_if(spec.end_tokens, outside);
  std::sort(spec.end_tokens.begin(), spec.end_tokens.end());
  spec.end_tokens.erase(std::unique(spec.end_tokens.begin(), spec.end_tokens.end()), spec.end_tokens.end());
  if (spec.begin_token >= 0 && outside(spec.begin_token)) spec.begin_token = -1;
}

}  // namespace

const char* name_of(Role role) {
  static constexpr std::array<const char*, kRoles> kNames = {
      "token embedding", "position embedding", "attention norm", "attention norm bias", "query", "query bias", "key",
      "key bias", "value", "value bias", "attention output", "attention output bias", "feed-forward norm",
      "feed-forward norm bias", "gate", "gate bias", "up", "up bias", "down", "down bias", "final norm",
      "final norm bias", "head", "rope factors"};
  return kNames[static_cast<size_t>(role)];
}

RoleShape shape_of(Role role, const ModelSpec& spec) {
  switch (role) {
    case Role::token_embedding:
    case Role::lm_head: return {spec.vocab, spec.hidden};
    case Role::position_embedding: return {spec.max_context + spec.learned_position_offset, spec.hidden};
    case Role::q: return {spec.q_width(), spec.hidden};
    case Role::k:
    case Role::v: return {spec.kv_width(), spec.hidden};
    case Role::o: return {spec.hidden, spec.q_width()};
    case Role::gate:
    case Role::up: return {spec.ffn, spec.hidden};
    case Role::down: return {spec.hidden, spec.ffn};
    case Role::q_bias: return {spec.q_width(), 0};
    case Role::k_bias:
    case Role::v_bias: return {spec.kv_width(), 0};
    case Role::gate_bias:
    case Role::up_bias: return {spec.ffn, 0};
    case Role::rope_factors: return {spec.head_dim / 2, 0};
    case Role::input_norm:
    case Role::input_norm_bias:
    case Role::o_bias:
    case Role::post_norm:
    case Role::post_norm_bias:
    case Role::down_bias:
    case Role::final_norm:
    case Role::final_norm_bias: return {spec.hidden, 0};
  }
  return {};
}

Result<Description> describe(Naming naming, const json& settings) {
  Settings read(settings);
  const std::string architecture = read.text(naming == Naming::hf ? "model_type" : "general.architecture", "");
  IOKV_TRY(read.status());
  Description description;
  IOKV_TRY_ASSIGN(description.family, family_of(naming, architecture));
  const Dialect& dialect = dialect_of(*description.family, naming);
  ModelSpec& spec = description.spec;
  spec.family = description.family->name;
  spec.name = naming == Naming::hf ? "" : read.text("general.name", "");
  read_sizes(dialect.keys, naming, read, spec);
  IOKV_TRY(read.status());
  IOKV_TRY(validate(spec));
  IOKV_TRY(dialect.read_rest(read, description));
  read_tokens(naming, read, spec);
  IOKV_TRY(read.status());
  return description;
}

std::string tensor_name(const Family& family, Naming naming, Role role, uint32_t layer) {
  const auto& names = dialect_of(family, naming).names;
  const auto found = std::find_if(names.begin(), names.end(), [=](const RoleName& one) { return one.role == role; });
  if (found == names.end()) return "";
  std::string name(found->name);
  if (const size_t at = name.find("{}"); at != std::string::npos) name.replace(at, 2, std::to_string(layer));
  return name;
}

bool stores_interleaved_heads(const Family& family, Naming naming) {
  return dialect_of(family, naming).interleaved_heads;
}

Status validate(const ModelSpec& spec) {
  auto in_range = [](uint32_t value, uint32_t most) { return value >= 1 && value <= most; };
  if (!in_range(spec.layers, kMaxLayers) || !in_range(spec.hidden, kMaxHidden) || !in_range(spec.heads, kMaxHeads) ||
      !in_range(spec.kv_heads, kMaxHeads) || !in_range(spec.head_dim, kMaxHeadDim) || !in_range(spec.ffn, kMaxFfn) ||
      !in_range(spec.vocab, kMaxVocab) || !in_range(spec.max_context, kMaxContext)) {
    return error("a size is out of range");
  }
  if (spec.heads % spec.kv_heads != 0) {
    return error(std::to_string(spec.heads) + " attention heads cannot share " + std::to_string(spec.kv_heads) +
                 " key and value heads evenly");
  }
  if (spec.head_dim % 2 != 0) return error("a head size of " + std::to_string(spec.head_dim) + " is odd");
  if (uint64_t{spec.heads} * spec.head_dim > kMaxHidden * 4ull) return error("the attention heads together are out of range");
  return {};
}

}  // namespace iokv
