// SPDX-License-Identifier: Apache-2.0
// The daemon's socket and its connected peers: SOCK_SEQPACKET, every call non-blocking. Runs on the conductor's thread;
// the event loop watches descriptor() and calls accept() and receive() when it is readable.
//
// Invariants
//  1. No call here ever waits for a client: a full socket is a result, not a wait.
//  2. The daemon takes no descriptors: what a client attaches is dropped by the kernel before it is seen.
//  3. Whoever holds the lock beside the socket's path owns the path. A stale socket is removed only under the lock, so two
//     daemons that start at once cannot remove each other's.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/session/descriptor.h"

namespace iokv {

// The path to listen on: `configured` if not empty, else $IOKV_SOCKET, else $XDG_RUNTIME_DIR/iokv.sock, else
// /run/iokv/iokv.sock.
std::string choose_socket_path(const std::string& configured);

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
  // One packet, with up to 2 descriptors.
  Sent send_message(std::span<const std::byte> message, std::span<const int> descriptors = {});
  // One byte; when the socket is full the client has been rung already. false: gone.
  bool ring();

  struct Received {
    uint32_t doorbells = 0;
    std::optional<std::vector<std::byte>> message;  // at most one a call; more may wait
    bool oversized = false;  // a packet of more than wire::kMaxMessageBytes arrived: the protocol is broken
    bool hangup = false;     // the client closed its end or died; what it sent before has been returned
  };
  // Takes up to kPacketsPerPass packets and stops after a control message. What is left makes the descriptor readable
  // again.
  Received receive();
  static constexpr uint32_t kPacketsPerPass = 64;

 private:
  Peer(Descriptor socket, Descriptor pidfd, pid_t pid, uid_t uid, gid_t gid);

  Descriptor socket_, pidfd_;
  pid_t pid_;
  uid_t uid_;
  gid_t gid_;
};

class Listener {
 public:
  // Binds and listens, mode 0660. Replaces a stale socket. Error, one line: a daemon is alive on the path, the path is no
  // socket, is too long, its directory is missing or may not be written.
  static Result<Listener> open(const std::string& path);
  ~Listener();  // removes the socket and its lock
  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;

  int descriptor() const { return socket_.number(); }
  const std::string& path() const { return path_; }

  // The next client that waits, or nothing. Error: out of descriptors (the client has been turned away, so that the
  // event loop does not spin on it), or the kernel's refusal.
  Result<std::optional<Peer>> accept();

 private:
  Listener(std::string path, Descriptor lock, Descriptor socket, Descriptor spare, dev_t device, ino_t inode);

  std::string path_;
  Descriptor lock_, socket_;
  Descriptor spare_;  // given up for a moment to accept, and so turn away, a client when there is no other descriptor
  dev_t device_;      // of the socket file: what another process put at the path since is not removed
  ino_t inode_;
};

}  // namespace iokv
