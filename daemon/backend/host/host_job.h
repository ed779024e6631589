// SPDX-License-Identifier: Apache-2.0
// One attend operation of the host's queue, cut into items that threads take one by one: a span, a KV head, and a chunk of
// the span's tokens. The thread that ends the last chunk of a span's head folds the chunks in position order.
//
// Invariants
//  1. Where a span is cut follows from the tokens that its row sees and from nothing else, so results depend neither on
//     the number of threads nor on the other spans.
//  2. prepare() is called by the thread that issues; then any threads call run() with each item once; then prepare() again.
//     Whoever hands the job on between them orders their memory.
//  3. Memory is taken in prepare() only, where a job is larger than those before it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/backend/host/kernels.h"

namespace iokv::host {

struct FreeMemory {
  void operator()(void* memory) const;
};
// 64-byte aligned floats that keep their size until more are asked for; then their contents are lost.
class Floats {
 public:
  float* at_least(size_t count);
  float* data() const { return memory_.get(); }

 private:
  std::unique_ptr<float, FreeMemory> memory_;
  size_t count_ = 0;
};

class HostJob {
 public:
  // K and V of a chunk of a head: so many bytes, or a block, and twice that as often as it takes for a span to have
  // kMostChunks at most. A core reads them in 13 to 25 µs where it has 5 to 10 GB/s of the memory's, and as long others wait
  // for the last one at the end; beginning and folding them takes 0.3 µs. Chunks of a long sequence are larger: folding 64 of
  // them takes 10 µs at its end.
  static constexpr size_t kChunkBytes = size_t{128} << 10;
  static constexpr uint32_t kMostChunks = 64;

  // Copies what it needs of the arguments' host arrays. q, state and the blocks stay the caller's.
  void prepare(const AttendArgs& args, DType type);
  uint32_t items() const { return items_; }

  // Where item `index` begins to read; null: nowhere.
  const void* first_read(uint32_t index) const;
  // next() is called before the item's last block is computed with: it says where this thread will go on to read, so that it
  // can be asked for.
  template <typename Next>
  void run(uint32_t index, const Kernels& kernels, Floats& scratch, const Next& next) {
    const Item item = find(index);
    const Span& span = spans_[item.span];
    DecodeBlock block = begin(item, kernels, scratch);
    kernels.enter(block.group, block.head_dim);
    for (uint32_t b = item.begin_block; b < item.end_block; ++b) {
      block.k = keys(span, b, item.head);
      block.begin = b == 0 ? span.begin_token : 0;
      block.end = b + 1 == span.blocks ? span.end_token : kBlockTokens;
      block.next = b + 1 < item.end_block ? keys(span, b + 1, item.head) : next();
      kernels.attend(block);
    }
    kernels.leave(block.group, block.head_dim);
    end(item, kernels);
  }

 private:
  struct Span {
    uint32_t first_item = 0;
    uint32_t row = 0;
    uint32_t first_address = 0;              // in addresses_, of the first block that is seen
    uint32_t blocks = 0;                     // that are seen
    uint32_t begin_token = 0, end_token = 0; // of the first block; of the last, behind the last that is seen
    uint32_t chunk_blocks = 0, chunks = 1;   // no blocks: one chunk, which leaves that nothing has been seen
    uint32_t first_result = 0;               // where there are several chunks: in results_, of [chunks][kv_heads]
    uint32_t first_counter = 0;              // likewise in ended_, of [kv_heads]
  };
  struct Item {
    uint32_t span = 0, head = 0, chunk = 0;
    uint32_t begin_block = 0, end_block = 0;  // of the span's
  };

  Item find(uint32_t index) const;
  const void* keys(const Span& span, uint32_t block, uint32_t head) const {
    return static_cast<const char*>(addresses_[span.first_address + block]) + head * head_bytes_;
  }
  DecodeBlock begin(const Item& item, const Kernels& kernels, Floats& scratch) const;
  void end(const Item& item, const Kernels& kernels);
  float* state_of(const Span& span, uint32_t head) const;
  float* result_of(const Span& span, uint32_t chunk, uint32_t head) const;

  KvShape shape_;
  uint32_t group_ = 0;
  float scale_ = 1.0f, score_cap_ = 0;
  const char* q_ = nullptr;
  size_t q_row_bytes_ = 0, q_head_bytes_ = 0;
  size_t head_bytes_ = 0;     // K and V of a KV head of a block
  size_t result_floats_ = 0;  // of the query rows of a KV head
  float* state_ = nullptr;
  uint32_t items_ = 0;
  std::vector<Span> spans_;
  std::vector<const void*> addresses_;
  Floats results_;
  std::vector<std::atomic<uint32_t>> ended_;  // chunks of a head
};

}  // namespace iokv::host
