// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/weight_choice.h"

#include <algorithm>
#include <string>

#include "daemon/base/assert.h"

namespace iokv {

Result<WeightChoice> choose_weights(WeightSetting setting, const WeightSizes& sizes, uint64_t budget_bytes) {
  IOKV_ASSERT(sizes.layers > 0 && sizes.layer_bytes > 0);
  const uint64_t all = sizes.fixed_bytes + sizes.layers * sizes.layer_bytes;
  const bool bound = budget_bytes > 0;
  const bool all_fit = !bound || all <= budget_bytes;
  if (setting == WeightSetting::device && !all_fit) {
    return error("all weights on the device need " + std::to_string(all) + " bytes, and there are " +
                 std::to_string(budget_bytes) + " for them: raise --device-weights-budget, or set --weights auto");
  }
  WeightChoice choice;
  choice.layers.layers = sizes.layers;
  choice.device_bytes = all;
  if (setting == WeightSetting::device || (setting == WeightSetting::automatic && all_fit)) return choice;

  const uint64_t least = sizes.fixed_bytes + sizes.layer_bytes;
  if (bound && budget_bytes < least) {
    return error("weights that cross the link need " + std::to_string(least) + " bytes on the device, " +
                 std::to_string(sizes.fixed_bytes) + " of embeddings, head and norms and " +
                 std::to_string(sizes.layer_bytes) + " of one layer, and there are " + std::to_string(budget_bytes) +
                 " for them: set --device-weights-budget to as many at least");
  }
  const uint64_t layers_that_fit =
      bound ? std::min<uint64_t>((budget_bytes - sizes.fixed_bytes) / sizes.layer_bytes, sizes.layers) : sizes.layers;
  choice.slots = std::min({kWeightSlots, sizes.layers, static_cast<uint32_t>(layers_that_fit)});
  // With `automatic` not all fit, so that at least one streams.
  const uint32_t stay =
      setting == WeightSetting::host ? 0 : static_cast<uint32_t>(layers_that_fit) - choice.slots;
  choice.layers.streamed = sizes.layers - stay;
  choice.device_bytes = sizes.fixed_bytes + (stay + choice.slots) * sizes.layer_bytes;
  return choice;
}

}  // namespace iokv
