// SPDX-License-Identifier: Apache-2.0
#include "daemon/supervisor.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "daemon/base/monotonic.h"

namespace iokv {
namespace {

std::string take_variable(const char* name) {
  const char* value = std::getenv(name);
  std::string text = value != nullptr ? value : "";
  ::unsetenv(name);
  return text;
}

std::optional<uint64_t> number_of(const std::string& text) {
  uint64_t value = 0;
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Whether a variable that says for whom the others are meant says this process, or nothing.
bool is_for_us(const std::string& pid) { return pid.empty() || number_of(pid) == static_cast<uint64_t>(::getpid()); }

// A line of STATUS= ends at the next line of the message.
std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

}  // namespace

Result<Supervisor> Supervisor::from_environment() {
  Supervisor supervisor;
  const std::string path = take_variable("NOTIFY_SOCKET"), watchdog_pid = take_variable("WATCHDOG_PID");
  const std::optional<uint64_t> watchdog_us = number_of(take_variable("WATCHDOG_USEC"));
  if (path.empty()) return supervisor;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if ((path[0] != '/' && path[0] != '@') || path.size() >= sizeof address.sun_path) {
    return error(fmt::format("NOTIFY_SOCKET={}: neither a path nor @ and an abstract name, or too long", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  if (path[0] == '@') address.sun_path[0] = '\0';
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  supervisor.socket_ = Descriptor(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!supervisor.socket_ || ::connect(supervisor.socket_.number(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    return error(fmt::format("NOTIFY_SOCKET={}: {}", path, std::strerror(errno)));
  }
  if (is_for_us(watchdog_pid)) supervisor.watchdog_ns_ = watchdog_us.value_or(0) * 1000;
  return supervisor;
}

void Supervisor::loading(uint32_t percent) {
  tell(fmt::format("STATUS=Loading the model: {} %\nEXTEND_TIMEOUT_USEC={}", percent, kLoadGraceUs));
}

void Supervisor::ready(const std::string& status) { tell(fmt::format("READY=1\nSTATUS={}", one_line(status))); }

void Supervisor::reloading() {
  tell(fmt::format("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=Reading the configuration anew", monotonic_ns() / 1000));
}

void Supervisor::stopping(const std::string& status) { tell(fmt::format("STOPPING=1\nSTATUS={}", one_line(status))); }

void Supervisor::alive() { tell("WATCHDOG=1"); }

// A datagram that the supervisor has no room for is waited for: it is the one who has to read it. A lost one means that
// it has gone, and it will find out by itself.
void Supervisor::tell(const std::string& message) {
  if (!socket_) return;
  while (::send(socket_.number(), message.data(), message.size(), MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

}  // namespace iokv
