// SPDX-License-Identifier: Apache-2.0
// How far the scheduler's choice is from the best there is: random steps on random hardware, whose Plans are executed on
// the modelled device (daemon/backend/modelled) for the split and placement that the scheduler chooses and for all that
// there could be. What is fastest is read off the device's clock and never off a cost of the scheduler's.
//
// A step is executed as decoding does: the same Plan again and again, each known while the one before it runs, so that
// the link runs ahead; its time is that from one end to the next, once the first have passed.
//
// What there could be: every split at the end of a block, and at every token where there are few, for a grid of
// placements: tenths of what fits the device as X, beside which thirds of what still fits as K,V. That grid is not one
// that the scheduler's search uses. With many placements some splits of each are taken, but every split beside as much X
// as the scheduler puts there.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/backend/modelled/hardware.h"
#include "daemon/model/spec.h"
#include "daemon/sched/fastest_layout.h"
#include "daemon/sched/plan_build.h"

namespace iokv {

struct OptimumInstance {
  uint64_t seed = 0;
  Hardware hardware;
  ModelSpec model;
  StagingShape staging;
  std::vector<uint32_t> contexts;  // cached tokens of each sequence; each decodes one more
  uint64_t device_bytes = 0;       // for cached tokens of all layers

  LayoutProblem problem() const;   // of the instance's own contexts
};

OptimumInstance random_optimum_instance(uint64_t seed);
std::string describe(const OptimumInstance& instance);
std::string describe(const CacheLayout& layout);

// A modelled device that runs an instance's layouts. It refers to the instance.
class OptimumDevice {
 public:
  explicit OptimumDevice(const OptimumInstance& instance);
  ~OptimumDevice();

  double executed_ns(const CacheLayout& layout);
  double predicted_ns(const CacheLayout& layout);  // by StepTimer: what the scheduler chooses by
  double summed_ns(const CacheLayout& layout);     // by streaming_cost

 private:
  struct Machine;
  std::unique_ptr<Machine> machine_;
};

struct OptimumAnswer {
  CacheLayout planned, summed, best;  // summed: what best_whole_placement chooses by streaming_cost
  double planned_ns = 0, summed_ns = 0, best_ns = 0;       // executed
  double planned_predicted_ns = 0, planned_cost_ns = 0;    // StepTimer's and streaming_cost's word for the planned one
  uint64_t executions = 0;
  uint64_t timed = 0;                 // candidates that the scheduler timed
  double planning_s = 0;

  double over_optimum() const { return planned_ns / best_ns; }
};
OptimumAnswer search_optimum(const OptimumInstance& instance);

// Of some numbers >= 0.
struct Spread {
  double median = 0, p99 = 0, worst = 0;
};

struct OptimumFigures {
  uint64_t instances = 0, executions = 0, timed = 0;
  double worst_over_optimum = 1;
  uint64_t worst_seed = 0;
  std::vector<uint64_t> over_half_a_percent;  // seeds
  Spread summed_over_optimum;
  // |executed / predicted - 1| of the planned steps, by StepTimer and by streaming_cost.
  Spread prediction_error, cost_error;
  double planning_s = 0;
};
// Instances of the seeds first_seed, first_seed + 1, ... on so many threads.
OptimumFigures measure_optimum(uint64_t first_seed, uint64_t instances, uint32_t threads);

}  // namespace iokv
