// SPDX-License-Identifier: Apache-2.0
// Where the cached tokens of a step come from, found by timing whole candidates (step_time.h) where sums of work
// (split.h, placement.h) do not see enough: few tokens, many sequences, a short ring. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "daemon/sched/profile.h"

namespace iokv {

// Where the tokens of each layer are. The step's sequences one behind the other: first X on the device, then X on the
// host, K,V on the host, and K,V on the device. So of all sequences but a few every token comes in one form, and crosses
// the link as one piece.
struct CacheLayout {
  uint64_t x_device_blocks = 0, kv_device_blocks = 0;
  uint64_t x_host_tokens = 0;

  bool operator==(const CacheLayout&) const = default;
};

struct LayoutProblem {
  CacheShape shape;
  std::span<const uint32_t> contexts;  // cached tokens of each sequence; the step appends one more
  uint64_t device_bytes = 0;           // for cached tokens of all layers
  uint32_t slot_blocks = 1;            // of the staging ring

  uint64_t blocks() const;             // of a layer, those of the new tokens included
  uint64_t most_x_device() const;      // blocks
  uint64_t most_kv_device(uint64_t x_device_blocks) const;
  // How many of the tokens on the host come as X when a block ends with them; ascending, from 0 to all.
  std::vector<uint64_t> splits_at_blocks(const CacheLayout& layout) const;
  // The same where a sequence ends, so that its last block needs no pieces, or a slot's worth of blocks, so that there are
  // no more rounds than need be.
  std::vector<uint64_t> splits_at_ends(const CacheLayout& layout) const;
};

using TimeOfLayout = std::function<double(const CacheLayout&)>;

// The split of a layout's tokens on the host that takes least: some ends of sequences and slots, the blocks about the
// fastest of them, the tokens about the fastest block. Some 60 are timed.
CacheLayout fastest_split(const LayoutProblem& problem, const CacheLayout& layout, const TimeOfLayout& time_of);

// Of all layouts that fit: a coarse grid over what is on the device, then step by step from its fastest. Some thousands are
// timed, which is for when sequences come and go and not for every step.
CacheLayout fastest_layout(const LayoutProblem& problem, const TimeOfLayout& time_of);

}  // namespace iokv
