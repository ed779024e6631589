// SPDX-License-Identifier: Apache-2.0
// The daemon's listening socket and its path. Runs on the conductor's thread; the event loop watches descriptor() and
// calls accept() when it is readable.
//
// Invariants
//  1. Whoever holds the lock file beside the path owns the path, unless the socket was adopted. A stale socket is removed
//     only under the lock, so two daemons that start at once cannot remove each other's.
//  2. accept() never waits and always makes progress: a client that cannot be taken is turned away.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "daemon/base/descriptor.h"
#include "daemon/base/result.h"
#include "daemon/session/peer.h"

namespace iokv {

// The path to listen on: `configured` if not empty, else $IOKV_SOCKET, else $XDG_RUNTIME_DIR/iokv.sock, else
// /run/iokv/iokv.sock. Reads the environment: before other threads start.
std::string choose_socket_path(const std::string& configured);

class Listener {
 public:
  // Binds and listens, mode 0660. Replaces a stale socket. Error, one line: a daemon is alive on the path, the path is no
  // socket or too long, its directory is missing or may not be written.
  static Result<Listener> open(const std::string& path);
  // Takes a socket that somebody else listens with, as systemd does; its file is theirs, and stays. Error: it is no
  // listening Unix socket of sequential packets.
  static Result<Listener> adopt(Descriptor socket);
  ~Listener();  // removes the socket and its lock, unless adopted
  Listener(Listener&& other) = default;
  Listener& operator=(Listener&&) = delete;

  int descriptor() const { return socket_.number(); }
  const std::string& path() const { return path_; }

  // The next client that waits, or nothing. Error: out of descriptors (the client was turned away, so that the event
  // loop does not spin on it), or the kernel's refusal.
  Result<std::optional<Peer>> accept();

 private:
  Listener(std::string path, Descriptor lock, Descriptor socket, Descriptor spare);

  std::string path_;
  Descriptor lock_, socket_;
  Descriptor spare_;  // given up for a moment to accept, and so turn away, a client when there is no other descriptor
  dev_t device_ = 0;  // of the socket file: what somebody else has put at the path since is not removed
  ino_t inode_ = 0;
};

}  // namespace iokv
