// SPDX-License-Identifier: Apache-2.0
// The listening socket that whoever started this process passes on to it, as sd_listen_fds(3) documents it: LISTEN_PID
// says to whom, LISTEN_FDS how many, and the first is descriptor 3.
#pragma once

#include "daemon/base/descriptor.h"
#include "daemon/base/result.h"

namespace iokv {

// It, or none. Takes the environment variables away; before other threads start. Error: several were passed on.
Result<Descriptor> take_passed_socket();

}  // namespace iokv
