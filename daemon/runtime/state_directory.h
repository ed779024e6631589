// SPDX-License-Identifier: Apache-2.0
// Where the daemon keeps what it has found out and may find out again. Any thread.
#pragma once

#include <string>

namespace iokv {

// `setting` if it is not empty, else $IOKV_STATE_DIRECTORY, else $STATE_DIRECTORY (systemd's; the first of several),
// else $XDG_STATE_HOME/iokv, else $HOME/.local/state/iokv; empty when nothing says where. It need not exist.
std::string choose_state_directory(const std::string& setting);

}  // namespace iokv
