// SPDX-License-Identifier: Apache-2.0
// See channel.h.
#include "libiokv/channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "include/iokv/iokv.h"
#include "libiokv/shared_index.h"

namespace iokv {
namespace {

// A socket of default size queues about 280 packets; more in one go is a daemon that floods, which must not hold us.
constexpr int kMaxPackets = 1024;

}  // namespace

void Channel::ring() {
  const char byte = 0;
  if (::send(socket_.get(), &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return;
  // EAGAIN: the queue is full of doorbells that the daemon has not answered yet. EPIPE, ECONNRESET: it is gone, perhaps
  // after an ENDED that is still to be read.
  if (errno != EAGAIN && errno != EINTR) receive();
}

void Channel::receive() {
  if (receiving_.test_and_set(std::memory_order_acquire)) return;
  Packet packet;
  for (int i = 0; i < kMaxPackets && !ended(); i++) {
    Received received = receive_one(packet, MSG_DONTWAIT);
    if (received == Received::nothing) break;
    if (received == Received::blob) end(IOKV_EPROTOCOL, "the daemon sent a BLOB that nobody asked for");
  }
  receiving_.clear(std::memory_order_release);
}

bool Channel::fetch(wire::BlobKind kind, bool replay, Packet& answer, wire::Blob& blob) {
  wire::Fetch request{header_of<wire::Fetch>(wire::MessageType::fetch), kind, 0};
  // A failed send shows as a hang-up below.
  send_message(socket_.get(), &request, sizeof request);
  // Whoever else receives has found a hang-up: it ends soon.
  while (receiving_.test_and_set(std::memory_order_acquire)) {
    if (ended()) return false;
  }
  bool swallowed = false;
  Received received = Received::nothing;
  while (received != Received::blob && !ended()) {
    received = receive_one(answer, 0);
    swallowed |= received == Received::doorbell;
  }
  bool answered = received == Received::blob && answer.read(blob) && blob.kind == kind;
  if (received == Received::blob && !answered) end(IOKV_EPROTOCOL, "the daemon sent another BLOB than was asked for");
  if (answered && swallowed && replay) {
    // Asks for a small blob that nobody waits for: its arrival is the doorbell.
    wire::Fetch echo{header_of<wire::Fetch>(wire::MessageType::fetch), wire::BlobKind::counters, 0};
    echoes_ += send_message(socket_.get(), &echo, sizeof echo) == 0;
  }
  receiving_.clear(std::memory_order_release);
  return answered;
}

Channel::Received Channel::receive_one(Packet& packet, int flags) {
  switch (packet.receive(socket_.get(), flags)) {
    case Packet::Kind::nothing: return Received::nothing;
    case Packet::Kind::doorbell: return Received::doorbell;
    case Packet::Kind::gone: hung_up(); return Received::other;
    case Packet::Kind::malformed: end(IOKV_EPROTOCOL, "the daemon sent a malformed message"); return Received::other;
    case Packet::Kind::message: break;
  }
  if (packet.type() == wire::MessageType::blob) {
    if (echoes_ == 0) return Received::blob;
    echoes_--;
    return Received::other;
  }
  conclude(packet);
  return Received::other;
}

void Channel::conclude(const Packet& packet) {
  wire::Farewell message;
  if (packet.type() != wire::MessageType::ended || !packet.read(message) || message.code >= 0) {
    end(IOKV_EPROTOCOL, "the daemon sent a message that does not belong there");
    return;
  }
  message.message[sizeof message.message - 1] = '\0';
  end(message.code, message.message);
}

void Channel::hung_up() {
  int32_t code = static_cast<int32_t>(shared_index(end_code_, 0).load(std::memory_order_relaxed));
  if (code < 0) {
    end(code, iokv_strerror(code));
  } else {
    end(IOKV_ECLOSED, "the daemon is gone without a word: it was killed, or it crashed");
  }
}

void Channel::end(int code, const char* reason) {
  int open = kOpen;
  if (!ending_.compare_exchange_strong(open, kEnding, std::memory_order_relaxed)) return;
  code_ = code;
  std::strncpy(reason_, reason, sizeof reason_ - 1);
  ending_.store(kEnded, std::memory_order_release);
  ::shutdown(socket_.get(), SHUT_RDWR);
}

}  // namespace iokv
