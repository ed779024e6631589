// SPDX-License-Identifier: Apache-2.0
// Whoever started the daemon and watches it, which is mostly systemd: what it is told, as sd_notify(3) documents
// it. That (and sd_listen_fds(3): base/passed_socket.h) is a protocol that may be spoken without libsystemd, a datagram or
// an environment variable; the library would map five others, for compression and encryption, into a process that holds
// everybody's prompts. Without a supervisor every call does nothing. One thread.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/base/descriptor.h"
#include "daemon/base/result.h"

namespace iokv {

class Supervisor {
 public:
  Supervisor() = default;
  // Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and removes them, so that nobody else speaks for this process.
  // Before other threads start. Error: the socket that is named cannot be spoken to.
  static Result<Supervisor> from_environment();

  // Whether anybody listens.
  bool present() const { return static_cast<bool>(socket_); }

  // Start-up goes on, and may take kLoadGrace more without another word: the longest that a step of loading takes which
  // reports nothing, such as pinning a terabyte at 9 GiB/s.
  void loading(uint32_t percent);
  static constexpr uint64_t kLoadGraceUs = 300'000'000;
  // Clients are served; also the end of a reload.
  void ready(const std::string& status);
  void reloading();
  void stopping(const std::string& status);

  // How often at least alive() must be called for the process not to be ended; 0: nobody counts.
  uint64_t watchdog_ns() const { return watchdog_ns_; }
  void alive();

 private:
  void tell(const std::string& message);

  Descriptor socket_;
  uint64_t watchdog_ns_ = 0;
};

}  // namespace iokv
