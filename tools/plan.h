// SPDX-License-Identifier: Apache-2.0
// `iokv plan`: what decoding would take on hardware that need not be here, by the same arithmetic that the daemon plans
// with (daemon/sched): for each step of a run, with nothing recomputed, with the paper's l and with what is best.
//
// Invariants
//  1. In the streaming model no run is faster than `bound_s`, and auto is as fast as the fastest of the others.
//  2. Everything follows from the numbers of the question; names are only printed.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/backend/modelled/hardware.h"
#include "daemon/base/result.h"
#include "daemon/model/spec.h"
#include "daemon/sched/cost.h"
#include "daemon/sched/placement.h"
#include "daemon/sched/weight_choice.h"

namespace iokv {

struct PlanQuestion {
  Hardware hardware;
  ModelSpec model;
  uint32_t element_bytes = 2;    // of weights, X, K and V
  uint32_t batch = 1;            // sequences
  uint32_t prompt = 0;           // tokens of each, cached before the first step
  uint32_t generate = 1;         // steps
  WeightSetting weights = WeightSetting::automatic;
  uint64_t device_weights_bytes = 0;  // of device memory for weights; 0: what is left, and with weights on the host enough
  uint64_t device_kv_bytes = 0;       // of device memory for cached tokens
  double cpu_bytes_per_s = -1;        // of K,V that the host's CPU attends to, 0: it does not; below 0: as the hardware says
  uint64_t device_bytes = 0;          // in their place: for both, to be divided as is best under auto; 0: not asked for
};

// A way to run all the steps. Times are sums over the steps.
struct PlannedRun {
  const char* name = "";    // "never", "paper", ...
  const char* model = "";   // "serial" or "streaming"
  double split_tokens = 0;  // the last step's l: cached tokens of each sequence that are recomputed, on average
  double link_s = 0;        // what the link alone would need
  double device_s = 0;      // what the device alone would need
  double host_s = 0;        // what the host's CPU would need, with what its part waits for
  double total_s = 0;
  Bound binds = Bound::dense;  // in the last step
};

struct PlanAnswer {
  std::vector<PlannedRun> runs;
  // Under auto at the last step: tokens of each layer in each place.
  std::array<uint64_t, kPlaces> placement{};
  // Likewise where the host's CPU attends, under auto_cpu; all 0: it does not.
  std::array<uint64_t, kPlaces> cpu_placement{};
  WeightChoice weights;  // likewise
  uint64_t streamed_weight_bytes = 0;  // of a step
  uint64_t context = 0;  // cached tokens of a sequence at the last step
  // What the link alone needs for every token in its smaller form, those that the device can hold left out.
  double bound_s = 0;
  uint64_t weight_bytes = 0;
  uint64_t first_kv_bytes = 0, last_kv_bytes = 0;  // of all tokens as K,V: before the first step, after the last
};

// The last step by its l, nothing resident: what --svg draws. "Serial" is the paper's equation 10, its first term
// included whatever the schedule, since both bring X over one link.
struct PlanCurve {
  uint64_t context = 0;                         // cached tokens of a sequence
  std::vector<double> serial_ms, streaming_ms;  // l/context = 0 ... 1, evenly
  double serial_share = 0, serial_best_ms = 0;  // where the curves are lowest, of all tokens
  double best_share = 0, best_ms = 0;
};

// Error: weights or a context that cannot be, with what would work.
Result<PlanAnswer> plan(const PlanQuestion& question);
// With the answer's weights on the link.
PlanCurve plan_curve(const PlanQuestion& question, const PlanAnswer& answer);

std::string plan_text(const PlanQuestion& question, const PlanAnswer& answer);
std::string plan_json(const PlanQuestion& question, const PlanAnswer& answer);
std::string plan_svg(const PlanQuestion& question, const PlanCurve& curve);

}  // namespace iokv
