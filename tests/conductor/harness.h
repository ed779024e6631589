// SPDX-License-Identifier: Apache-2.0
// A conductor with everything around it in the test's hand: the clock, the requests, the device's answers. Draws are
// numbered from 1000 on, so that a test sees which draw became which token.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "daemon/conductor.h"
#include "daemon/pool/block_pool.h"

namespace iokv {

class Harness : public Effects {
 public:
  explicit Harness(ConductorConfig config = {}, uint32_t pool_units = 64, bool verify_always = true)
      : pool(PoolShape{pool_units, config.staging.kv_units, config.staging.x_units}), conductor(completed(config, verify_always), pool, *this) {}

  struct Posted {
    ClientId client;
    Outcome outcome;
  };

  ClientId join(uint32_t slot, wire::Geometry geometry = {16, 64, 4096, 4096}, uint32_t weight = 1,
                uint32_t uid = 0) {
    ClientId client{slot, ++generations_};
    handle(ClientJoined{client, geometry, geometry.completion_entries / 2, weight, uid});
    return client;
  }
  // Made in place: gcc 12 takes a moved variant's other alternatives for used before they are set, when it sanitizes.
  template <typename What>
  void handle(What what) {
    conductor.handle({now_ns, std::move(what)});
  }
  void plan() { handle(PassEnded{}); }

  uint64_t submit(ClientId client, Request request) {
    request.operation = ++operations_;
    request.user_data = request.operation;
    handle(RequestTaken{client, std::move(request)});
    return operations_;
  }
  uint64_t open(ClientId client, uint64_t sequence, int16_t priority = 0) {
    Request request;
    request.kind = RequestKind::open;
    request.sequence = sequence;
    request.priority = priority;
    return submit(client, request);
  }
  static Request step(uint64_t sequence, uint32_t tokens, uint32_t max_tokens) {
    Request request;
    request.kind = RequestKind::step;
    request.sequence = sequence;
    request.tokens.assign(tokens, 7);
    request.max_tokens = max_tokens;
    return request;
  }
  static Request other(RequestKind kind, uint64_t sequence, uint32_t n = 0) {
    Request request;
    request.kind = kind;
    request.sequence = sequence;
    request.n = n;
    return request;
  }

  // Answers the oldest Plan that is out.
  void retire(const std::string& failure = "") {
    Plan* done = issued.front();
    issued.pop_front();
    for (PlanDraw& draw : done->draws) draw.token = draw_next++;
    done->failure = failure;
    handle(PlanRetired{done});
  }
  // Plans and answers until nothing is out.
  void run() {
    for (plan(); !issued.empty(); plan()) retire();
  }
  void reaped(ClientId client) {
    handle(HeadsAdvanced{client, static_cast<uint32_t>(posted.size()), 0});
  }

  const PlanSpan* span_of(size_t plan_index, uint32_t client_slot) const {
    for (const PlanSpan& span : issued.at(plan_index)->spans) {
      if (span.client_slot == client_slot) return &span;
    }
    return nullptr;
  }
  std::vector<Outcome> outcomes(uint64_t operation) const {
    std::vector<Outcome> found;
    for (const Posted& one : posted) {
      if (one.outcome.operation == operation) found.push_back(one.outcome);
    }
    return found;
  }
  uint64_t counter(wire::Counter which) const { return conductor.counters()[static_cast<uint32_t>(which)]; }

  void post(ClientId client, const Outcome& outcome) override { posted.push_back({client, outcome}); }
  void end_client(ClientId client, int32_t code, const std::string&) override { ended.emplace_back(client, code); }
  void issue(Plan* plan) override { issued.push_back(plan); }
  void discarded(uint32_t block, BlockForm) override { discarded_blocks.push_back(block); }

  uint64_t now_ns = 1;
  int32_t draw_next = 1000;
  std::vector<Posted> posted;
  std::vector<std::pair<ClientId, int32_t>> ended;
  std::deque<Plan*> issued;
  std::vector<uint32_t> discarded_blocks;
  BlockPool pool;
  Conductor conductor;

 private:
  static ConductorConfig completed(ConductorConfig config, bool verify_always) {
    if (config.vocabulary == 0) config.vocabulary = 100000;
    if (config.max_context == 0) config.max_context = 1024;
    config.verify_always = verify_always;
    return config;
  }

  uint32_t generations_ = 0;
  uint64_t operations_ = 0;
};

}  // namespace iokv
