// SPDX-License-Identifier: Apache-2.0
// How long a step takes, predicted from a Profile. Pure arithmetic; all layers are alike.
//
// Two models. The serial one is KVPR's (arXiv 2411.17089, eq. 10): in each layer X crosses the link, then K is
// recomputed while K,V of the other tokens cross. The streaming one is what the runtime does: the link carries the next
// layers while this one computes, so that a step takes as long as the busier of link and device.
//
// The host attends to its part of a layer between the products before attention and those behind it, of which the next
// layer needs the result: those and its own work are one chain through the step, which may be what takes longest.
#pragma once

#include <cstdint>

#include "daemon/sched/profile.h"

namespace iokv {

// One layer of a step.
struct LayerWork {
  uint64_t rows = 0;               // tokens of the step
  uint64_t batches = 1;            // micro-batches that they are computed in
  uint64_t attended = 0;           // tokens: over all sequences, the context that rows of one micro-batch attend to together
  uint64_t products = 0;           // tokens: over all rows, the context that each attends to
  uint64_t x_host = 0;             // tokens whose X crosses the link and whose K,V are recomputed
  uint64_t kv_host = 0;            // tokens whose K,V cross the link
  uint64_t x_device = 0;           // tokens whose X is on the device and whose K,V are recomputed
  uint64_t kv_attended = 0;        // tokens that the host attends to where they lie; neither `attended` nor `products` have them
  uint64_t divided = 0;            // rows that it has a part in
  uint64_t new_x = 0, new_kv = 0;  // tokens written back to the host, as X and as K,V
  uint64_t weight_bytes = 0;       // that cross the link; 0 when they are on the device
  double copy_bytes = 0;           // mean size of a copy over the link; 0: one copy each for X, for K,V and for weights
};

// How the paper schedules one layer. Row by row: weights are on the device, and X of a layer is brought while the one
// before computes. Column by column: weights are reused over several batches, and X is waited for.
enum class PaperSchedule : uint8_t { row_by_row, column_by_column };

enum class Bound : uint8_t { link, recompute, dense, host };
const char* name_of(Bound bound);

// Of a whole step: of all layers.
struct StepCost {
  double h2d_ns = 0, d2h_ns = 0;
  double host_ns = 0;    // attention on the host
  double chain_ns = 0;   // that and the dense work that waits for it, or that it waits for; 0: the host has no part
  double recompute_ns = 0;
  double dense_ns = 0;   // attention included
  double device_ns = 0;  // what dense work and recomputation take together
  double total_ns = 0;
  Bound bound = Bound::dense;  // what takes longest
};

// max(link, device, the host's chain): none ever waits for the others.
StepCost streaming_cost(const Profile& profile, const CacheShape& shape, const LayerWork& work);

// Layer after layer, X + max(recompute, K,V), without X row by row; then the dense part.
StepCost serial_cost(const Profile& profile, const CacheShape& shape, const LayerWork& work, PaperSchedule schedule);

}  // namespace iokv
