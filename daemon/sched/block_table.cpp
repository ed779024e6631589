// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/block_table.h"

#include "daemon/base/assert.h"

namespace iokv {

SequenceBlock BlockTable::operator[](uint32_t index) const {
  IOKV_ASSERT(index < size_);
  for (const BlockRun& run : runs_) {
    if (index < run.blocks) return block_of(run, index);
    index -= run.blocks;
  }
  return {};
}

SequenceBlock BlockTable::back() const {
  IOKV_ASSERT(size_ > 0);
  return block_of(runs_.back(), runs_.back().blocks - 1);
}

void BlockTable::push_back(SequenceBlock block) {
  IOKV_ASSERT(!in_place_ || block.device_id == kNoBlock);
  ++size_;
  if (block.device_id != kNoBlock) ++copies_;
  if (!runs_.empty() && continues(runs_.back(), block)) {
    ++runs_.back().blocks;
  } else {
    BlockRun run;
    run.id = block.id;
    run.blocks = 1;
    run.form = block.form;
    run.device_form = in_place_ ? block.form : block.device_form;
    run.device_id = in_place_ ? block.id : block.device_id;
    runs_.push_back(run);
  }
  const RingLoad load = load_of(runs_.back());
  load_.areas += load.areas;
  load_.link_units += load.link_units;
}

bool BlockTable::continues(const BlockRun& run, SequenceBlock block) const {
  if (run.shared || run.form != block.form || run.id + run.blocks * units_.of(run.form) != block.id) return false;
  if (in_place_ || (!run.resident() && block.device_id == kNoBlock)) return true;
  return run.resident() && block.device_id != kNoBlock && run.device_form == block.device_form &&
         run.device_id + run.blocks * units_.of(run.device_form) == block.device_id;
}

void BlockTable::pop_back() {
  IOKV_ASSERT(size_ > 0);
  --size_;
  if (runs_.back().resident() && !in_place_) --copies_;
  const RingLoad load = load_of(runs_.back());
  load_.areas -= load.areas;
  load_.link_units -= load.link_units;
  if (--runs_.back().blocks == 0) runs_.pop_back();
}

void BlockTable::share(uint32_t blocks) {
  IOKV_ASSERT(blocks <= size_);
  for (size_t i = 0; blocks > 0; ++i) {
    if (runs_[i].blocks > blocks) {
      if (runs_[i].shared) return;
      BlockRun rest = runs_[i];
      rest.id += blocks * units_.of(rest.form);
      if (rest.resident()) rest.device_id += blocks * units_.of(rest.device_form);
      rest.blocks -= blocks;
      runs_[i].blocks = blocks;
      runs_.insert(runs_.begin() + static_cast<long>(i) + 1, rest);
    }
    runs_[i].shared = true;
    blocks -= runs_[i].blocks;
  }
}

void BlockTable::clear() {
  runs_.clear();
  size_ = copies_ = 0;
  load_ = {};
}

}  // namespace iokv
