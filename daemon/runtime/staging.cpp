// SPDX-License-Identifier: Apache-2.0
#include "daemon/runtime/staging.h"

#include <algorithm>
#include <string>

#include "daemon/model/layers.h"

namespace iokv {

Result<StagingShape> choose_staging(const ModelSpec& spec, DType compute, const StagingChoice& choice) {
  StagingShape shape;
  shape.in_place = choice.in_place;
  shape.kv_units = choice.kv_units;
  shape.x_units = choice.x_units;
  // In place nothing is fetched, and a slot is a scratch for what is recomputed.
  shape.kv_slots = choice.in_place ? 2 : 3;
  shape.x_slots = choice.in_place || !choice.recomputes ? 1 : 6;
  const uint64_t kv_bytes = block_bytes(spec, compute, BlockForm::kv), x_bytes = block_bytes(spec, compute, BlockForm::x);
  const bool has_x = choice.recomputes && !choice.in_place;
  const uint64_t of_a_block = shape.kv_slots * kv_bytes + (has_x ? shape.x_slots * x_bytes : 0);
  if (choice.device_bytes < of_a_block) {
    return error("a staging ring of " + std::to_string(choice.device_bytes) + " bytes: this model needs at least " +
                 std::to_string(of_a_block));
  }
  shape.slot_blocks = static_cast<uint32_t>(
      std::min<uint64_t>(choice.device_bytes / of_a_block, kLargestSlotTokens / kBlockTokens));
  shape.tile_tokens = shape.slot_blocks * kBlockTokens;
  return shape;
}

uint64_t staging_bytes(const ModelSpec& spec, DType compute, const StagingShape& shape) {
  const uint64_t kv_bytes = block_bytes(spec, compute, BlockForm::kv), x_bytes = block_bytes(spec, compute, BlockForm::x);
  return shape.slot_blocks * (shape.kv_slots * kv_bytes + shape.x_slots * x_bytes) + shape.kept_blocks * kv_bytes;
}

Result<std::unique_ptr<Staging>> Staging::make(Backend& backend, const ModelSpec& spec, const StagingShape& shape) {
  std::unique_ptr<Staging> staging(new Staging(shape));
  const DType compute = backend.info().compute;
  staging->kv_block_bytes_ = block_bytes(spec, compute, BlockForm::kv);
  staging->x_row_bytes_ = spec.hidden * size_of(compute);
  staging->x_slot_rows_ = shape.in_place ? 1 : shape.slot_blocks * kBlockTokens;
  IOKV_TRY_ASSIGN(staging->kv_, backend.alloc(size_t{shape.kv_slots} * shape.slot_blocks * staging->kv_block_bytes_));
  if (shape.kept_blocks > 0) {
    IOKV_TRY_ASSIGN(staging->kept_, backend.alloc(shape.kept_blocks * staging->kv_block_bytes_));
  }
  IOKV_TRY_ASSIGN(staging->x_, backend.alloc(size_t{shape.x_slots} * staging->x_slot_rows_ * staging->x_row_bytes_));
  return staging;
}

}  // namespace iokv
