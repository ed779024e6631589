// SPDX-License-Identifier: Apache-2.0
// A model as it lies on disk: a directory in Hugging Face's layout (config.json, *.safetensors) or one .gguf file,
// described by a ModelSpec and read by role. Nothing is copied until a row is asked for. Immutable once opened: any
// thread may read.
//
// Invariants
//  1. After open_model every tensor that the family requires exists, with the shape that the spec gives it and a type
//     that can be read; matrix() and vector() fail only for roles that has() denies.
//  2. Rows come out in the order that the backend computes in: q and k of a head as halves, whatever the file does.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/model/families.h"
#include "daemon/model/spec.h"
#include "daemon/model/tensor_file.h"
#include "daemon/model/tokenizer_export.h"

namespace iokv {

using Digest = std::array<uint8_t, 32>;

class ModelFiles {
 public:
  const ModelSpec& spec() const { return description_.spec; }
  const std::string& path() const { return path_; }

  // Whether this model has the weight. Per-layer roles: layer < spec().layers; the others ignore `layer`. With
  // spec().tied_embeddings there is no lm_head: token_embedding serves.
  bool has(Role role, uint32_t layer = 0) const;

  // Rows of shape_of(role, spec()), dequantised as they are read. The source reads this object's mappings, which must
  // outlive it.
  Result<std::unique_ptr<RowSource>> matrix(Role role, uint32_t layer = 0) const;
  Result<std::vector<float>> vector(Role role, uint32_t layer = 0) const;

  // All tensors' bytes as stored: what a step at batch 1 must read at least once.
  uint64_t stored_bytes() const { return tensors_.stored_bytes(); }
  StoredType main_type() const { return tensors_.main_type(); }
  const TensorFile& tensors() const { return tensors_; }

  // Identifies the model between a daemon and its clients, not against an adversary. Covers config or metadata, every
  // tensor's name, type, shape and size, and 64 bytes at the start, middle and end of each tensor: cheap, because it
  // reads a few pages a tensor, and different whenever any layer was trained further.
  const Digest& digest() const { return digest_; }

  const TokenizerExport& tokenizer() const { return tokenizer_; }

 private:
  struct Found {
    const TensorView* tensor = nullptr;
    TensorPart part;
  };
  Found find(Role role, uint32_t layer) const;

  friend class ModelOpener;

  std::string path_;
  Naming naming_ = Naming::hf;
  Description description_;
  TensorFile tensors_;
  TokenizerExport tokenizer_;
  Digest digest_{};
};

// With a seed only config.json is read, and the weights are random (random_tensors.h). Every Error is one line that names the
// file and what to do.
Result<ModelFiles> open_model(const std::string& path, std::optional<uint64_t> random_seed = {});

}  // namespace iokv
