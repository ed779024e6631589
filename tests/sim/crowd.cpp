// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/crowd.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "daemon/base/assert.h"
#include "iokv/iokv.h"
#include "tests/sim/oracle.h"

namespace iokv::sim {
namespace {

constexpr double kCancelled = 0.03, kVanishing = 0.02, kStalling = 0.01;  // of the requests
constexpr double kForked = 0.05, kEnded = 0.25;  // of the requests that find a conversation
constexpr double kAwaySeconds = 2 * 3600, kStallSeconds = 15, kPatienceSeconds = 8;
constexpr uint32_t kFewestDrawn = 16, kMostDrawn = 512;
constexpr uint32_t kShortest = 64;  // context

}  // namespace

Crowd::Crowd(const CrowdOptions& options, uint64_t seed, Tell tell)
    : options_(options), tell_(std::move(tell)), random_(seed), clients_(options.clients) {
  const double mean_s = static_cast<double>(options.arrive_within_ns) / 1e9 / options.clients;
  uint64_t at_ns = 0;
  for (uint32_t i = 0; i < options.clients; i++) {
    clients_[i].id = {i, 0};
    plan(at_ns += exponential_ns(mean_s), Act::connect, clients_[i]);
  }
  plan_request();
}

uint64_t Crowd::exponential_ns(double mean_s) { return 1 + static_cast<uint64_t>(-std::log(uniform()) * mean_s * 1e9); }

uint32_t Crowd::log_uniform(uint32_t from, uint32_t to) {
  return static_cast<uint32_t>(from * std::pow(static_cast<double>(to) / from, uniform()));
}

void Crowd::plan(uint64_t at_ns, Act act, const Client& client, uint64_t operation) {
  deeds_.push({at_ns, order_++, act, client.id.slot, client.id.generation, operation});
}

void Crowd::plan_request() {
  if (options_.requests_per_s <= 0) return;
  plan(now_ns_ + exponential_ns(1 / options_.requests_per_s), Act::request, clients_[0]);
}

void Crowd::act(uint64_t now_ns) {
  now_ns_ = now_ns;
  while (!deeds_.empty() && deeds_.top().at_ns <= now_ns) {
    const Deed deed = deeds_.top();
    deeds_.pop();
    Client& client = clients_[deed.client];
    if (deed.act == Act::request) {
      plan_request();
      // Whoever is chosen and has something to do already lets another one go first.
      for (int tries = 0; tries < 64; tries++) {
        Client& chosen = clients_[random_() % clients_.size()];
        if (!chosen.connected || chosen.operations > 0 || options_.requests_per_s <= 0) continue;
        request(chosen);
        break;
      }
      continue;
    }
    if (deed.generation != client.id.generation) continue;  // has vanished since
    switch (deed.act) {
      case Act::connect: connect(client); break;
      case Act::vanish: vanish(client); break;
      case Act::cancel:
        if (const auto found = operations_.find(deed.operation); found != operations_.end()) {
          Request cancel;
          cancel.kind = RequestKind::cancel;
          cancel.sequence = found->second.sequence;
          cancel.target = deed.operation;
          submit(client, std::move(cancel));
        }
        break;
      default: break;
    }
    if (deed.act == Act::wake && !client.to_reap) {
      client.to_reap = true;
      to_reap_.push_back(client.id.slot);
    }
  }
}

void Crowd::connect(Client& client) {
  client.connected = true;
  connected_++;
  tell_(ClientJoined{client.id, kGeometry, kMaxOperations, 1});
}

void Crowd::vanish(Client& client) {
  if (!client.connected) return;
  tell_(ClientGone{client.id});
  totals_.vanished++;
  connected_--;
  if (client.operations > 0) running_--;
  const ClientId id{client.id.slot, client.id.generation + 1};
  std::erase_if(operations_, [&](const auto& entry) { return entry.second.client == id.slot; });
  const bool to_reap = client.to_reap;
  client = Client{};
  client.id = id;
  client.to_reap = to_reap;
  if (options_.requests_per_s > 0) plan(now_ns_ + exponential_ns(kAwaySeconds), Act::connect, client);
}

void Crowd::all_leave() {
  options_.requests_per_s = 0;
  for (Client& client : clients_) vanish(client);
}

void Crowd::request(Client& client) {
  auto& conversations = client.conversations;
  const uint32_t drawn = log_uniform(kFewestDrawn, kMostDrawn), appended = log_uniform(16, 2048);
  totals_.requests++;
  const bool goes_on = !conversations.empty() && !chance(kEnded) &&
                       conversations[0].length + appended + drawn <= options_.max_context;
  if (goes_on && conversations.size() == 1 && chance(kForked)) {
    fork(client);
    for (Conversation& conversation : conversations) converse(client, conversation, appended, drawn);
  } else if (goes_on) {
    converse(client, conversations[0], appended, drawn);
  } else {
    for (const Conversation& old : conversations) {
      Request close;
      close.kind = RequestKind::close;
      close.sequence = old.sequence;
      submit(client, std::move(close));
    }
    Request open;
    open.kind = RequestKind::open;
    open.sequence = ++sequence_;
    conversations.assign(1, {open.sequence, 0});
    submit(client, std::move(open));
    const uint32_t context = log_uniform(kShortest, options_.max_context);
    const uint32_t draws = std::min(drawn, context - context / 4);
    converse(client, conversations[0], std::max(kShortest, context - draws), draws);
  }
  if (chance(kVanishing)) plan(now_ns_ + exponential_ns(kPatienceSeconds), Act::vanish, client);
  if (chance(kStalling)) {
    client.stalled_until_ns = now_ns_ + exponential_ns(kStallSeconds);
    totals_.stalls++;
    plan(client.stalled_until_ns, Act::wake, client);
  }
}

void Crowd::converse(Client& client, Conversation& conversation, uint32_t appended, uint32_t drawn) {
  totals_.appended += appended;
  Request step;
  step.kind = RequestKind::step;
  step.sequence = conversation.sequence;
  const auto token = static_cast<int32_t>(100 + operation_ % 1000);
  // Parts of one append carry one operation's id: that of the last.
  for (; appended > kPartTokens; appended -= kPartTokens) {
    Request part = step;
    part.part = true;
    part.operation = operation_ + 1;
    part.tokens.assign(kPartTokens, token);
    tell_(RequestTaken{client.id, std::move(part)});
    conversation.length += kPartTokens;
  }
  step.tokens.assign(appended, token);
  step.stop_tokens = {options_.end_token};
  step.max_tokens = drawn;
  conversation.length += appended;
  client.steps++;
  client.submitted_ns = client.steps == 1 ? now_ns_ : 0;
  const bool cancelled = chance(kCancelled);
  const uint64_t operation = submit(client, std::move(step), cancelled);
  if (cancelled) plan(now_ns_ + exponential_ns(kPatienceSeconds), Act::cancel, client, operation);
}

void Crowd::fork(Client& client) {
  totals_.forks++;
  Request fork;
  fork.kind = RequestKind::fork;
  fork.parent = client.conversations[0].sequence;
  fork.sequence = ++sequence_;
  fork.n = UINT32_MAX;
  client.conversations.push_back({fork.sequence, client.conversations[0].length});
  submit(client, std::move(fork));
}

uint64_t Crowd::submit(Client& client, Request&& request, bool may_be_cancelled) {
  request.operation = ++operation_;
  operations_[operation_] = {client.id.slot, client.id.generation, request.sequence, request.kind, 0, request.max_tokens,
                             now_ns_, may_be_cancelled};
  if (client.operations++ == 0) totals_.most_running = std::max(totals_.most_running, ++running_);
  const uint64_t operation = operation_;
  tell_(RequestTaken{client.id, std::move(request)});
  return operation;
}

void Crowd::receive(ClientId id, const Outcome& outcome) {
  Client& client = clients_[id.slot];
  IOKV_ASSERT(client.connected && client.id == id);
  const auto found = operations_.find(outcome.operation);
  IOKV_ASSERT(found != operations_.end() && found->second.client == id.slot);
  Operation& operation = found->second;
  client.posted++;
  if (!client.to_reap) {
    client.to_reap = true;
    to_reap_.push_back(id.slot);
  }
  for (uint64_t value : {now_ns_, outcome.operation, static_cast<uint64_t>(outcome.result), uint64_t{outcome.flags},
                         static_cast<uint64_t>(outcome.token), uint64_t{outcome.length}}) {
    totals_.digest = mix(totals_.digest ^ value);
  }
  auto conversation = std::find_if(client.conversations.begin(), client.conversations.end(),
                                   [&](const Conversation& c) { return c.sequence == operation.sequence; });
  if ((outcome.flags & IOKV_COMPLETION_TOKEN) != 0) {
    IOKV_ASSERT(operation.kind == RequestKind::step && outcome.index == operation.drawn++);
    IOKV_ASSERT(conversation != client.conversations.end() && outcome.length == ++conversation->length);
    totals_.tokens++;
    if (operation.drawn == 1) {
      const uint64_t waited_ns = now_ns_ - operation.submitted_ns;
      totals_.first_tokens++;
      totals_.first_token_ns += static_cast<double>(waited_ns);
      totals_.longest_first_token_ns = std::max(totals_.longest_first_token_ns, waited_ns);
    }
  }
  if ((outcome.flags & IOKV_COMPLETION_MORE) != 0) return;
  if (operation.kind == RequestKind::step) {
    const bool stopped = (outcome.flags & IOKV_COMPLETION_STOPPED) != 0;
    IOKV_ASSERT(outcome.result == 0 || (outcome.result == IOKV_ECANCELED && operation.may_be_cancelled));
    IOKV_ASSERT(outcome.result != 0 || stopped || operation.drawn == operation.max_tokens);
    (outcome.result != 0 ? totals_.cancelled : stopped ? totals_.ended_by_token : totals_.ended_by_limit)++;
    IOKV_ASSERT(conversation != client.conversations.end() && outcome.length == conversation->length);
    totals_.shortest = std::min(totals_.shortest, outcome.length);
    totals_.longest = std::max(totals_.longest, outcome.length);
    client.steps--;
  } else {
    IOKV_ASSERT(outcome.result == 0 || operation.kind == RequestKind::cancel);
  }
  operations_.erase(found);
  if (--client.operations == 0) running_--;
}

void Crowd::reap() {
  reaping_.clear();
  std::swap(reaping_, to_reap_);  // what gets room is posted at once, and reaped the next time
  for (uint32_t slot : reaping_) {
    Client& client = clients_[slot];
    client.to_reap = false;
    if (!client.connected || client.stalled_until_ns > now_ns_ || client.reaped == client.posted) continue;
    client.reaped = client.posted;
    tell_(HeadsAdvanced{client.id, client.reaped, 0});
  }
}

uint64_t Crowd::tokens_of_conversations() const {
  uint64_t tokens = 0;
  for (const Client& client : clients_) {
    for (const Conversation& conversation : client.conversations) tokens += conversation.length;
  }
  return tokens;
}

uint64_t Crowd::first_step_awaited_since(uint32_t client) const {
  return clients_[client].steps == 1 ? clients_[client].submitted_ns : 0;
}

}  // namespace iokv::sim
