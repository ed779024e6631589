// SPDX-License-Identifier: Apache-2.0
// The memory behind the blocks of block_pool.h: one range (pool_memory.h), an arena a layer, the same ids in each.
// Reserved at start, never grown, and touched as it is used, or all at once by prepare for a device that needs it
// pinned. Made by the main thread; the executor's thread reads and writes blocks that Plans name, the conductor's thread
// discards blocks that no Plan names.
#pragma once

#include <cstddef>
#include <cstdint>

#include "daemon/base/result.h"
#include "daemon/pool/block_pool.h"
#include "daemon/pool/pool_memory.h"
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
  // Error: less than one block of each form, more ids than there are, or the kernel refuses a memfd or its mapping.
  static Result<HostPool> create(const PoolLayout& layout, uint64_t bytes, PoolPages pages = PoolPages::automatic);
  HostPool(HostPool&&) noexcept = default;
  HostPool& operator=(HostPool&&) = delete;

  // Touches all of it now, and on the node that is named (pool_preparation.h). The device's thread, before any Plan.
  Status prepare(const PoolPreparation& how) const { return prepare_pool(memory_, how); }

  const PoolShape& shape() const { return shape_; }
  uint64_t bytes() const { return layout_.layers * layer_stride_bytes(); }
  std::byte* base() const { return memory_.base(); }
  size_t unit_bytes() const { return unit_bytes_; }
  size_t layer_stride_bytes() const { return shape_.units * unit_bytes_; }
  const PoolMemory& memory() const { return memory_; }

  // In debug and AddressSanitizer builds fills the block with 0xff bytes, NaNs in every type: whoever reads it later
  // computes nonsense.
  void discard(uint32_t id, BlockForm form);

 private:
  HostPool(const PoolLayout& layout, const PoolShape& shape, size_t unit_bytes, PoolMemory memory);

  PoolLayout layout_;
  PoolShape shape_;
  size_t unit_bytes_;
  PoolMemory memory_;
};

}  // namespace iokv
