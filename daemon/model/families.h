// SPDX-License-Identifier: Apache-2.0
// The model families, as a table: how each one's settings (config.json or GGUF metadata) make a ModelSpec, and what its
// tensors are called. Nothing outside families.cpp knows a model's name; a new family is a new row. Pure functions.
#pragma once

#include <bitset>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "daemon/base/result.h"
#include "daemon/model/spec.h"

namespace iokv {

// What a weight is for. Those from input_norm to mlp_out_norm exist once a layer.
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
  q_norm,              // [d], of each head of q by itself
  k_norm,
  o,                   // [h, heads·d]
  o_bias,
  attention_out_norm,  // [h], of what attention gives, before it is added
  post_norm,           // [h], before the feed-forward
  post_norm_bias,
  gate,                // [ffn, h]; only where the activation is gated
  gate_bias,
  up,                  // [ffn, h]; OPT's fc1
  up_bias,
  down,                // [h, ffn]; OPT's fc2
  down_bias,
  mlp_out_norm,        // [h], of what the feed-forward gives, before it is added
  final_norm,          // [h]
  final_norm_bias,
  lm_head,             // [vocab, h]
  lm_head_bias,
  rope_factors,        // [rotary_dim/2]; divides the inverse frequencies; used up when the files are opened
};
inline constexpr size_t kRoles = static_cast<size_t>(Role::rope_factors) + 1;
using RoleSet = std::bitset<kRoles>;

const char* name_of(Role role);
constexpr bool is_per_layer(Role role) { return role >= Role::input_norm && role <= Role::mlp_out_norm; }

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

// Where a role's rows (of a vector: elements) lie in a tensor, which other roles may share: row i of the role is
// row_of(i) of the tensor.
struct TensorPart {
  std::string name;
  uint32_t rows = 0;             // of the whole tensor
  uint32_t first_row = 0;        // of the role
  uint32_t head_dim = 0;         // where rows lie head by head: of one role's; 0: all of a role's rows are together
  uint32_t head_stride = 0;      // and of all roles'
  uint32_t interleaved_dim = 0;  // of heads whose pairs 2i, 2i + 1 rotate together in the file, not i, i + d/2; 0: none
  bool transposed = false;       // the tensor is [columns, rows]
  float added = 0;               // to every element

  uint32_t row_of(uint32_t index) const;
};

// The tensors that may have the role in files of that naming: the first one that a file has does. A name is followed by
// the same without the prefix that checkpoints of a bare decoder lack.
std::vector<TensorPart> parts_of(const Family& family, Naming naming, const ModelSpec& spec, Role role, uint32_t layer);

// Numbers and relations of a spec: sizes in range, heads that divide. Larger than any published model by a factor of
// ten or so, small enough that no product of two of them overflows 64 bits.
inline constexpr uint32_t kMaxLayers = 1000, kMaxHidden = 65536, kMaxHeads = 4096, kMaxHeadDim = 1024;
inline constexpr uint32_t kMaxFfn = 1u << 20, kMaxVocab = 1u << 22, kMaxContext = 1u << 27;
Status validate(const ModelSpec& spec);

}  // namespace iokv
