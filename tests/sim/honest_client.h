// SPDX-License-Identifier: Apache-2.0
// A client that uses the rings as the protocol says, does random things with a few sequences, and checks every
// completion against what it would have got alone: tokens, log-probabilities, logits, lengths, order, exactly one final
// completion an operation, and no failure without a cause that it knows.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "daemon/sched/request.h"
#include "tests/sim/ring_client.h"

namespace iokv::sim {

// What the daemon was configured with, and what has happened to it, as far as it explains a failure.
struct Surroundings {
  uint32_t max_context = 0;
  uint32_t max_sequences = 0;
  uint32_t max_operations = 0;
  uint64_t pool_tokens = 0;  // that one sequence can have at the most
  bool stopping = false;
  bool device_failed = false;
};

class HonestClient {
 public:
  HonestClient(const wire::Geometry& geometry, const Surroundings& surroundings, std::mt19937_64& random,
               uint32_t operations);

  RingClient rings;

  // Does one thing, or goes to sleep. true: rings the daemon.
  bool act(uint64_t now_ns);
  bool asleep() const { return asleep_; }
  void wake() { asleep_ = false; }
  uint64_t stalled_until_ns() const { return stalled_until_ns_; }
  // Has done all it wanted and has nothing outstanding.
  bool done() const { return left_ == 0 && operations_.empty(); }
  size_t outstanding() const { return operations_.size(); }
  uint64_t tokens_checked() const { return tokens_checked_; }
  std::string state() const;  // for a failure's report

 private:
  struct Operation {
    RequestKind kind = RequestKind::nop;
    uint64_t sequence = 0;          // whose order it is part of; FORK: the parent
    uint64_t child = 0;
    std::vector<int32_t> tokens;
    std::vector<int32_t> stop_tokens;
    uint32_t n = 0, m = 0;
    bool each = false, logits = false, bad_token = false;
    std::optional<SampleParams> sampling;
    uint64_t deadline_ns = 0;
    bool may_be_cancelled = false;
    bool begun = false;             // its tokens are in the sequence
    uint32_t before = 0;            // length before them
    uint32_t sampled = 0, predicted = 0;
    uint64_t length_at_limit = 0;
  };
  struct View {                     // of a sequence
    std::vector<int32_t> tokens;
    SampleParams sampling;
    std::deque<uint64_t> order;     // operations without a final completion
    bool close_placed = false;
    bool gone = false;              // closed, or never came to be
    bool may_be_refused = false;    // its OPEN or FORK may fail
    bool awaits_fork = false;
  };

  bool reap_some(uint64_t now_ns, bool& ring);
  bool place_one(uint64_t now_ns);
  void place_step(uint64_t now_ns, uint64_t id);
  bool place(Operation operation, wire::Submission entry, std::span<const std::byte> payload);
  std::vector<std::byte> step_payload(const Operation& operation, std::span<const int32_t> tokens, bool with_stops) const;
  void check(uint64_t now_ns, const RingClient::Reaped& reaped);
  void check_token(Operation& operation, View& view, const RingClient::Reaped& reaped);
  void check_prediction(Operation& operation, View& view, const RingClient::Reaped& reaped);
  void check_final(uint64_t now_ns, uint64_t id, Operation& operation, const wire::Completion& completion);
  void check_failure(uint64_t now_ns, const Operation& operation, int32_t code);
  void begin(Operation& operation, View& view);
  bool chance(uint32_t percent) { return random_() % 100 < percent; }
  uint32_t below(uint32_t end) { return static_cast<uint32_t>(random_() % end); }
  SampleParams random_sampling();
  uint64_t any_sequence();

  const Surroundings& surroundings_;
  std::mt19937_64& random_;
  uint32_t left_;
  bool asleep_ = false, armed_ = false;
  uint64_t stalled_until_ns_ = 0;
  uint64_t next_operation_ = 1;
  uint32_t next_sequence_ = 1;
  std::map<uint64_t, Operation> operations_;
  std::map<uint64_t, View> views_;
  uint64_t tokens_checked_ = 0;
};

}  // namespace iokv::sim
