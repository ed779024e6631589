// SPDX-License-Identifier: Apache-2.0
// The staging ring: device memory through which cached tokens pass on their way to attention, constant in size whatever
// the batch and the context. K,V slots hold areas of a block's K,V each, X slots as many tokens' X. Rounds take slots in
// turn, across layers and Plans. Beside it lies what a layer keeps of new K,V for its later micro-batches. The executor's
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "daemon/backend/backend.h"
#include "daemon/model/spec.h"
#include "daemon/sched/plan_build.h"

namespace iokv {

struct StagingChoice {
  uint64_t device_bytes = uint64_t{384} << 20;  // at most, for all slots
  bool recomputes = true;                       // false: no block is ever stored as X, and there are no X slots to speak of
  bool in_place = false;                        // of StagingShape
  uint32_t kv_units = 1, x_units = 1;
};

// The shape of the largest ring that is worth having within `choice`: slots of up to kLargestSlotTokens tokens, of which
// three are needed for the link never to wait (one being attended to, one being recomputed, one being filled), and X
// slots for as long a run-ahead in time. Error: the smallest ring does not fit, with its size.
Result<StagingShape> choose_staging(const ModelSpec& spec, DType compute, const StagingChoice& choice);
// 4096 tokens are 64 MiB of K,V of a 4096-wide MHA layer in fp16: a copy at the link's full rate, a product at the GPU's.
inline constexpr uint32_t kLargestSlotTokens = 4096;

// Device bytes of a ring of this shape, without that of weights.
uint64_t staging_bytes(const ModelSpec& spec, DType compute, const StagingShape& shape);

class Staging {
 public:
  static Result<std::unique_ptr<Staging>> make(Backend& backend, const ModelSpec& spec, const StagingShape& shape);

  std::byte* x_row(uint32_t slot, uint32_t row) const {
    return static_cast<std::byte*>(x_->data()) + (size_t{slot} * x_slot_rows_ + row) * x_row_bytes_;
  }
  std::byte* area(uint32_t slot, uint32_t index) const {
    return static_cast<std::byte*>(kv_->data()) + (size_t{slot} * shape_.slot_blocks + index) * kv_block_bytes_;
  }
  std::byte* kept_area(uint32_t index) const {
    return static_cast<std::byte*>(kept_->data()) + size_t{index} * kv_block_bytes_;
  }
  size_t kv_block_bytes() const { return kv_block_bytes_; }
  size_t x_row_bytes() const { return x_row_bytes_; }
  const StagingShape& shape() const { return shape_; }
  uint64_t bytes() const { return kv_->size_bytes() + x_->size_bytes() + (kept_ == nullptr ? 0 : kept_->size_bytes()); }

 private:
  explicit Staging(const StagingShape& shape) : shape_(shape) {}

  const StagingShape shape_;
  uint32_t x_slot_rows_ = 0;
  size_t kv_block_bytes_ = 0, x_row_bytes_ = 0;
  std::unique_ptr<DeviceMemory> kv_;  // [kv_slots][slot_blocks] blocks of K,V
  std::unique_ptr<DeviceMemory> kept_;  // [kept_blocks] blocks of K,V that a layer keeps for later micro-batches, or null
  std::unique_ptr<DeviceMemory> x_;   // [x_slots][slot_blocks · kBlockTokens, h]
};

}  // namespace iokv
