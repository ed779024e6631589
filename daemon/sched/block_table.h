// SPDX-License-Identifier: Apache-2.0
// The blocks of one sequence, in position order, as runs of neighbours in the pool: long runs are long copies, and a
// Plan takes a sequence's runs over as they are, however many blocks they cover. The conductor's thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "daemon/base/block_form.h"
#include "daemon/sched/plan.h"

namespace iokv {

struct SequenceBlock {
  uint32_t id = 0;                // in the host pool
  BlockForm form = BlockForm::kv;
  uint32_t device_id = kNoBlock;  // of its copy on the device
  BlockForm device_form = BlockForm::kv;
  bool operator==(const SequenceBlock&) const = default;
};

// Between the ids of neighbouring blocks.
struct BlockUnits {
  uint32_t kv = 1, x = 1;
  uint32_t of(BlockForm form) const { return form == BlockForm::kv ? kv : x; }
};

class BlockTable {
 public:
  BlockTable() = default;
  // in_place: the device reads and writes the host pool, so that every block is resident as it is.
  BlockTable(BlockUnits units, bool in_place) : units_(units), in_place_(in_place) {}

  uint32_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // In time proportional to the runs.
  SequenceBlock operator[](uint32_t index) const;
  SequenceBlock back() const;
  std::span<const BlockRun> runs() const { return runs_; }
  // Who is about to read the runs of thousands of tables in turn asks for those of the tables to come.
  void prefetch() const {
    const auto* first = reinterpret_cast<const char*>(runs_.data());
    for (size_t at = 0; at < std::min<size_t>(runs_.size() * sizeof(BlockRun), 256); at += 64) __builtin_prefetch(first + at);
  }

  void push_back(SequenceBlock block);
  void pop_back();
  // Other sequences may refer to the first `blocks` blocks from now on.
  void share(uint32_t blocks);
  void clear();
  // Copies on the device are given up, but for those of shared blocks: dropped(block) for each block that had one.
  template <typename Do>
  void drop_copies(const Do& dropped) {
    for (BlockRun& run : runs_) {
      if (!run.resident() || run.shared || in_place_) continue;
      for (uint32_t i = 0; i < run.blocks; ++i) dropped(block_of(run, i));
      copies_ -= run.blocks;
      const RingLoad before = load_of(run);
      run.device_id = kNoBlock;
      const RingLoad after = load_of(run);
      load_.areas += run.blocks * (after.areas - before.areas);
      load_.link_units += run.blocks * (after.link_units - before.link_units);
    }
  }
  // Blocks with a copy on the device; in place there are none.
  uint32_t copies() const { return copies_; }
  RingLoad load() const { return load_; }

  template <typename Do>
  void each(const Do& act) const {
    for (const BlockRun& run : runs_) {
      for (uint32_t i = 0; i < run.blocks; ++i) act(block_of(run, i));
    }
  }

 private:
  bool continues(const BlockRun& run, SequenceBlock block) const;
  // Of a block of the run.
  RingLoad load_of(const BlockRun& run) const {
    if (run.resident()) return {run.device_form == BlockForm::x && !in_place_ ? 1u : 0u, 0};
    return {1, units_.of(run.form)};
  }
  SequenceBlock block_of(const BlockRun& run, uint32_t index) const {
    const bool copied = run.resident() && !in_place_;
    if (!copied) return {run.id + index * units_.of(run.form), run.form};
    return {run.id + index * units_.of(run.form), run.form, run.device_id + index * units_.of(run.device_form),
            run.device_form};
  }

  std::vector<BlockRun> runs_;
  BlockUnits units_;
  uint32_t size_ = 0, copies_ = 0;
  RingLoad load_;
  bool in_place_ = false;
};

}  // namespace iokv
