// SPDX-License-Identifier: Apache-2.0
// A connection of the tools that are clients like any other: verify, generate, bench. Owns the handle.
#pragma once

#include <memory>
#include <string>

#include "daemon/base/result.h"
#include "iokv/iokv.h"

namespace iokv {

struct Disconnect {
  void operator()(iokv_client* client) const { iokv_disconnect(client); }
};

struct ToolClient {
  std::unique_ptr<iokv_client, Disconnect> handle;
  iokv_info info{};

  iokv_client* get() const { return handle.get(); }
};

// socket_path empty: where libiokv looks. Blocks until the daemon is ready. Errors: those of iokv_connect, with its line.
Result<ToolClient> connect_client(const std::string& socket_path, const char* name);

// Of a call: `what: ` and the code's sentence.
Status check_call(int result, const char* what);
// Of iokv_open and iokv_step: the argument that was refused.
Status check_placed(const ToolClient& client, int result);

}  // namespace iokv
