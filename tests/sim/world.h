// SPDX-License-Identifier: Apache-2.0
// One simulated life of a daemon: the product's exchange and conductor, a modelled device, a virtual clock and clients of
// several kinds, in an order that a seed decides. Nothing in it is real but the code under test.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "daemon/exchange.h"
#include "daemon/pool/block_pool.h"
#include "tests/sim/honest_client.h"
#include "tests/sim/hostile_client.h"
#include "tests/sim/modelled_device.h"

namespace iokv::sim {

struct Report {
  uint64_t turns = 0, tokens_checked = 0, plans = 0, preemptions = 0, stall_releases = 0, ended = 0, died = 0, audits = 0;
};

class World final : private ExchangePorts {
 public:
  explicit World(uint64_t seed);
  ~World() override;

  // Until every honest client that lives has all its completions. Aborts where an invariant breaks.
  Report run();

 private:
  struct Guest {
    ClientId id;
    bool present = false;
    std::unique_ptr<HonestClient> honest;    // one of the two
    std::unique_ptr<HostileClient> hostile;
    uint64_t dies_at_ns = 0;                 // 0: not
  };

  void ring(ClientId client) override;
  void ended(ClientId client, int32_t code, const std::string& reason) override;
  void issue(Plan* plan) override;
  void discarded(uint32_t block, BlockForm form) override { device_->discard(block), (void)form; }

  void invite();
  bool daemon_turn();
  bool client_turn(Guest& guest);
  bool device_turn();
  bool jump_to_next_event();
  void leave(Guest& guest);
  void wake_daemon();
  bool finished() const;
  void check_end();
  uint32_t below(uint32_t end) { return static_cast<uint32_t>(random_() % end); }

  std::mt19937_64 random_;
  uint64_t now_ns_ = 1'000'000'000;
  ConductorConfig config_;
  Surroundings surroundings_;
  std::unique_ptr<BlockPool> pool_;
  std::unique_ptr<ModelledDevice> device_;
  std::unique_ptr<Exchange> exchange_;
  std::deque<Plan*> retired_;
  std::vector<Guest> guests_;
  uint32_t to_come_ = 0;
  bool daemon_asleep_ = false;
  uint64_t stops_at_turn_ = 0;
  Report report_;
};

}  // namespace iokv::sim
