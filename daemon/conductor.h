// SPDX-License-Identifier: Apache-2.0
// The conductor makes every decision of the daemon: admission, order, blocks, batches, Plans. It is a deterministic state
// machine: everything it learns, time included, comes in as an Event, and everything it does goes out through Effects.
// It knows no sockets, shared memory, threads, clocks or devices, so the same code runs in the daemon (service.cpp) and in
// simulation (tests/sim), and what happened in production can be replayed from its events.
//
// Invariants, checked by verify()
//  1. Every admitted operation ends in exactly one final completion, unless its client is gone.
//  2. A completion slot is reserved for each admitted operation (session/credits.h): final completions never wait for room.
//  3. Every block is referred to by the tables of open sequences or of the audit, or waits in the limbo for the Plans in
//     flight that may still name it; nothing else holds pool units.
//  4. At most config.plans_in_flight Plans are out; they retire in the order of issue.
//  5. The pool is never exceeded: a sequence that finds no block waits or preempts, from the least urgent on, by dropping
//     blocks and keeping tokens. The most urgent sequence can always get what it needs.
//  6. A block's copy on the device has the block's life or a shorter one; a shared block's goes with the block.
//  7. A user's sequences hold at most his share of the pool, and no more sequences and queued tokens than he may have.
//  8. A pass takes time in proportion to the sequences that have operations or ran lately, however many are open.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "daemon/audit.h"
#include "daemon/pool/block_pool.h"
#include "daemon/sched/batch.h"
#include "daemon/sched/drift.h"
#include "daemon/sched/form_choice.h"
#include "daemon/sched/host_division.h"
#include "daemon/sched/plan.h"
#include "daemon/sched/plan_build.h"
#include "daemon/sched/request.h"
#include "daemon/sched/sequence.h"
#include "daemon/sched/step_time.h"
#include "daemon/session/credits.h"
#include "daemon/user_limits.h"
#include "iokv/iokv.h"
#include "wire/counters.h"
#include "wire/sequences.h"

namespace iokv {

// What may change while it runs.
struct ConductorTuning {
  uint64_t stall_lease_ns = 10'000'000'000;
  double prefill_delay = 0.5;  // daemon/sched/prefill.h
  AccessLimits access;
};

struct ConductorConfig {
  uint32_t vocabulary = 0;
  uint32_t max_context = 0;          // tokens
  uint32_t max_clients = 64;
  uint32_t max_sequences = 1024;     // open at once by one client
  // Of one client, in operations that have not started; words of masks and biases count likewise, until theirs has ended.
  uint32_t max_queued_tokens = 1 << 20;
  uint32_t plans_in_flight = 2;      // 1..2
  ConductorTuning tuning;
  RecomputeSetting recompute;        // as what new blocks are stored
  uint32_t logits_rows_each = 8;     // rows of a Plan of an operation that keeps logits of every row
  BatchLimits batch;
  uint32_t device_units = 0;         // for copies of blocks on the device; 0: nothing is kept there
  StagingShape staging;              // of the device; units are taken from the pool
  bool refit = true;                 // correct the profile when steps take another time than predicted
  bool batch_invariant = false;      // of the device: a row's division between device and host is the same whoever else is there
  StepModel step_model;              // how long steps take; nothing known: batch.prefill_rows. Its delay is that of tuning
  AuditSetting audit;
  bool verify_always = false;        // after every event: for tests
};

// ---- what comes in ----------------------------------------------------------------------------------------------

struct ClientJoined {
  ClientId client;
  wire::Geometry geometry;
  uint32_t max_operations = 0;  // as WELCOME told the client
  uint32_t weight = 1;          // in what clients share: batch.h
  uint32_t uid = 0;             // whose process it is
};
struct ClientGone {
  ClientId client;
};
struct RequestTaken {
  ClientId client;
  Request request;
};
struct HeadsAdvanced {
  ClientId client;
  uint32_t completion_head = 0, result_head = 0;
};
struct PlanRetired {
  Plan* plan = nullptr;
};
struct Retuned {
  ConductorTuning tuning;
};
struct ShutdownRequested {};
// Everything that was to be taken in this pass has been: time to plan. Also sent alone when next_timer_ns() has come.
struct PassEnded {};

struct Event {
  uint64_t now_ns = 0;
  std::variant<ClientJoined, ClientGone, RequestTaken, HeadsAdvanced, PlanRetired, Retuned, ShutdownRequested, PassEnded> what;
};

// ---- what goes out ----------------------------------------------------------------------------------------------

class Effects {
 public:
  virtual ~Effects() = default;
  // There is room for it: Credits said so.
  virtual void post(ClientId client, const Outcome& outcome) = 0;
  // The client broke a rule that only the conductor knows; ClientGone follows from the caller.
  virtual void end_client(ClientId client, int32_t code, const std::string& reason) = 0;
  // The Plan belongs to the executor until it comes back as PlanRetired.
  virtual void issue(Plan* plan) = 0;
  // Blocks whose contents nobody may read any more.
  virtual void discarded(uint32_t block, BlockForm form) = 0;
  // What was drawn from is not what its tokens give: say so.
  virtual void audit_failed(const AuditFinding&) {}
};

class Conductor {
 public:
  Conductor(const ConductorConfig& config, BlockPool& pool, Effects& effects);

  void handle(Event event);

  // What has been measured of the device: from the next Plan on steps are predicted with it, and blocks stored so that
  // steps are short. A profile of zeros says nothing.
  void know_device(const Profile& profile);
  // Of steps since then; null while nothing is known.
  const Drift* drift() const { return drift_ ? &*drift_ : nullptr; }

  // What a block takes of the pool at the most, in the larger of the forms that it may have.
  static Units units_of_block(const RecomputeSetting& recompute, const BlockPool& pool);

  // The earliest time at which a PassEnded is due without any other event; 0: none.
  uint64_t next_timer_ns() const;
  // A client has sequences parked: its session must ask to be told of head movements.
  bool wants_reap(ClientId client) const;
  // No operation is admitted and no Plan is out.
  bool quiet() const { return in_flight_.empty() && operations_ == 0; }
  using Counters = std::array<uint64_t, wire::kCounters>;
  const Counters& counters() const { return counters_; }
  // Those of them that it keeps; the others are 0 here.
  static constexpr std::array kOwnCounters = {
      wire::Counter::clients, wire::Counter::clients_total, wire::Counter::sequences, wire::Counter::operations,
      wire::Counter::submissions, wire::Counter::completions, wire::Counter::refusals, wire::Counter::steps,
      wire::Counter::steps_shared, wire::Counter::steps_multiclient_possible, wire::Counter::step_ns,
      wire::Counter::prefill_tokens, wire::Counter::decode_tokens, wire::Counter::sampled_tokens,
      wire::Counter::recomputed_tokens, wire::Counter::preemptions, wire::Counter::stall_releases,
      wire::Counter::parked, wire::Counter::waiting, wire::Counter::pool_units, wire::Counter::pool_units_free,
      wire::Counter::first_work_ns, wire::Counter::first_works, wire::Counter::predicted_ns,
      wire::Counter::measured_ns, wire::Counter::planned_h2d_bytes, wire::Counter::h2d_bytes, wire::Counter::d2h_bytes,
      wire::Counter::h2d_busy_ns, wire::Counter::d2h_busy_ns, wire::Counter::recompute_busy_ns,
      wire::Counter::dense_busy_ns, wire::Counter::x_blocks, wire::Counter::kv_blocks, wire::Counter::x_share_ppm,
      wire::Counter::profile_fits, wire::Counter::drifted_steps, wire::Counter::link_ratio_ppm,
      wire::Counter::device_ratio_ppm, wire::Counter::host_attended_tokens, wire::Counter::host_busy_ns, wire::Counter::host_ratio_ppm,
      wire::Counter::device_units, wire::Counter::device_units_free, wire::Counter::copies_dropped, wire::Counter::audit_steps, wire::Counter::audit_mismatches,
      wire::Counter::audit_skipped};

  // Every open sequence, for wire::SequencesHeader; nothing of the clients but their slots is filled in.
  std::vector<wire::SequenceRow> rows() const;

  // Every invariant, in O(everything); aborts on a violation. For tests, and for an idle daemon.
  void verify() const;

 private:
  // All processes of one uid. It is kept until the last client has left and the last block has come back.
  struct User {
    UserLimits limits;
    uint32_t clients = 0, sequences = 0;
    uint64_t queued_tokens = 0;
    uint64_t units = 0;                      // of the pool: what blocks of its sequences take, those in the limbo as well
  };
  struct Client {
    bool present = false;
    uint32_t uid = 0;
    User* user = nullptr;
    uint32_t generation = 0;
    uint32_t weight = 1;
    std::optional<Credits> credits;
    std::map<uint64_t, uint32_t> sequences;  // the client's id -> slot
    uint64_t queued_tokens = 0;
    uint32_t max_operations = 0;
    uint32_t operations = 0;                 // admitted, final completion not posted
    uint64_t plan = 0;                       // the latest with spans of it
    uint32_t parked = 0;                     // sequences with parked outcomes
  };
  // What shares of forms were last chosen for.
  struct Aim {
    uint64_t tokens = 0, rows = 0;
    double attendable = 0;
    uint32_t fits = 0;  // of Drift
    // Whether it is something else now, which it then is.
    bool has_moved(const LayerWork& work, double attendable_now, uint32_t fits_now);
  };
  // A block that Plans in flight may still name.
  struct LimboBlock {
    uint64_t plan = 0;
    SequenceBlock block;
  };

  // conductor.cpp: clients and the order of events
  void on(const ClientJoined& event);
  void on(const ClientGone& event);
  void on(const HeadsAdvanced& event);
  void on(const Retuned& event);
  void on(const ShutdownRequested& event);
  void on(const PassEnded& event);
  void wake(Sequence& sequence);
  bool is_recent(const Sequence& sequence) const;
  void forget_idle();
  void check_timers();
  void expire(Sequence& sequence);
  void forget_user(uint32_t uid);
  Client* find(ClientId id);
  void bump(wire::Counter counter, int64_t by = 1);
  void publish_gauges();
  static wire::SequenceRow row_of(const Sequence& sequence);

  // conductor_operations.cpp: admission and the life of an operation
  void on(RequestTaken& event);
  bool admit(Client& client, ClientId id, const Request& request);
  void open(Client& client, ClientId id, const Request& request);
  void cancel(Client& client, const Request& request);
  void close(Client& client, const Request& request);
  void enqueue(Client& client, Request&& request);
  void start_next(Sequence& sequence);
  void run_front(Sequence& sequence);
  int32_t start_step(Sequence& sequence, Request& request);
  int32_t run_truncate(Sequence& sequence, const Request& request);
  int32_t add_child(Client& client, ClientId id, Request& request);
  iokv_limit sequence_limit(const Client& client) const;
  iokv_limit queue_limit(const Client& client, uint64_t tokens) const;
  int32_t run_fork(Sequence& parent, const Request& request);
  void disown(Client& client, const Request& fork);
  int32_t refusal_by_length(const Client& client, uint64_t length) const;
  void queue_tokens(Client& client, int64_t tokens);
  void deliver(Sequence& sequence, Outcome&& outcome);
  void flush_parked(Sequence& sequence);
  void finish(Sequence& sequence, int32_t result);
  void fail(Sequence& sequence, int32_t code);
  void end_front(Sequence& sequence);
  void abandon_front(Sequence& sequence, int32_t code);
  void fail_append(Sequence& sequence, uint64_t operation, int32_t code);
  void drop(Sequence& sequence, size_t index, int32_t code);
  void answer(Client& client, ClientId id, const Request& request, int32_t result, uint32_t length,
              iokv_limit limit = IOKV_LIMIT_NONE);
  Outcome outcome_of(const Sequence& sequence, const Request& request, int32_t result) const;
  Sequence* add_sequence(Client& client, ClientId owner, uint64_t id);
  void remove_sequence(Sequence& sequence);

  // conductor_planning.cpp: blocks, Plans and what comes of them
  void on(const PlanRetired& event);
  void lose_device();
  void plan_steps();
  bool build_plan(Plan& plan);
  void admit_candidates();
  void aim_forms();
  BatchLimits limits_of_step() const;
  std::optional<Candidate> candidate_of(const Sequence& sequence) const;
  void add_link_work(Candidate& candidate, const BlockTable& blocks) const;
  void add_span(Plan& plan, Sequence& sequence, uint32_t rows);
  static void add_runs(Plan& plan, PlanSpan& span, const BlockTable& table);
  void add_draws(Plan& plan, PlanSpan& span, Sequence& sequence);
  void add_adjustments(Plan& plan, PlanSpan& span, const Sequence& sequence, PlanDraw& draw) const;
  static void note_times(Sequence& sequence, const Plan& plan);
  void count_time(const wire::TokenTimes& times, uint64_t ns);
  void accept(Sequence& sequence, const PlanSpan& span, Plan& plan);
  void give_turns();
  bool reserve_blocks(Sequence& sequence);
  bool could_reserve(const Sequence& sequence, Blocks missing);
  bool add_block(Sequence& sequence, BlockForm form);
  void add_copy(const Sequence& sequence, SequenceBlock& block);
  bool drop_idle_copies();
  void give_back(SequenceBlock block);
  void count(const Plan& plan);
  void divide(Plan& plan);
  void predict(Plan& plan);
  void plan_with(const Profile& profile);
  void watch_drift(const Plan& plan);
  Units most_units(Blocks blocks) const {
    return Units(blocks.value * units_of_block(config_.recompute, pool_).value);
  }
  bool preempt_for(const Sequence& sequence);
  User& user_of(const Sequence& sequence) const { return *clients_[sequence.client.slot].user; }
  uint64_t share_units(const User& user) const { return uint64_t{pool_.total_units().value} * user.limits.pool_percent / 100; }
  bool fits_share(const User& user, BlockForm form) const;
  bool share_is_full(const User& user) const;
  bool stores_both() const;
  static constexpr uint32_t kNobody = UINT32_MAX;  // no user has this uid
  bool more_urgent(const Sequence& a, const Sequence& b) const;
  void forget_cache(Sequence& sequence, uint32_t keep_tokens);
  void release_block(const Sequence& sequence, SequenceBlock block);
  void empty_limbo();

  // conductor_audit.cpp
  void choose_audited(Plan& plan);
  void take_audited(Plan& plan);
  std::optional<BlockTable> audit_blocks(Blocks wanted);
  void add_audit(Plan& plan);
  void add_audit_span(Plan& plan, uint32_t rows);
  void retire_audit(const Plan& plan);
  bool give_up_audit();
  void skip_audit();
  void end_audit();
  void release_audited(const BlockTable& blocks);

  ConductorConfig config_;
  BlockPool& pool_;
  Effects& effects_;
  uint64_t now_ns_ = 0;
  bool stopping_ = false;

  std::vector<Client> clients_;
  std::map<uint32_t, User> users_;            // by uid
  std::vector<uint32_t> block_users_;         // by block id: the uid, of blocks that sequences hold
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::vector<uint32_t> free_slots_;
  std::vector<Sequence*> active_;  // all that have operations, and more until forget_idle(): what each pass looks at
  uint64_t operations_ = 0;
  uint64_t arrivals_ = 0;
  bool deadlines_ = false;  // some operation may have one

  std::vector<std::unique_ptr<Plan>> plans_;  // storage
  std::vector<Plan*> idle_plans_;
  std::deque<Plan*> in_flight_;
  uint64_t issued_ = 0, retired_ = 0;         // Plan ids
  uint64_t step_ns_ = 0;                      // how long a Plan takes: an average in which each new one is an eighth
  std::deque<LimboBlock> limbo_;
  std::vector<Sequence*> runnable_, started_;
  std::vector<Candidate> candidates_;
  std::vector<uint32_t> to_be_released_;      // by block id: see could_reserve
  BatchChooser chooser_;
  PlanBuilder builder_;
  HostDivision division_;
  double fixed_host_share_ = 0;           // of a batch-invariant device, of sequences that begin now
  uint64_t probed_host_ns_ = 0;           // when the host last had a part
  Aim aim_;
  FormChooser forms_, copy_forms_;        // of blocks that cross the link, and of copies on the device
  std::optional<Drift> drift_;
  std::optional<StepTimer> timer_;
  std::optional<BlockPool> device_pool_;  // copies of blocks, as K,V
  Audit audit_;
  Counters counters_{};
};

}  // namespace iokv
