// SPDX-License-Identifier: Apache-2.0
// See rotary_cache.h. A slot holds one position of those that are equal modulo kSlots.
#include "daemon/backend/cpu/rotary_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace iokv::cpu {

void RotaryCache::copy(const RopeTable& table, uint32_t position, float* to) {
  Frequencies& frequencies = find(table);
  size_t half = frequencies.inverse.size();
  uint32_t slot = position % kSlots;
  float* cached = frequencies.values.get() + slot * 2 * half;
  if (frequencies.positions[slot] != position) {
    for (size_t i = 0; i < half; ++i) {
      float angle = static_cast<float>(position) * frequencies.inverse[i];
      cached[i] = static_cast<float>(std::cos(double{angle})) * frequencies.scale;
      cached[half + i] = static_cast<float>(std::sin(double{angle})) * frequencies.scale;
    }
    frequencies.positions[slot] = position;
  }
  std::memcpy(to, cached, 2 * half * sizeof(float));
}

RotaryCache::Frequencies& RotaryCache::find(const RopeTable& table) {
  for (auto& known : known_) {
    if (known->scale == table.attention_scale && std::ranges::equal(known->inverse, table.inverse_frequency)) {
      return *known;
    }
  }
  auto added = std::make_unique<Frequencies>();
  added->inverse.assign(table.inverse_frequency.begin(), table.inverse_frequency.end());
  added->scale = table.attention_scale;
  added->positions.assign(kSlots, kEmpty);
  added->values = std::make_unique_for_overwrite<float[]>(kSlots * 2 * added->inverse.size());
  known_.push_back(std::move(added));
  return *known_.back();
}

}  // namespace iokv::cpu
