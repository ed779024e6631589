// SPDX-License-Identifier: Apache-2.0
// See host_job.h. `ended_` hands chunks over: each is released by the thread that ended it and acquired by the one that folds.
#include "daemon/backend/host/host_job.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace iokv::host {

void FreeMemory::operator()(void* memory) const { std::free(memory); }

float* Floats::at_least(size_t count) {
  if (count > count_) {
    const size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
    memory_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    IOKV_ASSERT(memory_ != nullptr);
    count_ = count;
  }
  return memory_.get();
}

void HostJob::prepare(const AttendArgs& args, DType type) {
  IOKV_ASSERT(args.shape.heads % args.shape.kv_heads == 0 && args.state != nullptr);
  const size_t element = size_of(type), d = args.shape.head_dim;
  shape_ = args.shape;
  group_ = shape_.heads / shape_.kv_heads;
  scale_ = args.scale;
  score_cap_ = args.score_cap;
  q_ = static_cast<const char*>(args.q);
  q_row_bytes_ = args.q_stride * element;
  q_head_bytes_ = group_ * d * element;
  head_bytes_ = size_t{2} * kBlockTokens * d * element;
  result_floats_ = group_ * state_floats(d);
  state_ = args.state;
  spans_.clear();
  addresses_.clear();
  uint32_t results = 0, counters = 0;
  for (const AttendSpan& from : args.spans) {
    IOKV_ASSERT(from.rows == 1);
    Span span;
    span.row = from.first_row;
    // Its own token, at `position`, is not the host's; of the `window` tokens that it sees it is the last.
    const uint32_t position = from.first_position;
    uint32_t begin = from.host_from;
    if (args.window != 0 && position + 1 > args.window) begin = std::max(begin, position + 1 - args.window);
    if (begin < position) {
      const uint32_t first_block = begin / kBlockTokens, end_block = (position - 1) / kBlockTokens + 1;
      IOKV_ASSERT(from.first_piece <= first_block && end_block - from.first_piece <= from.kv_blocks.size());
      span.first_address = static_cast<uint32_t>(addresses_.size());
      span.blocks = end_block - first_block;
      span.begin_token = begin % kBlockTokens;
      span.end_token = (position - 1) % kBlockTokens + 1;
      const auto seen = from.kv_blocks.subspan(first_block - from.first_piece, span.blocks);
      addresses_.insert(addresses_.end(), seen.begin(), seen.end());
      span.chunk_blocks = static_cast<uint32_t>(std::max<size_t>(1, kChunkBytes / head_bytes_));
      while (span.chunk_blocks * kMostChunks < span.blocks) span.chunk_blocks *= 2;
      span.chunks = (span.blocks + span.chunk_blocks - 1) / span.chunk_blocks;
    }
    if (span.chunks > 1) {
      span.first_result = results;
      results += span.chunks * shape_.kv_heads;
      span.first_counter = counters;
      counters += shape_.kv_heads;
    }
    spans_.push_back(span);
  }
  // Large items first: what threads wait for at the end are then the small ones.
  auto larger = [](const Span& a, const Span& b) { return a.chunk_blocks > b.chunk_blocks; };
  if (!std::is_sorted(spans_.begin(), spans_.end(), larger)) std::sort(spans_.begin(), spans_.end(), larger);
  items_ = 0;
  for (Span& span : spans_) {
    span.first_item = items_;
    items_ += span.chunks * shape_.kv_heads;
  }
  results_.at_least(results * result_floats_);
  if (ended_.size() < counters) ended_ = std::vector<std::atomic<uint32_t>>(counters);
  for (uint32_t i = 0; i < counters; ++i) ended_[i].store(0, std::memory_order_relaxed);
}

HostJob::Item HostJob::find(uint32_t index) const {
  const auto after = std::upper_bound(spans_.begin(), spans_.end(), index,
                                      [](uint32_t i, const Span& span) { return i < span.first_item; });
  Item item;
  item.span = static_cast<uint32_t>(after - spans_.begin()) - 1;
  const Span& span = spans_[item.span];
  item.head = (index - span.first_item) % shape_.kv_heads;
  item.chunk = (index - span.first_item) / shape_.kv_heads;
  item.begin_block = item.chunk * span.chunk_blocks;
  item.end_block = std::min(item.begin_block + span.chunk_blocks, span.blocks);
  return item;
}

const void* HostJob::first_read(uint32_t index) const {
  const Item item = find(index);
  return item.begin_block < item.end_block ? keys(spans_[item.span], item.begin_block, item.head) : nullptr;
}

float* HostJob::state_of(const Span& span, uint32_t head) const {
  return state_ + (size_t{span.row} * shape_.kv_heads + head) * result_floats_;
}

float* HostJob::result_of(const Span& span, uint32_t chunk, uint32_t head) const {
  if (span.chunks == 1) return state_of(span, head);
  return results_.data() + (span.first_result + size_t{chunk} * shape_.kv_heads + head) * result_floats_;
}

DecodeBlock HostJob::begin(const Item& item, const Kernels& kernels, Floats& scratch) const {
  const Span& span = spans_[item.span];
  const size_t query_floats = packed_query_bytes(group_, shape_.head_dim) / sizeof(float);
  float* q = scratch.at_least(query_floats + size_t{group_} * kBlockTokens);
  DecodeBlock block;
  block.q = q;
  block.scores = q + query_floats;
  block.group = group_;
  block.head_dim = shape_.head_dim;
  block.scale = scale_;
  block.score_cap = score_cap_;
  block.state = result_of(span, item.chunk, item.head);
  kernels.clear(block.state, group_, shape_.head_dim);
  kernels.pack_queries(q_ + span.row * q_row_bytes_ + item.head * q_head_bytes_, group_, shape_.head_dim, q);
  return block;
}

void HostJob::end(const Item& item, const Kernels& kernels) {
  const Span& span = spans_[item.span];
  if (span.chunks == 1) return;
  if (ended_[span.first_counter + item.head].fetch_add(1, std::memory_order_acq_rel) + 1 != span.chunks) return;
  float* state = state_of(span, item.head);
  std::memcpy(state, result_of(span, 0, item.head), result_floats_ * sizeof(float));
  for (uint32_t chunk = 1; chunk < span.chunks; ++chunk) {
    kernels.fold(state, result_of(span, chunk, item.head), group_, shape_.head_dim);
  }
}

}  // namespace iokv::host
