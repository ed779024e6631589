// SPDX-License-Identifier: Apache-2.0
// The pipeline runs the layers of Plans: it issues each operation of the program, for every layer, to its queue with the
// waits that the Plan says, and lets the link run ahead of everything else, through the staging ring, into the layers
// and the Plan to come. The executor's thread.
//
// Invariants
//  1. Operations of a queue are issued in the order of layers and of the program; those of h2d earlier than their place
//     in it, as soon as what frees their slot has been issued.
//  2. Nothing of a Plan but fetches is issued before the Plan ahead of it has ended.
//  3. A slot's tickets are those of what last used it; the rings, of cached tokens and of weights, go on from Plan to Plan.
//  4. No memory is taken once the largest Plan has been seen.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/model/layers.h"
#include "daemon/runtime/host_exchange.h"
#include "daemon/runtime/staging.h"
#include "daemon/sched/plan.h"

namespace iokv {

// Where the blocks of each layer lie.
struct PoolView {
  std::byte* base = nullptr;
  size_t layer_stride_bytes = 0;
  size_t unit_bytes = 0;  // ids count units; a block starts at its id and takes block_bytes() of its form

  std::byte* block(uint32_t layer, uint32_t id) const { return base + layer * layer_stride_bytes + id * unit_bytes; }
};

#ifdef NDEBUG
inline constexpr bool kPoisonStaging = false;
#else
inline constexpr bool kPoisonStaging = true;
#endif

struct PipelineOptions {
  StagingShape staging;
  PoolView host;                  // pinned
  PoolView device;                // of resident blocks; the host's, when the device reads it in place
  bool poison = kPoisonStaging;   // slots are filled with NaNs whenever they become free
  bool trace = false;             // Plans get the times of their operations
};

// An operation that was issued, by its place: what a trace shows.
struct IssuedOp {
  Ticket begin, end;
  uint64_t bytes = 0;  // over the link
};

class Pipeline {
 public:
  // Takes the staging ring. Backend and model outlive the pipeline.
  static Result<std::unique_ptr<Pipeline>> make(Backend& backend, Model& model, const PipelineOptions& options);

  // The Plan behind the one that runs, if there is one yet; asked for whenever the link could go on with it.
  using Next = std::function<const Plan*()>;

  // The embedding of the Plan's tokens.
  void begin(const Plan& plan);

  // All layers of the Plan. Returns once everything is issued; nothing needs to have been reached.
  void run(const Plan& plan, const Next& next);

  // While the device runs what run() has issued: waits layer by layer, and reads when its operations ran. What is read
  // only once the step has ended keeps the device waiting for the next one.
  Status follow();

  // Waits until the write-backs of the latest Plan are done, and counts what its operations took; the Plan's dense work
  // has been waited for, and measure.ended_ns is there.
  Status settle(StepMeasure& measure);

  // After settle, where options.trace asks for it: when the operations of this Plan, the latest that ran, ran.
  void trace(Plan& plan);

  // After a device error: what was fetched for Plans to come is forgotten.
  void abandon();

  // Of the latest Plan that ran: operation `op` of the program in `layer`.
  const IssuedOp& issued(uint32_t layer, uint32_t op) const;

  const Staging& staging() const { return *staging_; }

 private:
  // A Plan that is fetched for or that runs, and where its rounds are in the ring.
  struct Flight {
    const Plan* plan = nullptr;
    bool flown = false;                             // there has been one
    uint64_t x_base = 0, kv_base = 0;               // rounds before it, since the start
    uint64_t weights_base = 0;                      // and layers whose weights were fetched
    std::vector<uint32_t> x_before, kv_before;      // of each round: those before it in its layer
    std::vector<uint32_t> last_recompute;           // of each round: its last recompute operation
    uint32_t x_rounds = 0, kv_rounds = 0;           // of a layer
    bool appends = false;                           // writes back on d2h
    uint32_t project = 0;                           // the operation
    std::vector<IssuedOp> issued;                   // [layers][ops]
    uint32_t fetch_layer = 0, fetch_op = 0;         // what is to be fetched next
    uint64_t h2d_bytes = 0, d2h_bytes = 0;

    uint64_t x_round(uint32_t layer, uint32_t round) const { return x_base + uint64_t{layer} * x_rounds + x_before[round]; }
    uint64_t kv_round(uint32_t layer, uint32_t round) const {
      return kv_base + uint64_t{layer} * kv_rounds + kv_before[round];
    }
    IssuedOp& at(uint32_t layer, uint32_t op) { return issued[size_t{layer} * plan->ops.size() + op]; }
  };
  struct KvFree {
    Ticket dense, d2h;
  };

  Pipeline(Backend& backend, Model& model, const PipelineOptions& options);
  Status poison_ring();
  void measure_times(const Flight& flight, StepMeasure& measure);
  bool is_timed(const IssuedOp& op, const std::array<uint64_t, kQueues>& latest) const;
  std::array<uint64_t, kQueues> latest_tickets(const Flight& flight) const;
  void take_off(Flight& flight, const Plan& plan);
  void fetch_ahead(const Next& next);
  bool may_fetch(const Flight& flight, const PlanOp& op) const;
  bool does_nothing(uint32_t layer, const PlanOp& op) const;
  void issue(Flight& flight, uint32_t layer, uint32_t index);
  void wait_for(Flight& flight, uint32_t layer, const PlanOp& op);
  void wait(Queue queue, Ticket ticket);
  void release(Flight& flight, uint32_t layer, uint32_t index);
  void poison(const Flight& flight, uint32_t layer, const PlanOp& op);

  void fetch_weights(Flight& flight, uint32_t layer, WeightPart part);
  void fetch_x(Flight& flight, uint32_t layer, const PlanOp& op);
  void fetch_kv(Flight& flight, uint32_t layer, const PlanOp& op);
  void recompute(Flight& flight, uint32_t layer, const PlanOp& op);
  void gather_x(uint32_t layer, const PlanPart& part, std::byte* to);
  void store(Flight& flight, uint32_t layer, const PlanOp& op);
  void attend(Flight& flight, uint32_t layer, const PlanOp& op);
  void append(Flight& flight, uint32_t layer, const PlanOp& op);
  void project(const Flight& flight, uint32_t layer, const PlanOp& op);
  void hand_over(const Flight& flight, const PlanOp& op);
  void attend_host(Flight& flight, uint32_t layer, const PlanOp& op);
  void merge(const Flight& flight, const PlanOp& op);
  void list_divided(const Plan& plan, const PlanOp& op);
  void list_rotations(const Plan& plan);
  std::byte* area_of(const Flight& flight, uint32_t layer, uint32_t round, const PlanStore& store) const;
  void add_tokens(std::byte* to, const std::byte* from, uint32_t first_token, uint32_t tokens);
  uint32_t x_slot(const Flight& flight, uint32_t layer, uint32_t round) const;
  uint32_t kv_slot(const Flight& flight, uint32_t layer, uint32_t round) const;
  uint64_t weights_number(const Flight& flight, uint32_t layer) const;
  uint32_t weight_slot(const Flight& flight, uint32_t layer) const;

  Backend& backend_;
  Model& model_;
  const PipelineOptions options_;
  const uint32_t layers_;
  const size_t kv_row_bytes_;          // of one token's K of one head
  std::unique_ptr<Staging> staging_;
  std::unique_ptr<DeviceMemory> poison_;  // a block of K,V of 0xff bytes, or null
  std::unique_ptr<HostExchange> exchange_;  // where the host attends, or null
  std::unique_ptr<DeviceMemory> gathered_;  // X of a tile that lies in several places on the device, [recompute_rows, h]

  std::array<Flight, 2> flights_;
  uint32_t running_ = 0;               // of flights_: the latest that ran; the other one may be fetched for
  uint32_t compute_layer_ = 0;         // of it

  // Rounds whose slots have been given back, and the tickets that say when: [slot].
  uint64_t x_released_ = 0, kv_released_ = 0, weights_released_ = 0;
  std::vector<Ticket> x_free_, weights_free_;
  std::vector<KvFree> kv_free_;
  std::vector<Ticket> appended_;       // [layers] the latest write-back to the layer's part of the pool ...
  std::vector<Ticket> appended_before_;  // ... and the latest of those of the Plans ahead of the running one
  std::array<Ticket, 2> kept_free_;    // the latest write-back out of each of the model's kept_x
  uint32_t keep_ = 0;                  // which of them the micro-batch has
  Ticket last_append_;
  Ticket begun_;                       // before the running Plan's embedding
  std::vector<std::pair<uint64_t, uint64_t>> device_times_;  // of a Plan that has run

  // Arguments of one operation.
  std::vector<CopyRun> copies_;
  std::vector<RopeRun> rope_runs_;
  std::vector<RopeRun> rotations_;     // of the running Plan's micro-batches, one behind the other
  std::vector<size_t> first_rotation_; // of each, and the end
  std::vector<const void*> addresses_;
  std::vector<AttendSpan> attend_spans_;
  std::vector<size_t> first_address_;
  std::vector<uint32_t> divided_rows_;
};

}  // namespace iokv
