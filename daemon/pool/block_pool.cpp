// SPDX-License-Identifier: Apache-2.0
#include "daemon/pool/block_pool.h"

#include <algorithm>
#include <iterator>
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
  if (!frames_.empty()) add_extent(0, {static_cast<uint32_t>(frames_.size()), false});
}

std::optional<uint32_t> BlockPool::acquire(BlockForm form, uint32_t hint, Blocks to_come) {
  const uint32_t each = blocks_a_frame(form);
  const uint32_t frames_to_come = std::max(1u, to_come.value / each + (to_come.value % each != 0));
  std::optional<uint32_t> id = hint == UINT32_MAX ? std::nullopt : take_behind(hint, form, frames_to_come);
  if (!id) id = take_apart(frames_to_come);
  const auto& partial = partial_[index_of(form)];
  if (!id && !partial.empty()) id = free_block_in(*partial.begin(), form);
  if (id) take(*id, form);
  return id;
}

// The rest of block `hint`'s frame if the form is the same, and the frame behind it.
std::optional<uint32_t> BlockPool::take_behind(uint32_t hint, BlockForm form, uint32_t frames_to_come) {
  const uint32_t frame = hint / frame_units_, next = hint + units_for(form).value;
  if (this->form(hint) == form && next / frame_units_ == frame) {
    return references_[next] == 0 ? std::optional(next) : std::nullopt;
  }
  const auto extent = extents_.find(frame + 1);
  if (extent == extents_.end()) return std::nullopt;
  return take_first(extent, frames_to_come) * frame_units_;
}

// The beginning of the smallest extent that takes them all, or of the largest; or the second half of what is claimed.
std::optional<uint32_t> BlockPool::take_apart(uint32_t frames_to_come) {
  const auto& [open, claimed] = by_size_;
  const auto fits = open.lower_bound({frames_to_come, 0});
  if (fits != open.end()) return take_first(extents_.find(fits->second), frames_to_come) * frame_units_;
  const uint32_t most_open = open.empty() ? 0 : open.rbegin()->first;
  const uint32_t half_claimed = claimed.empty() ? 0 : (claimed.rbegin()->first + 1) / 2;
  if (most_open == 0 && half_claimed == 0) return std::nullopt;
  if (most_open >= half_claimed) return take_first(extents_.find(open.rbegin()->second), frames_to_come) * frame_units_;
  const auto longest = extents_.find(claimed.rbegin()->second);
  const auto [first, extent] = *longest;
  erase_extent(longest);
  const uint32_t kept = extent.frames - half_claimed;
  if (kept > 0) add_extent(first, {kept, true});
  give_back_frames(first + kept, half_claimed);
  return take_first(extents_.find(first + kept), frames_to_come) * frame_units_;
}

std::optional<uint32_t> BlockPool::free_block_in(uint32_t frame, BlockForm form) const {
  for (uint32_t id = frame * frame_units_; id < (frame + 1) * frame_units_; id += units_for(form).value) {
    if (references_[id] == 0) return id;
  }
  return std::nullopt;
}

// Of what is left of the extent as much as is to come stays claimed, or becomes so.
uint32_t BlockPool::take_first(Extents::iterator extent, uint32_t frames_to_come) {
  const auto [first, was] = *extent;
  erase_extent(extent);
  const uint32_t left = was.frames - 1;
  const uint32_t claimed = was.claimed ? left : std::min(left, frames_to_come - 1);
  if (claimed > 0) add_extent(first + 1, {claimed, true});
  if (left > claimed) add_extent(first + 1 + claimed, {left - claimed, false});
  return first;
}

// To nobody in particular: merged with what else is so beside it. A claim right behind them falls.
void BlockPool::give_back_frames(uint32_t first, uint32_t frames) {
  auto next = extents_.lower_bound(first);
  while (next != extents_.end() && next->first == first + frames) {
    frames += next->second.frames;
    next = erase_extent(next);
  }
  if (next != extents_.begin()) {
    const auto before = std::prev(next);
    if (!before->second.claimed && before->first + before->second.frames == first) {
      first = before->first;
      frames += before->second.frames;
      erase_extent(before);
    }
  }
  add_extent(first, {frames, false});
}

void BlockPool::add_extent(uint32_t first, Extent extent) {
  extents_.emplace(first, extent);
  by_size_[extent.claimed].emplace(extent.frames, first);
}

BlockPool::Extents::iterator BlockPool::erase_extent(Extents::iterator extent) {
  by_size_[extent->second.claimed].erase({extent->second.frames, extent->first});
  return extents_.erase(extent);
}

void BlockPool::take(uint32_t id, BlockForm form) {
  const uint32_t index = id / frame_units_;
  Frame& frame = frames_[index];
  IOKV_ASSERT(references_[id] == 0 && (frame.blocks == 0 || frame.form == form));
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
    give_back_frames(index, 1);
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
  uint64_t used = 0, empty = 0;
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
    empty += blocks == 0;
    for (BlockForm form : {BlockForm::kv, BlockForm::x}) {
      const bool partial = blocks > 0 && frame.form == form && blocks < blocks_a_frame(form);
      IOKV_ASSERT(partial_[index_of(form)].contains(index) == partial);
    }
  }
  IOKV_ASSERT(used + free_units_ == shape_.units);
  const Extent* before = nullptr;
  uint32_t end = 0;
  for (const auto& [first, extent] : extents_) {
    const bool behind_extent = before != nullptr && end == first;
    IOKV_ASSERT(first >= end && extent.frames > 0 && first + extent.frames <= frames_.size());
    IOKV_ASSERT(extent.claimed ? first > 0 && frames_[first - 1].blocks > 0 : !behind_extent || before->claimed);
    IOKV_ASSERT(by_size_[extent.claimed].contains({extent.frames, first}));
    for (uint32_t index = first; index < first + extent.frames; index++) IOKV_ASSERT(frames_[index].blocks == 0);
    empty -= extent.frames;
    before = &extent;
    end = first + extent.frames;
  }
  IOKV_ASSERT(empty == 0 && by_size_[0].size() + by_size_[1].size() == extents_.size());
}

}  // namespace iokv
