// SPDX-License-Identifier: Apache-2.0
// Where a daemon may listen, in which order, and what to tell a person when none does.
#pragma once

#include <string>
#include <vector>

#include "libiokv/deadline.h"
#include "libiokv/descriptor.h"

namespace iokv {

// The paths to try: the given one alone, else $IOKV_SOCKET, $XDG_RUNTIME_DIR/iokv.sock, /run/iokv/iokv.sock. Throws
// Failure (EINVAL) for a path that does not fit a socket address.
std::vector<std::string> socket_candidates(const char* given);

struct Connected {
  Descriptor socket;
  std::string path;
};

// Connects to the first candidate where a daemon listens. Throws Failure: ENODAEMON (lists the paths and why each failed),
// EACCES (names the group to join), ETIMEDOUT, ENOMEM.
Connected connect_first(const std::vector<std::string>& candidates, const Deadline& deadline);

}  // namespace iokv
