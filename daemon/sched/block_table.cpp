// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/block_table.h"

#include "daemon/base/assert.h"

namespace iokv {

SequenceBlock BlockTable::operator[](uint32_t index) const {
  IOKV_ASSERT(index < size_);
  for (const BlockRun& run : runs_) {
    if (index < run.blocks) return {run.id + index * units_.of(run.form), run.form};
    index -= run.blocks;
  }
  return {};
}

SequenceBlock BlockTable::back() const {
  IOKV_ASSERT(size_ > 0);
  const BlockRun& run = runs_.back();
  return {run.id + (run.blocks - 1) * units_.of(run.form), run.form};
}

void BlockTable::push_back(SequenceBlock block) {
  ++size_;
  if (!runs_.empty() && continues(runs_.back(), block)) {
    ++runs_.back().blocks;
    return;
  }
  BlockRun run;
  run.id = block.id;
  run.blocks = 1;
  run.form = run.device_form = block.form;
  if (in_place_) run.device_id = block.id;
  runs_.push_back(run);
}

bool BlockTable::continues(const BlockRun& run, SequenceBlock block) const {
  return !run.shared && run.form == block.form && run.id + run.blocks * units_.of(run.form) == block.id;
}

void BlockTable::pop_back() {
  IOKV_ASSERT(size_ > 0);
  --size_;
  if (--runs_.back().blocks == 0) runs_.pop_back();
}

void BlockTable::share(uint32_t blocks) {
  IOKV_ASSERT(blocks <= size_);
  for (size_t i = 0; blocks > 0; ++i) {
    if (runs_[i].blocks > blocks) {
      if (runs_[i].shared) return;
      BlockRun rest = runs_[i];
      rest.id += blocks * units_.of(rest.form);
      if (in_place_) rest.device_id = rest.id;
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
  size_ = 0;
}

}  // namespace iokv
