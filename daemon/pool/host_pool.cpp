// SPDX-License-Identifier: Apache-2.0
#include "daemon/pool/host_pool.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

namespace iokv {
namespace {

constexpr size_t kPageBytes = 4096;

// Also where AddressSanitizer hunts for the same mistakes, whatever the build type.
#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__)
constexpr bool kPoisonDiscarded = false;
#else
constexpr bool kPoisonDiscarded = true;
#endif

uint32_t units_of(size_t block_bytes, size_t unit_bytes) {
  return static_cast<uint32_t>((block_bytes + unit_bytes - 1) / unit_bytes);
}

}  // namespace

Result<HostPool> HostPool::create(const PoolLayout& layout, uint64_t bytes, PoolPages pages) {
  IOKV_ASSERT(layout.layers > 0 && layout.kv_block_bytes > 0 && layout.x_block_bytes > 0);
  // Blocks of unrelated sizes would have a tiny common divisor: then units are the smaller block, at the price of some
  // room behind the larger one.
  size_t unit_bytes = std::gcd(layout.kv_block_bytes, layout.x_block_bytes);
  if (unit_bytes < kPageBytes) unit_bytes = std::min(layout.kv_block_bytes, layout.x_block_bytes);
  PoolShape shape;
  shape.kv_units = units_of(layout.kv_block_bytes, unit_bytes);
  shape.x_units = units_of(layout.x_block_bytes, unit_bytes);
  const uint32_t frame_units = std::lcm(shape.kv_units, shape.x_units);
  const uint64_t frame_bytes = uint64_t{frame_units} * unit_bytes * layout.layers;
  const uint64_t units = bytes / frame_bytes * frame_units;
  if (units == 0) {
    return error("a pool of " + std::to_string(bytes) + " bytes: this model needs at least " +
                 std::to_string(frame_bytes) + " (--pool-bytes)");
  }
  if (units >= UINT32_MAX) return error("a pool of " + std::to_string(bytes) + " bytes is more than this version can count");
  shape.units = static_cast<uint32_t>(units);
  const size_t total = size_t{layout.layers} * shape.units * unit_bytes;
  auto memory = PoolMemory::make(total, pages);
  if (!memory) {
    return std::move(memory.failure()).within("a pool of " + std::to_string(total) + " bytes (--pool-bytes)");
  }
  return HostPool(layout, shape, unit_bytes, *std::move(memory));
}

HostPool::HostPool(const PoolLayout& layout, const PoolShape& shape, size_t unit_bytes, PoolMemory memory)
    : layout_(layout), shape_(shape), unit_bytes_(unit_bytes), memory_(std::move(memory)) {}

void HostPool::discard(uint32_t id, BlockForm form) {
  if (!kPoisonDiscarded) return;
  const size_t block_bytes = form == BlockForm::kv ? layout_.kv_block_bytes : layout_.x_block_bytes;
  for (uint32_t layer = 0; layer < layout_.layers; layer++) {
    std::memset(base() + layer * layer_stride_bytes() + id * unit_bytes_, 0xff, block_bytes);
  }
}

}  // namespace iokv
