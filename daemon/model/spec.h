// SPDX-License-Identifier: Apache-2.0
// ModelSpec: everything about a decoder that the rest of the daemon needs, read from config.json or GGUF metadata.
// A family is a row of a table (families.cpp) that fills this; nothing else branches on a model's name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/backend/backend.h"

namespace iokv {

enum class PositionKind : uint8_t { learned, rope };

struct ModelSpec {
  std::string family;            // "llama", "opt"
  std::string name;              // as the file says, or the directory's name
  uint32_t layers = 0;
  uint32_t hidden = 0;           // h
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;         // d
  uint32_t ffn = 0;
  uint32_t vocab = 0;
  uint32_t max_context = 0;      // tokens, as trained

  NormKind norm = NormKind::rms;
  float norm_epsilon = 1e-5f;
  bool norm_weights = true;      // false: norms multiply with nothing
  Activation activation = Activation::silu_glu;
  float attention_scale = 0.0f;  // 1/sqrt(d) unless the model says otherwise
  float embedding_scale = 1.0f;  // of a token's row of the embedding
  // Attention and feed-forward both read what the layer was given, and both are added to it; else one after the other.
  bool parallel_residual = false;
  // What attention and feed-forward give is normalised before it is added, as well as what they are given.
  bool norms_before_adding = false;
  std::vector<uint32_t> windows;  // tokens that a row of each layer sees, 0: all; empty: all in every layer
  float score_cap = 0.0f;         // AttendArgs::score_cap; 0: none
  float logit_cap = 0.0f;         // CapArgs::limit of the logits; 0: none

  PositionKind positions = PositionKind::rope;
  uint32_t learned_position_offset = 0;          // OPT: 2
  std::vector<float> rope_inverse_frequency;     // [rotary_dim/2], scaling (llama3, yarn, ...) applied
  float rope_attention_scale = 1.0f;

  bool tied_embeddings = false;
  std::vector<int32_t> end_tokens;               // generation usually stops at these (eos), advisory to clients
  int32_t begin_token = -1;                      // bos to put before a prompt, or -1

  uint32_t window_of(uint32_t layer) const { return windows.empty() ? 0 : windows[layer]; }
  uint32_t kv_width() const { return kv_heads * head_dim; }        // k = n_kv·d
  uint32_t q_width() const { return heads * head_dim; }
  KvShape kv_shape() const { return KvShape{heads, kv_heads, head_dim}; }
};

}  // namespace iokv
