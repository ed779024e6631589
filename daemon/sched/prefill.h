// SPDX-License-Identifier: Apache-2.0
// How many rows of prompts go into a step beside its decodes. A decode step that waits for the link leaves the device
// idle, and one that reads the weights for a few rows has room for more: prompts fill both. Beyond that each of their
// rows makes everybody's next token later, up to a bound. Pure; from numbers only.
//
// A prompt's rows cost in two ways. What it has cached is brought over the link and read once, whatever the number of
// rows; each row then computes, and attends to all before it. So the first row may cost as much as thousands behind it,
// and whoever pays for that takes along what it pays for.
#pragma once

#include <algorithm>
#include <cstdint>

#include "daemon/sched/cost.h"

namespace iokv {

// The device and the model that steps run on, and the bound.
struct StepModel {
  Profile profile;
  CacheShape shape;
  uint32_t batch_rows = UINT32_MAX;  // of a micro-batch
  uint64_t weight_bytes = 0;  // of LayerWork: that cross the link whoever is in a step
  // How much longer than its decodes need a step may be for the sake of prompts. With 0.5 decodes go on at 1/(1 + 0.5) =
  // two thirds of their speed at least, and prompts have a third of the device.
  double prefill_delay = 0.5;

  // A step of nobody.
  LayerWork no_rows() const {
    LayerWork work;
    work.weight_bytes = weight_bytes;
    return work;
  }
  bool known() const { return profile.dense.at(1) > 0; }
  // Rows of a step, 1 at the least and `limit` at the most, for which a layer's products take as long as for one, since
  // reading the weights is what takes the time; within a tenth, as near as a fitted curve is.
  uint32_t free_rows(uint32_t limit) const;
};

// A prompt some of whose rows are to be computed.
struct Prompt {
  uint32_t rows = 0;                   // that are left
  uint32_t cached = 0;                 // tokens before them
  uint32_t x_host = 0, kv_host = 0;    // of those: tokens that cross the link, as X and as K,V
  bool new_x = false, new_kv = false;  // its rows are written back to the host as
};

// The step with so many of the prompt's rows, 0 < rows <= prompt.rows. What it has cached is brought for each micro-batch
// of them; its own rows' K,V stay.
LayerWork with_prompt(LayerWork work, const Prompt& prompt, uint32_t rows, uint32_t batch_rows = UINT32_MAX);

// The room for prompts beside decodes that need the link for `link` and the device for `device` (streaming_cost) with no
// part for the host. Prompts may go in while the step stays within max(link, (1 + prefill_delay)·device): a step that the
// link binds by more than the delay is not made longer at all, and no step is longer than 1 + prefill_delay times what it
// was. What the host saves is for decodes among themselves, and for prompts where there are any: a step that link, device
// and host share evenly has no room, and prompts would wait for minutes.
//
// But the first prompt may exceed that. It gets a row in any case, or prompts would wait for as long as anybody decodes.
// And if bringing what it has cached takes more than half of what the bound allows, it gets rows for as long again: with
// fewer, the same would be brought more often, and whoever decodes would lose more in the end. What a step has exceeded
// its bound by, steps to come make up for, in which no prompt may: so decodes keep their speed on the average.
class PrefillRoom {
 public:
  // With may_exceed == false the first prompt is like any other.
  PrefillRoom(const StepModel& model, const LayerWork& decodes, bool may_exceed = true);

  // How many of the prompt's rows go in beside what has been added; of the first prompt one at least.
  uint32_t rows_of(const Prompt& prompt) const;
  void add(const Prompt& prompt, uint32_t rows);
  // Not even a row of a prompt that has nothing cached goes in.
  bool full() const;
  // How much longer the step is than the bound allows; and what a step in which nothing exceeds it makes up for.
  double excess_ns() const { return std::max(0.0, now_ns_ - allowed_ns_); }
  double allowance_ns() const { return allowance_ns_; }

 private:
  StepCost cost_of(const LayerWork& work) const;
  double ns_with(const Prompt& prompt, uint32_t rows) const;
  uint32_t rows_within(const Prompt& prompt, double ns) const;

  const StepModel& model_;
  LayerWork work_;                    // with nothing for the host
  const uint64_t attendable_, attendable_rows_;  // of decodes: tokens whose K,V the host could attend to
  double now_ns_ = 0, bound_ns_ = 0;  // that the step takes, and may take
  double allowed_ns_ = 0, allowance_ns_ = 0;
  bool may_exceed_ = true;            // nobody has yet
};

}  // namespace iokv
