// SPDX-License-Identifier: Apache-2.0
// A daemon at full size in virtual time: the product's conductor and pool, a crowd of clients, and a device that takes as
// long for each Plan as the cost model says of the modelled hardware. It computes nothing, so that a week takes minutes;
// now and then a Plan is also executed on the modelled backend, operation by operation, and must take as long.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "daemon/backend/modelled/hardware.h"
#include "daemon/conductor.h"
#include "daemon/pool/block_pool.h"
#include "daemon/runtime/executor.h"
#include "tests/sim/crowd.h"

namespace iokv::sim {

struct ScaleOptions {
  uint64_t seed = 1;
  uint32_t clients = 10'000;
  double days = 7;
  double requests_per_s = 0.24;
  uint32_t executed_every = 10'000;  // Plans
};

// What the simulation found; everything but the real times and the memory follows from the options.
struct ScaleReport {
  Crowd::Totals crowd;
  uint64_t virtual_ns = 0, busy_ns = 0, plans = 0, passes = 0;
  uint64_t prefill_tokens = 0, preemptions = 0, stall_releases = 0;
  // Of operations whose client reaps: the longest that one waited for its first step, and between two of its steps; the
  // latter also in Plans of others.
  uint64_t longest_first_ns = 0, longest_between_ns = 0, longest_between_plans = 0;
  double mean_first_ns = 0;
  double first_run_rate = 0, last_run_rate = 0;  // of the fresh rate, of copies: in the first and the last tenth
  double least_executed = 0, most_executed = 0, mean_executed = 0;  // time on the backend by the predicted one
  uint32_t executed = 0;
  double jain = 0;                  // of equal clients that always want more
  std::vector<uint64_t> memory_bytes, token_bytes;  // of the process, and of open sequences' tokens, after each tenth
  double conductor_s = 0, real_s = 0;
};

class ScaleWorld final : private Effects {
 public:
  explicit ScaleWorld(const ScaleOptions& options);
  ~ScaleWorld() override;

  // Aborts when an invariant is broken, or something is left when all have gone.
  ScaleReport run();

 private:
  class ExecutedPlans;
  // Of a sequence's latest step.
  struct Served {
    uint32_t generation = 0, epoch = 0;
    uint64_t plan = 0, at_ns = 0;
  };

  void post(ClientId client, const Outcome& outcome) override;
  void end_client(ClientId client, int32_t code, const std::string& reason) override;
  void issue(Plan* plan) override;
  void discarded(uint32_t, BlockForm) override {}

  void tell(decltype(Event::what) what);
  void pass();
  void retire();
  void measure_waits(const Plan& plan);
  void measure_runs(const Plan& plan);
  void end_of_tenth();
  double rush();

  const ScaleOptions options_;
  ConductorConfig config_;
  BlockPool pool_;
  std::unique_ptr<Conductor> conductor_;
  std::unique_ptr<Crowd> crowd_;
  std::unique_ptr<ExecutedPlans> executed_;
  uint64_t now_ns_ = 1, device_free_ns_ = 0;
  std::deque<Plan*> out_;
  std::vector<Served> served_;       // by slot of the sequence
  std::vector<uint64_t> rushed_;     // tokens by client; empty outside of rush()
  double link_ns_ = 0, link_with_pieces_ns_ = 0;  // of this tenth
  std::vector<double> run_rates_;    // by tenth
  uint64_t firsts_ = 0;
  ScaleReport report_;
};

}  // namespace iokv::sim
