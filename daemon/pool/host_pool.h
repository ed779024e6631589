// SPDX-License-Identifier: Apache-2.0
// The memory behind the blocks of block_pool.h: one mapping of a sealed memfd, an arena a layer, the same ids in each.
// Reserved at start, never grown, and touched as it is used, or all at once by prepare for a device that needs it
// pinned. Made by the main thread; the executor's thread reads and writes blocks that Plans name, the conductor's thread
// discards blocks that no Plan names.
//
// Invariants
//  1. The memfd is sealed SHRINK|GROW|SEAL: no page can go from under a device that has it pinned. Not FUTURE_WRITE, so
//     that whoever is given the descriptor after this process can use the same pages.
//  2. No client is ever given the descriptor.
#pragma once

#include <cstddef>
#include <cstdint>

#include "daemon/base/memfd.h"
#include "daemon/base/result.h"
#include "daemon/pool/block_pool.h"
#include "daemon/pool/pool_preparation.h"

namespace iokv {

struct PoolLayout {
  uint32_t layers = 0;
  size_t kv_block_bytes = 0;  // of one layer
  size_t x_block_bytes = 0;
};

class HostPool {
 public:
  // As many units as fit `bytes`. A unit is the largest size that both forms are multiples of, but at least a page.
  // Error: less than one block of each form, more ids than there are, or the kernel refuses the memfd or its mapping.
  static Result<HostPool> create(const PoolLayout& layout, uint64_t bytes);
  HostPool(HostPool&&) noexcept = default;
  HostPool& operator=(HostPool&&) = delete;

  // Touches all of it now, and on the node that is named (pool_preparation.h). The device's thread, before any Plan.
  Status prepare(const PoolPreparation& how) const { return prepare_pool(base(), bytes(), how); }

  const PoolShape& shape() const { return shape_; }
  uint64_t bytes() const { return layout_.layers * layer_stride_bytes(); }
  std::byte* base() const { return static_cast<std::byte*>(mapping_.get_address()); }
  size_t unit_bytes() const { return unit_bytes_; }
  size_t layer_stride_bytes() const { return shape_.units * unit_bytes_; }
  const Descriptor& descriptor() const { return memfd_; }

  // In debug and AddressSanitizer builds fills the block with 0xff bytes, NaNs in every type: whoever reads it later
  // computes nonsense.
  void discard(uint32_t id, BlockForm form);

 private:
  HostPool(const PoolLayout& layout, const PoolShape& shape, size_t unit_bytes, Descriptor memfd, Mapping mapping);

  PoolLayout layout_;
  PoolShape shape_;
  size_t unit_bytes_;
  Descriptor memfd_;
  Mapping mapping_;
};

}  // namespace iokv
