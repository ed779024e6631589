// SPDX-License-Identifier: Apache-2.0
// The exchange stands between the clients' rings and the conductor: one pass takes what clients have announced, lets the
// conductor decide, and makes completions visible. It owns every Session and knows memory, but no sockets, clocks or
// devices: service.cpp drives it in the daemon, tests/sim with a virtual clock. One thread.
//
// Invariants
//  1. In a pass a client's heads reach the conductor before its entries do (wire/rings.h, invariant 7).
//  2. Nothing is posted to a client after it has been ended or has left.
//  3. A pass costs each client a bounded number of bytes (session.h, invariant 4) and entries (its ring).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/conductor.h"
#include "daemon/session/session.h"

namespace iokv {

// What a pass asks of whoever drives it.
class ExchangePorts {
 public:
  virtual ~ExchangePorts() = default;
  // The client sleeps and has something to find: wake it.
  virtual void ring(ClientId client) = 0;
  // The client is no longer served, and its Session is gone; it finds `code` in its memory. Say why, and hang up.
  virtual void ended(ClientId client, int32_t code, const std::string& reason) = 0;
  // See Effects.
  virtual void issue(Plan* plan) = 0;
  virtual void discarded(uint32_t block, BlockForm form) = 0;
  virtual void audit_failed(const AuditFinding&) {}
};

class Exchange final : private Effects {
 public:
  Exchange(const ConductorConfig& config, const SessionLimits& limits, BlockPool& pool, ExchangePorts& ports);

  // Outstanding operations that a client of this geometry may have; for WELCOME.
  static uint32_t max_operations(const wire::Geometry& geometry);
  bool full() const { return clients_ == sessions_.size(); }
  // up and down: the daemon's mappings, zeroed; they outlive the client's leaving or ending. Not when full().
  ClientId join(uint64_t now_ns, const wire::Geometry& geometry, std::byte* up, std::byte* down, uint32_t weight = 1,
                uint32_t uid = 0);
  // The client has hung up. A client that is not there (it was ended) is nothing.
  void leave(uint64_t now_ns, ClientId client);
  // Ends the client for a reason outside of its rings.
  void end(uint64_t now_ns, ClientId client, int32_t code, const std::string& reason);

  // A Plan that has run; the next pass makes its outcomes visible.
  void retire(uint64_t now_ns, Plan* plan);
  void retune(uint64_t now_ns, const ConductorTuning& tuning);
  void shut_down(uint64_t now_ns);
  // See Conductor.
  void know_device(const Profile& profile) { conductor_.know_device(profile); }

  // true: something was taken or posted, and another pass may find more.
  bool pass(uint64_t now_ns);
  // Before sleeping; true: something has arrived meanwhile, so do not. Then disarm.
  bool arm();
  void disarm();

  const Conductor& conductor() const { return conductor_; }

 private:
  struct Served {
    uint32_t generation = 0;
    std::unique_ptr<Session> session;
    bool ending = false;  // named in endings_
  };
  struct Ending {
    ClientId client;
    int32_t code = 0;
    std::string reason;
  };

  void post(ClientId client, const Outcome& outcome) override;
  void end_client(ClientId client, int32_t code, const std::string& reason) override;
  void issue(Plan* plan) override { ports_.issue(plan); }
  void discarded(uint32_t block, BlockForm form) override { ports_.discarded(block, form); }
  void audit_failed(const AuditFinding& finding) override { ports_.audit_failed(finding); }

  Served* find(ClientId client);
  bool take(uint64_t now_ns, ClientId client, Session& session);
  bool carry_out_endings(uint64_t now_ns);

  ExchangePorts& ports_;
  SessionLimits limits_;
  std::vector<Served> sessions_;  // by ClientId::slot
  size_t clients_ = 0;
  Conductor conductor_;
  std::vector<Request> requests_;
  std::vector<Ending> endings_;
  bool dirty_ = true;  // something has reached the conductor since the last PassEnded
};

}  // namespace iokv
