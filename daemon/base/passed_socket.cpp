// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/passed_socket.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace iokv {
namespace {

constexpr int kFirstPassed = 3;  // SD_LISTEN_FDS_START

std::string take_variable(const char* name) {
  const char* value = std::getenv(name);
  std::string text = value != nullptr ? value : "";
  ::unsetenv(name);
  return text;
}

}  // namespace

Result<Descriptor> take_passed_socket() {
  const std::string pid = take_variable("LISTEN_PID"), count = take_variable("LISTEN_FDS");
  take_variable("LISTEN_FDNAMES");
  if (pid != std::to_string(::getpid()) || count.empty() || count == "0") return Descriptor();
  if (count != "1") return error(count + " sockets were passed on, and one is taken: let one .socket unit name it");
  if (::fcntl(kFirstPassed, F_SETFD, FD_CLOEXEC) != 0) return error("LISTEN_FDS=1, and descriptor 3 is not open");
  return Descriptor(kFirstPassed);
}

}  // namespace iokv
