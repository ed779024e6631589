// SPDX-License-Identifier: Apache-2.0
// Where the tokens of one step go, in whole tokens and by the whole cost: what placement.h solves in shares and rates.
// Pure.
#pragma once

#include <cstdint>

#include "daemon/sched/cost.h"
#include "daemon/sched/weight_choice.h"

namespace iokv {

// The step with its work.kv_host cached tokens, which all have X stored, too, divided over K,V and X that cross the link, K,V
// that the host attends to, and X on the device, so that streaming_cost is least; those that are in none of the four are on
// the device as K,V. Of the rows as many are divided as have such tokens if contexts are alike and whole ones go first.
// `device_bytes` are there for cached tokens of all layers. work.x_device tokens are there besides; needs no other X in `work`.
// Of what is on the host as K,V the host attends to a share `attendable` at the most: other reads are of rows that it has
// no part in.
LayerWork best_whole_placement(const Profile& profile, const CacheShape& shape, const LayerWork& work,
                               uint64_t device_bytes, double attendable = 1);

// The device's memory divided between weights and cached tokens.
struct DeviceDivision {
  LayerWork work;        // with the weights that cross the link
  WeightChoice weights;
};

// The division of `device_bytes` with which the step is shortest. They hold what choose_weights asks for at the least.
DeviceDivision best_division(const Profile& profile, const CacheShape& shape, const LayerWork& work,
                             const WeightSizes& sizes, uint64_t device_bytes);

}  // namespace iokv
