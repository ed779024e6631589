// SPDX-License-Identifier: Apache-2.0
// The order of events, clients, timers and the invariants. Operations: conductor_operations.cpp; blocks and Plans:
// conductor_planning.cpp; the audit: conductor_audit.cpp.
#include "daemon/conductor.h"

#include <algorithm>
#include <utility>

#include "iokv/iokv.h"

namespace iokv {

using wire::Counter;

namespace {

// A sequence that was in none of so many Plans is idle: it reads nothing.
constexpr uint64_t kRecentPlans = 256;

// With what one part of it says for another, or the pool.
ConductorConfig completed(const BlockPool& pool, ConductorConfig config) {
  config.staging.kv_units = pool.units_for(BlockForm::kv).value;
  config.staging.x_units = pool.units_for(BlockForm::x).value;
  config.step_model.prefill_delay = config.tuning.prefill_delay;
  return config;
}

double share_of(const RecomputeSetting& recompute) {
  if (recompute.mode == Recompute::fraction) return recompute.fraction;
  return recompute.mode == Recompute::always ? 1 : 0;  // automatic: until something is known
}

}  // namespace

Conductor::Conductor(const ConductorConfig& config, BlockPool& pool, Effects& effects)
    : config_(completed(pool, config)),
      pool_(pool),
      effects_(effects),
      clients_(config.max_clients),
      block_users_(pool.total_units().value, kNobody),
      builder_(config_.staging),
      division_(config_.staging),
      forms_(share_of(config.recompute)),
      copy_forms_(0),
      audit_(config.audit) {
  IOKV_ASSERT(config.plans_in_flight >= 1 && config.plans_in_flight <= 2);
  IOKV_ASSERT(config.vocabulary > 0 && config.max_context > 0);
  IOKV_ASSERT(config.device_units == 0 || !config.staging.in_place);
  if (config.device_units > 0) {
    device_pool_.emplace(PoolShape{config.device_units, config_.staging.kv_units, config_.staging.x_units});
  }
  if (config_.step_model.known()) know_device(config_.step_model.profile);
  for (uint32_t i = 0; i < config.plans_in_flight; i++) {
    plans_.push_back(std::make_unique<Plan>());
    idle_plans_.push_back(plans_.back().get());
  }
}

void Conductor::handle(Event event) {
  IOKV_ASSERT(event.now_ns >= now_ns_);
  now_ns_ = event.now_ns;
  std::visit([this](auto& what) { on(what); }, event.what);
  if (config_.verify_always) verify();
}

void Conductor::know_device(const Profile& profile) {
  const Profile measured = profile;  // it may be the one that is kept here
  plan_with(measured);
  if (!config_.step_model.known()) return;
  drift_.emplace(measured);
  if (config_.staging.in_place || !measured.host_attends()) return;
  if (stores_both()) forms_.keep_suffixes({}, fixed_host_share_);
}

void Conductor::on(const ClientJoined& event) {
  IOKV_ASSERT(event.client.slot < clients_.size() && !clients_[event.client.slot].present);
  Client& client = clients_[event.client.slot];
  client = Client{};
  client.present = true;
  client.generation = event.client.generation;
  client.weight = event.weight;
  client.uid = event.uid;
  client.user = &users_[event.uid];
  client.user->limits = config_.tuning.access.of(event.uid);
  client.user->clients++;
  client.max_operations = event.max_operations;
  client.credits.emplace(event.geometry, event.max_operations);
  chooser_.join(event.client.slot, event.weight);
  bump(Counter::clients);
  bump(Counter::clients_total);
}

void Conductor::on(const ClientGone& event) {
  Client* client = find(event.client);
  if (client == nullptr) return;
  while (!client->sequences.empty()) {
    Sequence& sequence = *sequences_[client->sequences.begin()->second];
    uint32_t admitted = static_cast<uint32_t>(
        std::count_if(sequence.operations.begin(), sequence.operations.end(), [](const Request& r) { return !r.part; }));
    operations_ -= admitted;
    client->operations -= admitted;
    remove_sequence(sequence);
  }
  IOKV_ASSERT(client->operations == 0 && client->queued_tokens == 0);
  client->user->clients--;
  forget_user(client->uid);
  *client = Client{};
  bump(Counter::clients, -1);
}

void Conductor::on(const HeadsAdvanced& event) {
  Client* client = find(event.client);
  if (client == nullptr) return;
  client->credits->observe(event.completion_head, event.result_head);
  if (client->parked == 0) return;
  // The oldest parked sequence first, so that nobody is overtaken for ever.
  std::vector<std::pair<uint64_t, uint32_t>> parked;
  for (const auto& [id, slot] : client->sequences) {
    if (!sequences_[slot]->parked.empty()) parked.emplace_back(sequences_[slot]->parked_since_ns, slot);
  }
  std::sort(parked.begin(), parked.end());
  for (const auto& [since, slot] : parked) {
    Sequence& sequence = *sequences_[slot];
    flush_parked(sequence);
    if (sequence.parked.empty()) sequence.ready_ns = sequence.token_ns = now_ns_;
  }
}

// Who has more than he may have from now on keeps it, but what could no longer fit his share of the pool ends.
void Conductor::on(const Retuned& event) {
  config_.tuning = event.tuning;
  config_.step_model.prefill_delay = event.tuning.prefill_delay;
  for (auto& [uid, user] : users_) user.limits = config_.tuning.access.of(uid);
  for (auto& sequence : sequences_) {
    if (!sequence->open || !sequence->started) continue;
    const uint32_t to_come = sequence->operations.front().max_tokens - sequence->sampled;
    const int32_t code = refusal_by_length(clients_[sequence->client.slot], sequence->tokens.size() + to_come);
    if (code != 0) fail(*sequence, code);
  }
}

void Conductor::on(const ShutdownRequested&) {
  stopping_ = true;
  give_up_audit();
  for (auto& sequence : sequences_) {
    if (sequence->open) fail(*sequence, IOKV_ESHUTDOWN);
  }
}

void Conductor::on(const PassEnded&) {
  forget_idle();
  check_timers();
  plan_steps();
  publish_gauges();
}

// It has got an operation, or blocks that were read lately.
void Conductor::wake(Sequence& sequence) {
  if (sequence.active) return;
  sequence.active = true;
  active_.push_back(&sequence);
}

bool Conductor::is_recent(const Sequence& sequence) const {
  return !sequence.blocks.empty() && sequence.last_plan + kRecentPlans > issued_;
}

void Conductor::forget_idle() {
  std::erase_if(active_, [this](Sequence* sequence) {
    sequence->active = sequence->open && (!sequence->operations.empty() || is_recent(*sequence));
    return !sequence->active;
  });
}

void Conductor::check_timers() {
  for (Sequence* sequence : active_) {
    if (!sequence->open) continue;
    if (!sequence->parked.empty() && !sequence->blocks.empty() &&
        now_ns_ >= sequence->parked_since_ns + config_.tuning.stall_lease_ns) {
      forget_cache(*sequence, 0);
      bump(Counter::stall_releases);
    }
    if (deadlines_) expire(*sequence);
  }
}

// The first operation past its deadline fails where it stands, with all parts of its append, and what is behind it is
// cancelled.
void Conductor::expire(Sequence& sequence) {
  auto& operations = sequence.operations;
  auto expired = std::find_if(operations.begin(), operations.end(), [this](const Request& request) {
    return request.deadline_ns != 0 && request.deadline_ns <= now_ns_;
  });
  if (expired == operations.end()) return;
  const uint64_t id = expired->operation;
  auto first = std::find_if(operations.begin(), operations.end(), [=](const Request& r) { return r.operation == id; });
  const size_t index = static_cast<size_t>(first - operations.begin());
  if (index == 0) return fail(sequence, IOKV_EDEADLINE);
  while (operations.size() > index) drop(sequence, index, operations[index].operation == id ? IOKV_EDEADLINE : IOKV_ECANCELED);
}

uint64_t Conductor::next_timer_ns() const {
  uint64_t next = 0;
  auto consider = [&next](uint64_t time) { next = next == 0 ? time : std::min(next, time); };
  for (const Sequence* sequence : active_) {
    if (!sequence->open) continue;
    if (!sequence->parked.empty() && !sequence->blocks.empty()) {
      consider(sequence->parked_since_ns + config_.tuning.stall_lease_ns);
    }
    if (!deadlines_) continue;
    for (const Request& request : sequence->operations) {
      if (request.deadline_ns != 0) consider(request.deadline_ns);
    }
  }
  return next;
}

bool Conductor::wants_reap(ClientId id) const {
  const Client& client = clients_[id.slot];
  return client.present && client.generation == id.generation && client.parked > 0;
}

void Conductor::forget_user(uint32_t uid) {
  const auto user = users_.find(uid);
  if (user->second.clients == 0 && user->second.units == 0) users_.erase(user);
}

Conductor::Client* Conductor::find(ClientId id) {
  if (id.slot >= clients_.size()) return nullptr;
  Client& client = clients_[id.slot];
  return client.present && client.generation == id.generation ? &client : nullptr;
}

void Conductor::bump(Counter counter, int64_t by) { counters_[static_cast<uint32_t>(counter)] += static_cast<uint64_t>(by); }

void Conductor::publish_gauges() {
  uint64_t parked = 0, waiting = 0;
  for (const Sequence* sequence : active_) {
    if (!sequence->open) continue;
    if (!sequence->parked.empty()) parked++;
    if (sequence->parked.empty() && sequence->started && sequence->plans_in_flight == 0) waiting++;
  }
  auto set = [this](Counter counter, uint64_t value) { counters_[static_cast<uint32_t>(counter)] = value; };
  set(Counter::sequences, sequences_.size() - free_slots_.size());
  set(Counter::operations, operations_);
  set(Counter::parked, parked);
  set(Counter::waiting, waiting);
  set(Counter::pool_units, pool_.total_units().value);
  set(Counter::pool_units_free, pool_.free_units().value);
  set(Counter::x_share_ppm, static_cast<uint64_t>(forms_.x_share() * 1e6));
  if (device_pool_) {
    set(Counter::device_units, device_pool_->total_units().value);
    set(Counter::device_units_free, device_pool_->free_units().value);
  }
  if (!drift_) return;
  set(Counter::profile_fits, drift_->fits());
  set(Counter::drifted_steps, drift_->drifted_steps());
  set(Counter::link_ratio_ppm, static_cast<uint64_t>(drift_->link_ratio() * 1e6));
  set(Counter::device_ratio_ppm, static_cast<uint64_t>(drift_->device_ratio() * 1e6));
  set(Counter::host_ratio_ppm, static_cast<uint64_t>(drift_->host_ratio() * 1e6));
}

std::vector<wire::SequenceRow> Conductor::rows() const {
  std::vector<wire::SequenceRow> rows;
  for (const auto& sequence : sequences_) {
    if (sequence->open) rows.push_back(row_of(*sequence));
  }
  return rows;
}

wire::SequenceRow Conductor::row_of(const Sequence& sequence) {
  wire::SequenceRow row{};
  row.id = sequence.id;
  row.client_slot = sequence.client.slot;
  row.length = static_cast<uint32_t>(sequence.tokens.size());
  row.cached = std::min(sequence.cached, row.length);
  for (const BlockRun& run : sequence.blocks.runs()) (run.form == BlockForm::x ? row.x_blocks : row.kv_blocks) += run.blocks;
  row.priority = sequence.priority;
  row.operations = static_cast<uint32_t>(sequence.operations.size());
  row.state = wire::SequenceState::idle;
  if (sequence.started) row.state = wire::SequenceState::waiting;
  if (sequence.plans_in_flight > 0) row.state = wire::SequenceState::running;
  if (!sequence.parked.empty()) row.state = wire::SequenceState::parked;
  static_assert(kTimedSteps == wire::kRowSteps);
  row.steps = std::min(sequence.steps, kTimedSteps);
  for (uint32_t i = 0; i < row.steps; ++i) {
    row.times[i] = sequence.times[(sequence.steps - row.steps + i) % kTimedSteps];
  }
  return row;
}

void Conductor::verify() const {
  std::map<uint32_t, uint32_t> references;
  std::map<uint32_t, uint32_t> copies;  // on the device: of which block
  std::map<uint32_t, User> users;       // what they are found to have
  uint64_t operations = 0, active = 0, open = 0;
  for (const auto& sequence : sequences_) {
    active += sequence->active ? 1 : 0;
    open += sequence->open ? 1 : 0;
    if (!sequence->open) {
      IOKV_ASSERT(sequence->blocks.empty() && sequence->operations.empty() && sequence->parked.empty());
      continue;
    }
    const Client& client = clients_[sequence->client.slot];
    IOKV_ASSERT(client.present && client.generation == sequence->client.generation);
    IOKV_ASSERT(client.sequences.at(sequence->id) == sequence->slot);
    IOKV_ASSERT(sequence->cached <= sequence->tokens.size() + sequence->draws_in_flight);
    IOKV_ASSERT(sequence->cached <= sequence->blocks.size() * kBlockTokens);
    IOKV_ASSERT(sequence->tokens.size() <= config_.max_context);
    IOKV_ASSERT(sequence->plans_in_flight <= in_flight_.size());
    IOKV_ASSERT(sequence->parked.empty() || !sequence->operations.empty());
    IOKV_ASSERT(sequence->active || (sequence->operations.empty() && !is_recent(*sequence)));
    sequence->blocks.each([&](SequenceBlock block) {
      references[block.id]++;
      if (block.device_id == kNoBlock) return;
      IOKV_ASSERT(copies.emplace(block.device_id, block.id).first->second == block.id);
    });
    for (const Request& request : sequence->operations) operations += request.part ? 0 : 1;
  }
  IOKV_ASSERT(operations == operations_ && active == active_.size());
  IOKV_ASSERT(open + free_slots_.size() == sequences_.size());
  audit_.blocks().each([&](SequenceBlock block) { references[block.id]++; });
  for (const LimboBlock& limbo : limbo_) {
    if (limbo.block.id != kNoBlock) references[limbo.block.id]++;
    if (limbo.block.device_id != kNoBlock) copies.emplace(limbo.block.device_id, limbo.block.id);
    IOKV_ASSERT(limbo.plan > retired_ && limbo.plan <= issued_);
  }
  for (const Client& client : clients_) {
    if (!client.present) continue;
    IOKV_ASSERT(client.credits->reserved() == client.operations);
    uint32_t own = 0, parked = 0;
    uint64_t queued = 0;
    for (const auto& [id, slot] : client.sequences) {
      const Sequence& sequence = *sequences_[slot];
      for (const Request& request : sequence.operations) {
        own += request.part ? 0 : 1;
        queued += request.held_tokens();
      }
      parked += sequence.parked.empty() ? 0 : 1;
    }
    User& user = users[client.uid];
    user.clients++;
    user.sequences += static_cast<uint32_t>(client.sequences.size());
    user.queued_tokens += queued;
    IOKV_ASSERT(own == client.operations && parked == client.parked && queued == client.queued_tokens);
  }
  IOKV_ASSERT(in_flight_.size() == issued_ - retired_ && in_flight_.size() <= config_.plans_in_flight);
  uint64_t units = 0;
  for (const auto& [id, count] : references) {
    IOKV_ASSERT(pool_.references(id) == count);
    units += pool_.units_for(pool_.form(id)).value;
    if (block_users_[id] != kNobody) users[block_users_[id]].units += pool_.units_for(pool_.form(id)).value;
  }
  IOKV_ASSERT(users.size() == users_.size());
  for (const auto& [uid, user] : users_) {
    const User& found = users.at(uid);
    IOKV_ASSERT(user.clients == found.clients && user.sequences == found.sequences && user.units == found.units);
    IOKV_ASSERT(user.queued_tokens == found.queued_tokens);
  }
  IOKV_ASSERT(units + pool_.free_units().value == pool_.total_units().value);
  IOKV_ASSERT(device_pool_ || copies.empty());
  if (!device_pool_) return;
  uint64_t copied = 0;
  for (const auto& [id, block] : copies) copied += device_pool_->units_for(device_pool_->form(id)).value;
  IOKV_ASSERT(copied + device_pool_->free_units().value == device_pool_->total_units().value);
}

}  // namespace iokv
