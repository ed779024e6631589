// SPDX-License-Identifier: Apache-2.0
// One connected client's socket: SOCK_SEQPACKET, every call non-blocking. Runs on the conductor's thread; the event loop
// watches descriptor() and calls receive() when it is readable.
//
// Invariants
//  1. No call here ever waits for a client: a full socket is a result, not a wait.
//  2. The daemon takes no descriptors: what a client attaches is dropped by the kernel before it is seen.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "daemon/base/descriptor.h"
#include "daemon/base/result.h"

namespace iokv {

// A connected client process. Move-only; closing is its destructor.
class Peer {
 public:
  // Takes a connected SOCK_SEQPACKET socket and asks the kernel who is at its other end.
  static Result<Peer> adopt(Descriptor socket);

  int descriptor() const { return socket_.number(); }
  // Readable when the process has died, even while a forked child keeps the socket open; -1 where the kernel has none
  // (the client lives in a pid namespace that is not visible from here).
  int pidfd() const { return pidfd_.number(); }
  pid_t pid() const { return pid_; }  // 0: not visible
  uid_t uid() const { return uid_; }
  gid_t gid() const { return gid_; }

  enum class Sent : uint8_t {
    sent,
    full,  // the client does not read: end it
    gone,
  };
  // One packet, with up to kMaxDescriptors descriptors.
  Sent send_message(std::span<const std::byte> message, std::span<const int> descriptors = {});
  static constexpr size_t kMaxDescriptors = 2;
  // One byte; when the socket is full the client has been rung already. false: gone.
  bool ring();

  struct Received {
    uint32_t doorbells = 0;
    std::optional<std::vector<std::byte>> message;  // at most one a call; more may wait
    bool oversized = false;  // a packet of more than wire::kMaxMessageBytes arrived: the protocol is broken
    bool hangup = false;     // the client closed its end or died (or sent an empty packet, which cannot be told apart)
  };
  // Takes up to kPacketsPerPass packets, in order, and stops after a control message. What is left keeps the descriptor
  // readable.
  Received receive();
  static constexpr uint32_t kPacketsPerPass = 64;

 private:
  Peer(Descriptor socket, Descriptor pidfd, pid_t pid, uid_t uid, gid_t gid);

  Descriptor socket_, pidfd_;
  pid_t pid_;
  uid_t uid_;
  gid_t gid_;
};

}  // namespace iokv
