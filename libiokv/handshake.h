// SPDX-License-Identifier: Apache-2.0
// HELLO to WELCOME on a fresh connection (docs/protocol.md, "Handshake"). Blocking, bounded by a deadline; the thread that
// connects.
#pragma once

#include <string>

#include "libiokv/candidates.h"
#include "wire/handshake.h"

namespace iokv {

struct Welcomed {
  wire::Welcome facts;  // checked: every limit and size is one that the library can work with
  Descriptor up, down;
};

// Throws Failure: what the daemon refused with, ELOADING, ETIMEDOUT, EPROTOCOL, ENODAEMON (it went away).
Welcomed shake_hands(const Connected& connected, const wire::Hello& hello, const Deadline& deadline);

}  // namespace iokv
