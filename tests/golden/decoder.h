// SPDX-License-Identifier: Apache-2.0
// Decoder: a model with a pool of its own, for tests that append tokens to sequences and compare logits. It stands in
// for the conductor: it chooses the blocks, their forms and ids, and what goes into a step; Plans are built, checked and
// executed by the daemon's own code.
//
// The pool starts as NaNs and ids are handed out once, so that whatever is read before it was written shows.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/model/model_files.h"
#include "daemon/runtime/executor.h"
#include "daemon/sched/plan_build.h"

namespace iokv::test {

struct Sequence {
  uint32_t length = 0;
  std::vector<uint32_t> blocks;
  std::vector<BlockForm> forms;
  std::vector<uint32_t> copies;  // as K,V on the device; kNoBlock, or no entry: none
};

// The form of a sequence's block by its index.
using FormOf = std::function<BlockForm(uint32_t index)>;
inline BlockForm all_kv(uint32_t) { return BlockForm::kv; }
inline BlockForm all_x(uint32_t) { return BlockForm::x; }
inline BlockForm kv_then_x(uint32_t index) { return index % 2 == 0 ? BlockForm::kv : BlockForm::x; }
inline BlockForm x_then_kv(uint32_t index) { return index % 2 == 0 ? BlockForm::x : BlockForm::kv; }

// The staging ring of a Decoder: as small as it may be, so that small models take many rounds.
struct Ring {
  uint32_t slot_blocks = 2, kv_slots = 2, x_slots = 2;
  uint32_t tile_tokens = 0;  // 0: a slot's
};

struct DecoderOptions {
  FormOf form = all_kv;
  bool descending_ids = false;  // ids of a sequence's blocks fall, and leave gaps
  uint32_t max_rows = 512;
  uint32_t pool_blocks = 80;    // of a layer
  uint32_t device_blocks = 0;   // of a layer, for copies on a device that does not read the pool in place
  Ring ring = {};
  uint32_t streamed_layers = 0;  // whose weights cross the link in every step
  uint32_t weight_slots = 2;
  uint32_t batch_rows = UINT32_MAX;  // of a micro-batch; a step gives logits of as many rows at the most
  uint32_t kept_blocks = 0;
};

class Decoder {
 public:
  Decoder(Backend& backend, const ModelFiles& files, const DecoderOptions& options = {});
  // All of them on the device.
  Decoder(Backend& backend, const ModelSpec& spec, Weights weights, const DecoderOptions& options);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  struct Append {
    Sequence* sequence;
    std::span<const int32_t> tokens;
  };

  // One Plan. Logits [rows, vocab] of all rows, or of those named.
  std::vector<float> step(const std::vector<Append>& appends);
  std::vector<float> step(const std::vector<Append>& appends, std::span<const uint32_t> logits_rows);

  // A sequence of its own, fed in chunks of that many tokens, the last one what is left: logits of all its tokens.
  std::vector<float> run(std::span<const int32_t> tokens, uint32_t chunk_tokens);

  // The runs of a span's blocks, as a conductor would make them; a test may change what they say before Plans are built.
  std::function<void(std::vector<BlockRun>& runs)> change_runs;
  // Likewise each span, in the order of the appends.
  std::function<void(PlanSpan& span)> change_span;

  // Blocks of a sequence, ids anew: for sequences that are made up of what others have written.
  uint32_t take_id();
  uint32_t take_device_id();
  std::byte* block(uint32_t layer, uint32_t id) const { return view_.block(layer, id); }
  const StepMeasure& measured() const { return plan_.measured; }
  const Plan& plan() const { return plan_; }
  // Over the link in every step, whatever is cached.
  uint64_t weight_bytes() const { return builder_->shape().weights.step_bytes(); }
  const StagingShape& staging() const { return builder_->shape(); }
  uint32_t max_rows() const { return options_.max_rows; }
  uint32_t vocab() const { return executor_->model().spec().vocab; }

 private:
  Decoder(Backend& backend, const DecoderOptions& options) : backend_(backend), options_(options) {}
  Weights load(const ModelFiles& files);
  void make(const ModelSpec& spec, Weights weights);

  Backend& backend_;
  DecoderOptions options_;
  std::vector<std::byte> memory_;
  PoolView view_;
  std::vector<std::byte> host_weights_;
  std::unique_ptr<DeviceMemory> device_memory_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<PlanBuilder> builder_;
  Plan plan_;
  uint32_t units_a_block_ = 0;  // ids that every block takes here, whatever its form
  uint32_t taken_ = 0, device_taken_ = 0;
};

// Ends the test program with the error's line where there is one.
[[noreturn]] void end_with(const Error& failure);
template <typename T>
T must(Result<T> result) {
  if (!result) end_with(result.failure());
  return *std::move(result);
}

}  // namespace iokv::test
