// SPDX-License-Identifier: Apache-2.0
#include "daemon/runtime/probe.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>

#include "daemon/base/assert.h"

namespace iokv {
namespace {

// Of random numbers that cross the link to fill a buffer; the device multiplies them.
constexpr size_t kPatchBytes = size_t{1} << 20;
// What a row attends to: as long as a conversation's few turns. Attention over it is in pieces of 64 tokens, so a longer
// one is more of the same.
constexpr uint32_t kContextTokens = 512;
// Operations of the largest size that the host's cache is enough for, if it may be so large.
constexpr size_t kHostRounds = 4;
// And before the rows of a prompt that are attended for together.
constexpr uint32_t kMostTokensBefore = 2048;

float* f32(const std::unique_ptr<DeviceMemory>& memory) { return static_cast<float*>(memory->data()); }

const float* f32_or_null(const std::unique_ptr<DeviceMemory>& memory) {
  return memory == nullptr ? nullptr : static_cast<const float*>(memory->data());
}

std::byte* bytes(const std::unique_ptr<DeviceMemory>& memory) { return static_cast<std::byte*>(memory->data()); }

// Numbers of either sign from 1/4 to 2: exponents 2^-2, 2^-1 and 2^0, and any fraction.
void randomize(std::byte* at, size_t size_bytes, DType type) {
  std::mt19937 random(1);
  const size_t element = size_of(type);
  for (size_t i = 0; i + element <= size_bytes; i += element) {
    const uint32_t word = static_cast<uint32_t>(random());
    const uint32_t sign = word >> 31, exponent = (word >> 23 & 0xff) % 3, fraction = word & 0x7fffff;
    const uint32_t single = sign << 31 | (125 + exponent) << 23 | fraction;
    const uint32_t bits = type == DType::f32    ? single
                          : type == DType::bf16 ? single >> 16
                                                : sign << 15 | (13 + exponent) << 10 | fraction >> 13;
    if (element == 4) {
      std::memcpy(at + i, &bits, 4);
    } else {
      const auto half = static_cast<uint16_t>(bits);
      std::memcpy(at + i, &half, 2);
    }
  }
}

}  // namespace

void Probe::h2d(size_t size_bytes) {
  const size_t offset = next_offset(size_bytes, up_offset_);
  backend_.copy(Queue::h2d, bytes(copied_) + offset, host_.data() + offset, size_bytes);
}

void Probe::d2h(size_t size_bytes) {
  size_t offset = next_offset(size_bytes, down_offset_);
  if (size_bytes <= max_copy_bytes() / 2) offset += max_copy_bytes() / 2;
  backend_.copy(Queue::d2h, host_.data() + offset, bytes(copied_) + offset, size_bytes);
}

void Probe::h2d_pieces(uint32_t blocks) {
  const size_t offset = next_offset(blocks * block_bytes_, up_offset_);
  add_pieces(bytes(copied_) + offset, host_.data() + offset, blocks);
  backend_.copy(Queue::h2d, copies_);
}

void Probe::d2h_pieces(uint32_t blocks) {
  const size_t offset = max_copy_bytes() / 2 + next_offset(blocks * block_bytes_, down_offset_);
  add_pieces(host_.data() + offset, bytes(copied_) + offset, blocks);
  backend_.copy(Queue::d2h, copies_);
}

void Probe::add_pieces(std::byte* to, const std::byte* from, uint32_t blocks) {
  IOKV_ASSERT(blocks != 0 && blocks <= max_piece_blocks());
  copies_.clear();
  for (uint32_t block = 0; block < blocks; ++block) {
    const size_t at = block * block_bytes_;
    copies_.push_back({to + at, from + at, piece_bytes(), pieces(1), 2 * piece_bytes(), 2 * piece_bytes()});
  }
}

void Probe::keep_x(uint32_t size_bytes) {
  IOKV_ASSERT(size_bytes != 0 && size_bytes <= max_kept_bytes());
  const auto blocks = static_cast<uint32_t>((size_bytes + block_bytes_ - 1) / block_bytes_);
  backend_.copy(Queue::dense, next_blocks(blocks), normed_->data(), size_bytes);
}

void Probe::recompute(uint32_t tokens) {
  IOKV_ASSERT(tokens != 0 && tokens <= max_tokens_);
  const uint32_t kv_width = spec_.kv_width();
  const LinearWeights& qkv = next_layer().qkv;
  GemmArgs product;
  product.weight = matrices().qkv;
  product.first_column = spec_.q_width();
  product.columns = product.y_stride = 2 * kv_width;
  product.bias = f32_or_null(qkv.bias);
  product.x = x_->data();
  product.y = recomputed_->data();
  product.rows = tokens;
  backend_.gemm(Queue::recompute, product);

  // Sequences of whole blocks, each no longer than the model's contexts.
  const uint32_t longest = std::max(1u, spec_.max_context / kBlockTokens) * kBlockTokens;
  std::byte* block = next_blocks(blocks_for(Tokens(tokens)).value);
  runs_.clear();
  for (uint32_t row = 0; row < tokens; row += longest) {
    runs_.push_back({row, std::min(longest, tokens - row), 0, block + row / kBlockTokens * block_bytes_, block_bytes_});
  }
  RopeArgs rope = rope_args();
  rope.k = recomputed_->data();
  rope.v = bytes(recomputed_) + kv_width * element_bytes_;
  rope.kv_stride = 2 * kv_width;
  rope.runs = runs_;
  backend_.rope(Queue::recompute, rope);
}

void Probe::attend(uint32_t attended_tokens) {
  IOKV_ASSERT(attended_tokens != 0 && attended_tokens <= max_attended_);
  const uint32_t rows = (attended_tokens + context_ - 1) / context_;
  spans_.clear();
  addresses_.clear();  // never grows beyond what take_buffers reserved, so that spans stay valid
  for (uint32_t row = 0; row < rows; ++row) {
    const uint32_t context = attended_tokens / rows + (row < attended_tokens % rows ? 1 : 0);
    const size_t first = addresses_.size();
    for (uint32_t i = 0; i < blocks_for(Tokens(context)).value; ++i) addresses_.push_back(next_blocks(1));
    spans_.push_back({row, 1, context - 1, 0, std::span<const void* const>(addresses_).subspan(first)});
  }
  issue_attention();
}

void Probe::attend_host(uint32_t tokens) {
  IOKV_ASSERT(tokens != 0 && tokens <= max_host_attended_);
  attend_host((tokens + context_ - 1) / context_, tokens);
}

// So many tokens of blocks that have not been read for as long as there are others; the host's from the first one on.
void Probe::attend_host(uint32_t rows, uint32_t tokens) {
  spans_.clear();
  addresses_.clear();
  for (uint32_t row = 0; row < rows; ++row) {
    const uint32_t context = tokens / rows + (row < tokens % rows ? 1 : 0);
    const size_t first = addresses_.size();
    for (uint32_t i = 0; i < blocks_for(Tokens(context)).value; ++i) {
      addresses_.push_back(host_cache_.data() + size_t{host_block_} * block_bytes_);
      host_block_ = (host_block_ + 1) % host_blocks_;
    }
    spans_.push_back({row, 1, context, 0, std::span<const void* const>(addresses_).subspan(first), 0});
  }
  AttendArgs args;
  args.shape = spec_.kv_shape();
  args.scale = spec_.attention_scale;
  args.q = host_q_.data();
  args.q_stride = spec_.q_width();
  args.state = reinterpret_cast<float*>(host_state_.data());
  args.spans = spans_;
  backend_.attend(Queue::host, args);
}

void Probe::exchange(uint32_t rows) {
  IOKV_ASSERT(rows != 0 && rows <= max_exchanged());
  const auto handed_over = std::span<const uint32_t>(rows_).first(rows);
  const size_t row_bytes = spec_.q_width() * element_bytes_;
  backend_.hand_over(Queue::dense, {qkv_->data(), qkv_width_ * element_bytes_, row_bytes, handed_over, host_q_.data()});
  backend_.wait(Queue::host, backend_.record(Queue::dense));
  attend_host(rows, rows * kBlockTokens);
  backend_.wait(Queue::dense, backend_.record(Queue::host));
  const auto* found = reinterpret_cast<const float*>(host_state_.data());
  backend_.merge(Queue::dense, {spec_.kv_shape(), handed_over, f32(state_), found, attended_->data()});
}

void Probe::attend_rows(uint32_t products) {
  IOKV_ASSERT(products >= least_products() && products <= most_products());
  const uint32_t rows = prompt_rows(), before = (products - least_products() + rows / 2) / rows;
  addresses_.clear();
  for (uint32_t i = 0; i < blocks_for(Tokens(before + rows)).value; ++i) addresses_.push_back(next_blocks(1));
  spans_.assign(1, {0, rows, before, 0, addresses_});
  issue_attention();
}

void Probe::issue_attention() {
  AttendArgs args;
  args.shape = spec_.kv_shape();
  args.scale = spec_.attention_scale;
  args.q = qkv_->data();
  args.q_stride = qkv_width_;
  args.out = attended_->data();
  args.spans = spans_;
  backend_.attend(Queue::dense, args);
}

void Probe::dense(uint32_t rows) {
  project(rows);
  const LayerWeights& layer = weights_.layers[layer_];
  product(*matrices().o, layer.o, attended_->data(), hidden_->data(), rows, GemmOutput::add_f32);

  norm(layer.mlp_norm.weight != nullptr ? layer.mlp_norm : layer.attention_norm, f32(hidden_), normed_->data(), rows);
  product(*matrices().gate_up, layer.gate_up, normed_->data(), gate_up_->data(), rows, GemmOutput::store);
  ActivateArgs activate;
  activate.kind = spec_.activation;
  activate.x = gate_up_->data();
  activate.y = activated_->data();
  activate.rows = rows;
  activate.columns = spec_.ffn;
  backend_.activate(Queue::dense, activate);
  product(*matrices().down, layer.down, activated_->data(), hidden_->data(), rows, GemmOutput::add_f32);
}

void Probe::project(uint32_t rows) {
  IOKV_ASSERT(rows != 0 && rows <= limits_.max_rows);
  const LayerWeights& layer = next_layer();
  norm(layer.attention_norm, f32(hidden_), normed_->data(), rows);
  product(*matrices().qkv, layer.qkv, normed_->data(), qkv_->data(), rows, GemmOutput::store);
  runs_.clear();
  for (uint32_t row = 0; row < rows; ++row) runs_.push_back({row, 1, positions_[row], next_blocks(1), 0});
  RopeArgs rope = rope_args();
  rope.q = qkv_->data();
  rope.k = bytes(qkv_) + spec_.q_width() * element_bytes_;
  rope.v = bytes(qkv_) + (spec_.q_width() + spec_.kv_width()) * element_bytes_;
  rope.q_stride = rope.kv_stride = qkv_width_;
  rope.runs = runs_;
  backend_.rope(Queue::dense, rope);
}

void Probe::embed(uint32_t rows) {
  IOKV_ASSERT(rows != 0 && rows <= limits_.max_draws);
  EmbedArgs embed;
  embed.table = weights_.embedding.get();
  embed.position_table = weights_.positions.get();
  embed.position_offset = spec_.learned_position_offset;
  embed.tokens = std::span(tokens_).first(rows);
  embed.positions = std::span(positions_).first(rows);
  embed.hidden = f32(hidden_);
  backend_.embed(Queue::dense, embed);
}

void Probe::head(uint32_t rows) {
  embed(rows);
  norm(weights_.final_norm, f32(hidden_), normed_->data(), rows);
  GemmArgs head;
  head.weight = &weights_.head();
  head.columns = head.y_stride = spec_.vocab;
  head.x = normed_->data();
  head.y = logits_->data();
  head.rows = rows;
  head.output = GemmOutput::store_f32;
  backend_.gemm(Queue::dense, head);
  SampleArgs sample;
  sample.logits = f32(logits_);
  sample.vocab = spec_.vocab;
  sample.rows = std::span(sample_rows_).first(rows);
  sample.tokens = drawn_.data();
  sample.logprobs = logprobs_.data();
  backend_.sample(Queue::dense, sample);
}

Result<std::unique_ptr<Probe>> Probe::make(Backend& backend, const ModelSpec& spec, const Weights& weights,
                                           const ProbeLimits& limits) {
  std::unique_ptr<Probe> probe(new Probe(backend, spec, weights, limits));
  IOKV_TRY(probe->take_buffers());
  IOKV_TRY(probe->fill_slots());
  return probe;
}

Probe::Probe(Backend& backend, const ModelSpec& spec, const Weights& weights, const ProbeLimits& limits)
    : backend_(backend),
      spec_(spec),
      weights_(weights),
      limits_(limits),
      element_bytes_(size_of(backend.info().compute)),
      qkv_width_(spec.q_width() + 2 * spec.kv_width()),
      block_bytes_(spec.kv_shape().block_elements() * size_of(backend.info().compute)) {
  IOKV_ASSERT(!weights.layers.empty() && spec.max_context != 0 && limits.max_rows != 0);
  IOKV_ASSERT(limits.max_copy_bytes >= 64);  // both directions have a half
  limits_.max_draws = std::min(limits_.max_draws, limits_.max_rows);
  context_ = std::min(kContextTokens, spec.max_context);
  max_attended_ = std::min(limits.max_attended, limits.max_rows * context_);
  most_before_ = std::min(kMostTokensBefore, spec.max_context - prompt_rows());
  const size_t wanted = std::max(blocks_for(Tokens(limits.max_tokens)).value, blocks_for(Tokens(max_attended_)).value);
  blocks_ = static_cast<uint32_t>(std::clamp<size_t>(limits.max_cache_bytes / block_bytes_, 1, wanted));
  if (backend.info().host_threads > 0 && !backend.info().host_addressable) {
    // Whole blocks, with which the host's part of a context begins.
    context_ = std::max(kBlockTokens, context_ / kBlockTokens * kBlockTokens);
    max_host_attended_ = std::min(limits.max_attended / kBlockTokens * kBlockTokens, limits.max_rows * context_);
    const size_t most = max_host_attended_ / kBlockTokens * kHostRounds;
    host_blocks_ = static_cast<uint32_t>(std::clamp<size_t>(limits.max_host_cache_bytes / block_bytes_, 1, most));
  }
  if (spec.q_width() % 16 == 0) max_tokens_ = std::min(limits.max_tokens, blocks_ * kBlockTokens);
}

PinnedPages::~PinnedPages() {
  if (data_ == nullptr) return;
  backend_->unpin(data_);
  ::munmap(data_, bytes_);
}

Status PinnedPages::take(Backend& backend, size_t bytes) {
  IOKV_ASSERT(data_ == nullptr && bytes > 0);
  void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return error("no host memory for " + std::to_string(bytes) + " bytes");
  if (Status pinned = backend.pin(mapped, bytes); !pinned) {
    ::munmap(mapped, bytes);
    return std::move(pinned.failure()).within("pinning");
  }
  backend_ = &backend;
  data_ = static_cast<std::byte*>(mapped);
  bytes_ = bytes;
  return {};
}

Status Probe::take_buffers() {
  const bool copies = !backend_.info().host_addressable;
  const DType compute = backend_.info().compute;
  IOKV_TRY(host_.take(backend_, copies ? std::max(kPatchBytes, limits_.max_copy_bytes) : kPatchBytes));

  const size_t rows = limits_.max_rows;
  const bool gated = is_gated(spec_.activation);
  IOKV_TRY(take(normed_, rows * spec_.hidden, compute));
  IOKV_TRY(take(hidden_, rows * spec_.hidden, DType::f32));
  IOKV_TRY(take(qkv_, rows * qkv_width_, compute));
  IOKV_TRY(take(attended_, rows * spec_.q_width(), compute));
  IOKV_TRY(take(gate_up_, rows * spec_.ffn * (gated ? 2 : 1), compute));
  IOKV_TRY(take(activated_, rows * spec_.ffn, compute));
  if (max_tokens_ != 0) IOKV_TRY(take(x_, size_t{max_tokens_} * spec_.hidden, compute));
  if (max_tokens_ != 0) IOKV_TRY(take(recomputed_, size_t{max_tokens_} * 2 * spec_.kv_width(), compute));
  IOKV_TRY(take(cache_, blocks_ * block_bytes_ / element_bytes_, compute));
  IOKV_TRY(take(logits_, size_t{limits_.max_draws} * spec_.vocab, DType::f32));
  if (copies) IOKV_TRY(take(copied_, limits_.max_copy_bytes / element_bytes_, compute));
  if (copies) {
    for (size_t at = kPatchBytes; at < host_.size_bytes(); at += kPatchBytes) {
      std::memcpy(host_.data() + at, host_.data(), std::min(kPatchBytes, host_.size_bytes() - at));
    }
  }

  if (max_host_attended_ != 0) IOKV_TRY(take_host_buffers());

  std::mt19937 random(2);
  runs_.reserve(std::max(rows, size_t{max_tokens_} / kBlockTokens + 1));
  spans_.reserve(rows);
  addresses_.reserve(std::max<size_t>({max_attended_, max_host_attended_, most_before_ + rows}) / kBlockTokens + rows + 1);
  sample_rows_.resize(limits_.max_draws);
  drawn_.resize(limits_.max_draws);
  logprobs_.resize(limits_.max_draws);
  for (size_t row = 0; row < rows; ++row) {
    tokens_.push_back(static_cast<int32_t>(random() % spec_.vocab));
    positions_.push_back(static_cast<uint32_t>(random() % spec_.max_context));
    rows_.push_back(static_cast<uint32_t>(row));
    if (row < sample_rows_.size()) sample_rows_[row].logits_row = static_cast<uint32_t>(row);
  }
  return {};
}

Status Probe::take_host_buffers() {
  const DType compute = backend_.info().compute;
  const size_t rows = limits_.max_rows, state_floats = spec_.heads * attend_state_floats(spec_.head_dim);
  IOKV_TRY(take(state_, rows * state_floats, DType::f32));
  IOKV_TRY(host_q_.take(backend_, rows * spec_.q_width() * element_bytes_));
  IOKV_TRY(host_state_.take(backend_, rows * state_floats * sizeof(float)));
  IOKV_TRY(host_cache_.take(backend_, host_blocks_ * block_bytes_));
  randomize(host_q_.data(), host_q_.size_bytes(), compute);
  const size_t patch = std::min(kPatchBytes, host_cache_.size_bytes());
  randomize(host_cache_.data(), patch, compute);
  for (size_t at = patch; at < host_cache_.size_bytes(); at += patch) {
    std::memcpy(host_cache_.data() + at, host_cache_.data(), std::min(patch, host_cache_.size_bytes() - at));
  }
  return {};
}

Status Probe::take(std::unique_ptr<DeviceMemory>& memory, size_t elements, DType type) {
  IOKV_TRY_ASSIGN(memory, backend_.alloc(elements * size_of(type)));
  return fill(*memory, type);
}

// A patch crosses the link, then doubles on the device.
Status Probe::fill(const DeviceMemory& memory, DType type) {
  auto* to = static_cast<std::byte*>(memory.data());
  size_t filled = std::min(memory.size_bytes(), kPatchBytes);
  randomize(host_.data(), filled, type);
  backend_.copy(Queue::h2d, to, host_.data(), filled);
  IOKV_TRY(backend_.poll(backend_.record(Queue::h2d), true));
  for (size_t part; filled < memory.size_bytes(); filled += part) {
    part = std::min(filled, memory.size_bytes() - filled);
    backend_.copy(Queue::dense, to + filled, to, part);
  }
  IOKV_TRY(backend_.poll(backend_.record(Queue::dense), true));
  return {};
}

// Of a layer that streams those of any slot: whose they are makes no difference to what they take.
LayerMatrices Probe::matrices() const {
  return weights_.matrices(layer_, weights_.stream == nullptr ? 0 : layer_ % weights_.stream->slots());
}

// Slots of the ring get some layer's weights.
Status Probe::fill_slots() {
  const WeightStream* stream = weights_.stream.get();
  if (stream == nullptr) return {};
  uint32_t layer = 0;
  while (!stream->layers().streams(layer)) ++layer;
  for (uint32_t slot = 0; slot < stream->slots(); ++slot) {
    for (WeightPart part : {WeightPart::key_value, WeightPart::rest}) stream->fetch(layer, slot, part);
  }
  IOKV_TRY(backend_.poll(backend_.record(Queue::h2d), true));
  return {};
}

const LayerWeights& Probe::next_layer() {
  layer_ = layer_ + 1 < weights_.layers.size() ? layer_ + 1 : 0;
  return weights_.layers[layer_];
}

// So many neighbouring blocks, behind those of the call before.
std::byte* Probe::next_blocks(uint32_t blocks) {
  IOKV_ASSERT(blocks <= blocks_);
  if (block_ + blocks > blocks_) block_ = 0;
  std::byte* first = bytes(cache_) + block_ * block_bytes_;
  block_ += blocks;
  return first;
}

// Where the next copy of one direction starts; `at` is where the one before has ended.
size_t Probe::next_offset(size_t size_bytes, size_t& at) const {
  const size_t half = max_copy_bytes() / 2;
  IOKV_ASSERT(size_bytes != 0 && size_bytes <= max_copy_bytes());
  if (size_bytes > half) return 0;
  if (at + size_bytes > half) at = 0;
  const size_t offset = at;
  at += size_bytes;
  return offset;
}

void Probe::norm(const NormWeights& weights, const float* x, void* y, uint32_t rows) {
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

void Probe::product(const Matrix& matrix, const LinearWeights& weights, const void* x, void* y, uint32_t rows, GemmOutput output) {
  GemmArgs args;
  args.weight = &matrix;
  args.columns = args.y_stride = matrix.n;
  args.bias = f32_or_null(weights.bias);
  args.x = x;
  args.y = y;
  args.rows = rows;
  args.output = output;
  backend_.gemm(Queue::dense, args);
}

RopeArgs Probe::rope_args() const {
  RopeArgs args;
  args.shape = spec_.kv_shape();
  if (spec_.positions == PositionKind::rope) {
    args.table = {static_cast<uint32_t>(2 * spec_.rope_inverse_frequency.size()), spec_.rope_inverse_frequency,
                  spec_.rope_attention_scale};
  }
  return args;
}

}  // namespace iokv
