// SPDX-License-Identifier: Apache-2.0
// The parts of a step, each by itself, on random data: what the profiler takes the time of. A Probe owns bounded
// buffers on both sides of the link and goes round them, and round the model's layers, so that no operation finds in a
// processor's cache what a step would have to fetch. The executor's thread runs it.
//
// Invariants
//  1. It uses the backend through its seam alone, and only operations that Model (daemon/model/layers.h) issues.
//  2. Operations are issued, not waited for. Values stay finite whatever is issued how often.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/model/spec.h"
#include "daemon/model/weights.h"

namespace iokv {

struct ProbeLimits {
  uint32_t max_rows = 256;          // of a step
  uint32_t max_draws = 64;
  uint32_t max_tokens = 4096;       // of a recomputation
  uint32_t max_attended = 1 << 16;  // tokens, over all rows
  size_t max_cache_bytes = size_t{64} << 20;
  size_t max_copy_bytes = size_t{64} << 20;
  // Of K,V that the host attends to: more than its processors' caches hold, or it would not be memory that is measured.
  size_t max_host_cache_bytes = size_t{256} << 20;
};

// Pages of the host that the backend has pinned, which outlives them.
class PinnedPages {
 public:
  PinnedPages() = default;
  ~PinnedPages();
  PinnedPages(const PinnedPages&) = delete;
  PinnedPages& operator=(const PinnedPages&) = delete;

  // Once. Error: the system has no memory, or the backend does not pin it.
  Status take(Backend& backend, size_t bytes);
  std::byte* data() const { return data_; }
  size_t size_bytes() const { return bytes_; }

 private:
  Backend* backend_ = nullptr;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

class Probe {
 public:
  // Fails when the backend has no memory for the buffers. Backend, spec and weights outlive the Probe.
  static Result<std::unique_ptr<Probe>> make(Backend& backend, const ModelSpec& spec, const Weights& weights,
                                             const ProbeLimits& limits);
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  // 0 < bytes <= max_copy_bytes(), which is 0 where operations read the host's memory in place. Copies of at most half
  // of that use other memory a direction, and may run both ways at once.
  void h2d(size_t bytes);
  void d2h(size_t bytes);
  size_t max_copy_bytes() const { return copied_ == nullptr ? 0 : copied_->size_bytes(); }

  // Of each of so many blocks of K,V the first half of the tokens, which are piece_bytes() for each head's K and V: one
  // copy. 0 < blocks <= max_piece_blocks(), which is 0 where nothing is copied or the buffers hold no block.
  void h2d_pieces(uint32_t blocks);
  void d2h_pieces(uint32_t blocks);
  uint32_t max_piece_blocks() const { return static_cast<uint32_t>(std::min<size_t>(max_copy_bytes() / 2 / block_bytes_, 16)); }
  uint32_t pieces(uint32_t blocks) const { return blocks * 2 * spec_.kv_heads; }
  size_t piece_bytes() const { return block_bytes_ / 2 / pieces(1); }

  // On the dense queue, within the device: 0 < bytes <= max_kept_bytes(), as new rows of X are copied to where they stay.
  void keep_x(uint32_t bytes);
  uint32_t max_kept_bytes() const { return static_cast<uint32_t>(std::min(cache_->size_bytes(), normed_->size_bytes())); }

  // K,V of one layer from X, rope included, on the recompute queue. 0 < tokens <= max_tokens(), which is 0 for a model
  // whose K,V cannot be recomputed (Model::make).
  void recompute(uint32_t tokens);
  uint32_t max_tokens() const { return max_tokens_; }

  // The rest is on the dense queue. One layer's attention of as many rows as it takes for each to attend to about
  // context_tokens().
  void attend(uint32_t attended_tokens);
  uint32_t max_attended() const { return max_attended_; }
  uint32_t context_tokens() const { return context_; }

  // Of one layer, rows of as many sequences, for each of which the host attends to about context_tokens() in pinned memory, on
  // the host's queue. 0 < tokens <= max_host_attended(), which is 0 where the host does not attend.
  void attend_host(uint32_t tokens);
  uint32_t max_host_attended() const { return max_host_attended_; }
  // Rows as they are handed over, attended for by the host with a block of cached tokens each, and merged, on the dense
  // queue: 0 < rows <= max_exchanged().
  void exchange(uint32_t rows);
  uint32_t max_exchanged() const { return max_host_attended_ == 0 ? 0 : std::min(limits_.max_rows, max_host_attended_ / kBlockTokens); }

  // One layer's attention of prompt_rows() rows of one sequence, with so many tokens before them that the tokens which the
  // rows attend to add up to `products`, rounded to a token before them. least_products(): there are none;
  // ... most_products(): some thousand.
  void attend_rows(uint32_t products);
  uint32_t prompt_rows() const { return std::min(limits_.max_rows, std::max(1u, spec_.max_context / 2)); }
  uint32_t least_products() const { return prompt_rows() * (prompt_rows() + 1) / 2; }
  uint32_t most_products() const { return least_products() + prompt_rows() * most_before_; }

  // A layer without attention: norms, products, rope and K,V stored, for rows of as many sequences; and of it what comes
  // before attention.
  void dense(uint32_t rows);
  void project(uint32_t rows);
  uint32_t max_rows() const { return limits_.max_rows; }

  // Embedding, final norm, logits and greedy draws; and of it the embedding.
  void head(uint32_t rows);
  void embed(uint32_t rows);
  uint32_t max_draws() const { return limits_.max_draws; }

 private:
  Probe(Backend& backend, const ModelSpec& spec, const Weights& weights, const ProbeLimits& limits);
  Status take_buffers();
  Status take(std::unique_ptr<DeviceMemory>& memory, size_t elements, DType type);
  Status fill(const DeviceMemory& memory, DType type);
  Status take_host_buffers();
  void issue_attention();
  void attend_host(uint32_t rows, uint32_t tokens);
  void add_pieces(std::byte* to, const std::byte* from, uint32_t blocks);
  const LayerWeights& next_layer();
  std::byte* next_blocks(uint32_t blocks);
  size_t next_offset(size_t bytes, size_t& at) const;
  void norm(const NormWeights& weights, const float* x, void* y, uint32_t rows);
  LayerMatrices matrices() const;
  Status fill_slots();
  void product(const Matrix& matrix, const LinearWeights& weights, const void* x, void* y, uint32_t rows, GemmOutput output);
  RopeArgs rope_args() const;

  Backend& backend_;
  const ModelSpec& spec_;
  const Weights& weights_;
  ProbeLimits limits_;
  const size_t element_bytes_;   // of the compute type
  const uint32_t qkv_width_;     // (heads + 2·kv_heads)·d
  const size_t block_bytes_;     // of K,V
  uint32_t blocks_ = 0;          // that cache_ holds
  uint32_t max_tokens_ = 0, max_attended_ = 0, context_ = 0, most_before_ = 0;
  uint32_t max_host_attended_ = 0, host_blocks_ = 0;  // and what host_cache_ holds

  // Device buffers of the compute type unless f32; M = max_rows.
  std::unique_ptr<DeviceMemory> hidden_;      // [M, h] f32
  std::unique_ptr<DeviceMemory> normed_;      // [M, h]
  std::unique_ptr<DeviceMemory> qkv_;         // [M, qkv_width]
  std::unique_ptr<DeviceMemory> attended_;    // [M, heads·d]
  std::unique_ptr<DeviceMemory> gate_up_;     // [M, 2·ffn], or [M, ffn] without a gate
  std::unique_ptr<DeviceMemory> activated_;   // [M, ffn]
  std::unique_ptr<DeviceMemory> x_;           // [max_tokens, h], or null
  std::unique_ptr<DeviceMemory> recomputed_;  // [max_tokens, 2·kv_heads·d], or null
  std::unique_ptr<DeviceMemory> cache_;       // [blocks] of K,V
  std::unique_ptr<DeviceMemory> logits_;      // [max_draws, vocab] f32
  std::unique_ptr<DeviceMemory> copied_;      // [max_copy_bytes], or null where nothing is copied
  std::unique_ptr<DeviceMemory> state_;       // [M, heads, attend_state_floats(d)] f32, or null
  PinnedPages host_;
  PinnedPages host_cache_;                    // [host_blocks] of K,V
  PinnedPages host_q_, host_state_;           // [M, heads·d], [M, heads, attend_state_floats(d)] f32

  std::vector<CopyRun> copies_;
  std::vector<RopeRun> runs_;
  std::vector<const void*> addresses_;
  std::vector<AttendSpan> spans_;
  std::vector<int32_t> tokens_, drawn_;       // [M], [max_draws]
  std::vector<uint32_t> positions_;           // [M]
  std::vector<uint32_t> rows_;                // [M]: 0, 1, ...
  std::vector<SampleRow> sample_rows_;        // [max_draws]
  std::vector<float> logprobs_;               // [max_draws]

  uint32_t layer_ = 0, block_ = 0, host_block_ = 0;  // where the round is
  size_t up_offset_ = 0, down_offset_ = 0;
};

}  // namespace iokv
