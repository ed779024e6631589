// SPDX-License-Identifier: Apache-2.0
// See handshake.h. What the daemon says is checked here once, so that nothing later divides by it, indexes with it or
// waits for ever because of it.
#include "libiokv/handshake.h"

#include <poll.h>
#include <sys/socket.h>

#include <bit>
#include <cerrno>
#include <optional>

#include "libiokv/detail.h"
#include "libiokv/packet.h"

namespace iokv {
namespace {

// Buffers beyond this are a mistake; positions are u32, so no buffer may reach 2^32.
constexpr uint32_t kMaxEntries = 1u << 20, kMaxBufferBytes = 1u << 31;
// The smallest arena: a step's header and any tokens at all, in several parts.
constexpr uint32_t kMinArenaBytes = wire::kPageBytes;

bool power_of_two(uint32_t value, uint32_t least, uint32_t most) {
  return std::has_single_bit(value) && value >= least && value <= most;
}

// What is wrong with a WELCOME, or NULL.
const char* fault(const wire::Welcome& welcome) {
  const wire::Geometry& geometry = welcome.geometry;
  if (welcome.version < wire::kVersionMin || welcome.version > wire::kVersionMax) return "version";
  if ((welcome.features & ~wire::kFeatures) != 0) return "features";
  if (welcome.flags != 0 || welcome.reserved0 != 0 || welcome.reserved1 != 0) return "reserved";
  if (!power_of_two(geometry.submission_entries, 1, kMaxEntries)) return "submission_entries";
  if (!power_of_two(geometry.completion_entries, 1, kMaxEntries)) return "completion_entries";
  if (!power_of_two(geometry.arena_bytes, kMinArenaBytes, kMaxBufferBytes)) return "arena_bytes";
  if (!power_of_two(geometry.result_bytes, wire::kPayloadAlignment, kMaxBufferBytes)) return "result_bytes";
  if (welcome.vocabulary == 0 || welcome.vocabulary > INT32_MAX / sizeof(float)) return "vocabulary";
  if (welcome.end_token_count > std::size(welcome.end_tokens)) return "end_token_count";
  if (welcome.max_sequences == 0 || welcome.max_sequences > kMaxEntries) return "max_sequences";
  if (welcome.max_operations == 0 || welcome.max_operations > geometry.completion_entries) return "max_operations";
  // Half of the arena stays for tokens, whatever the stop tokens (long_append.h).
  if (welcome.max_stop_tokens > (geometry.arena_bytes / 2 - sizeof(wire::StepPayload)) / sizeof(int32_t)) {
    return "max_stop_tokens";
  }
  return nullptr;
}

class Handshake {
 public:
  Handshake(const Connected& connected, const Deadline& deadline)
      : socket_(connected.socket.get()), path_(connected.path), deadline_(deadline) {}

  Welcomed run(const wire::Hello& hello) {
    int error = send_message(socket_, &hello, sizeof hello);
    // EPIPE: it hung up, perhaps after saying why.
    if (error != 0 && error != EPIPE) throw system_failure(path_, error, IOKV_ENODAEMON);
    for (;;) {
      next_packet();
      switch (packet_.type()) {
        case wire::MessageType::loading: loading(); break;
        case wire::MessageType::refused: refused();
        case wire::MessageType::welcome: return welcome();
        default: throw broken("a message that does not belong there");
      }
    }
  }

 private:
  void next_packet() {
    for (;;) {
      wait();
      switch (packet_.receive(socket_, MSG_DONTWAIT)) {
        case Packet::Kind::nothing:
        case Packet::Kind::doorbell: continue;
        case Packet::Kind::message: return;
        case Packet::Kind::malformed: throw broken("a malformed message");
        case Packet::Kind::gone: throw Failure{IOKV_ENODAEMON, path_ + ": the daemon went away while connecting"};
      }
    }
  }

  void wait() const {
    timespec storage;
    pollfd entry{socket_, POLLIN, 0};
    int ready = ::ppoll(&entry, 1, deadline_.left(storage), nullptr);
    if (ready > 0 || (ready < 0 && errno == EINTR)) return;
    if (ready < 0) throw system_failure("poll", errno, IOKV_ENOMEM);
    if (!percent_) throw Failure{IOKV_ETIMEDOUT, path_ + ": the daemon does not answer"};
    throw Failure{IOKV_ELOADING, path_ + ": the daemon is still loading its model, " + std::to_string(*percent_) +
                                     " % done: try again or give it more time"};
  }

  void loading() {
    wire::Loading message;
    if (!packet_.read(message) || message.percent > 100) throw broken("a malformed LOADING");
    percent_ = message.percent;
  }

  [[noreturn]] void refused() {
    wire::Farewell message;
    if (!packet_.read(message) || message.code >= 0) throw broken("a malformed REFUSED");
    message.message[sizeof message.message - 1] = '\0';
    std::string text = path_ + ": " + message.message;
    if (message.code == IOKV_EVERSION) {
      text += "; this library speaks protocol " + std::to_string(wire::kVersionMin) + " to " +
              std::to_string(wire::kVersionMax);
    }
    throw Failure{message.code, text};
  }

  Welcomed welcome() {
    Welcomed result{};
    if (!packet_.read(result.facts)) throw broken("a malformed WELCOME");
    if (const char* field = fault(result.facts)) throw broken(std::string("a WELCOME with an impossible ") + field);
    if (!packet_.descriptors[0] || !packet_.descriptors[1]) throw broken("a WELCOME without two descriptors");
    result.facts.model_name[sizeof result.facts.model_name - 1] = '\0';
    result.facts.daemon_version[sizeof result.facts.daemon_version - 1] = '\0';
    result.up = std::move(packet_.descriptors[0]);
    result.down = std::move(packet_.descriptors[1]);
    return result;
  }

  Failure broken(const std::string& what) const {
    return Failure{IOKV_EPROTOCOL, path_ + ": the daemon sent " + what + ": is it iokvd, and of this protocol?"};
  }

  int socket_;
  const std::string& path_;
  const Deadline& deadline_;
  Packet packet_;
  std::optional<uint32_t> percent_;  // of LOADING, once one has come
};

}  // namespace

Welcomed shake_hands(const Connected& connected, const wire::Hello& hello, const Deadline& deadline) {
  return Handshake(connected, deadline).run(hello);
}

}  // namespace iokv
