// SPDX-License-Identifier: Apache-2.0
// The executor carries out Plans on one device and decides nothing: it turns a Plan's spans into the model's step, draws
// tokens, and writes results into the Plan. All calls come from one thread (device_thread.h in the daemon).
//
// Invariants
//  1. A Plan's results depend on the Plan, the pool's contents and the draws of earlier Plans only.
//  2. run allocates nothing once the largest step has been seen, except for a Plan's copies of logits and of most
//     probable tokens.
//  3. When a Plan has run, all that it writes back to the host pool is there.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/model/layers.h"
#include "daemon/runtime/pipeline.h"
#include "daemon/sched/plan.h"

namespace iokv {

// Pinned host memory for floats that come off the device; grows and never shrinks. The executor's thread.
class PinnedFloats {
 public:
  explicit PinnedFloats(Backend& backend) : backend_(backend) {}
  ~PinnedFloats() { release(); }
  PinnedFloats(const PinnedFloats&) = delete;
  PinnedFloats& operator=(const PinnedFloats&) = delete;

  // At least so many; what was there is lost when it grows. Nothing may be on its way to the old ones.
  Result<float*> at_least(size_t count);

 private:
  void release();

  Backend& backend_;
  std::vector<float> values_;
};

struct ExecutorLimits {
  uint32_t max_rows = 256;   // of a Plan; <= the model's
  uint32_t max_draws = 64;
};

class Executor {
 public:
  // The backend and the pools' memory outlive the executor.
  static Result<std::unique_ptr<Executor>> make(Backend& backend, std::unique_ptr<Model> model,
                                                const PipelineOptions& options, const ExecutorLimits& limits);

  // Fills in the Plan's results; plan.failure says when the device is lost. `next` is asked for the Plan behind it, for
  // which the link is used once this one has no more use for it.
  void run(Plan& plan, const Pipeline::Next& next = {});

  // Whether the device computes: the same tokens in one step and in several must give the same finite logits: bit for
  // bit, or where the device is not batch-invariant, within what its type rounds to. Writes to block 0 of the pool, in
  // the given form.
  Status self_test(BlockForm form);

  const Model& model() const { return *model_; }
  const Pipeline& pipeline() const { return *pipeline_; }

 private:
  Executor(Backend& backend, std::unique_ptr<Model> model, const ExecutorLimits& limits);
  Status compute(Plan& plan, const Pipeline::Next& next);
  void fill_in_tokens(Plan& plan);
  Status draw(Plan& plan);
  Status keep_logits(Plan& plan);
  Result<std::vector<float>> logits_after(std::span<const int32_t> tokens, uint32_t step_rows, BlockForm form);

  Backend& backend_;
  std::unique_ptr<Model> model_;
  const ExecutorLimits limits_;
  std::unique_ptr<Pipeline> pipeline_;
  std::unique_ptr<DeviceMemory> logits_;  // [max_draws, vocab] f32
  PinnedFloats kept_;                     // [draws that keep their logits, vocab]
  uint64_t ended_ns_ = 0;                 // of the latest Plan, on the device's clock
  std::vector<int32_t> latest_draw_;      // by sequence slot
  std::vector<uint32_t> logits_rows_;     // [draws]
  std::vector<SampleRow> sample_rows_;    // [draws]
  std::vector<int32_t> drawn_tokens_;     // [max_draws]
  std::vector<float> drawn_logprobs_;     // [max_draws]
  std::vector<TokenLogprob> tops_;        // [sum of what the draws want]
};

}  // namespace iokv
