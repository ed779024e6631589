// SPDX-License-Identifier: Apache-2.0
// How many layers' weights stay on the device and how many cross the link in every step. Pure; from sizes only.
//
// A byte of weights that stays saves a byte of every step. A byte of cached tokens saves as much at the most, if every
// step reads it, and half where X would cross in the place of K,V. So weights come first, as many layers as fit.
#pragma once

#include <cstdint>

#include "daemon/base/result.h"
#include "daemon/base/streamed_layers.h"

namespace iokv {

enum class WeightSetting : uint8_t {
  automatic,  // as many layers as fit stay
  device,     // all of them
  host,       // none of them
};

// Of one model on one device.
struct WeightSizes {
  uint32_t layers = 0;
  uint64_t fixed_bytes = 0;  // that are there whatever streams: embeddings, the head, norms, biases
  uint64_t layer_bytes = 0;  // matrices of a layer
};

struct WeightChoice {
  StreamedLayers layers;
  uint32_t slots = 1;         // of the ring, where any stream
  uint64_t device_bytes = 0;  // of what is fixed, of layers that stay and of the ring
};

// Slots that keep the link busy: one layer is computed with while the next one's weights come.
inline constexpr uint32_t kWeightSlots = 2;

// `budget_bytes` are there for weights; 0: no bound. With less than for two slots there is one, and the link waits for
// each layer to finish. Error: they do not hold what is fixed and one layer, or with `device` all layers: how much is
// needed, how much there is, and what to change.
Result<WeightChoice> choose_weights(WeightSetting setting, const WeightSizes& sizes, uint64_t budget_bytes);

}  // namespace iokv
