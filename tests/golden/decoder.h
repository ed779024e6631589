// SPDX-License-Identifier: Apache-2.0
// Decoder: a model with a pool of its own, for tests that append tokens to sequences and compare logits. It stands in
// for scheduler and executor: it chooses the blocks, their forms and ids, and what goes into a step.
//
// The pool starts as NaNs and ids are handed out once, so that whatever is read before it was written shows.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/model/layers.h"
#include "daemon/model/model_files.h"

namespace iokv::test {

struct Sequence {
  uint32_t length = 0;
  std::vector<uint32_t> blocks;
  std::vector<BlockForm> forms;
};

// The form of a sequence's block by its index.
using FormOf = std::function<BlockForm(uint32_t index)>;
inline BlockForm all_kv(uint32_t) { return BlockForm::kv; }
inline BlockForm all_x(uint32_t) { return BlockForm::x; }
inline BlockForm kv_then_x(uint32_t index) { return index % 2 == 0 ? BlockForm::kv : BlockForm::x; }
inline BlockForm x_then_kv(uint32_t index) { return index % 2 == 0 ? BlockForm::x : BlockForm::kv; }

struct DecoderOptions {
  FormOf form = all_kv;
  bool descending_ids = false;  // ids of a sequence's blocks fall, and leave gaps
  uint32_t max_rows = 512;
  uint32_t max_spans = 64;
  uint32_t max_context = 0;
  uint32_t pool_blocks = 80;  // of a layer
};

class Decoder {
 public:
  Decoder(Backend& backend, const ModelFiles& files, const DecoderOptions& options = {});

  struct Append {
    Sequence* sequence;
    std::span<const int32_t> tokens;
  };

  // One forward. Logits [rows, vocab] of all rows, or of those named.
  std::vector<float> step(const std::vector<Append>& appends);
  std::vector<float> step(const std::vector<Append>& appends, std::span<const uint32_t> logits_rows);

  // A sequence of its own, fed in chunks of that many tokens, the last one what is left: logits of all its tokens.
  std::vector<float> run(std::span<const int32_t> tokens, uint32_t chunk_tokens);

  uint32_t vocab() const { return model_->spec().vocab; }

 private:
  uint32_t take_id();

  Backend& backend_;
  DecoderOptions options_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<DeviceMemory> pool_, logits_;
  PoolView view_;
  uint32_t units_a_block_ = 0;  // ids that every block takes here, whatever its form
  uint32_t taken_ = 0;
};

// Ends the test program with the error's line where there is one.
[[noreturn]] void end_with(const Error& failure);
template <typename T>
T must(Result<T> result) {
  if (!result) end_with(result.failure());
  return *std::move(result);
}

}  // namespace iokv::test
