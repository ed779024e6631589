// SPDX-License-Identifier: Apache-2.0
// Channel: the socket after the handshake: doorbells both ways, ENDED and BLOB from the daemon; and whether and why the
// connection has ended.
//
// Invariants
//  1. ring() may be called by both threads at once. Packets are received by one thread at a time (receiving_); whoever
//     finds that taken leaves it to the other.
//  2. The first ending stands. Its text is written before ended() becomes true and never changes.
//  3. Nothing here blocks but fetch(), which has both threads' role.
#pragma once

#include <atomic>
#include <string>

#include "libiokv/descriptor.h"
#include "libiokv/packet.h"

namespace iokv {

class Channel {
 public:
  // end_code: the daemon's word in shared memory (wire::kDownEndCode), for an ending without ENDED.
  Channel(Descriptor socket, const std::byte* end_code) : socket_(std::move(socket)), end_code_(end_code) {}

  int socket() const { return socket_.get(); }
  void ring();
  // Receives what is there, without blocking: doorbells are dropped, ENDED and a hang-up end the channel.
  void receive();

  // Sends FETCH and waits for its BLOB, which `answer` then holds. false: the channel has ended. With `replay`, a doorbell
  // that was swallowed meanwhile is made up for: the socket becomes readable again.
  bool fetch(wire::BlobKind kind, bool replay, Packet& answer, wire::Blob& blob);

  bool ended() const { return ending_.load(std::memory_order_acquire) == kEnded; }
  // Ends it from this side; the daemon sees a hang-up. Any thread.
  void end(int code, const char* reason);
  // Once ended().
  int end_code() const { return code_; }
  const char* end_reason() const { return reason_; }

 private:
  enum : int { kOpen, kEnding, kEnded };
  enum class Received { nothing, doorbell, blob, other };
  Received receive_one(Packet& packet, int flags);
  void conclude(const Packet& packet);
  void hung_up();

  Descriptor socket_;
  const std::byte* end_code_;
  std::atomic_flag receiving_;
  uint32_t echoes_ = 0;  // BLOBs to come that nobody waits for; under receiving_
  std::atomic<int> ending_ = kOpen;
  int code_ = 0;
  char reason_[504] = {};
};

}  // namespace iokv
