// SPDX-License-Identifier: Apache-2.0
// See layers.h. In the order of the calls.
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

uint64_t Model::fetch_weights(uint32_t layer, uint32_t slot, WeightPart part) const {
  return weights_.stream->fetch(layer, slot, part);
}

float* Model::hidden() const { return f32(hidden_) + size_t{first_row_} * spec_.hidden; }

void Model::project(uint32_t layer, uint32_t first_row, uint32_t rows, uint32_t keep, std::span<const RopeRun> rotations) {
  IOKV_ASSERT(rows != 0 && rows <= limits_.batch_rows && first_row + rows <= rows_ && keep < 2);
  first_row_ = first_row;
  batch_rows_ = rows;
  const LayerWeights& weights = weights_.layers[layer];
  kept_ = kept_x_[keep]->data();
  norm(weights.attention_norm, hidden(), kept_, batch_rows_);
  product(*matrices(layer).qkv, weights.qkv, kept_, qkv_->data(), GemmOutput::store);
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
  product.weight = matrices(layer).qkv;
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

AttendArgs Model::attend_args(uint32_t layer, std::span<const AttendSpan> spans) const {
  AttendArgs args;
  args.shape = spec_.kv_shape();
  args.scale = spec_.attention_scale;
  args.spans = spans;
  args.window = spec_.window_of(layer);
  args.score_cap = spec_.score_cap;
  return args;
}

void Model::attend(uint32_t layer, std::span<const AttendSpan> spans) {
  AttendArgs args = attend_args(layer, spans);
  args.q = qkv_->data();
  args.q_stride = qkv_width_;
  args.out = attended_->data();
  args.state = f32(attend_state_);
  backend_.attend(Queue::dense, args);
}

void Model::hand_over(std::span<const uint32_t> rows, void* to) {
  backend_.hand_over(Queue::dense, {qkv_->data(), qkv_width_ * element_bytes_, spec_.q_width() * element_bytes_, rows, to});
}

void Model::attend_host(uint32_t layer, std::span<const AttendSpan> spans, const void* q, float* state) {
  AttendArgs args = attend_args(layer, spans);
  args.q = q;
  args.q_stride = spec_.q_width();
  args.state = state;
  backend_.attend(Queue::host, args);
}

void Model::merge(std::span<const uint32_t> rows, const float* other) {
  backend_.merge(Queue::dense, {spec_.kv_shape(), rows, f32(attend_state_), other, attended_->data()});
}

// hidden += o(attended), then hidden += down(activation(gate_up(norm(hidden)))); in parallel, the norm is of hidden
// before anything was added.
void Model::finish(uint32_t layer) {
  const LayerWeights& weights = weights_.layers[layer];
  const LayerMatrices matrices = this->matrices(layer);
  const void* x = normed_->data();
  auto norm_input = [&] {
    if (weights.mlp_norm.weight == nullptr) {
      x = kept_;
    } else {
      norm(weights.mlp_norm, hidden(), normed_->data(), batch_rows_);
    }
  };
  if (spec_.parallel_residual) norm_input();
  add_product(*matrices.o, weights.o, attended_->data(), weights.attention_out_norm);
  if (!spec_.parallel_residual) norm_input();
  product(*matrices.gate_up, weights.gate_up, x, gate_up_->data(), GemmOutput::store);
  ActivateArgs activate;
  activate.kind = spec_.activation;
  activate.x = gate_up_->data();
  activate.y = activated_ != nullptr ? activated_->data() : gate_up_->data();
  activate.rows = batch_rows_;
  activate.columns = spec_.ffn;
  backend_.activate(Queue::dense, activate);
  add_product(*matrices.down, weights.down, activate.y, weights.mlp_out_norm);
}

// hidden += product, or its norm.
void Model::add_product(const Matrix& matrix, const LinearWeights& weights, const void* x, const NormWeights& out_norm) {
  if (out_norm.weight == nullptr) return product(matrix, weights, x, hidden(), GemmOutput::add_f32);
  product(matrix, weights, x, added_->data(), GemmOutput::store_f32);
  norm(out_norm, f32(added_), hidden(), batch_rows_, NormOutput::add_f32);
}

// The final norm gathers the wanted rows, a run of neighbours at a time, so that one product makes all logits.
void Model::logits(std::span<const uint32_t> wanted, float* to) {
  if (wanted.empty()) return;
  IOKV_ASSERT(wanted.back() < rows_ && wanted.size() <= limits_.batch_rows);
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

void Model::product(const Matrix& matrix, const LinearWeights& weights, const void* x, void* y, GemmOutput output) {
  GemmArgs args;
  args.weight = &matrix;
  args.columns = args.y_stride = matrix.n;
  args.bias = f32_or_null(weights.bias);
  args.x = x;
  args.y = y;
  args.rows = batch_rows_;
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

// Of the device buffers of layers.h; 0: there is none.
struct Model::BufferSizes {
  size_t hidden = 0, kept_x = 0, normed = 0, qkv = 0, attend_state = 0, attended = 0, gate_up = 0, activated = 0;
  size_t added = 0, recomputed = 0;

  size_t total() const {
    return hidden + 2 * kept_x + normed + qkv + attend_state + attended + gate_up + activated + added + recomputed;
  }
};

Model::BufferSizes Model::sizes_of(const ModelSpec& spec, DType compute, const ModelLimits& limits) {
  const size_t rows = std::min(limits.batch_rows, limits.max_rows), element = size_of(compute), row_bytes = rows * element;
  const size_t kv_width = 2 * size_t{spec.kv_width()};
  const bool gated = is_gated(spec.activation);
  BufferSizes sizes;
  sizes.hidden = size_t{limits.max_rows} * spec.hidden * sizeof(float);
  sizes.kept_x = sizes.normed = row_bytes * spec.hidden;
  sizes.qkv = row_bytes * (spec.q_width() + kv_width);
  sizes.attend_state = rows * spec.heads * attend_state_floats(spec.head_dim) * sizeof(float);
  sizes.attended = row_bytes * spec.q_width();
  sizes.gate_up = row_bytes * spec.ffn * (gated ? 2 : 1);
  if (gated) sizes.activated = row_bytes * spec.ffn;
  if (spec.norms_before_adding) sizes.added = rows * spec.hidden * sizeof(float);
  sizes.recomputed = limits.recompute_rows * kv_width * element;
  return sizes;
}

uint64_t Model::buffer_bytes(const ModelSpec& spec, DType compute, const ModelLimits& limits) {
  return sizes_of(spec, compute, limits).total();
}

Status Model::take_buffers() {
  const BufferSizes sizes = sizes_of(spec_, backend_.info().compute, limits_);
  auto take = [&](std::unique_ptr<DeviceMemory>& buffer, size_t size_bytes) -> Status {
    if (size_bytes == 0) return {};
    IOKV_TRY_ASSIGN(buffer, backend_.alloc(size_bytes));
    return {};
  };
  IOKV_TRY(take(hidden_, sizes.hidden));
  for (auto& kept_x : kept_x_) IOKV_TRY(take(kept_x, sizes.kept_x));
  IOKV_TRY(take(normed_, sizes.normed));
  IOKV_TRY(take(qkv_, sizes.qkv));
  IOKV_TRY(take(attend_state_, sizes.attend_state));
  IOKV_TRY(take(attended_, sizes.attended));
  IOKV_TRY(take(gate_up_, sizes.gate_up));
  IOKV_TRY(take(activated_, sizes.activated));
  IOKV_TRY(take(added_, sizes.added));
  return take(recomputed_, sizes.recomputed);
}

}  // namespace iokv
