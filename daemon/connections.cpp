// SPDX-License-Identifier: Apache-2.0
#include "daemon/connections.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <spdlog/spdlog.h>

#include "daemon/base/monotonic.h"
#include "daemon/exchange.h"
#include "iokv/iokv.h"

namespace iokv {

struct Connections::Connection {
  enum class Stage : uint8_t {
    greeting,   // has said nothing yet
    waiting,    // said HELLO; the model is loading
    serving,
    observing,  // counters only
    closing,
  };

  Connection(Connections& its_owner, Peer its_peer) : owner(its_owner), peer(std::move(its_peer)) {}

  Connections& owner;
  std::optional<Peer> peer;  // gone once hung up
  Stage stage = Stage::greeting;
  wire::Hello hello{};
  uint16_t version = 0;
  uint64_t id = 0;           // in WELCOME
  std::string label;         // for the log: `"name" (pid 1, uid 2)`
  ClientId client;
  std::optional<Regions> regions;

  uv_poll_t socket_watch{}, process_watch{};
  uv_timer_t greeting_timer{};
  uint32_t handles = 0;      // open, or closing
};

Connections::Connections(uv_loop_t* loop, Listener& listener, const Offer& offer, Exchange& exchange,
                         const StepTrace& trace, uint32_t max_clients, const std::map<uint32_t, uint32_t>& weights,
                         const AccessLimits& access)
    : loop_(loop),
      listener_(listener),
      offer_(offer),
      exchange_(exchange),
      max_connections_(max_clients + kExtraConnections),
      weights_(weights),
      access_(access),
      trace_report_("iokv-trace", [&trace] { return trace.bytes(); }),
      sequences_report_("iokv-sequences", [this] { return sequences(); }) {
  IOKV_ASSERT(uv_poll_init(loop_, &listener_watch_, listener_.descriptor()) == 0);
  listener_watch_.data = this;
  uv_poll_start(&listener_watch_, UV_READABLE, [](uv_poll_t* watch, int, int) {
    static_cast<Connections*>(watch->data)->accept_all();
  });
}

Connections::~Connections() { IOKV_ASSERT(connections_.empty() && !accepting_); }

// ---- arriving -------------------------------------------------------------------------------------------------------

void Connections::accept_all() {
  while (accepting_) {
    auto accepted = listener_.accept();
    if (!accepted) {
      accept_log_.log(monotonic_ns(), spdlog::level::warn, "a client could not be accepted: {}",
                        accepted.failure().message);
      return;
    }
    if (!accepted->has_value()) return;
    add(*std::move(*accepted));
  }
}

void Connections::add(Peer peer) {
  connections_.push_back(std::make_unique<Connection>(*this, std::move(peer)));
  Connection& connection = *connections_.back();
  connection.label = fmt::format("pid {}, uid {}", connection.peer->pid(), connection.peer->uid());
  auto initialised = [&](auto* handle) {
    handle->data = &connection;
    connection.handles++;
  };
  IOKV_ASSERT(uv_timer_init(loop_, &connection.greeting_timer) == 0);
  initialised(&connection.greeting_timer);
  if (uv_poll_init(loop_, &connection.socket_watch, connection.peer->descriptor()) != 0) {
    return refuse(connection, IOKV_ENOMEM, "the daemon cannot watch another socket");
  }
  initialised(&connection.socket_watch);
  uv_poll_start(&connection.socket_watch, UV_READABLE | UV_DISCONNECT, [](uv_poll_t* watch, int, int) {
    auto& ready = *static_cast<Connection*>(watch->data);
    ready.owner.on_readable(ready);
  });
  if (connection.peer->pidfd() >= 0 && uv_poll_init(loop_, &connection.process_watch, connection.peer->pidfd()) == 0) {
    initialised(&connection.process_watch);
    uv_poll_start(&connection.process_watch, UV_READABLE, [](uv_poll_t* watch, int, int) {
      auto& dead = *static_cast<Connection*>(watch->data);
      dead.owner.hang_up(dead);
    });
  }
  if (const uint32_t most = access_.of(connection.peer->uid()).clients;
      most != 0 && count_of(connection.peer->uid(), false) > most + kExtraOfUser) {
    return refuse(connection, IOKV_ELIMIT, user_is_full(connection, most));
  }
  if (connections_.size() > max_connections_) {
    return refuse(connection, IOKV_ELIMIT, "the daemon serves as many clients as it may (--max-clients)");
  }
  uv_timer_start(&connection.greeting_timer, [](uv_timer_t* timer) {
    auto& silent = *static_cast<Connection*>(timer->data);
    silent.owner.refuse(silent, IOKV_EPROTOCOL, "no HELLO within 10 s");
  }, kGreetingMs, 0);
}

void Connections::on_readable(Connection& connection) {
  // Bounded, so that a client that never stops talking cannot keep the loop; libuv reports what is left.
  for (int i = 0; i < 4 && connection.peer.has_value(); i++) {
    Peer::Received received = connection.peer->receive();
    doorbells_received_ += received.doorbells;
    if (received.message) on_message(connection, *received.message);
    if (!connection.peer.has_value()) return;
    if (received.oversized) return break_off(connection, IOKV_EPROTOCOL, "a message larger than any that the protocol has");
    if (received.hangup) return hang_up(connection);
    if (!received.message) return;
  }
}

void Connections::on_message(Connection& connection, std::span<const std::byte> packet) {
  auto type = type_of(packet);
  if (!type) return break_off(connection, type.failure().code, type.failure().message);
  if (connection.stage == Connection::Stage::greeting) return greet(connection, packet);
  if (*type == wire::MessageType::hello) return break_off(connection, IOKV_EPROTOCOL, "a second HELLO");
  fetch(connection, packet);
}

void Connections::greet(Connection& connection, std::span<const std::byte> packet) {
  auto hello = parse_hello(packet);
  if (!hello) return refuse(connection, hello.failure().code, hello.failure().message);
  auto version = agree_on_version(*hello);
  if (!version) return refuse(connection, version.failure().code, version.failure().message);
  uv_timer_stop(&connection.greeting_timer);
  connection.hello = *hello;
  connection.version = *version;
  connection.label = fmt::format("\"{}\" ({})", name_of(*hello), connection.label);
  const bool observer = (hello->flags & wire::kHelloObserver) != 0;
  connection.stage = observer ? Connection::Stage::observing : Connection::Stage::waiting;
  if (observer || ready_) return welcome(connection);
  connection.peer->send_message(bytes_of(make_loading(percent_)));
}

void Connections::set_loading(uint32_t percent) {
  percent_ = percent;
  const wire::Loading message = make_loading(percent);
  for (auto& connection : connections_) {
    if (connection->stage == Connection::Stage::waiting) connection->peer->send_message(bytes_of(message));
  }
}

void Connections::set_ready() {
  ready_ = true;
  // welcome may hang up, but the list changes only when the loop runs.
  for (auto& connection : connections_) {
    if (connection->stage == Connection::Stage::waiting) welcome(*connection);
  }
}

void Connections::welcome(Connection& connection) {
  wire::Welcome message = offer_.welcome(connection.version, connection.hello.features);
  message.client_id = connection.id = next_client_id_++;
  if (connection.stage == Connection::Stage::observing) {
    if (connection.peer->send_message(bytes_of(message)) != Peer::Sent::sent) hang_up(connection);
    return;
  }
  if (exchange_.full()) {
    return refuse(connection, IOKV_ELIMIT, "the daemon serves as many clients as it may (--max-clients)");
  }
  const uint32_t most = access_.of(connection.peer->uid()).clients;
  if (most != 0 && count_of(connection.peer->uid(), true) >= most) {
    return refuse(connection, IOKV_ELIMIT, user_is_full(connection, most));
  }
  if (Status served = serve(connection, message); !served) {
    refusal_log_.log(monotonic_ns(), spdlog::level::warn, "client {} refused: {}", connection.label, served.failure().message);
    refuse(connection, IOKV_ENOMEM, "the daemon is out of memory or descriptors for another client");
  }
}

uint32_t Connections::count_of(uint32_t uid, bool served) const {
  return static_cast<uint32_t>(std::count_if(connections_.begin(), connections_.end(), [&](const auto& one) {
    return one->peer.has_value() && one->peer->uid() == uid && (!served || one->stage == Connection::Stage::serving);
  }));
}

std::string Connections::user_is_full(const Connection& connection, uint32_t most) {
  return fmt::format("the user with uid {} has as many clients connected as he may, {} (user_clients and user_limit of the daemon's "
                     "configuration)", connection.peer->uid(), most);
}

Status Connections::serve(Connection& connection, wire::Welcome& message) {
  message.geometry = offer_.grant(connection.hello.wanted);
  message.max_operations = Exchange::max_operations(message.geometry);
  IOKV_TRY_ASSIGN(Regions regions, Regions::create(message.geometry));
  connection.regions.emplace(std::move(regions));
  const auto weighed = weights_.find(connection.peer->uid());
  const uint32_t weight = weighed == weights_.end() ? 1 : weighed->second;
  connection.client = exchange_.join(monotonic_ns(), message.geometry, connection.regions->up(),
                                     connection.regions->down(), weight, connection.peer->uid());
  connection.stage = Connection::Stage::serving;
  const int descriptors[] = {connection.regions->up_descriptor(), connection.regions->down_descriptor()};
  if (connection.peer->send_message(bytes_of(message), descriptors) != Peer::Sent::sent) {
    hang_up(connection);
    return {};
  }
  connection.regions->close_descriptors();
  join_log_.log(monotonic_ns(), spdlog::level::debug, "client {} has joined with weight {}", connection.label, weight);
  return {};
}

void Connections::fetch(Connection& connection, std::span<const std::byte> packet) {
  auto request = parse_fetch(packet);
  if (!request) return break_off(connection, request.failure().code, request.failure().message);
  if (connection.stage == Connection::Stage::waiting) {
    return break_off(connection, IOKV_EPROTOCOL, "a FETCH before WELCOME");
  }
  int descriptor = -1;
  const wire::Blob message = answer(request->kind, descriptor);
  const std::span<const int> attached(&descriptor, descriptor >= 0 ? 1 : 0);
  if (connection.peer->send_message(bytes_of(message), attached) != Peer::Sent::sent) {
    break_off(connection, IOKV_EPROTOCOL, "answers to FETCH are not being read");
  }
}

wire::Blob Connections::answer(wire::BlobKind kind, int& descriptor) {
  const bool trace = kind == wire::BlobKind::trace;
  if (!trace && kind != wire::BlobKind::sequences) return offer_.answer(kind, descriptor);
  auto report = (trace ? trace_report_ : sequences_report_).get(monotonic_ns());
  if (!report) {
    report_log_.log(monotonic_ns(), spdlog::level::warn, "{}", report.failure().message);
    return make_blob(kind, IOKV_ENOMEM, 0);
  }
  descriptor = (*report)->descriptor();
  return make_blob(kind, 0, (*report)->bytes());
}

// What the conductor knows of sequences, and who their clients are.
std::vector<std::byte> Connections::sequences() const {
  std::vector<wire::SequenceRow> rows = exchange_.conductor().rows();
  std::map<uint32_t, const Connection*> by_slot;
  for (const auto& connection : connections_) {
    if (connection->stage == Connection::Stage::serving) by_slot[connection->client.slot] = connection.get();
  }
  for (wire::SequenceRow& row : rows) {
    const Connection& connection = *by_slot.at(row.client_slot);
    row.client_id = connection.id;
    row.pid = connection.peer->pid();
    put_text(row.client_name, name_of(connection.hello));
  }
  const wire::SequencesHeader header{sizeof header, sizeof(wire::SequenceRow), static_cast<uint32_t>(rows.size()), 0};
  std::vector<std::byte> bytes(sizeof header + rows.size() * sizeof(wire::SequenceRow));
  std::memcpy(bytes.data(), &header, sizeof header);
  if (!rows.empty()) std::memcpy(bytes.data() + sizeof header, rows.data(), bytes.size() - sizeof header);
  return bytes;
}

// ---- leaving --------------------------------------------------------------------------------------------------------

void Connections::refuse(Connection& connection, int32_t code, const std::string& reason) {
  refusal_log_.log(monotonic_ns(), spdlog::level::info, "client {} refused: {}", connection.label, reason);
  if (connection.peer) connection.peer->send_message(bytes_of(make_refused(code, reason)));
  hang_up(connection);
}

void Connections::break_off(Connection& connection, int32_t code, const std::string& reason) {
  if (connection.stage == Connection::Stage::serving) {
    return exchange_.end(monotonic_ns(), connection.client, code, reason);  // comes back as ended()
  }
  if (connection.stage != Connection::Stage::observing) return refuse(connection, code, reason);
  ended_by_daemon_++;
  connection.peer->send_message(bytes_of(make_ended(code, reason)));
  hang_up(connection);
}

void Connections::ring(ClientId client) {
  Connection* connection = find(client);
  if (connection == nullptr) return;
  doorbells_sent_++;
  connection->peer->ring();  // false: gone, and libuv will say so
}

void Connections::ended(ClientId client, int32_t code, const std::string& reason) {
  Connection* connection = find(client);
  if (connection == nullptr) return;
  if (code != IOKV_ESHUTDOWN) {
    ended_by_daemon_++;
    end_log_.log(monotonic_ns(), spdlog::level::warn, "client {} ended: {}", connection->label, reason);
  }
  connection->peer->send_message(bytes_of(make_ended(code, reason)));
  hang_up(*connection);
}

void Connections::hang_up(Connection& connection) {
  if (connection.stage == Connection::Stage::closing) return;
  if (connection.stage == Connection::Stage::serving) exchange_.leave(monotonic_ns(), connection.client);
  connection.stage = Connection::Stage::closing;
  connection.regions.reset();
  for (auto* handle : {reinterpret_cast<uv_handle_t*>(&connection.socket_watch),
                       reinterpret_cast<uv_handle_t*>(&connection.process_watch),
                       reinterpret_cast<uv_handle_t*>(&connection.greeting_timer)}) {
    if (handle->data != nullptr) uv_close(handle, on_closed);
  }
  // uv_close has taken the descriptors out of the epoll set.
  connection.peer.reset();
}

void Connections::on_closed(uv_handle_t* handle) {
  auto& connection = *static_cast<Connection*>(handle->data);
  if (--connection.handles > 0) return;
  auto& all = connection.owner.connections_;
  all.erase(std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.get() == &connection; }));
}

void Connections::close_all(int32_t code, const std::string& reason) {
  if (std::exchange(accepting_, false)) uv_close(reinterpret_cast<uv_handle_t*>(&listener_watch_), nullptr);
  for (auto& connection : connections_) {
    if (connection->stage != Connection::Stage::closing) break_off(*connection, code, reason);
  }
}

std::string Connections::label_of(ClientId client) const {
  for (const auto& connection : connections_) {
    if (connection->stage == Connection::Stage::serving && connection->client == client) return connection->label;
  }
  return "that has left";
}

Connections::Connection* Connections::find(ClientId client) {
  for (auto& connection : connections_) {
    if (connection->stage == Connection::Stage::serving && connection->client == client) return connection.get();
  }
  return nullptr;
}

}  // namespace iokv
