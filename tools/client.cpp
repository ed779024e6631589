// SPDX-License-Identifier: Apache-2.0
#include "tools/client.h"

#include <fmt/format.h>

namespace iokv {

Result<ToolClient> connect_client(const std::string& socket_path, const char* name) {
  iokv_connect_options options{};
  options.struct_size = sizeof options;
  options.socket_path = socket_path.empty() ? nullptr : socket_path.c_str();
  options.name = name;
  iokv_error_detail detail{};
  detail.struct_size = sizeof detail;
  iokv_client* handle = nullptr;
  if (const int code = iokv_connect(&options, &handle, &detail); code != 0) return error(detail.message, code);
  ToolClient client;
  client.handle.reset(handle);
  client.info.struct_size = sizeof client.info;
  IOKV_TRY(check_call(iokv_get_info(handle, &client.info), "iokv_get_info"));
  return client;
}

Status check_call(int result, const char* what) {
  if (result >= 0) return {};
  return error(fmt::format("{}: {}", what, iokv_strerror(result)), result);
}

Status check_placed(const ToolClient& client, int result) {
  if (result >= 0) return {};
  iokv_error_detail detail{};
  detail.struct_size = sizeof detail;
  IOKV_TRY(check_call(iokv_last_failure(client.get(), &detail), "iokv_last_failure"));
  return error(detail.message, result);
}

}  // namespace iokv
