// SPDX-License-Identifier: Apache-2.0
// How many rows of prompts go into a step beside its decodes. A decode step that waits for the link leaves the device
// idle, and one that reads the weights for a few rows has room for more: prompts fill both. Beyond that each of their
// rows makes everybody's next token later, up to a bound. Pure; from numbers only.
#pragma once

#include <cstdint>

#include "daemon/sched/cost.h"

namespace iokv {

// The device and the model that steps run on, and the bound.
struct StepModel {
  Profile profile;
  CacheShape shape;
  // How much longer than its decodes need a step may be for the sake of prompts. With 0.5 decodes go on at 1/(1 + 0.5) =
  // two thirds of their speed at least, and prompts have a third of the device.
  double prefill_delay = 0.5;

  bool known() const { return profile.dense.at(1) > 0; }
};

// What one row of a prompt adds to a layer.
struct PromptRow {
  double attended = 0;                 // tokens
  bool new_x = false, new_kv = false;  // is written back to the host as
};

struct PrefillRows {
  uint32_t free = 0;  // that make the step no longer
  uint32_t most = 0;  // that may go in
};

// With decodes that need the link for `link` and the device for `device` (streaming_cost): `free` rows keep the step
// within max(link, device), `most` rows within max(link, (1 + prefill_delay)·device). So a step that the link binds by
// more than the delay is not made longer at all, and no step is longer than 1 + prefill_delay times what it was. Both are
// at most `limit`.
PrefillRows prefill_beside(const StepModel& model, const LayerWork& decodes, const PromptRow& row, uint32_t limit);

}  // namespace iokv
