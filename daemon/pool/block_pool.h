// SPDX-License-Identifier: Apache-2.0
// Who has which blocks of the host pool: ids, forms and reference counts; no memory (host_pool.h). Ids count units, the
// same in every layer's arena; a block's id is its first unit. The conductor's thread.
//
// Units are grouped in frames, the smallest number of them that both forms divide, and a frame holds blocks of one form
// at a time. So as long as one form is used, every free unit can be had, whatever was released in what order; a second
// form can strand no more than the rest of one frame for each frame that it has opened and not filled.
//
// Invariants
//  1. Every block has at least one reference; its units belong to no other.
//  2. free_units() + units of all blocks = total_units(), always: the pool never grows.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "daemon/base/block_form.h"
#include "daemon/base/units.h"

namespace iokv {

struct PoolShape {
  uint32_t units = 0;     // rounded down to whole frames
  uint32_t kv_units = 1;  // that a block of K,V takes
  uint32_t x_units = 1;
};

class BlockPool {
 public:
  explicit BlockPool(const PoolShape& shape);

  // A block with one reference, or nothing when the pool is full. It lies right behind block `hint` if that can be, since
  // a long copy is a fast one; UINT32_MAX: no wish. to_come: how many blocks, this one included, are expected to follow
  // each other. O(log frames), but for the search of a frame for its free blocks.
  std::optional<uint32_t> acquire(BlockForm form, uint32_t hint, Blocks to_come = Blocks(1));
  void retain(uint32_t id);
  void release(uint32_t id);

  uint32_t references(uint32_t id) const;
  BlockForm form(uint32_t id) const;
  Units units_for(BlockForm form) const { return Units(form == BlockForm::kv ? shape_.kv_units : shape_.x_units); }
  Units free_units() const { return Units(free_units_); }
  Units total_units() const { return Units(shape_.units); }

  // Every invariant, in O(units); aborts on a violation.
  void verify() const;

 private:
  struct Frame {
    BlockForm form = BlockForm::kv;
    uint32_t blocks = 0;  // in use; 0: the frame has no form
  };
  // Empty frames that follow each other.
  struct Extent {
    uint32_t frames = 0;
    bool claimed = false;  // by what grows into it from before
  };
  using Extents = std::map<uint32_t, Extent>;  // by first frame

  uint32_t blocks_a_frame(BlockForm form) const { return frame_units_ / units_for(form).value; }
  std::optional<uint32_t> take_behind(uint32_t hint, BlockForm form, uint32_t frames_to_come);
  std::optional<uint32_t> take_apart(uint32_t frames_to_come);
  std::optional<uint32_t> free_block_in(uint32_t frame, BlockForm form) const;
  uint32_t take_first(Extents::iterator extent, uint32_t frames_to_come);
  void give_back_frames(uint32_t first, uint32_t frames);
  void add_extent(uint32_t first, Extent extent);
  Extents::iterator erase_extent(Extents::iterator extent);
  void take(uint32_t id, BlockForm form);

  PoolShape shape_;
  uint32_t frame_units_;
  uint32_t free_units_;
  std::vector<uint32_t> references_;           // by unit; 0: free, or not a block's first
  std::vector<Frame> frames_;
  std::array<std::set<uint32_t>, 2> partial_;  // by form: frames with room
  Extents extents_;
  // (frames, first frame) of those not claimed and of those that are.
  std::array<std::set<std::pair<uint32_t, uint32_t>>, 2> by_size_;
};

}  // namespace iokv
