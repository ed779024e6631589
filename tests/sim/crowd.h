// SPDX-License-Identifier: Apache-2.0
// Thousands of clients that talk to a conductor without rings between them. Requests arrive as a Poisson process, each at
// a client that waits for nothing: it begins a conversation, goes on with it, or forks it and goes on with both. Some
// cancel, some stop reaping for a while, some vanish in the middle and come back. Every completion is checked for what
// holds whatever the scheduler does: order, lengths, and exactly one final one an operation.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <random>
#include <unordered_map>
#include <vector>

#include "daemon/conductor.h"

namespace iokv::sim {

struct CrowdOptions {
  uint32_t clients = 0;
  double requests_per_s = 0;    // of all together
  uint64_t arrive_within_ns = 0;  // the time in which they connect, one after the other
  uint32_t max_context = 0;     // tokens
  int32_t end_token = 0;        // ends what draws it
};

class Crowd {
 public:
  static constexpr wire::Geometry kGeometry{32, 64, 1 << 20, 1 << 12};
  static constexpr uint32_t kMaxOperations = 16;
  static constexpr uint32_t kPartTokens = 8192;  // longer appends come in parts of so many

  using Tell = std::function<void(decltype(Event::what))>;
  Crowd(const CrowdOptions& options, uint64_t seed, Tell tell);

  uint64_t next_ns() const { return deeds_.empty() ? UINT64_MAX : deeds_.top().at_ns; }
  // Whatever is due. The clock never goes back.
  void act(uint64_t now_ns);
  // Gives back what was posted, but for clients that have stopped reaping.
  void reap();
  bool wants_to_reap() const { return !to_reap_.empty(); }
  void receive(ClientId id, const Outcome& outcome);
  // No more requests; whoever is busy goes on.
  void calm_down() { options_.requests_per_s = 0; }
  bool calm() const { return running_ == 0; }
  void all_leave();

  // As of now.
  uint32_t connected() const { return connected_; }
  uint32_t running() const { return running_; }  // clients with operations
  // Of a client with one operation that computes, when it was submitted; 0 otherwise, and after its first step.
  uint64_t first_step_awaited_since(uint32_t client) const;
  void first_step_seen(uint32_t client) { clients_[client].submitted_ns = 0; }
  bool has_stalled_since(uint32_t client, uint64_t time_ns) const { return clients_[client].stalled_until_ns >= time_ns; }

  struct Totals {
    uint64_t requests = 0, tokens = 0, ended_by_token = 0, ended_by_limit = 0, cancelled = 0;
    uint64_t forks = 0, vanished = 0, stalls = 0, appended = 0;
    uint32_t shortest = UINT32_MAX, longest = 0;  // contexts at the end of an operation
    uint32_t most_running = 0;
    uint64_t first_tokens = 0, longest_first_token_ns = 0;
    double first_token_ns = 0;  // from submission, added up
    uint64_t digest = 0;  // of all outcomes, with their times
  };
  uint64_t tokens_of_conversations() const;
  const Totals& totals() const { return totals_; }

 private:
  enum class Act : uint8_t { connect, request, cancel, vanish, wake };
  struct Deed {
    uint64_t at_ns = 0, order = 0;
    Act act = Act::request;
    uint32_t client = 0, generation = 0;
    uint64_t operation = 0;
    bool operator>(const Deed& other) const { return std::pair(at_ns, order) > std::pair(other.at_ns, other.order); }
  };
  struct Conversation {
    uint64_t sequence = 0;
    uint32_t length = 0;  // tokens
  };
  struct Client {
    ClientId id;
    bool connected = false;
    uint32_t operations = 0;           // without a final completion
    uint32_t steps = 0;                // of them
    uint32_t posted = 0, reaped = 0;   // completions
    bool to_reap = false;
    uint64_t stalled_until_ns = 0;
    uint64_t submitted_ns = 0;
    std::vector<Conversation> conversations;
  };
  struct Operation {
    uint32_t client = 0, generation = 0;
    uint64_t sequence = 0;
    RequestKind kind = RequestKind::nop;
    uint32_t drawn = 0, max_tokens = 0;
    uint64_t submitted_ns = 0;
    bool may_be_cancelled = false;
  };

  double uniform() { return (static_cast<double>(random_() >> 11) + 0.5) * 0x1p-53; }
  uint64_t exponential_ns(double mean_s);
  uint32_t log_uniform(uint32_t from, uint32_t to);
  bool chance(double of) { return uniform() < of; }
  void plan(uint64_t at_ns, Act act, const Client& client, uint64_t operation = 0);
  void plan_request();
  void connect(Client& client);
  void vanish(Client& client);
  void request(Client& client);
  void converse(Client& client, Conversation& conversation, uint32_t appended, uint32_t drawn);
  void fork(Client& client);
  uint64_t submit(Client& client, Request&& request, bool may_be_cancelled = false);

  CrowdOptions options_;
  const Tell tell_;
  std::mt19937_64 random_;
  uint64_t now_ns_ = 0;
  std::vector<Client> clients_;
  uint32_t connected_ = 0, running_ = 0;
  std::priority_queue<Deed, std::vector<Deed>, std::greater<>> deeds_;
  uint64_t order_ = 0, operation_ = 0, sequence_ = 0;
  std::unordered_map<uint64_t, Operation> operations_;
  std::vector<uint32_t> to_reap_, reaping_;
  Totals totals_;
};

}  // namespace iokv::sim
