// SPDX-License-Identifier: Apache-2.0
// See decoder.h.
#include "tests/golden/decoder.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

#include "daemon/sched/block_table.h"
#include "daemon/sched/plan_check.h"

namespace iokv::test {

void end_with(const Error& failure) {
  std::fprintf(stderr, "%s\n", failure.message.c_str());
  std::exit(1);
}

Decoder::Decoder(Backend& backend, const ModelFiles& files, const DecoderOptions& options) : Decoder(backend, options) {
  make(files.spec(), load(files));
}

Decoder::Decoder(Backend& backend, const ModelSpec& spec, Weights weights, const DecoderOptions& options)
    : Decoder(backend, options) {
  make(spec, std::move(weights));
}

Weights Decoder::load(const ModelFiles& files) {
  WeightPlacement placement;
  placement.layers = {files.spec().layers, options_.streamed_layers};
  placement.slots = options_.weight_slots;
  constexpr size_t kPage = 4096;
  host_weights_.resize(options_.streamed_layers * layer_image(backend_, files.spec()).host_stride_bytes() + kPage);
  placement.host = host_weights_.data() + (kPage - reinterpret_cast<uintptr_t>(host_weights_.data()) % kPage) % kPage;
  return must(load_weights(backend_, files, {}, placement));
}

void Decoder::make(const ModelSpec& spec, Weights weights) {
  Backend& backend = backend_;
  const DecoderOptions& options = options_;
  const DType compute = backend.info().compute;
  size_t x_bytes = block_bytes(spec, compute, BlockForm::x), kv_bytes = block_bytes(spec, compute, BlockForm::kv);
  view_.unit_bytes = std::min(x_bytes, kv_bytes);
  units_a_block_ = static_cast<uint32_t>((std::max(x_bytes, kv_bytes) + view_.unit_bytes - 1) / view_.unit_bytes);
  view_.layer_stride_bytes = view_.unit_bytes * units_a_block_ * options.pool_blocks;
  memory_.assign(view_.layer_stride_bytes * spec.layers + 64, std::byte{0xff});
  view_.base = memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64;
  if (Status pinned = backend.pin(view_.base, view_.layer_stride_bytes * spec.layers); !pinned) end_with(pinned.failure());

  PipelineOptions pipeline;
  pipeline.host = pipeline.device = view_;
  if (options.device_blocks > 0) {
    pipeline.device.layer_stride_bytes = view_.unit_bytes * units_a_block_ * options.device_blocks;
    const std::vector<std::byte> nans(pipeline.device.layer_stride_bytes, std::byte{0xff});
    device_memory_ = must(backend.alloc(nans.size() * spec.layers));
    pipeline.device.base = static_cast<std::byte*>(device_memory_->data());
    for (uint32_t layer = 0; layer < spec.layers; ++layer) {
      backend.copy(Queue::h2d, pipeline.device.block(layer, 0), nans.data(), nans.size());
    }
    must(backend.poll(backend.record(Queue::h2d), true));
  }
  pipeline.poison = true;
  StagingShape& ring = pipeline.staging;
  ring.slot_blocks = options.ring.slot_blocks;
  ring.kv_slots = options.ring.kv_slots;
  ring.x_slots = options.ring.x_slots;
  ring.tile_tokens = options.ring.tile_tokens != 0 ? options.ring.tile_tokens : ring.slot_blocks * kBlockTokens;
  ring.kv_units = ring.x_units = units_a_block_;
  ring.batch_rows = options.batch_rows;
  ring.kept_blocks = options.kept_blocks;
  ring.in_place = backend.info().host_addressable;
  if (const WeightStream* stream = weights.stream.get()) {
    const LayerImage& image = stream->image();
    ring.weights = {stream->layers(), stream->slots(), image.part_bytes(WeightPart::key_value),
                    image.part_bytes(WeightPart::rest)};
  }
  builder_ = std::make_unique<PlanBuilder>(ring);

  ModelLimits limits;
  limits.max_rows = options.max_rows;
  limits.batch_rows = options.batch_rows;
  limits.recompute_rows = ring.tile_tokens;
  auto model = must(Model::make(backend, spec, std::move(weights), limits));
  executor_ = must(Executor::make(backend, std::move(model), pipeline, {options.max_rows, std::min(options.max_rows, options.batch_rows)}));
}

Decoder::~Decoder() { backend_.unpin(view_.base); }

uint32_t Decoder::take_id() {
  IOKV_ASSERT(taken_ < options_.pool_blocks);
  uint32_t index = taken_++;
  return units_a_block_ * (options_.descending_ids ? options_.pool_blocks - 1 - index : index);
}

uint32_t Decoder::take_device_id() {
  IOKV_ASSERT(device_taken_ < options_.device_blocks);
  return units_a_block_ * device_taken_++;
}

std::vector<float> Decoder::step(const std::vector<Append>& appends) {
  size_t rows = 0;
  for (const Append& append : appends) rows += append.tokens.size();
  std::vector<uint32_t> all(rows);
  std::iota(all.begin(), all.end(), 0u);
  return step(appends, all);
}

std::vector<float> Decoder::step(const std::vector<Append>& appends, std::span<const uint32_t> logits_rows) {
  plan_.clear();
  plan_.id++;
  for (const Append& append : appends) {
    Sequence& sequence = *append.sequence;
    const auto rows = static_cast<uint32_t>(append.tokens.size());
    const uint32_t blocks = blocks_for(Tokens(sequence.length + rows)).value;
    while (sequence.blocks.size() < blocks) {
      sequence.forms.push_back(options_.form(static_cast<uint32_t>(sequence.forms.size())));
      sequence.blocks.push_back(take_id());
    }
    BlockTable table({units_a_block_, units_a_block_}, builder_->shape().in_place);
    for (uint32_t i = 0; i < blocks; ++i) {
      const uint32_t copy = i < sequence.copies.size() ? sequence.copies[i] : kNoBlock;
      table.push_back({sequence.blocks[i], sequence.forms[i], copy, BlockForm::kv});
    }
    std::vector<BlockRun> runs(table.runs().begin(), table.runs().end());
    if (change_runs) change_runs(runs);

    PlanSpan span;
    span.first_row = static_cast<uint32_t>(plan_.tokens.size());
    span.rows = rows;
    span.first_position = sequence.length;
    span.first_run = static_cast<uint32_t>(plan_.runs.size());
    span.runs = static_cast<uint32_t>(runs.size());
    if (change_span) change_span(span);
    plan_.spans.push_back(span);
    plan_.runs.insert(plan_.runs.end(), runs.begin(), runs.end());
    plan_.tokens.insert(plan_.tokens.end(), append.tokens.begin(), append.tokens.end());
    for (uint32_t row = 0; row < rows; ++row) plan_.positions.push_back(sequence.length++);
  }
  for (uint32_t row : logits_rows) {
    PlanDraw draw;
    draw.row = row;
    draw.keep_logits = true;
    plan_.draws.push_back(draw);
  }
  builder_->build(plan_);
  const Plan* plan = &plan_;
  const std::string violation = check_plans(std::span(&plan, 1), builder_->shape(), executor_->model().spec().layers);
  if (!violation.empty()) end_with(error(violation));
  executor_->run(plan_);
  if (!plan_.failure.empty()) end_with(error(plan_.failure));
  std::vector<float> logits;
  for (const PlanDraw& draw : plan_.draws) logits.insert(logits.end(), draw.logits.begin(), draw.logits.end());
  return logits;
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
