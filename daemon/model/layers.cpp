// SPDX-License-Identifier: Apache-2.0
// See layers.h. In the order of the calls.
#include "daemon/model/layers.h"

#include <string>
#include <utility>

namespace iokv {
namespace {

float* f32(const std::unique_ptr<DeviceMemory>& memory) { return static_cast<float*>(memory->data()); }

const float* f32_or_null(const std::unique_ptr<DeviceMemory>& memory) {
  return memory == nullptr ? nullptr : static_cast<const float*>(memory->data());
}

std::byte* bytes(const std::unique_ptr<DeviceMemory>& memory) { return static_cast<std::byte*>(memory->data()); }

}  // namespace

size_t block_bytes(const ModelSpec& spec, DType compute, BlockForm form) {
  size_t elements = form == BlockForm::x ? size_t{kBlockTokens} * spec.hidden : spec.kv_shape().block_elements();
  return elements * size_of(compute);
}

void Model::begin(std::span<const int32_t> tokens, std::span<const uint32_t> positions) {
  IOKV_ASSERT(!tokens.empty() && tokens.size() <= limits_.max_rows && positions.size() == tokens.size());
  rows_ = static_cast<uint32_t>(tokens.size());
  EmbedArgs embed;
  embed.table = weights_.embedding.get();
  embed.position_table = weights_.positions.get();
  embed.position_offset = spec_.learned_position_offset;
  embed.tokens = tokens;
  embed.positions = positions;
  embed.scale = spec_.embedding_scale;
  embed.hidden = f32(hidden_);
  backend_.embed(Queue::dense, embed);
}

void Model::project(uint32_t layer, std::span<const RopeRun> rotations) {
  const LayerWeights& weights = weights_.layers[layer];
  norm(weights.attention_norm, f32(hidden_), kept_x_[layer % 2]->data(), rows_);
  product(weights.qkv, kept_x_[layer % 2]->data(), qkv_->data(), GemmOutput::store);
  if (spec_.positions != PositionKind::rope && weights.q_norm == nullptr) return;
  RopeArgs rope = rope_args(layer);
  rope.q = qkv_->data();
  rope.q_stride = qkv_width_;
  rope.runs = rotations;
  backend_.rope(Queue::dense, rope);
}

void Model::recompute(uint32_t layer, const void* x, uint32_t rows, std::span<const RopeRun> runs) {
  IOKV_ASSERT(rows <= limits_.recompute_rows);
  const LinearWeights& qkv = weights_.layers[layer].qkv;
  const uint32_t kv_width = spec_.kv_width();
  GemmArgs product;
  product.weight = qkv.matrix.get();
  product.first_column = spec_.q_width();
  product.columns = product.y_stride = 2 * kv_width;
  product.bias = f32_or_null(qkv.bias);
  product.x = x;
  product.y = recomputed_->data();
  product.rows = rows;
  backend_.gemm(Queue::recompute, product);

  RopeArgs rope = rope_args(layer);
  rope.k = recomputed_->data();
  rope.v = bytes(recomputed_) + kv_width * element_bytes_;
  rope.kv_stride = 2 * kv_width;
  rope.runs = runs;
  backend_.rope(Queue::recompute, rope);
}

// The fused product of project made K,V with the bits that recomputing them gives (daemon/backend/backend.h, GemmArgs).
void Model::store(uint32_t layer, std::span<const RopeRun> runs) {
  RopeArgs rope = rope_args(layer);
  rope.k = bytes(qkv_) + spec_.q_width() * element_bytes_;
  rope.v = bytes(qkv_) + (spec_.q_width() + spec_.kv_width()) * element_bytes_;
  rope.kv_stride = qkv_width_;
  rope.runs = runs;
  backend_.rope(Queue::dense, rope);
}

void Model::attend(uint32_t layer, std::span<const AttendSpan> spans) {
  AttendArgs args;
  args.shape = spec_.kv_shape();
  args.scale = spec_.attention_scale;
  args.q = qkv_->data();
  args.q_stride = qkv_width_;
  args.out = attended_->data();
  args.state = f32(attend_state_);
  args.spans = spans;
  args.window = spec_.window_of(layer);
  args.score_cap = spec_.score_cap;
  backend_.attend(Queue::dense, args);
}

// hidden += o(attended), then hidden += down(activation(gate_up(norm(hidden)))); in parallel, the norm is of hidden
// before anything was added.
void Model::finish(uint32_t layer) {
  const LayerWeights& weights = weights_.layers[layer];
  const void* x = normed_->data();
  auto norm_input = [&] {
    if (weights.mlp_norm.weight == nullptr) {
      x = kept_x_[layer % 2]->data();
    } else {
      norm(weights.mlp_norm, f32(hidden_), normed_->data(), rows_);
    }
  };
  if (spec_.parallel_residual) norm_input();
  add_product(weights.o, attended_->data(), weights.attention_out_norm);
  if (!spec_.parallel_residual) norm_input();
  product(weights.gate_up, x, gate_up_->data(), GemmOutput::store);
  ActivateArgs activate;
  activate.kind = spec_.activation;
  activate.x = gate_up_->data();
  activate.y = activated_ != nullptr ? activated_->data() : gate_up_->data();
  activate.rows = rows_;
  activate.columns = spec_.ffn;
  backend_.activate(Queue::dense, activate);
  add_product(weights.down, activate.y, weights.mlp_out_norm);
}

// hidden += product, or its norm.
void Model::add_product(const LinearWeights& weights, const void* x, const NormWeights& out_norm) {
  if (out_norm.weight == nullptr) return product(weights, x, hidden_->data(), GemmOutput::add_f32);
  product(weights, x, added_->data(), GemmOutput::store_f32);
  norm(out_norm, f32(added_), hidden_->data(), rows_, NormOutput::add_f32);
}

// The final norm gathers the wanted rows, a run of neighbours at a time, so that one product makes all logits.
void Model::logits(std::span<const uint32_t> wanted, float* to) {
  if (wanted.empty()) return;
  IOKV_ASSERT(wanted.back() < rows_);
  for (size_t first = 0, end; first < wanted.size(); first = end) {
    for (end = first + 1; end < wanted.size() && wanted[end] == wanted[end - 1] + 1;) ++end;
    norm(weights_.final_norm, f32(hidden_) + size_t{wanted[first]} * spec_.hidden,
         bytes(normed_) + first * spec_.hidden * element_bytes_, static_cast<uint32_t>(end - first));
  }
  GemmArgs head;
  head.weight = &weights_.head();
  head.columns = head.y_stride = spec_.vocab;
  head.x = normed_->data();
  head.y = to;
  head.rows = static_cast<uint32_t>(wanted.size());
  head.bias = f32_or_null(weights_.head_bias);
  head.output = GemmOutput::store_f32;
  backend_.gemm(Queue::dense, head);
  if (spec_.logit_cap > 0) backend_.cap(Queue::dense, {spec_.logit_cap, to, head.rows, spec_.vocab});
}

void Model::norm(const NormWeights& weights, const float* x, void* y, uint32_t rows, NormOutput output) {
  NormArgs args;
  args.kind = spec_.norm;
  args.epsilon = spec_.norm_epsilon;
  args.weight = f32_or_null(weights.weight);
  args.bias = f32_or_null(weights.bias);
  args.x = x;
  args.y = y;
  args.rows = rows;
  args.columns = spec_.hidden;
  args.output = output;
  backend_.norm(Queue::dense, args);
}

void Model::product(const LinearWeights& weights, const void* x, void* y, GemmOutput output) {
  GemmArgs args;
  args.weight = weights.matrix.get();
  args.columns = args.y_stride = weights.matrix->n;
  args.bias = f32_or_null(weights.bias);
  args.x = x;
  args.y = y;
  args.rows = rows_;
  args.output = output;
  backend_.gemm(Queue::dense, args);
}

RopeArgs Model::rope_args(uint32_t layer) const {
  RopeArgs args;
  const LayerWeights& weights = weights_.layers[layer];
  args.norm = {f32_or_null(weights.q_norm), f32_or_null(weights.k_norm), spec_.norm_epsilon};
  args.shape = spec_.kv_shape();
  if (spec_.positions == PositionKind::rope) {
    args.table = {static_cast<uint32_t>(2 * spec_.rope_inverse_frequency.size()), spec_.rope_inverse_frequency,
                  spec_.rope_attention_scale};
  }
  return args;
}

Result<std::unique_ptr<Model>> Model::make(Backend& backend, ModelSpec spec, Weights weights,
                                           const ModelLimits& limits) {
  // GemmArgs::first_column of the recomputed columns.
  if (limits.recompute_rows > 0 && spec.q_width() % 16 != 0) {
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
  IOKV_ASSERT(limits_.max_rows != 0 && weights_.layers.size() == spec_.layers);
}

Status Model::take_buffers() {
  size_t rows = limits_.max_rows, row_bytes = rows * element_bytes_;
  const bool gated = is_gated(spec_.activation);
  const bool normed_out = weights_.layers.front().attention_out_norm.weight != nullptr ||
                          weights_.layers.front().mlp_out_norm.weight != nullptr;
  auto take = [&](std::unique_ptr<DeviceMemory>& buffer, size_t size_bytes) -> Status {
    IOKV_TRY_ASSIGN(buffer, backend_.alloc(size_bytes));
    buffer_bytes_ += size_bytes;
    return {};
  };
  IOKV_TRY(take(hidden_, rows * spec_.hidden * sizeof(float)));
  for (auto& kept_x : kept_x_) IOKV_TRY(take(kept_x, row_bytes * spec_.hidden));
  IOKV_TRY(take(normed_, row_bytes * spec_.hidden));
  IOKV_TRY(take(qkv_, row_bytes * qkv_width_));
  IOKV_TRY(take(attend_state_, rows * spec_.heads * attend_state_floats(spec_.head_dim) * sizeof(float)));
  IOKV_TRY(take(attended_, row_bytes * spec_.q_width()));
  IOKV_TRY(take(gate_up_, row_bytes * spec_.ffn * (gated ? 2 : 1)));
  if (gated) IOKV_TRY(take(activated_, row_bytes * spec_.ffn));
  if (normed_out) IOKV_TRY(take(added_, rows * spec_.hidden * sizeof(float)));
  if (limits_.recompute_rows > 0) {
    IOKV_TRY(take(recomputed_, size_t{limits_.recompute_rows} * 2 * spec_.kv_width() * element_bytes_));
  }
  return {};
}

}  // namespace iokv
