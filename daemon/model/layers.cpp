// SPDX-License-Identifier: Apache-2.0
// See layers.h. Reads top down: forward, then the parts of a layer, then how K,V of x blocks come to be.
#include "daemon/model/layers.h"

#include <algorithm>
#include <string>
#include <utility>

namespace iokv {
namespace {

float* f32(const std::unique_ptr<DeviceMemory>& memory) { return static_cast<float*>(memory->data()); }

const float* f32_or_null(const std::unique_ptr<DeviceMemory>& memory) {
  return memory == nullptr ? nullptr : static_cast<const float*>(memory->data());
}

std::byte* bytes(const std::unique_ptr<DeviceMemory>& memory) { return static_cast<std::byte*>(memory->data()); }

uint32_t count_x(const StepSpan& span) {
  return static_cast<uint32_t>(std::count(span.forms.begin(), span.forms.end(), BlockForm::x));
}

// Tokens of the span that its block `index` held before this step.
uint32_t cached_tokens(const StepSpan& span, uint32_t index) {
  uint32_t first = index * kBlockTokens;
  return span.first_position <= first ? 0 : std::min(kBlockTokens, span.first_position - first);
}

}  // namespace

size_t block_bytes(const ModelSpec& spec, DType compute, BlockForm form) {
  size_t elements = form == BlockForm::x ? size_t{kBlockTokens} * spec.hidden : spec.kv_shape().block_elements();
  return elements * size_of(compute);
}

Status Model::forward(const StepInputs& inputs, const PoolView& pool) {
  check(inputs);
  auto rows = static_cast<uint32_t>(inputs.tokens.size());
  if (rows == 0) return {};

  EmbedArgs embed;
  embed.table = weights_.embedding.get();
  embed.position_table = weights_.positions.get();
  embed.position_offset = spec_.learned_position_offset;
  embed.tokens = inputs.tokens;
  embed.positions = inputs.positions;
  embed.hidden = f32(hidden_);
  backend_.embed(Queue::dense, embed);

  for (uint32_t layer = 0; layer < spec_.layers; ++layer) {
    attention(layer, inputs, pool);
    mlp(weights_.layers[layer], rows);
  }
  logits(inputs);
  IOKV_TRY(backend_.poll(backend_.record(Queue::dense), true));
  return {};
}

// hidden += o(attend(rope(qkv(norm(hidden))))), appending the rows to their sequences' blocks.
void Model::attention(uint32_t layer, const StepInputs& inputs, const PoolView& pool) {
  const LayerWeights& weights = weights_.layers[layer];
  auto rows = static_cast<uint32_t>(inputs.tokens.size());
  norm(weights.attention_norm, f32(hidden_), normed_->data(), rows);
  product(weights.qkv, normed_->data(), qkv_->data(), rows, GemmOutput::store);
  for (const StepSpan& span : inputs.spans) keep_x(layer, span, pool);

  for (std::span<const StepSpan> left = inputs.spans; !left.empty();) {
    Group group = next_group(left);
    place_blocks(layer, group, pool);
    if (group.x_blocks != 0) recompute(layer, group, pool);
    rotate_and_store();
    attend();
    if (group.x_blocks != 0) scratch_free_ = backend_.record(Queue::dense);
    left = left.subspan(group.spans.size());
  }
  product(weights.o, attended_->data(), hidden_->data(), rows, GemmOutput::add_f32);
}

// hidden += down(activation(gate_up(norm(hidden)))).
void Model::mlp(const LayerWeights& weights, uint32_t rows) {
  norm(weights.mlp_norm, f32(hidden_), normed_->data(), rows);
  product(weights.gate_up, normed_->data(), gate_up_->data(), rows, GemmOutput::store);
  ActivateArgs activate;
  activate.kind = spec_.activation;
  activate.x = gate_up_->data();
  activate.y = activated_ != nullptr ? activated_->data() : gate_up_->data();
  activate.rows = rows;
  activate.columns = spec_.ffn;
  backend_.activate(Queue::dense, activate);
  product(weights.down, activate.y, hidden_->data(), rows, GemmOutput::add_f32);
}

// The final norm gathers the wanted rows, a run of neighbours at a time, so that one product makes all logits.
void Model::logits(const StepInputs& inputs) {
  std::span<const uint32_t> wanted = inputs.logits_rows;
  if (wanted.empty()) return;
  for (size_t first = 0, end; first < wanted.size(); first = end) {
    for (end = first + 1; end < wanted.size() && wanted[end] == wanted[end - 1] + 1;) ++end;
    norm(weights_.final_norm, f32(hidden_) + size_t{wanted[first]} * spec_.hidden,
         bytes(normed_) + first * spec_.hidden * element_bytes_, static_cast<uint32_t>(end - first));
  }
  GemmArgs head;
  head.weight = &weights_.head();
  head.columns = head.y_stride = spec_.vocab;
  head.x = normed_->data();
  head.y = inputs.logits;
  head.rows = static_cast<uint32_t>(wanted.size());
  head.output = GemmOutput::store_f32;
  backend_.gemm(Queue::dense, head);
}

// Copies the input of the K,V projection of the span's new rows into those of its blocks that are x.
void Model::keep_x(uint32_t layer, const StepSpan& span, const PoolView& pool) {
  size_t row_bytes = spec_.hidden * element_bytes_;
  for (uint32_t row = 0, run; row < span.rows; row += run) {
    uint32_t position = span.first_position + row, index = position / kBlockTokens, slot = position % kBlockTokens;
    run = std::min(span.rows - row, kBlockTokens - slot);
    if (span.forms[index] != BlockForm::x) continue;
    backend_.copy(Queue::dense, pool.block(layer, span.blocks[index]) + slot * row_bytes,
                  bytes(normed_) + (span.first_row + row) * row_bytes, run * row_bytes);
  }
}

// As many of the first spans as have room for the K,V of their x blocks in scratch: all of them when every block is kv.
Model::Group Model::next_group(std::span<const StepSpan> spans) const {
  Group group;
  group.first_row = spans.front().first_row;
  size_t count = 0;
  for (const StepSpan& span : spans) {
    uint32_t x_blocks = count_x(span);
    if (group.x_blocks + x_blocks > scratch_blocks_) break;
    group.x_blocks += x_blocks;
    group.rows += span.rows;
    ++count;
  }
  IOKV_ASSERT(count != 0);  // check() bounds a span by max_context, and scratch holds as much
  group.spans = spans.first(count);
  return group;
}

// Where attention finds K,V of each of the group's blocks, and rope puts each of its rows: kv blocks in the pool, x
// blocks in scratch.
void Model::place_blocks(uint32_t layer, const Group& group, const PoolView& pool) {
  size_t kv_bytes = block_bytes(spec_, backend_.info().compute, BlockForm::kv);
  size_t placed = 0, scratch_used = 0;
  attend_spans_.clear();
  row_runs_.clear();
  for (const StepSpan& span : group.spans) {
    size_t first = placed;
    for (size_t i = 0; i < span.blocks.size(); ++i) {
      block_addresses_[placed++] = span.forms[i] == BlockForm::kv ? pool.block(layer, span.blocks[i])
                                                                  : bytes(scratch_) + scratch_used++ * kv_bytes;
    }
    for (uint32_t row = 0, run; row < span.rows; row += run) {
      const uint32_t position = span.first_position + row;
      run = std::min(span.rows - row, kBlockTokens - position % kBlockTokens);
      row_runs_.push_back({span.first_row + row, run, position, block_addresses_[first + position / kBlockTokens], 0});
    }
    attend_spans_.push_back({span.first_row, span.rows, span.first_position, 0,
                             std::span<const void* const>(block_addresses_).subspan(first, span.blocks.size())});
  }
}

// K,V of the cached tokens of the group's x blocks, into scratch. Their X was complete when an earlier step ended, so
// that the recompute queue waits only for scratch, and dense waits for it. Where both queues are streams of one device
// this runs beside the dense products.
void Model::recompute(uint32_t layer, const Group& group, const PoolView& pool) {
  size_t kv_bytes = block_bytes(spec_, backend_.info().compute, BlockForm::kv);
  backend_.wait(Queue::recompute, scratch_free_);
  std::byte* kv_block = bytes(scratch_);
  for (const StepSpan& span : group.spans) {
    for (uint32_t i = 0; i < span.blocks.size(); ++i) {
      if (span.forms[i] != BlockForm::x) continue;
      if (poison_ != nullptr) backend_.copy(Queue::recompute, kv_block, poison_->data(), kv_bytes);
      recompute_block(weights_.layers[layer].qkv, pool.block(layer, span.blocks[i]), i * kBlockTokens,
                      cached_tokens(span, i), kv_block);
      kv_block += kv_bytes;
    }
  }
  backend_.wait(Queue::dense, backend_.record(Queue::recompute));
}

void Model::recompute_block(const LinearWeights& qkv, const std::byte* x, uint32_t first_position, uint32_t tokens,
                            std::byte* kv_block) {
  if (tokens == 0) return;
  uint32_t kv_width = spec_.kv_width();
  GemmArgs product;
  product.weight = qkv.matrix.get();
  product.first_column = spec_.q_width();
  product.columns = product.y_stride = 2 * kv_width;
  product.bias = f32_or_null(qkv.bias);
  product.x = x;
  product.y = recomputed_->data();
  product.rows = tokens;
  backend_.gemm(Queue::recompute, product);

  const RopeRun run{0, tokens, first_position, kv_block, 0};
  RopeArgs rope = rope_args();
  rope.k = recomputed_->data();
  rope.v = bytes(recomputed_) + kv_width * element_bytes_;
  rope.kv_stride = 2 * kv_width;
  rope.runs = std::span(&run, 1);
  backend_.rope(Queue::recompute, rope);
}

// Rotates q of the group's rows in place; their K,V go where place_blocks said. The fused product made K,V of new rows
// of x blocks too, with the bits that recomputing them would give (daemon/backend/backend.h, GemmArgs).
void Model::rotate_and_store() {
  std::byte* q = bytes(qkv_);
  RopeArgs rope = rope_args();
  rope.q = q;
  rope.k = q + spec_.q_width() * element_bytes_;
  rope.v = q + (spec_.q_width() + spec_.kv_width()) * element_bytes_;
  rope.q_stride = rope.kv_stride = qkv_width_;
  rope.runs = row_runs_;
  backend_.rope(Queue::dense, rope);
}

void Model::attend() {
  AttendArgs args;
  args.shape = spec_.kv_shape();
  args.scale = spec_.attention_scale;
  args.q = qkv_->data();
  args.q_stride = qkv_width_;
  args.out = attended_->data();
  args.spans = attend_spans_;
  backend_.attend(Queue::dense, args);
}

void Model::norm(const NormWeights& weights, const float* x, void* y, uint32_t rows) {
  NormArgs args;
  args.kind = spec_.norm;
  args.epsilon = spec_.norm_epsilon;
  args.weight = f32_or_null(weights.weight);
  args.bias = f32_or_null(weights.bias);
  args.x = x;
  args.y = y;
  args.rows = rows;
  args.columns = spec_.hidden;
  backend_.norm(Queue::dense, args);
}

void Model::product(const LinearWeights& weights, const void* x, void* y, uint32_t rows, GemmOutput output) {
  GemmArgs args;
  args.weight = weights.matrix.get();
  args.columns = args.y_stride = weights.matrix->n;
  args.bias = f32_or_null(weights.bias);
  args.x = x;
  args.y = y;
  args.rows = rows;
  args.output = output;
  backend_.gemm(Queue::dense, args);
}

RopeArgs Model::rope_args() const {
  RopeArgs args;
  args.shape = spec_.kv_shape();
  if (spec_.positions == PositionKind::rope) {
    args.table = {static_cast<uint32_t>(2 * spec_.rope_inverse_frequency.size()), spec_.rope_inverse_frequency,
                  spec_.rope_attention_scale};
  }
  return args;
}

// What the scheduler promised (plan.h); a broken promise would read or write memory of other sequences.
void Model::check(const StepInputs& inputs) const {
  size_t rows = inputs.tokens.size();
  IOKV_ASSERT(rows <= limits_.max_rows && inputs.positions.size() == rows);
  IOKV_ASSERT(inputs.spans.size() <= limits_.max_spans);
  size_t next_row = 0;
  for (const StepSpan& span : inputs.spans) {
    IOKV_ASSERT(span.first_row == next_row && span.rows != 0 && span.rows <= rows - next_row);
    next_row += span.rows;
    IOKV_ASSERT(span.first_position <= limits_.max_context && span.rows <= limits_.max_context - span.first_position);
    uint32_t blocks = blocks_for(Tokens(span.first_position + span.rows)).value;
    IOKV_ASSERT(span.blocks.size() == blocks && span.forms.size() == blocks);
    for (uint32_t row = 0; row < span.rows; ++row) {
      IOKV_ASSERT(inputs.positions[span.first_row + row] == span.first_position + row);
    }
  }
  IOKV_ASSERT(next_row == rows);
  IOKV_ASSERT(inputs.logits_rows.size() <= rows && (inputs.logits_rows.empty() || inputs.logits != nullptr));
  for (size_t i = 0; i < inputs.logits_rows.size(); ++i) {
    IOKV_ASSERT(inputs.logits_rows[i] < rows && (i == 0 || inputs.logits_rows[i] > inputs.logits_rows[i - 1]));
  }
}

Result<std::unique_ptr<Model>> Model::make(Backend& backend, ModelSpec spec, Weights weights,
                                           const ModelLimits& limits) {
  // GemmArgs::first_column of the recomputed columns.
  if (limits.x_blocks && spec.q_width() % 16 != 0) {
    return error("heads x head size is " + std::to_string(spec.q_width()) +
                 ", not a multiple of 16: K,V of this model cannot be recomputed; set recompute = never");
  }
  std::unique_ptr<Model> model(new Model(backend, std::move(spec), std::move(weights), limits));
  IOKV_TRY(model->take_buffers());
  return model;
}

Model::Model(Backend& backend, ModelSpec spec, Weights weights, const ModelLimits& limits)
    : backend_(backend),
      spec_(std::move(spec)),
      weights_(std::move(weights)),
      limits_(limits),
      element_bytes_(size_of(backend.info().compute)),
      qkv_width_(spec_.q_width() + 2 * spec_.kv_width()) {
  IOKV_ASSERT(limits_.max_rows != 0 && limits_.max_spans != 0 && weights_.layers.size() == spec_.layers);
  if (limits_.max_context == 0 || limits_.max_context > spec_.max_context) limits_.max_context = spec_.max_context;
  uint32_t context_blocks = blocks_for(Tokens(limits_.max_context)).value;
  scratch_blocks_ = limits_.x_blocks ? context_blocks : 0;
  block_addresses_.resize(size_t{limits_.max_spans} * context_blocks);
  attend_spans_.reserve(limits_.max_spans);
  row_runs_.reserve(limits_.max_rows);
}

Status Model::take_buffers() {
  size_t rows = limits_.max_rows, row_bytes = rows * element_bytes_;
  bool gated = spec_.activation == Activation::silu_glu;
  size_t kv_bytes = block_bytes(spec_, backend_.info().compute, BlockForm::kv);
  auto take = [&](std::unique_ptr<DeviceMemory>& buffer, size_t size_bytes) -> Status {
    IOKV_TRY_ASSIGN(buffer, backend_.alloc(size_bytes));
    buffer_bytes_ += size_bytes;
    return {};
  };
  IOKV_TRY(take(hidden_, rows * spec_.hidden * sizeof(float)));
  IOKV_TRY(take(normed_, row_bytes * spec_.hidden));
  IOKV_TRY(take(qkv_, row_bytes * qkv_width_));
  IOKV_TRY(take(attended_, row_bytes * spec_.q_width()));
  IOKV_TRY(take(gate_up_, row_bytes * spec_.ffn * (gated ? 2 : 1)));
  if (gated) IOKV_TRY(take(activated_, row_bytes * spec_.ffn));
  if (!limits_.x_blocks) return {};

  IOKV_TRY(take(scratch_, scratch_blocks_ * kv_bytes));
  IOKV_TRY(take(recomputed_, size_t{kBlockTokens} * 2 * spec_.kv_width() * element_bytes_));
  if (limits_.poison_scratch) {
    IOKV_TRY(take(poison_, kv_bytes));
    std::vector<std::byte> ones(kv_bytes, std::byte{0xff});
    backend_.copy(Queue::h2d, poison_->data(), ones.data(), kv_bytes);
    IOKV_TRY(backend_.poll(backend_.record(Queue::h2d), true));
  }
  scratch_free_ = backend_.record(Queue::dense);
  return {};
}

}  // namespace iokv
