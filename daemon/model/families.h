// SPDX-License-Identifier: Apache-2.0
// The model families, as a table: how each one's settings (config.json or GGUF metadata) make a ModelSpec, and what its
// tensors are called. Nothing outside families.cpp knows a model's name; a new family is a new row. Pure functions.
#pragma once

#include <bitset>
#include <cstdint>
#include <span>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "daemon/base/result.h"
#include "daemon/model/spec.h"

namespace iokv {

// What a weight is for. Those from input_norm to down_bias exist once a layer.
enum class Role : uint8_t {
  token_embedding,     // [vocab, h]
  position_embedding,  // [max_context + learned_position_offset, h]
  input_norm,          // [h], before attention
  input_norm_bias,
  q,                   // [heads·d, h]
  q_bias,
  k,                   // [kv_heads·d, h]
  k_bias,
  v,                   // [kv_heads·d, h]
  v_bias,
  o,                   // [h, heads·d]
  o_bias,
  post_norm,           // [h], before the feed-forward
  post_norm_bias,
  gate,                // [ffn, h]; only where the activation is gated
  gate_bias,
  up,                  // [ffn, h]; OPT's fc1
  up_bias,
  down,                // [h, ffn]; OPT's fc2
  down_bias,
  final_norm,          // [h]
  final_norm_bias,
  lm_head,             // [vocab, h]
  rope_factors,        // [d/2]; divides the inverse frequencies; used up when the files are opened
};
inline constexpr size_t kRoles = static_cast<size_t>(Role::rope_factors) + 1;
using RoleSet = std::bitset<kRoles>;

const char* name_of(Role role);
constexpr bool is_per_layer(Role role) { return role >= Role::input_norm && role <= Role::down_bias; }

struct RoleShape {
  uint32_t rows = 0, columns = 0;  // columns 0: a vector of `rows` elements
};
RoleShape shape_of(Role role, const ModelSpec& spec);

enum class Naming : uint8_t { hf, gguf };

struct Family;  // a row of the table

// A model as its settings describe it, before any tensor has been looked at.
struct Description {
  const Family* family = nullptr;
  ModelSpec spec;
  RoleSet required, possible;  // roles whose tensors must, may exist
};

// `settings`: config.json's object, or GGUF metadata as an object of its scalars by their full keys. Unknown
// architectures (the known ones are listed), settings that this family's row cannot express, missing keys and numbers
// outside the limits below are Errors.
Result<Description> describe(Naming naming, const nlohmann::json& settings);

// The tensor's name in files of that naming, or "" where the family has none.
std::string tensor_name(const Family& family, Naming naming, Role role, uint32_t layer);

// Whether files of that naming store the rows of q and k of a head interleaved (pairs 2i, 2i+1 rotate together), not
// as halves (i, i + d/2).
bool stores_interleaved_heads(const Family& family, Naming naming);

// Numbers and relations of a spec: sizes in range, heads that divide. Larger than any published model by a factor of
// ten or so, small enough that no product of two of them overflows 64 bits.
inline constexpr uint32_t kMaxLayers = 1000, kMaxHidden = 65536, kMaxHeads = 4096, kMaxHeadDim = 1024;
inline constexpr uint32_t kMaxFfn = 1u << 20, kMaxVocab = 1u << 22, kMaxContext = 1u << 27;
Status validate(const ModelSpec& spec);

}  // namespace iokv
