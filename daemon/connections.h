// SPDX-License-Identifier: Apache-2.0
// Every client's socket, from accept to hang-up: the handshake, FETCH, doorbells, and why it ended. libuv watches the
// sockets; what clients say through shared memory is the exchange's (exchange.h). Runs on the conductor's thread.
//
// Invariants
//  1. A connection that is not served costs one descriptor and a little memory, and is dropped when it has not said HELLO
//     within kGreetingMs; there are at most max_clients + kExtraConnections in all.
//  2. Regions are unmapped only after the exchange has let go of the client.
//  3. A connection's memory is freed when libuv has let go of all its handles.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <uv.h>

#include "daemon/base/result.h"
#include "daemon/log.h"
#include "daemon/offer.h"
#include "daemon/session/blob.h"
#include "daemon/session/listener.h"
#include "daemon/session/peer.h"
#include "daemon/session/regions.h"
#include "daemon/step_trace.h"
#include "daemon/user_limits.h"

namespace iokv {

class Exchange;

class Connections {
 public:
  // All of them outlive this object. The loop is run by the caller. Weights are by the uid of a client's process, and 1
  // for others. Weights and limits may change, and count for clients that are yet to come.
  Connections(uv_loop_t* loop, Listener& listener, const Offer& offer, Exchange& exchange, const StepTrace& trace,
              uint32_t max_clients, const std::map<uint32_t, uint32_t>& weights, const AccessLimits& access);
  ~Connections();  // after close_all, and once the loop has run out of handles

  // While the model loads, clients that said HELLO are told how far; then they are welcomed.
  void set_loading(uint32_t percent);
  void set_ready();

  // For Exchange: wake a client; the exchange has ended one, which is told why and hung up.
  void ring(ClientId client);
  void ended(ClientId client, int32_t code, const std::string& reason);

  // No more clients; everyone is told `reason` and hung up. Handles close as the loop runs on.
  void close_all(int32_t code, const std::string& reason);

  // For the log: `"name" (pid 1, uid 2)`.
  std::string label_of(ClientId client) const;

  uint64_t doorbells_sent() const { return doorbells_sent_; }
  uint64_t doorbells_received() const { return doorbells_received_; }
  uint64_t ended_by_daemon() const { return ended_by_daemon_; }

 private:
  struct Connection;
  static constexpr uint32_t kExtraConnections = 64;
  // Of a user with a limit, beyond it: observers, and clients that are told why they are refused.
  static constexpr uint32_t kExtraOfUser = 16;
  static constexpr uint64_t kGreetingMs = 10'000;

  void accept_all();
  void add(Peer peer);
  void on_readable(Connection& connection);
  void on_message(Connection& connection, std::span<const std::byte> packet);
  void greet(Connection& connection, std::span<const std::byte> packet);
  void welcome(Connection& connection);
  Status serve(Connection& connection, wire::Welcome& message);
  void fetch(Connection& connection, std::span<const std::byte> packet);
  wire::Blob answer(wire::BlobKind kind, int& descriptor);
  std::vector<std::byte> sequences() const;
  void refuse(Connection& connection, int32_t code, const std::string& reason);
  void break_off(Connection& connection, int32_t code, const std::string& reason);
  void hang_up(Connection& connection);
  Connection* find(ClientId client);
  uint32_t count_of(uint32_t uid, bool served) const;
  static std::string user_is_full(const Connection& connection, uint32_t most);
  static void on_closed(uv_handle_t* handle);

  uv_loop_t* loop_;
  Listener& listener_;
  const Offer& offer_;
  Exchange& exchange_;
  const uint32_t max_connections_;
  const std::map<uint32_t, uint32_t>& weights_;
  const AccessLimits& access_;
  Report trace_report_, sequences_report_;
  uv_poll_t listener_watch_{};
  bool accepting_ = true;
  bool ready_ = false;
  uint32_t percent_ = 0;
  uint64_t next_client_id_ = 1;
  std::list<std::unique_ptr<Connection>> connections_;
  LogRate accept_log_, refusal_log_, join_log_, end_log_, report_log_;
  uint64_t doorbells_sent_ = 0, doorbells_received_ = 0, ended_by_daemon_ = 0;
};

}  // namespace iokv
