// SPDX-License-Identifier: Apache-2.0
// How long a built Plan takes when Plans like it run one behind the other: its program, operation by operation with the
// waits of plan.h, on queues whose operations last what the Profile says. Where cost.h adds up a step's work, this
// sees what a sum cannot: rounds that wait for their last copy, a ring too short to carry the link over the end of a
// step, products and copies of a few tokens, and write-backs in many pieces. Pure; one object is used by one thread.
//
// Invariants
//  1. Operations of a queue run in the order in which the pipeline issues them, and wait for what it lets them wait for
//     (daemon/runtime/pipeline.h). Issuing takes no time; nothing but fetches begins before the step ahead has ended.
//  2. While dense and recompute both run, each is 1 + contention times as slow; h2d and d2h are duplex times as slow. While
//     the host attends copies are host_slows_link times as slow, and it and the device 1 + host_contention times.
//  3. No memory is taken once the largest Plan has been seen.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "daemon/base/queue.h"
#include "daemon/sched/plan_build.h"
#include "daemon/sched/profile.h"

namespace iokv {

class StepTimer {
 public:
  StepTimer(const Profile& profile, const CacheShape& shape, const StagingShape& staging)
      : profile_(profile), shape_(shape), staging_(staging) {}

  // From the end of a step to that of the next one. Takes time in proportion to the program: layers are alike, and of
  // many those are run that have kRunOps operations together, at least kLeastLayers.
  double step_ns(const Plan& plan);

  // All 32 layers of a step of one sequence, which has about 13 operations a layer, and of a few rounds. What the link has
  // fetched ahead in a ring as long as several layers can last for most of such a step; a long layer's ring is short.
  static constexpr uint32_t kRunOps = 1024;
  static constexpr uint32_t kLeastLayers = 8;

 private:
  // How many operations of each queue have ended by some time.
  using Ended = std::array<uint32_t, kQueues>;
  struct Queued {
    double ns = 0;
    Ended after{};
  };

  // An operation of the program, in a layer of a step.
  struct Place {
    uint32_t step = 0, layer = 0, op = 0;
  };

  double run(const Plan& plan, uint32_t layers);
  double op_ns(const Plan& plan, const Place& place) const;
  bool streams(const Place& place) const;
  uint64_t weights_number(const Place& place) const;
  double link_ns(const Plan& plan) const;
  void measure(const Plan& plan);
  void enqueue_step(const Plan& plan, uint32_t step);
  void fetch_ahead(const Plan& plan, const Place& running);
  bool may_fetch(const Plan& plan, const Place& running) const;
  void enqueue(const Plan& plan, const Place& place);
  Ended after(const Plan& plan, const Place& place) const;
  void release(const Plan& plan, const Place& place, const Ended& end);
  Ended append_to(Queue queue, double ns, const Ended& after);
  double play(uint32_t from_dense, uint32_t to_dense);

  uint64_t x_round(const Place& place, uint32_t round) const;
  uint64_t kv_round(const Place& place, uint32_t round) const;
  size_t ended_at(const Place& place) const;    // in op_ended_

  double fetch_ns(const Plan& plan, const PlanOp& op) const;
  double recompute_ns(const Plan& plan, const PlanOp& op) const;
  double attend_ns(const Plan& plan, const PlanOp& op) const;
  double store_ns(const Plan& plan, const PlanOp& op) const;
  double append_ns(const Plan& plan, const PlanOp& op) const;
  double copy_ns(const Curve& curve, uint64_t bytes, uint64_t pieces) const;

  const Profile profile_;
  const CacheShape shape_;
  const StagingShape staging_;

  // Of the program.
  std::vector<double> op_ns_;
  std::vector<uint8_t> frees_x_;                // whether the operation is the last to read its round's X
  std::vector<uint32_t> x_before_, kv_before_;  // of each round: those of the layer before it that take a slot
  uint32_t x_rounds_ = 0, kv_rounds_ = 0;       // of a layer

  bool appends_ = false;

  // Of the steps that are run.
  uint32_t layers_ = 0;
  bool whole_ = false;                          // they are all layers
  std::array<std::vector<Queued>, kQueues> queues_;
  Place fetch_;                                 // what is to be fetched next
  uint64_t x_released_ = 0, kv_released_ = 0;   // rounds
  uint64_t weights_released_ = 0;               // layers
  std::vector<Ended> op_ended_;                 // [2 steps][layers][ops]
  std::vector<Ended> x_free_, kv_free_, weights_free_;  // [slots]
  std::vector<Ended> appended_;                 // [layers] ...
  std::vector<Ended> appended_before_;          // ... by the steps ahead of the one that runs
  uint32_t running_step_ = 0;
  std::array<Ended, 2> kept_free_{};
  uint32_t keep_ = 0;
  Ended step_ended_{};
};

}  // namespace iokv
