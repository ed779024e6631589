// SPDX-License-Identifier: Apache-2.0
#include "daemon/pool/block_pool.h"

#include <numeric>

#include "daemon/base/assert.h"

namespace iokv {
namespace {

size_t index_of(BlockForm form) { return static_cast<size_t>(form); }

}  // namespace

BlockPool::BlockPool(const PoolShape& shape) : shape_(shape), frame_units_(std::lcm(shape.kv_units, shape.x_units)) {
  IOKV_ASSERT(shape.kv_units > 0 && shape.x_units > 0);
  shape_.units -= shape_.units % frame_units_;
  free_units_ = shape_.units;
  references_.resize(shape_.units);
  frames_.resize(shape_.units / frame_units_);
  for (uint32_t frame = 0; frame < frames_.size(); frame++) empty_.insert(empty_.end(), frame);
}

std::optional<uint32_t> BlockPool::acquire(BlockForm form, uint32_t hint) {
  std::optional<uint32_t> id = hint == UINT32_MAX ? std::nullopt : block_behind(hint, form);
  const auto& partial = partial_[index_of(form)];
  if (!id && !partial.empty()) id = free_block_in(*partial.begin(), form);
  if (!id && !empty_.empty()) id = *empty_.begin() * frame_units_;
  if (id) take(*id, form);
  return id;
}

// The block that starts where block `hint` ends, if it is free and its frame can take the form.
std::optional<uint32_t> BlockPool::block_behind(uint32_t hint, BlockForm form) const {
  const uint32_t id = hint + units_for(this->form(hint)).value;
  if (id >= shape_.units || id % units_for(form).value != 0) return std::nullopt;
  const Frame& frame = frames_[id / frame_units_];
  const bool free = frame.blocks == 0 ? id % frame_units_ == 0 : frame.form == form && references_[id] == 0;
  return free ? std::optional(id) : std::nullopt;
}

std::optional<uint32_t> BlockPool::free_block_in(uint32_t frame, BlockForm form) const {
  for (uint32_t id = frame * frame_units_; id < (frame + 1) * frame_units_; id += units_for(form).value) {
    if (references_[id] == 0) return id;
  }
  return std::nullopt;
}

void BlockPool::take(uint32_t id, BlockForm form) {
  const uint32_t index = id / frame_units_;
  Frame& frame = frames_[index];
  IOKV_ASSERT(references_[id] == 0 && (frame.blocks == 0 || frame.form == form));
  if (frame.blocks == 0) empty_.erase(index);
  frame.form = form;
  frame.blocks++;
  references_[id] = 1;
  free_units_ -= units_for(form).value;
  if (frame.blocks < blocks_a_frame(form)) {
    partial_[index_of(form)].insert(index);
  } else {
    partial_[index_of(form)].erase(index);
  }
}

void BlockPool::retain(uint32_t id) {
  IOKV_ASSERT(id < shape_.units && references_[id] > 0);
  references_[id]++;
}

void BlockPool::release(uint32_t id) {
  IOKV_ASSERT(id < shape_.units && references_[id] > 0);
  if (--references_[id] > 0) return;
  const uint32_t index = id / frame_units_;
  Frame& frame = frames_[index];
  free_units_ += units_for(frame.form).value;
  if (--frame.blocks > 0) {
    partial_[index_of(frame.form)].insert(index);
  } else {
    partial_[index_of(frame.form)].erase(index);
    empty_.insert(index);
  }
}

uint32_t BlockPool::references(uint32_t id) const {
  IOKV_ASSERT(id < shape_.units);
  return references_[id];
}

BlockForm BlockPool::form(uint32_t id) const {
  IOKV_ASSERT(id < shape_.units && references_[id] > 0);
  return frames_[id / frame_units_].form;
}

void BlockPool::verify() const {
  uint64_t used = 0;
  for (uint32_t index = 0; index < frames_.size(); index++) {
    const Frame& frame = frames_[index];
    const uint32_t step = units_for(frame.form).value;
    uint32_t blocks = 0;
    for (uint32_t unit = 0; unit < frame_units_; unit++) {
      const bool taken = references_[index * frame_units_ + unit] > 0;
      IOKV_ASSERT(!taken || unit % step == 0);
      blocks += taken ? 1 : 0;
    }
    IOKV_ASSERT(blocks == frame.blocks);
    used += uint64_t{blocks} * step;
    IOKV_ASSERT(empty_.contains(index) == (blocks == 0));
    for (BlockForm form : {BlockForm::kv, BlockForm::x}) {
      const bool partial = blocks > 0 && frame.form == form && blocks < blocks_a_frame(form);
      IOKV_ASSERT(partial_[index_of(form)].contains(index) == partial);
    }
  }
  IOKV_ASSERT(used + free_units_ == shape_.units);
}

}  // namespace iokv
