// SPDX-License-Identifier: Apache-2.0
// cos and sin of the rotary angles of a position, kept for the positions that were used lately: every layer of a step
// asks for the same ones. Owned and filled by the thread that issues operations.
//
// As transformers has it: the angle is the f32 product of position and inverse frequency; its cos and sin are rounded
// to f32 once and then multiplied by the attention scale.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/backend/backend.h"

namespace iokv::cpu {

class RotaryCache {
 public:
  // to = cos[rotary_dim/2], then sin[rotary_dim/2], of the position.
  void copy(const RopeTable& table, uint32_t position, float* to);

 private:
  // 8,192 positions of 64 frequencies are 4 MiB, of which pages are touched as positions are used.
  static constexpr uint32_t kSlots = 8192;
  static constexpr uint32_t kEmpty = UINT32_MAX;

  struct Frequencies {
    std::vector<float> inverse;
    float scale = 1.0f;
    std::vector<uint32_t> positions;  // of each slot
    std::unique_ptr<float[]> values;  // [kSlots][2 · inverse.size()]
  };
  Frequencies& find(const RopeTable& table);

  std::vector<std::unique_ptr<Frequencies>> known_;  // a model has one or two tables
};

}  // namespace iokv::cpu
