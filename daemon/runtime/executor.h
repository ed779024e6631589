// SPDX-License-Identifier: Apache-2.0
// The executor carries out Plans on one device and decides nothing: it turns a Plan's spans into the model's step, draws
// tokens, and writes results into the Plan. All calls come from one thread (device_thread.h in the daemon).
//
// Invariants
//  1. A Plan's results depend on the Plan, the pool's contents and the draws of earlier Plans only.
//  2. run allocates nothing once the largest step has been seen, except for logits that a Plan keeps.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/model/layers.h"
#include "daemon/sched/plan.h"

namespace iokv {

struct ExecutorLimits {
  uint32_t max_rows = 256;   // of a Plan; <= the model's
  uint32_t max_draws = 64;
};

class Executor {
 public:
  // The backend and the pool's memory outlive the executor.
  static Result<std::unique_ptr<Executor>> make(Backend& backend, std::unique_ptr<Model> model, const PoolView& pool,
                                                const ExecutorLimits& limits);

  // Fills in the Plan's results; plan.failure says when the device is lost.
  void run(Plan& plan);

  // Whether the device computes: the same tokens in one step and in several must give the same finite logits, bit for
  // bit. Writes to block 0 of the pool, in the given form.
  Status self_test(BlockForm form);

  const Model& model() const { return *model_; }

 private:
  Executor(Backend& backend, std::unique_ptr<Model> model, const PoolView& pool, const ExecutorLimits& limits);
  Status forward(Plan& plan);
  Status draw(Plan& plan);
  Result<std::vector<float>> logits_after(std::span<const int32_t> tokens, uint32_t step_rows, BlockForm form);

  Backend& backend_;
  std::unique_ptr<Model> model_;
  const PoolView pool_;
  const ExecutorLimits limits_;
  std::unique_ptr<DeviceMemory> logits_;  // [max_draws, vocab] f32
  std::vector<int32_t> latest_draw_;      // by sequence slot
  std::vector<StepSpan> spans_;
  std::vector<uint32_t> logits_rows_;     // [draws]
  std::vector<SampleRow> sample_rows_;    // [draws]
  std::vector<int32_t> drawn_tokens_;     // [max_draws]
  std::vector<float> drawn_logprobs_;     // [max_draws]
};

}  // namespace iokv
