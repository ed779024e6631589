// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/world.h"

#include <algorithm>
#include <cstdio>

#include "daemon/base/assert.h"
#include "iokv/iokv.h"
#include "tests/sim/oracle.h"

namespace iokv::sim {
namespace {

constexpr wire::Geometry kGeometry{16, 64, 4096, 4096};
constexpr uint64_t kMostTurns = 4'000'000;

}  // namespace

World::World(uint64_t seed) : random_(seed) {
  config_.vocabulary = kVocabulary;
  config_.max_context = 200 + below(400);
  config_.max_clients = 6;
  config_.max_sequences = 4 + below(5);
  config_.plans_in_flight = 1 + below(2);
  config_.tuning.stall_lease_ns = 1'000'000 + below(20'000'000);
  config_.recompute.mode = static_cast<Recompute>(below(3));
  config_.recompute.fraction = below(101) / 100.0;
  config_.logits_rows_each = 1 + below(8);
  config_.batch.max_rows = 16 + below(100);
  config_.batch.max_draws = 4 + below(16);
  config_.batch.prefill_rows = 4 + below(60);
  config_.batch.free_rows = 1 + below(8);
  if (below(2) == 0) {
    config_.step_model.profile.dense = {1.0 * below(50'000), 0, 1.0 + below(2'000)};
    config_.step_model.shape.layers = 1;
    config_.tuning.prefill_delay = 0.1 * below(20);
    if (below(2) == 0) {
      config_.step_model.shape = {1, 64, 128, 2};
      config_.step_model.profile.h2d = {0, 1.0 * below(1'000), 1.0 * below(20)};
      config_.step_model.profile.recompute = {0, 0, 1.0 * below(500)};
      config_.step_model.profile.host_attend = {0, 1.0 * below(1'000), 1.0 + below(500)};
      config_.batch_invariant = below(2) == 0;
      if (below(2) == 0) config_.recompute.mode = Recompute::automatic;
    }
  }
  if (below(2) == 0) {
    config_.audit.share = 0.01 * (1 + below(100));
    config_.audit.max_tokens = 1 + below(700);
  }
  config_.verify_always = true;
  if (below(2) == 0) config_.device_units = 2 + below(40);
  PoolShape shape;
  shape.units = below(2) == 0 ? 5 + below(12) : 12 + below(60);  // half of them too small for what is wanted
  shape.kv_units = 1 + below(2);
  shape.units -= shape.units % shape.kv_units;
  pool_ = std::make_unique<BlockPool>(shape);
  device_ = std::make_unique<ModelledDevice>(*pool_, random_);
  SessionLimits limits;
  limits.vocabulary = kVocabulary;
  limits.max_step_tokens = 2 * config_.max_context;
  limits.max_stop_tokens = 8;
  limits.copy_bytes_per_pass = 256 + below(4096);
  // Users with a share of the pool that holds a block at least.
  UserLimits& user = config_.tuning.access.everybody;
  if (below(2) == 0) user.pool_percent = std::min(100u, (100 * shape.kv_units + shape.units - 1) / shape.units + below(100));
  exchange_.reset(new Exchange(config_, limits, *pool_, *this));
  surroundings_.max_context = config_.max_context;
  surroundings_.max_sequences = config_.max_sequences;
  surroundings_.max_operations = Exchange::max_operations(kGeometry);
  const bool all_x = config_.recompute.mode == Recompute::always;
  surroundings_.pool_tokens = uint64_t{shape.units} * user.pool_percent / 100 / (all_x ? shape.x_units : shape.kv_units) * kBlockTokens;
  to_come_ = 2 + below(5);
  if (below(10) == 0) stops_at_turn_ = 1 + below(20'000);
}

World::~World() = default;

Report World::run() {
  while (!finished()) {
    IOKV_ASSERT(++report_.turns < kMostTurns);  // nobody makes progress
    now_ns_ += below(2'000);
    if (to_come_ > 0 && below(200) == 0) invite();
    if (report_.turns == stops_at_turn_) {
      exchange_->shut_down(now_ns_);
      surroundings_.stopping = true;
      wake_daemon();
    }
    if (below(20'000) == 0) {
      device_->fails_next = true;
      surroundings_.device_failed = true;
    }
    bool something = daemon_turn();
    something |= device_turn();
    for (Guest& guest : guests_) {
      if (guest.present && below(4) == 0) client_turn(guest);
      if (guest.present && guest.dies_at_ns != 0 && guest.dies_at_ns <= now_ns_) leave(guest);
    }
    if (!something && !jump_to_next_event()) check_end();
  }
  for (Guest& guest : guests_) {
    if (guest.honest) report_.tokens_checked += guest.honest->tokens_checked();
    if (guest.present) leave(guest);
  }
  while (device_->busy() || !retired_.empty()) {
    if (device_->busy()) now_ns_ = std::max(now_ns_, device_->done_ns());
    device_turn();
    daemon_turn();
  }
  IOKV_ASSERT(exchange_->conductor().quiet());
  IOKV_ASSERT(pool_->free_units() == pool_->total_units());
  const auto& counters = exchange_->conductor().counters();
  report_.audits = counters[static_cast<uint32_t>(wire::Counter::audit_steps)];
  IOKV_ASSERT(counters[static_cast<uint32_t>(wire::Counter::audit_mismatches)] == 0);
  report_.preemptions = counters[static_cast<uint32_t>(wire::Counter::preemptions)];
  report_.stall_releases = counters[static_cast<uint32_t>(wire::Counter::stall_releases)];
  return report_;
}

void World::invite() {
  if (exchange_->full()) return;
  to_come_--;
  Guest guest;
  guest.present = true;
  const bool honest = below(100) < 75;
  if (honest) {
    guest.honest = std::make_unique<HonestClient>(kGeometry, surroundings_, random_, 5 + below(60));
  } else {
    guest.hostile = std::make_unique<HostileClient>(kGeometry, random_);
  }
  if (!honest || below(5) == 0) guest.dies_at_ns = now_ns_ + below(40'000'000);
  RingClient& rings = honest ? guest.honest->rings : guest.hostile->rings;
  guest.id = exchange_->join(now_ns_, kGeometry, rings.up(), rings.down(), 1 + below(8), 1000 + below(3));
  guests_.push_back(std::move(guest));
  wake_daemon();
}

// One turn of the service's loop. false: it sleeps.
bool World::daemon_turn() {
  if (daemon_asleep_) {
    const uint64_t timer_ns = exchange_->conductor().next_timer_ns();
    if (timer_ns == 0 || timer_ns > now_ns_) return false;
    wake_daemon();
  }
  while (!retired_.empty()) {
    exchange_->retire(now_ns_, retired_.front());
    retired_.pop_front();
  }
  if (exchange_->pass(now_ns_)) return true;
  if (exchange_->arm()) {
    exchange_->disarm();
    return true;
  }
  daemon_asleep_ = true;
  return false;
}

void World::wake_daemon() {
  if (daemon_asleep_) exchange_->disarm();
  daemon_asleep_ = false;
}

bool World::client_turn(Guest& guest) {
  if (guest.hostile) {
    guest.hostile->act();
    if (below(3) == 0) wake_daemon();
    return true;
  }
  if (guest.honest->asleep()) return false;
  if (guest.honest->act(now_ns_)) wake_daemon();
  return true;
}

bool World::device_turn() {
  if (!device_->busy() || device_->done_ns() > now_ns_) return false;
  retired_.push_back(device_->finish());
  wake_daemon();
  return true;
}

// Nothing is to be done now: the clock goes to whatever comes next. false: nothing will.
bool World::jump_to_next_event() {
  uint64_t next = 0;
  auto consider = [&](uint64_t time) {
    if (time > now_ns_) next = next == 0 ? time : std::min(next, time);
  };
  bool awake = to_come_ > 0;
  for (const Guest& guest : guests_) {
    if (!guest.present) continue;
    consider(guest.dies_at_ns);
    if (!guest.honest) continue;
    consider(guest.honest->stalled_until_ns());
    awake |= !guest.honest->asleep() && !guest.honest->done() && guest.honest->stalled_until_ns() <= now_ns_;
  }
  if (awake) return true;
  if (device_->busy()) consider(device_->done_ns());
  consider(exchange_->conductor().next_timer_ns());
  if (next == 0) return false;
  now_ns_ = next;
  return true;
}

bool World::finished() const {
  return to_come_ == 0 && std::all_of(guests_.begin(), guests_.end(), [](const Guest& guest) {
           return !guest.present || !guest.honest || guest.honest->done();
         });
}

// Everybody sleeps and nobody will be woken: a wake-up was lost, or an operation forgotten.
void World::check_end() {
  if (finished()) return;
  std::printf("everybody sleeps at %llu ns:\n", static_cast<unsigned long long>(now_ns_));
  for (const Guest& guest : guests_) {
    if (guest.present && guest.honest) std::printf("  client %u: %s\n", guest.id.slot, guest.honest->state().c_str());
  }
  std::fflush(stdout);
  IOKV_ASSERT(!"deadlock");
}

void World::leave(Guest& guest) {
  exchange_->leave(now_ns_, guest.id);
  guest.present = false;
  report_.died++;
  wake_daemon();
}

void World::ring(ClientId client) {
  for (Guest& guest : guests_) {
    if (guest.present && guest.id == client && guest.honest) guest.honest->wake();
  }
}

void World::ended(ClientId client, int32_t code, const std::string& reason) {
  for (Guest& guest : guests_) {
    if (!guest.present || guest.id != client) continue;
    if (guest.honest) std::printf("an honest client was ended: %d %s\n", code, reason.c_str());
    IOKV_ASSERT(guest.hostile != nullptr);
    IOKV_ASSERT(guest.hostile->rings.end_code() == code);
    guest.present = false;
    report_.ended++;
  }
}

void World::issue(Plan* plan) {
  report_.plans++;
  device_->issue(now_ns_, plan);
}

}  // namespace iokv::sim
