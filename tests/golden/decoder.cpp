// SPDX-License-Identifier: Apache-2.0
// See decoder.h.
#include "tests/golden/decoder.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace iokv::test {

void end_with(const Error& failure) {
  std::fprintf(stderr, "%s\n", failure.message.c_str());
  std::exit(1);
}

Decoder::Decoder(Backend& backend, const ModelFiles& files, const DecoderOptions& options)
    : backend_(backend), options_(options) {
  ModelLimits limits;
  limits.max_rows = options.max_rows;
  limits.max_spans = options.max_spans;
  limits.max_context = options.max_context;
  limits.poison_scratch = true;
  model_ = must(Model::make(backend, files.spec(), must(load_weights(backend, files, {})), limits));

  const ModelSpec& spec = files.spec();
  size_t x_bytes = block_bytes(spec, backend.info().compute, BlockForm::x);
  size_t kv_bytes = block_bytes(spec, backend.info().compute, BlockForm::kv);
  view_.unit_bytes = std::min(x_bytes, kv_bytes);
  units_a_block_ = static_cast<uint32_t>((std::max(x_bytes, kv_bytes) + view_.unit_bytes - 1) / view_.unit_bytes);
  view_.layer_stride_bytes = view_.unit_bytes * units_a_block_ * options.pool_blocks;
  pool_ = must(backend.alloc(view_.layer_stride_bytes * spec.layers));
  view_.base = static_cast<std::byte*>(pool_->data());
  std::memset(view_.base, 0xff, pool_->size_bytes());
  logits_ = must(backend.alloc(size_t{limits.max_rows} * spec.vocab * sizeof(float)));
}

uint32_t Decoder::take_id() {
  IOKV_ASSERT(taken_ < options_.pool_blocks);
  uint32_t index = taken_++;
  return units_a_block_ * (options_.descending_ids ? options_.pool_blocks - 1 - index : index);
}

std::vector<float> Decoder::step(const std::vector<Append>& appends) {
  size_t rows = 0;
  for (const Append& append : appends) rows += append.tokens.size();
  std::vector<uint32_t> all(rows);
  std::iota(all.begin(), all.end(), 0u);
  return step(appends, all);
}

std::vector<float> Decoder::step(const std::vector<Append>& appends, std::span<const uint32_t> logits_rows) {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> positions;
  std::vector<StepSpan> spans;
  for (const Append& append : appends) {
    Sequence& sequence = *append.sequence;
    auto rows = static_cast<uint32_t>(append.tokens.size());
    while (sequence.blocks.size() < blocks_for(Tokens(sequence.length + rows)).value) {
      sequence.forms.push_back(options_.form(static_cast<uint32_t>(sequence.forms.size())));
      sequence.blocks.push_back(take_id());
    }
    spans.push_back({static_cast<uint32_t>(tokens.size()), rows, sequence.length, sequence.blocks, sequence.forms});
    tokens.insert(tokens.end(), append.tokens.begin(), append.tokens.end());
    for (uint32_t row = 0; row < rows; ++row) positions.push_back(sequence.length++);
  }
  StepInputs inputs;
  inputs.tokens = tokens;
  inputs.positions = positions;
  inputs.spans = spans;
  inputs.logits_rows = logits_rows;
  inputs.logits = static_cast<float*>(logits_->data());
  Status done = model_->forward(inputs, view_);
  if (!done) end_with(done.failure());
  return {inputs.logits, inputs.logits + logits_rows.size() * vocab()};
}

std::vector<float> Decoder::run(std::span<const int32_t> tokens, uint32_t chunk_tokens) {
  Sequence sequence;
  std::vector<float> logits;
  while (!tokens.empty()) {
    auto chunk = tokens.first(std::min<size_t>(chunk_tokens, tokens.size()));
    std::vector<float> part = step({{&sequence, chunk}});
    logits.insert(logits.end(), part.begin(), part.end());
    tokens = tokens.subspan(chunk.size());
  }
  return logits;
}

}  // namespace iokv::test
