// SPDX-License-Identifier: Apache-2.0
#include "daemon/exchange.h"

#include <algorithm>
#include <utility>

#include "iokv/iokv.h"

namespace iokv {

Exchange::Exchange(const ConductorConfig& config, const SessionLimits& limits, BlockPool& pool, ExchangePorts& ports)
    : ports_(ports), limits_(limits), sessions_(config.max_clients), conductor_(config, pool, *this) {}

uint32_t Exchange::max_operations(const wire::Geometry& geometry) { return geometry.completion_entries / 2; }

ClientId Exchange::join(uint64_t now_ns, const wire::Geometry& geometry, std::byte* up, std::byte* down,
                        uint32_t weight, uint32_t uid) {
  auto free = std::find_if(sessions_.begin(), sessions_.end(), [](const Served& s) { return s.session == nullptr; });
  IOKV_ASSERT(free != sessions_.end());
  free->generation++;
  free->ending = false;
  free->session = std::make_unique<Session>(geometry, up, down, limits_);
  clients_++;
  ClientId client{static_cast<uint32_t>(free - sessions_.begin()), free->generation};
  conductor_.handle({now_ns, ClientJoined{client, geometry, max_operations(geometry), weight, uid}});
  dirty_ = true;
  return client;
}

void Exchange::leave(uint64_t now_ns, ClientId client) {
  Served* served = find(client);
  if (served == nullptr) return;
  conductor_.handle({now_ns, ClientGone{client}});
  served->session.reset();
  clients_--;
  std::erase_if(endings_, [=](const Ending& ending) { return ending.client == client; });
  dirty_ = true;
}

void Exchange::end(uint64_t now_ns, ClientId client, int32_t code, const std::string& reason) {
  if (find(client) == nullptr) return;
  end_client(client, code, reason);
  carry_out_endings(now_ns);
}

void Exchange::retire(uint64_t now_ns, Plan* plan) {
  conductor_.handle({now_ns, PlanRetired{plan}});
  dirty_ = true;
}

void Exchange::retune(uint64_t now_ns, const ConductorTuning& tuning) {
  conductor_.handle({now_ns, Retuned{tuning}});
  dirty_ = true;
}

void Exchange::shut_down(uint64_t now_ns) {
  conductor_.handle({now_ns, ShutdownRequested{}});
  dirty_ = true;
}

bool Exchange::pass(uint64_t now_ns) {
  bool more = false;
  for (uint32_t slot = 0; slot < sessions_.size(); slot++) {
    Served& served = sessions_[slot];
    if (served.session != nullptr) more |= take(now_ns, {slot, served.generation}, *served.session);
  }
  const uint64_t timer_ns = conductor_.next_timer_ns();
  if (dirty_ || (timer_ns != 0 && timer_ns <= now_ns)) {
    dirty_ = false;
    conductor_.handle({now_ns, PassEnded{}});
    more = true;
  }
  more |= carry_out_endings(now_ns);
  for (uint32_t slot = 0; slot < sessions_.size(); slot++) {
    Served& served = sessions_[slot];
    if (served.session != nullptr && served.session->publish()) ports_.ring({slot, served.generation});
  }
  return more;
}

// Entries first, then heads, as wire/rings.h orders the loads; handed on the other way round.
bool Exchange::take(uint64_t now_ns, ClientId client, Session& session) {
  requests_.clear();
  const uint32_t completion_head = session.completion_head(), result_head = session.result_head();
  const Session::Pass taken = session.drain(requests_);
  if (taken == Session::Pass::broken || !session.observe_heads()) {
    end_client(client, IOKV_EPROTOCOL, session.broken_reason());
    return true;
  }
  if (session.completion_head() != completion_head || session.result_head() != result_head) {
    conductor_.handle({now_ns, HeadsAdvanced{client, session.completion_head(), session.result_head()}});
    dirty_ = true;
  }
  for (Request& request : requests_) {
    conductor_.handle({now_ns, RequestTaken{client, std::move(request)}});
    dirty_ = true;
  }
  return taken == Session::Pass::more;
}

bool Exchange::carry_out_endings(uint64_t now_ns) {
  if (endings_.empty()) return false;
  // leave() edits endings_.
  for (const Ending& ending : std::exchange(endings_, {})) {
    Served* served = find(ending.client);
    if (served == nullptr) continue;
    served->session->publish();
    served->session->end(ending.code);
    leave(now_ns, ending.client);
    ports_.ended(ending.client, ending.code, ending.reason);
  }
  return true;
}

bool Exchange::arm() {
  bool arrived = false;
  for (uint32_t slot = 0; slot < sessions_.size(); slot++) {
    Served& served = sessions_[slot];
    if (served.session == nullptr) continue;
    arrived |= served.session->arm(conductor_.wants_reap({slot, served.generation}));
  }
  return arrived;
}

void Exchange::disarm() {
  for (Served& served : sessions_) {
    if (served.session != nullptr) served.session->disarm();
  }
}

void Exchange::post(ClientId client, const Outcome& outcome) {
  Served* served = find(client);
  IOKV_ASSERT(served != nullptr);
  if (!served->ending) served->session->post(outcome);
}

void Exchange::end_client(ClientId client, int32_t code, const std::string& reason) {
  Served* served = find(client);
  if (served == nullptr || served->ending) return;
  served->ending = true;
  endings_.push_back({client, code, reason});
}

Exchange::Served* Exchange::find(ClientId client) {
  if (client.slot >= sessions_.size()) return nullptr;
  Served& served = sessions_[client.slot];
  return served.session != nullptr && served.generation == client.generation ? &served : nullptr;
}

}  // namespace iokv
