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

// Typed access to an object of settings. A key that begins with a dot stands behind the architecture's name, as those of
// GGUF do. The first failure is kept; later reads return defaults.
class Settings {
 public:
  explicit Settings(const json& values, std::string architecture = "")
      : values_(values), architecture_(std::move(architecture)) {}

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
  // A finite number of either sign.
  double number(std::string_view key, double absent) {
    const json* value = find(key);
    if (value == nullptr) return absent;
    const double found = value->is_number() ? value->get<double>() : NAN;
    if (!std::isfinite(found)) fail(key, "must be a number");
    return found;
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
  // Exactly `length` numbers above zero.
  std::vector<float> positives(std::string_view key, size_t length) {
    const json* value = find(key);
    std::vector<float> found;
    if (value != nullptr && value->is_array()) {
      for (const json& one : *value) found.push_back(one.is_number() ? one.get<float>() : 0);
    }
    if (found.size() != length || std::any_of(found.begin(), found.end(), [](float one) { return !(one > 0); })) {
      fail(key, "must be " + std::to_string(length) + " numbers above zero");
      found.assign(length, 1);
    }
    return found;
  }
  // One of the names; `absent` where the key is missing or null.
  template <typename Value>
  Value one_of(std::string_view key, std::initializer_list<std::pair<std::string_view, Value>> names,
               std::string_view absent) {
    const std::string name = text(key, absent);
    std::string known;
    for (const auto& [known_name, value] : names) {
      if (name == known_name) return value;
      known += (known.empty() ? "" : ", ") + std::string(known_name);
    }
    fail(key, shown(name) + " is not supported; there are: " + known);
    return names.begin()->second;
  }
  const json* list(std::string_view key) {
    const json* value = find(key);
    if (value != nullptr && !value->is_array()) fail(key, "must be a list");
    return value != nullptr && value->is_array() ? value : nullptr;
  }
  const json* object(std::string_view key) {
    const json* value = find(key);
    if (value != nullptr && !value->is_object()) fail(key, "must be an object");
    return value != nullptr && value->is_object() ? value : nullptr;
  }
  bool has(std::string_view key) const { return find(key) != nullptr; }

  void fail(std::string_view key, const std::string& why) {
    if (failure_.empty()) failure_ = full(key) + " " + why;
  }
  Status status() const { return failure_.empty() ? Status() : Status(error(failure_)); }

 private:
  std::string full(std::string_view key) const {
    return (key.starts_with('.') ? architecture_ : std::string()) + std::string(key);
  }
  const json* find(std::string_view key) const {
    auto found = values_.find(full(key));
    return found == values_.end() || found->is_null() ? nullptr : &*found;
  }

  const json& values_;
  const std::string architecture_;
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

// 0.1·ln(factor)·multiplier + 1: what yarn multiplies cos and sin with (its mscale).
double yarn_scale(double factor, double multiplier = 1) {
  return factor <= 1 ? 1 : 0.1 * multiplier * std::log(factor) + 1;
}

struct Yarn {
  double theta = 0, factor = 1, beta_fast = 32, beta_slow = 1;
  double trained = 0;    // tokens of the contexts that the model was first trained with
  bool truncated = true; // the ramp begins and ends at whole frequencies
};

// YaRN (arXiv 2309.00071), as transformers has it: frequencies that turn more than beta_fast times in the trained context
// stay, those that turn less than beta_slow times are divided, and between them goes a ramp.
std::vector<float> yarn_frequencies(const Yarn& yarn, uint32_t rotary_dim) {
  auto frequency_with = [&](double turns) {
    return rotary_dim * std::log(yarn.trained / (turns * 2 * std::numbers::pi)) / (2 * std::log(yarn.theta));
  };
  double low = frequency_with(yarn.beta_fast), high = frequency_with(yarn.beta_slow);
  if (yarn.truncated) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, rotary_dim - 1.0);
  if (low == high) high += 0.001;
  std::vector<float> frequencies = rope_frequencies(yarn.theta, rotary_dim);
  for (uint32_t i = 0; i < frequencies.size(); i++) {
    const auto ramp = static_cast<float>(std::clamp((i - low) / (high - low), 0.0, 1.0));
    const float divided = frequencies[i] / static_cast<float>(yarn.factor);
    frequencies[i] = divided * ramp + frequencies[i] * (1 - ramp);
  }
  return frequencies;
}

// Of a head's elements, in whole pairs.
uint32_t rotary_dim_of(Settings& settings, std::string_view key, double part, const ModelSpec& spec) {
  const auto dim = static_cast<uint32_t>(spec.head_dim * std::min(part, 2.0));
  if (dim == 0 || dim % 2 != 0 || dim > spec.head_dim) {
    settings.fail(key, "makes " + std::to_string(dim) + " of a head's " + std::to_string(spec.head_dim) +
                           " elements rotate, which must be an even number of them");
    return spec.head_dim;
  }
  return dim;
}

void read_hf_yarn(Settings& scaling, uint32_t rotary_dim, double theta, ModelSpec& spec) {
  Yarn yarn;
  yarn.theta = theta;
  yarn.factor = scaling.positive("factor");
  yarn.beta_fast = scaling.positive("beta_fast", yarn.beta_fast);
  yarn.beta_slow = scaling.positive("beta_slow", yarn.beta_slow);
  yarn.trained = scaling.positive("original_max_position_embeddings", spec.max_context);
  yarn.truncated = scaling.flag("truncate", true);
  spec.rope_inverse_frequency = yarn_frequencies(yarn, rotary_dim);
  const double multiplier = scaling.number("mscale", 0), of_all = scaling.number("mscale_all_dim", 0);
  const double scale = multiplier != 0 && of_all != 0
                           ? yarn_scale(yarn.factor, multiplier) / yarn_scale(yarn.factor, of_all)
                           : yarn_scale(yarn.factor);
  spec.rope_attention_scale = static_cast<float>(scaling.positive("attention_factor", scale));
}

// LongRoPE has one list of factors for contexts as long as those of the first training, and one for longer ones. A
// sequence cannot go from one to the other without all of its keys being rotated again, so only the first is served.
void read_hf_longrope(Settings& settings, Settings& scaling, ModelSpec& spec) {
  const uint32_t trained = scaling.count("original_max_position_embeddings", 1, kMaxContext,
                                         settings.count("original_max_position_embeddings", 1, kMaxContext,
                                                        spec.max_context));
  const double factor = scaling.positive("factor", double{1.0} * spec.max_context / trained);
  const double scale = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(trained));
  spec.rope_attention_scale = static_cast<float>(scaling.positive("attention_factor", scale));
  std::vector<float>& frequencies = spec.rope_inverse_frequency;
  const std::vector<float> factors = scaling.positives("short_factor", frequencies.size());
  for (size_t i = 0; i < frequencies.size(); i++) frequencies[i] /= factors[i];
  spec.max_context = std::min(spec.max_context, trained);
}

enum class RopeType { normal, linear, dynamic, llama3, yarn, longrope };

// rotates: of a head's elements, where no setting says.
Status read_hf_rope(Settings& settings, ModelSpec& spec, double rotates = 1) {
  // "rope_parameters" since transformers 5, with theta and the rotated part inside; "rope_scaling" before, null where
  // there is none.
  const json* object = settings.object("rope_parameters");
  if (object == nullptr) object = settings.object("rope_scaling");
  const json none = json::object();
  Settings scaling(object == nullptr ? none : *object);
  const double named = settings.positive("rotary_emb_base", 10000.0);  // GPT-NeoX's name
  const double theta = scaling.positive("rope_theta", settings.positive("rope_theta", named));
  rotates = settings.positive("partial_rotary_factor", settings.positive("rotary_pct", rotates));
  rotates = scaling.positive("partial_rotary_factor", rotates);
  const uint32_t rotary_dim = rotary_dim_of(scaling, "partial_rotary_factor", rotates, spec);
  spec.positions = PositionKind::rope;
  spec.rope_inverse_frequency = rope_frequencies(theta, rotary_dim);
  const std::string_view key = scaling.has("rope_type") ? "rope_type" : "type";
  switch (scaling.one_of<RopeType>(key,
                                   {{"default", RopeType::normal},
                                    {"linear", RopeType::linear},
                                    {"dynamic", RopeType::dynamic},
                                    {"llama3", RopeType::llama3},
                                    {"yarn", RopeType::yarn},
                                    {"longrope", RopeType::longrope}},
                                   "default")) {
    case RopeType::normal: break;
    // Its frequencies change when a sequence grows beyond max_position_embeddings, and its keys with them; within, which
    // is what is served, they are those of no scaling.
    case RopeType::dynamic: break;
    case RopeType::linear: {
      const auto factor = static_cast<float>(scaling.positive("factor"));
      for (float& frequency : spec.rope_inverse_frequency) frequency /= factor;
      break;
    }
    case RopeType::llama3: scale_llama3(spec.rope_inverse_frequency, scaling); break;
    case RopeType::yarn: read_hf_yarn(scaling, rotary_dim, theta, spec); break;
    case RopeType::longrope: read_hf_longrope(settings, scaling, spec); break;
  }
  Status read = scaling.status();
  return read ? Status() : Status(std::move(read.failure()).within("rope_parameters"));
}

// GGUF keeps llama3's scaling, and longrope's, as tensors of factors (Role::rope_factors).
Status read_gguf_rope(Settings& settings, ModelSpec& spec) {
  const double theta = settings.positive(".rope.freq_base", 10000.0);
  const uint32_t rotary_dim = settings.count(".rope.dimension_count", 2, spec.head_dim, spec.head_dim);
  if (rotary_dim % 2 != 0) settings.fail(".rope.dimension_count", "must be even");
  spec.positions = PositionKind::rope;
  spec.rope_inverse_frequency = rope_frequencies(theta, rotary_dim);
  const uint32_t trained = settings.count(".rope.scaling.original_context_length", 1, kMaxContext, spec.max_context);
  switch (settings.one_of<RopeType>(".rope.scaling.type",
                                    {{"none", RopeType::normal},
                                     {"linear", RopeType::linear},
                                     {"yarn", RopeType::yarn},
                                     {"longrope", RopeType::longrope}},
                                    "none")) {
    case RopeType::linear: {
      const auto factor = static_cast<float>(settings.positive(".rope.scaling.factor"));
      for (float& frequency : spec.rope_inverse_frequency) frequency /= factor;
      break;
    }
    case RopeType::yarn: {
      Yarn yarn;
      yarn.theta = theta;
      yarn.factor = settings.positive(".rope.scaling.factor");
      yarn.beta_fast = settings.positive(".rope.scaling.yarn_beta_fast", yarn.beta_fast);
      yarn.beta_slow = settings.positive(".rope.scaling.yarn_beta_slow", yarn.beta_slow);
      yarn.trained = trained;
      spec.rope_inverse_frequency = yarn_frequencies(yarn, rotary_dim);
      const double attention = settings.positive(".rope.scaling.attn_factor", 1.0);
      spec.rope_attention_scale = static_cast<float>(attention * yarn_scale(yarn.factor));
      break;
    }
    case RopeType::longrope:
      spec.rope_attention_scale = static_cast<float>(settings.positive(".rope.scaling.attn_factor", 1.0));
      spec.max_context = std::min(spec.max_context, trained);
      break;
    default: break;
  }
  return {};
}

// ---- windows --------------------------------------------------------------------------------------------------------

// "sliding_window" tokens in the layers that layer_types calls "sliding_attention"; in files without that list, in those
// of which slides(layer) is true.
template <typename Slides>
void read_hf_windows(Settings& settings, ModelSpec& spec, const Slides& slides) {
  const uint32_t window = settings.count("sliding_window", 1, kMaxContext, 0);
  const json* types = settings.list("layer_types");
  if (types != nullptr && types->size() != spec.layers) {
    return settings.fail("layer_types", "must name " + std::to_string(spec.layers) + " layers");
  }
  bool any = false;
  for (uint32_t layer = 0; layer < spec.layers; layer++) {
    bool sliding = slides(layer);
    if (types != nullptr) {
      const std::string type = (*types)[layer].is_string() ? (*types)[layer].get<std::string>() : "";
      if (type != "sliding_attention" && type != "full_attention") {
        settings.fail("layer_types", shown(type) + " is not supported; there are: full_attention, sliding_attention");
      }
      sliding = type == "sliding_attention";
    }
    any |= sliding;
    spec.windows.push_back(sliding ? window : 0);
  }
  if (!any || window == 0) spec.windows.clear();
}

// ---- the table ------------------------------------------------------------------------------------------------------

// Keys of the sizes that every decoder has; empty: follows from the others, or is fixed.
struct SizeKeys {
  std::string_view layers = "num_hidden_layers";
  std::string_view hidden = "hidden_size";
  std::string_view heads = "num_attention_heads";
  std::string_view kv_heads = "num_key_value_heads";
  std::string_view head_dim = "head_dim";
  std::string_view ffn = "intermediate_size";
  std::string_view vocab = "vocab_size";
  std::string_view context = "max_position_embeddings";
  std::string_view norm_epsilon = "rms_norm_eps";
  uint32_t ffn_times_hidden = 0;  // where ffn is missing; 0: it must be there
};

constexpr SizeKeys gguf_keys(std::string_view norm_epsilon) {
  return {.layers = ".block_count",
          .hidden = ".embedding_length",
          .heads = ".attention.head_count",
          .kv_heads = ".attention.head_count_kv",
          .head_dim = ".attention.key_length",
          .ffn = ".feed_forward_length",
          .vocab = ".vocab_size",
          .context = ".context_length",
          .norm_epsilon = norm_epsilon};
}
constexpr SizeKeys kGgufRmsKeys = gguf_keys(".attention.layer_norm_rms_epsilon");
constexpr SizeKeys kGgufLayerKeys = gguf_keys(".attention.layer_norm_epsilon");

// Roles that have the same name are one tensor's rows, those of the first before those of the next; the same role may
// have several names.
struct RoleName {
  Role role;
  std::string_view name;  // "{}" stands for the layer
};

struct Dialect {  // how one naming writes a family
  std::string_view architecture;  // empty: the family does not exist in this naming
  SizeKeys keys;
  Status (*read_rest)(Settings&, Description&) = nullptr;
  std::span<const RoleName> names;
  std::string_view optional_prefix;  // of names; checkpoints of a bare decoder lack it
  bool interleaved_heads = false;    // TensorPart::interleaved_dim
  bool heads_together = false;       // q, k and v of a head are neighbours in the tensor that they share
  bool transposed_layers = false;    // matrices of layers are [inputs, outputs]
  float norm_offset = 0;             // norms multiply with what is stored and this
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

// ---- what families have in common -----------------------------------------------------------------------------------

// Of RMS norms, with a gated feed-forward: as Llama is.
void be_llama(Description& description) {
  ModelSpec& spec = description.spec;
  spec.norm = NormKind::rms;
  spec.activation = Activation::silu_glu;
  require(description, kMatrices);
  require(description, kNorms);
  require(description, {Role::gate});
}

// Of layer norms with biases, as all matrices have them, with a plain feed-forward: as GPT-2 and what came of it.
void be_gpt(Description& description) {
  description.spec.norm = NormKind::layer;
  require(description, kMatrices);
  require(description, kNorms);
  require(description, kNormBiases);
  require(description, kAttentionBiases);
  require(description, {Role::up_bias, Role::down_bias});
}

void read_hf_head(Settings& settings, Description& description, bool tied) {
  description.spec.tied_embeddings = settings.flag("tie_word_embeddings", tied);
  if (!description.spec.tied_embeddings) require(description, {Role::lm_head});
}

// No setting says whether the head is the embedding: it is where there is no head.
void read_gguf_head(Description& description) { allow(description, {Role::lm_head}); }

Activation read_hf_gpt_activation(Settings& settings, std::string_view key, std::string_view usual) {
  return settings.one_of<Activation>(key,
                                     {{"gelu", Activation::gelu},
                                      {"gelu_new", Activation::gelu_tanh},
                                      {"gelu_fast", Activation::gelu_tanh},
                                      {"gelu_pytorch_tanh", Activation::gelu_tanh},
                                      {"relu", Activation::relu}},
                                     usual);
}

void only_silu(Settings& settings) {
  settings.one_of<Activation>("hidden_act", {{"silu", Activation::silu_glu}}, "silu");
}

// ---- Llama and its like ---------------------------------------------------------------------------------------------

Status read_hf_llama(Settings& settings, Description& description) {
  be_llama(description);
  only_silu(settings);
  if (settings.flag("attention_bias", false)) require(description, kAttentionBiases);
  if (settings.flag("mlp_bias", false)) require(description, {Role::gate_bias, Role::up_bias, Role::down_bias});
  read_hf_head(settings, description, false);
  return read_hf_rope(settings, description.spec);
}

Status read_gguf_llama(Settings& settings, Description& description) {
  be_llama(description);
  allow(description, kAttentionBiases);
  allow(description, {Role::rope_factors});
  read_gguf_head(description);
  if (settings.count(".expert_count", 0, kMaxLayers, 0) != 0) {
    settings.fail(".expert_count", "other than 0 is not supported: this is a mixture of experts");
  }
  return read_gguf_rope(settings, description.spec);
}

// Every layer has the window.
Status read_hf_mistral(Settings& settings, Description& description) {
  read_hf_windows(settings, description.spec, [](uint32_t) { return true; });
  return read_hf_llama(settings, description);
}

// Windows in the layers from max_window_layers on, where they are used at all.
void read_hf_qwen_windows(Settings& settings, ModelSpec& spec) {
  if (!settings.flag("use_sliding_window", false)) return;
  const uint32_t first = settings.count("max_window_layers", 0, kMaxLayers, 28);
  read_hf_windows(settings, spec, [first](uint32_t layer) { return layer >= first; });
}

Status read_hf_qwen2(Settings& settings, Description& description) {
  be_llama(description);
  only_silu(settings);
  require(description, {Role::q_bias, Role::k_bias, Role::v_bias});
  read_hf_head(settings, description, false);
  read_hf_qwen_windows(settings, description.spec);
  return read_hf_rope(settings, description.spec);
}

Status read_gguf_qwen2(Settings& settings, Description& description) {
  be_llama(description);
  require(description, {Role::q_bias, Role::k_bias, Role::v_bias});
  read_gguf_head(description);
  return read_gguf_rope(settings, description.spec);
}

Status read_hf_qwen3(Settings& settings, Description& description) {
  be_llama(description);
  only_silu(settings);
  require(description, {Role::q_norm, Role::k_norm});
  if (settings.flag("attention_bias", false)) require(description, kAttentionBiases);
  read_hf_head(settings, description, false);
  read_hf_qwen_windows(settings, description.spec);
  return read_hf_rope(settings, description.spec);
}

Status read_gguf_qwen3(Settings& settings, Description& description) {
  be_llama(description);
  require(description, {Role::q_norm, Role::k_norm});
  read_gguf_head(description);
  return read_gguf_rope(settings, description.spec);
}

Status read_hf_phi3(Settings& settings, Description& description) {
  be_llama(description);
  only_silu(settings);
  read_hf_head(settings, description, false);
  read_hf_windows(settings, description.spec, [](uint32_t) { return true; });
  return read_hf_rope(settings, description.spec);
}

Status read_gguf_phi3(Settings& settings, Description& description) {
  be_llama(description);
  allow(description, {Role::rope_factors});
  read_gguf_head(description);
  ModelSpec& spec = description.spec;
  if (const uint32_t window = settings.count(".attention.sliding_window", 0, kMaxContext, 0); window != 0) {
    spec.windows.assign(spec.layers, window);
  }
  return read_gguf_rope(settings, spec);
}

// Layer norms that multiply with nothing.
void be_olmo(Description& description) {
  ModelSpec& spec = description.spec;
  spec.norm = NormKind::layer;
  spec.norm_epsilon = 1e-5f;
  spec.norm_weights = false;
  spec.activation = Activation::silu_glu;
  require(description, kMatrices);
  require(description, {Role::gate});
}

Status read_hf_olmo(Settings& settings, Description& description) {
  be_olmo(description);
  only_silu(settings);
  if (settings.flag("attention_bias", false)) require(description, kAttentionBiases);
  if (settings.has("clip_qkv")) settings.fail("clip_qkv", "other than null is not supported");
  read_hf_head(settings, description, false);
  return read_hf_rope(settings, description.spec);
}

Status read_gguf_olmo(Settings& settings, Description& description) {
  be_olmo(description);
  if (settings.number(".attention.clamp_kqv", 0) != 0) {
    settings.fail(".attention.clamp_kqv", "other than 0 is not supported");
  }
  read_gguf_head(description);
  return read_gguf_rope(settings, description.spec);
}

// Norms before and behind attention and feed-forward, capped scores and logits, a window in every other layer from the
// first on.
void be_gemma2(Description& description) {
  ModelSpec& spec = description.spec;
  be_llama(description);
  spec.activation = Activation::gelu_tanh_glu;
  spec.embedding_scale = std::sqrt(static_cast<float>(spec.hidden));
  spec.norms_before_adding = true;
  require(description, {Role::attention_out_norm, Role::mlp_out_norm});
}

constexpr bool gemma2_slides(uint32_t layer) { return layer % 2 == 0; }

Status read_hf_gemma2(Settings& settings, Description& description) {
  be_gemma2(description);
  ModelSpec& spec = description.spec;
  const std::string_view activation = settings.has("hidden_activation") ? "hidden_activation" : "hidden_act";
  settings.one_of<Activation>(activation, {{"gelu_pytorch_tanh", Activation::gelu_tanh_glu}}, "gelu_pytorch_tanh");
  settings.only("use_bidirectional_attention", false, false);
  if (settings.flag("attention_bias", false)) require(description, kAttentionBiases);
  spec.attention_scale = static_cast<float>(1 / std::sqrt(settings.positive("query_pre_attn_scalar", 256)));
  if (settings.has("attn_logit_softcapping")) {
    spec.score_cap = static_cast<float>(settings.positive("attn_logit_softcapping"));
  }
  if (settings.has("final_logit_softcapping")) {
    spec.logit_cap = static_cast<float>(settings.positive("final_logit_softcapping"));
  }
  read_hf_head(settings, description, true);
  read_hf_windows(settings, spec, gemma2_slides);
  return read_hf_rope(settings, spec);
}

Status read_gguf_gemma2(Settings& settings, Description& description) {
  be_gemma2(description);
  ModelSpec& spec = description.spec;
  // The 27B model, of 46 layers, divides by another number than the size of its heads, which its files do not say.
  double scale = double{spec.attention_scale};
  if (spec.layers == 46) scale = std::sqrt(static_cast<double>(spec.heads) / spec.hidden);
  spec.attention_scale = static_cast<float>(settings.positive(".attention.scale", scale));
  spec.score_cap = static_cast<float>(settings.positive(".attn_logit_softcapping", 50));
  spec.logit_cap = static_cast<float>(settings.positive(".final_logit_softcapping", 30));
  const uint32_t window = settings.count(".attention.sliding_window", 1, kMaxContext, 4096);
  for (uint32_t layer = 0; layer < spec.layers; layer++) spec.windows.push_back(gemma2_slides(layer) ? window : 0);
  read_gguf_head(description);
  return read_gguf_rope(settings, spec);
}

// ---- GPT-2 and its like ---------------------------------------------------------------------------------------------

Status read_hf_opt(Settings& settings, Description& description) {
  ModelSpec& spec = description.spec;
  spec.norm = NormKind::layer;
  spec.norm_epsilon = 1e-5f;
  spec.positions = PositionKind::learned;
  spec.learned_position_offset = 2;
  spec.activation = read_hf_gpt_activation(settings, "activation_function", "relu");
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
  read_hf_head(settings, description, true);
  return {};
}

void be_gpt2(Description& description) {
  be_gpt(description);
  description.spec.positions = PositionKind::learned;
  require(description, {Role::position_embedding});
}

Status read_hf_gpt2(Settings& settings, Description& description) {
  be_gpt2(description);
  description.spec.activation = read_hf_gpt_activation(settings, "activation_function", "gelu_new");
  settings.only("scale_attn_weights", true, true);
  settings.only("scale_attn_by_inverse_layer_idx", false, false);
  settings.only("add_cross_attention", false, false);
  read_hf_head(settings, description, true);
  return {};
}

Status read_gguf_gpt2(Settings&, Description& description) {
  be_gpt2(description);
  description.spec.activation = Activation::gelu_tanh;
  read_gguf_head(description);
  return {};
}

Status read_hf_gpt_neox(Settings& settings, Description& description) {
  be_gpt(description);
  ModelSpec& spec = description.spec;
  spec.activation = read_hf_gpt_activation(settings, "hidden_act", "gelu");
  spec.parallel_residual = settings.flag("use_parallel_residual", true);
  settings.only("attention_bias", true, true);
  read_hf_head(settings, description, false);
  return read_hf_rope(settings, spec, 0.25);
}

Status read_gguf_gpt_neox(Settings& settings, Description& description) {
  be_gpt(description);
  description.spec.activation = Activation::gelu;
  description.spec.parallel_residual = settings.flag(".use_parallel_residual", true);
  read_gguf_head(description);
  return read_gguf_rope(settings, description.spec);
}

// Attention and feed-forward read the same norm.
void be_phi(Description& description) {
  be_gpt(description);
  description.required.reset(static_cast<size_t>(Role::post_norm));
  description.possible.reset(static_cast<size_t>(Role::post_norm));
  description.required.reset(static_cast<size_t>(Role::post_norm_bias));
  description.possible.reset(static_cast<size_t>(Role::post_norm_bias));
  description.spec.parallel_residual = true;
}

Status read_hf_phi(Settings& settings, Description& description) {
  be_phi(description);
  description.spec.activation = read_hf_gpt_activation(settings, "hidden_act", "gelu_new");
  settings.only("qk_layernorm", false, false);
  read_hf_head(settings, description, false);
  if (!description.spec.tied_embeddings) require(description, {Role::lm_head_bias});
  return read_hf_rope(settings, description.spec, 0.5);
}

Status read_gguf_phi(Settings& settings, Description& description) {
  be_phi(description);
  description.spec.activation = Activation::gelu_tanh;
  read_gguf_head(description);
  allow(description, {Role::lm_head_bias});
  return read_gguf_rope(settings, description.spec);
}

// ---- names of tensors -----------------------------------------------------------------------------------------------

// Of Llama and of those that only add to it or leave some out.
constexpr RoleName kHfLlamaNames[] = {
    {Role::token_embedding, "model.embed_tokens.weight"},
    {Role::input_norm, "model.layers.{}.input_layernorm.weight"},
    {Role::q, "model.layers.{}.self_attn.q_proj.weight"},
    {Role::q_bias, "model.layers.{}.self_attn.q_proj.bias"},
    {Role::k, "model.layers.{}.self_attn.k_proj.weight"},
    {Role::k_bias, "model.layers.{}.self_attn.k_proj.bias"},
    {Role::v, "model.layers.{}.self_attn.v_proj.weight"},
    {Role::v_bias, "model.layers.{}.self_attn.v_proj.bias"},
    {Role::q_norm, "model.layers.{}.self_attn.q_norm.weight"},
    {Role::k_norm, "model.layers.{}.self_attn.k_norm.weight"},
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

// GGUF calls the same thing by the same name in every family.
constexpr RoleName kGgufNames[] = {
    {Role::token_embedding, "token_embd.weight"},
    {Role::position_embedding, "position_embd.weight"},
    {Role::input_norm, "blk.{}.attn_norm.weight"},
    {Role::input_norm_bias, "blk.{}.attn_norm.bias"},
    {Role::q, "blk.{}.attn_q.weight"},
    {Role::k, "blk.{}.attn_k.weight"},
    {Role::v, "blk.{}.attn_v.weight"},
    {Role::q, "blk.{}.attn_qkv.weight"},
    {Role::k, "blk.{}.attn_qkv.weight"},
    {Role::v, "blk.{}.attn_qkv.weight"},
    {Role::q_bias, "blk.{}.attn_q.bias"},
    {Role::k_bias, "blk.{}.attn_k.bias"},
    {Role::v_bias, "blk.{}.attn_v.bias"},
    {Role::q_bias, "blk.{}.attn_qkv.bias"},
    {Role::k_bias, "blk.{}.attn_qkv.bias"},
    {Role::v_bias, "blk.{}.attn_qkv.bias"},
    {Role::q_norm, "blk.{}.attn_q_norm.weight"},
    {Role::k_norm, "blk.{}.attn_k_norm.weight"},
    {Role::o, "blk.{}.attn_output.weight"},
    {Role::o_bias, "blk.{}.attn_output.bias"},
    {Role::attention_out_norm, "blk.{}.post_attention_norm.weight"},
    {Role::post_norm, "blk.{}.ffn_norm.weight"},
    {Role::post_norm_bias, "blk.{}.ffn_norm.bias"},
    {Role::gate, "blk.{}.ffn_gate.weight"},
    {Role::up, "blk.{}.ffn_up.weight"},
    {Role::up_bias, "blk.{}.ffn_up.bias"},
    {Role::down, "blk.{}.ffn_down.weight"},
    {Role::down_bias, "blk.{}.ffn_down.bias"},
    {Role::mlp_out_norm, "blk.{}.post_ffw_norm.weight"},
    {Role::final_norm, "output_norm.weight"},
    {Role::final_norm_bias, "output_norm.bias"},
    {Role::lm_head, "output.weight"},
    {Role::lm_head_bias, "output.bias"},
    {Role::rope_factors, "rope_freqs.weight"},
};

// Phi-3's gate and up are one tensor there too.
constexpr RoleName kGgufPhi3Names[] = {
    {Role::token_embedding, "token_embd.weight"},
    {Role::input_norm, "blk.{}.attn_norm.weight"},
    {Role::q, "blk.{}.attn_qkv.weight"},
    {Role::k, "blk.{}.attn_qkv.weight"},
    {Role::v, "blk.{}.attn_qkv.weight"},
    {Role::o, "blk.{}.attn_output.weight"},
    {Role::post_norm, "blk.{}.ffn_norm.weight"},
    {Role::gate, "blk.{}.ffn_up.weight"},
    {Role::up, "blk.{}.ffn_up.weight"},
    {Role::down, "blk.{}.ffn_down.weight"},
    {Role::final_norm, "output_norm.weight"},
    {Role::lm_head, "output.weight"},
    {Role::rope_factors, "rope_factors_short.weight"},
};

constexpr RoleName kHfPhi3Names[] = {
    {Role::token_embedding, "model.embed_tokens.weight"},
    {Role::input_norm, "model.layers.{}.input_layernorm.weight"},
    {Role::q, "model.layers.{}.self_attn.qkv_proj.weight"},
    {Role::k, "model.layers.{}.self_attn.qkv_proj.weight"},
    {Role::v, "model.layers.{}.self_attn.qkv_proj.weight"},
    {Role::o, "model.layers.{}.self_attn.o_proj.weight"},
    {Role::post_norm, "model.layers.{}.post_attention_layernorm.weight"},
    {Role::gate, "model.layers.{}.mlp.gate_up_proj.weight"},
    {Role::up, "model.layers.{}.mlp.gate_up_proj.weight"},
    {Role::down, "model.layers.{}.mlp.down_proj.weight"},
    {Role::final_norm, "model.norm.weight"},
    {Role::lm_head, "lm_head.weight"},
};

// post_attention_layernorm is behind attention here, and in front of the feed-forward in Llama.
constexpr RoleName kHfGemma2Names[] = {
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
    {Role::attention_out_norm, "model.layers.{}.post_attention_layernorm.weight"},
    {Role::post_norm, "model.layers.{}.pre_feedforward_layernorm.weight"},
    {Role::gate, "model.layers.{}.mlp.gate_proj.weight"},
    {Role::up, "model.layers.{}.mlp.up_proj.weight"},
    {Role::down, "model.layers.{}.mlp.down_proj.weight"},
    {Role::mlp_out_norm, "model.layers.{}.post_feedforward_layernorm.weight"},
    {Role::final_norm, "model.norm.weight"},
    {Role::lm_head, "lm_head.weight"},
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

constexpr RoleName kHfGpt2Names[] = {
    {Role::token_embedding, "transformer.wte.weight"},
    {Role::position_embedding, "transformer.wpe.weight"},
    {Role::input_norm, "transformer.h.{}.ln_1.weight"},
    {Role::input_norm_bias, "transformer.h.{}.ln_1.bias"},
    {Role::q, "transformer.h.{}.attn.c_attn.weight"},
    {Role::k, "transformer.h.{}.attn.c_attn.weight"},
    {Role::v, "transformer.h.{}.attn.c_attn.weight"},
    {Role::q_bias, "transformer.h.{}.attn.c_attn.bias"},
    {Role::k_bias, "transformer.h.{}.attn.c_attn.bias"},
    {Role::v_bias, "transformer.h.{}.attn.c_attn.bias"},
    {Role::o, "transformer.h.{}.attn.c_proj.weight"},
    {Role::o_bias, "transformer.h.{}.attn.c_proj.bias"},
    {Role::post_norm, "transformer.h.{}.ln_2.weight"},
    {Role::post_norm_bias, "transformer.h.{}.ln_2.bias"},
    {Role::up, "transformer.h.{}.mlp.c_fc.weight"},
    {Role::up_bias, "transformer.h.{}.mlp.c_fc.bias"},
    {Role::down, "transformer.h.{}.mlp.c_proj.weight"},
    {Role::down_bias, "transformer.h.{}.mlp.c_proj.bias"},
    {Role::final_norm, "transformer.ln_f.weight"},
    {Role::final_norm_bias, "transformer.ln_f.bias"},
    {Role::lm_head, "lm_head.weight"},
};

constexpr RoleName kHfGptNeoxNames[] = {
    {Role::token_embedding, "gpt_neox.embed_in.weight"},
    {Role::input_norm, "gpt_neox.layers.{}.input_layernorm.weight"},
    {Role::input_norm_bias, "gpt_neox.layers.{}.input_layernorm.bias"},
    {Role::q, "gpt_neox.layers.{}.attention.query_key_value.weight"},
    {Role::k, "gpt_neox.layers.{}.attention.query_key_value.weight"},
    {Role::v, "gpt_neox.layers.{}.attention.query_key_value.weight"},
    {Role::q_bias, "gpt_neox.layers.{}.attention.query_key_value.bias"},
    {Role::k_bias, "gpt_neox.layers.{}.attention.query_key_value.bias"},
    {Role::v_bias, "gpt_neox.layers.{}.attention.query_key_value.bias"},
    {Role::o, "gpt_neox.layers.{}.attention.dense.weight"},
    {Role::o_bias, "gpt_neox.layers.{}.attention.dense.bias"},
    {Role::post_norm, "gpt_neox.layers.{}.post_attention_layernorm.weight"},
    {Role::post_norm_bias, "gpt_neox.layers.{}.post_attention_layernorm.bias"},
    {Role::up, "gpt_neox.layers.{}.mlp.dense_h_to_4h.weight"},
    {Role::up_bias, "gpt_neox.layers.{}.mlp.dense_h_to_4h.bias"},
    {Role::down, "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight"},
    {Role::down_bias, "gpt_neox.layers.{}.mlp.dense_4h_to_h.bias"},
    {Role::final_norm, "gpt_neox.final_layer_norm.weight"},
    {Role::final_norm_bias, "gpt_neox.final_layer_norm.bias"},
    {Role::lm_head, "embed_out.weight"},
    {Role::lm_head, "lm_head.weight"},
};

constexpr RoleName kHfPhiNames[] = {
    {Role::token_embedding, "model.embed_tokens.weight"},
    {Role::input_norm, "model.layers.{}.input_layernorm.weight"},
    {Role::input_norm_bias, "model.layers.{}.input_layernorm.bias"},
    {Role::q, "model.layers.{}.self_attn.q_proj.weight"},
    {Role::q_bias, "model.layers.{}.self_attn.q_proj.bias"},
    {Role::k, "model.layers.{}.self_attn.k_proj.weight"},
    {Role::k_bias, "model.layers.{}.self_attn.k_proj.bias"},
    {Role::v, "model.layers.{}.self_attn.v_proj.weight"},
    {Role::v_bias, "model.layers.{}.self_attn.v_proj.bias"},
    {Role::o, "model.layers.{}.self_attn.dense.weight"},
    {Role::o_bias, "model.layers.{}.self_attn.dense.bias"},
    {Role::up, "model.layers.{}.mlp.fc1.weight"},
    {Role::up_bias, "model.layers.{}.mlp.fc1.bias"},
    {Role::down, "model.layers.{}.mlp.fc2.weight"},
    {Role::down_bias, "model.layers.{}.mlp.fc2.bias"},
    {Role::final_norm, "model.final_layernorm.weight"},
    {Role::final_norm_bias, "model.final_layernorm.bias"},
    {Role::lm_head, "lm_head.weight"},
    {Role::lm_head_bias, "lm_head.bias"},
};

}  // namespace

struct Family {
  std::string_view name;
  Dialect hf, gguf;
};

namespace {

constexpr Family kFamilies[] = {
    // Llama 1-3 and what was built like it, such as SmolLM2. In GGUF Mistral too, whose window those files do not say.
    {.name = "llama",
     .hf = {.architecture = "llama",
            .keys = {},
            .read_rest = read_hf_llama,
            .names = kHfLlamaNames,
            .optional_prefix = "model."},
     .gguf = {.architecture = "llama",
              .keys = kGgufRmsKeys,
              .read_rest = read_gguf_llama,
              .names = kGgufNames,
              .interleaved_heads = true}},
    {.name = "mistral",
     .hf = {.architecture = "mistral",
            .keys = {},
            .read_rest = read_hf_mistral,
            .names = kHfLlamaNames,
            .optional_prefix = "model."}},
    // Qwen 1.5, 2 and 2.5.
    {.name = "qwen2",
     .hf = {.architecture = "qwen2",
            .keys = {},
            .read_rest = read_hf_qwen2,
            .names = kHfLlamaNames,
            .optional_prefix = "model."},
     .gguf = {.architecture = "qwen2", .keys = kGgufRmsKeys, .read_rest = read_gguf_qwen2, .names = kGgufNames}},
    {.name = "qwen3",
     .hf = {.architecture = "qwen3",
            .keys = {},
            .read_rest = read_hf_qwen3,
            .names = kHfLlamaNames,
            .optional_prefix = "model."},
     .gguf = {.architecture = "qwen3", .keys = kGgufRmsKeys, .read_rest = read_gguf_qwen3, .names = kGgufNames}},
    {.name = "phi3",
     .hf = {.architecture = "phi3",
            .keys = {},
            .read_rest = read_hf_phi3,
            .names = kHfPhi3Names,
            .optional_prefix = "model."},
     .gguf = {.architecture = "phi3", .keys = kGgufRmsKeys, .read_rest = read_gguf_phi3, .names = kGgufPhi3Names}},
    {.name = "olmo",
     .hf = {.architecture = "olmo",
            .keys = {.norm_epsilon = ""},
            .read_rest = read_hf_olmo,
            .names = kHfLlamaNames,
            .optional_prefix = "model."},
     .gguf = {.architecture = "olmo",
              .keys = kGgufLayerKeys,
              .read_rest = read_gguf_olmo,
              .names = kGgufNames,
              .interleaved_heads = true}},
    {.name = "gemma2",
     .hf = {.architecture = "gemma2",
            .keys = {},
            .read_rest = read_hf_gemma2,
            .names = kHfGemma2Names,
            .optional_prefix = "model.",
            .norm_offset = 1},
     .gguf = {.architecture = "gemma2", .keys = kGgufRmsKeys, .read_rest = read_gguf_gemma2, .names = kGgufNames}},
    {.name = "opt",
     .hf = {.architecture = "opt",
            .keys = {.kv_heads = "", .head_dim = "", .ffn = "ffn_dim", .norm_epsilon = ""},
            .read_rest = read_hf_opt,
            .names = kHfOptNames,
            .optional_prefix = "model."}},
    {.name = "gpt2",
     .hf = {.architecture = "gpt2",
            .keys = {.layers = "n_layer",
                     .hidden = "n_embd",
                     .heads = "n_head",
                     .kv_heads = "",
                     .head_dim = "",
                     .ffn = "n_inner",
                     .context = "n_positions",
                     .norm_epsilon = "layer_norm_epsilon",
                     .ffn_times_hidden = 4},
            .read_rest = read_hf_gpt2,
            .names = kHfGpt2Names,
            .optional_prefix = "transformer.",
            .transposed_layers = true},
     .gguf = {.architecture = "gpt2", .keys = kGgufLayerKeys, .read_rest = read_gguf_gpt2, .names = kGgufNames}},
    // GPT-NeoX-20B, Pythia.
    {.name = "gpt_neox",
     .hf = {.architecture = "gpt_neox",
            .keys = {.kv_heads = "", .head_dim = "", .norm_epsilon = "layer_norm_eps"},
            .read_rest = read_hf_gpt_neox,
            .names = kHfGptNeoxNames,
            .optional_prefix = "gpt_neox.",
            .heads_together = true},
     .gguf = {.architecture = "gptneox", .keys = kGgufLayerKeys, .read_rest = read_gguf_gpt_neox, .names = kGgufNames}},
    // Phi-1, 1.5 and 2.
    {.name = "phi",
     .hf = {.architecture = "phi",
            .keys = {.head_dim = "", .norm_epsilon = "layer_norm_eps"},
            .read_rest = read_hf_phi,
            .names = kHfPhiNames,
            .optional_prefix = "model."},
     .gguf = {.architecture = "phi2", .keys = kGgufLayerKeys, .read_rest = read_gguf_phi, .names = kGgufNames}},
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
  std::optional<uint32_t> usual_ffn;
  if (keys.ffn_times_hidden != 0) usual_ffn = keys.ffn_times_hidden * spec.hidden;
  spec.ffn = settings.count(keys.ffn, 1, kMaxFfn, usual_ffn);
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
      "key bias", "value", "value bias", "query norm", "key norm", "attention output", "attention output bias",
      "attention output norm", "feed-forward norm", "feed-forward norm bias", "gate", "gate bias", "up", "up bias", "down",
      "down bias", "feed-forward output norm", "final norm", "final norm bias", "head", "head bias", "rope factors"};
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
    case Role::lm_head_bias: return {spec.vocab, 0};
    case Role::q_norm:
    case Role::k_norm: return {spec.head_dim, 0};
    case Role::rope_factors: return {static_cast<uint32_t>(spec.rope_inverse_frequency.size()), 0};
    case Role::input_norm:
    case Role::input_norm_bias:
    case Role::o_bias:
    case Role::attention_out_norm:
    case Role::mlp_out_norm:
    case Role::post_norm:
    case Role::post_norm_bias:
    case Role::down_bias:
    case Role::final_norm:
    case Role::final_norm_bias: return {spec.hidden, 0};
  }
  return {};
}

Result<Description> describe(Naming naming, const json& settings) {
  Settings head(settings);
  const std::string architecture = head.text(naming == Naming::hf ? "model_type" : "general.architecture", "");
  IOKV_TRY(head.status());
  Description description;
  IOKV_TRY_ASSIGN(description.family, family_of(naming, architecture));
  Settings read(settings, architecture);
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

uint32_t TensorPart::row_of(uint32_t index) const {
  if (interleaved_dim != 0) {
    const uint32_t place = index % interleaved_dim, half = interleaved_dim / 2;
    index = index - place + place % half * 2 + place / half;
  }
  if (head_dim == 0) return first_row + index;
  return first_row + index / head_dim * head_stride + index % head_dim;
}

std::vector<TensorPart> parts_of(const Family& family, Naming naming, const ModelSpec& spec, Role role, uint32_t layer) {
  const Dialect& dialect = dialect_of(family, naming);
  std::vector<TensorPart> parts;
  for (const RoleName& named : dialect.names) {
    if (named.role != role) continue;
    TensorPart part;
    uint32_t sharers = 0, sharers_before = 0;
    bool before = true;
    for (const RoleName& other : dialect.names) {
      if (other.name != named.name) continue;
      if (other.role == role) before = false;
      const uint32_t rows = shape_of(other.role, spec).rows;
      part.rows += rows;
      part.first_row += before ? rows : 0;
      sharers++;
      sharers_before += before ? 1 : 0;
    }
    if (dialect.heads_together && sharers > 1) {
      part.head_dim = spec.head_dim;
      part.head_stride = sharers * spec.head_dim;
      part.first_row = sharers_before * spec.head_dim;
    }
    const bool rotates = role == Role::q || role == Role::q_bias || role == Role::k || role == Role::k_bias;
    if (dialect.interleaved_heads && rotates) part.interleaved_dim = spec.head_dim;
    part.transposed = dialect.transposed_layers && is_per_layer(role) && shape_of(role, spec).columns != 0;
    const bool norm = role == Role::input_norm || role == Role::post_norm || role == Role::attention_out_norm ||
                      role == Role::mlp_out_norm || role == Role::final_norm;
    part.added = norm ? dialect.norm_offset : 0;
    part.name = named.name;
    if (const size_t at = part.name.find("{}"); at != std::string::npos) part.name.replace(at, 2, std::to_string(layer));
    parts.push_back(part);
    if (dialect.optional_prefix.empty() || !part.name.starts_with(dialect.optional_prefix)) continue;
    part.name.erase(0, dialect.optional_prefix.size());
    parts.push_back(part);
  }
  return parts;
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
