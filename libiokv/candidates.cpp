// SPDX-License-Identifier: Apache-2.0
// See candidates.h. Reads the environment; connects blocking, bounded by SO_SNDTIMEO: a non-blocking connect on a Unix
// socket whose backlog is full fails at once, and nothing can be polled for when to try again.
#include "libiokv/candidates.h"

#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include "libiokv/detail.h"

namespace iokv {
namespace {

constexpr size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;  // 107, and a NUL

void check_path(const std::string& path, const char* from) {
  if (path.empty()) throw Failure{IOKV_EINVAL, std::string("the socket path from ") + from + " is empty"};
  if (path.size() > kMaxPathBytes) {
    throw Failure{IOKV_EINVAL, "the socket path from " + std::string(from) + " has " + std::to_string(path.size()) +
                                   " bytes, a socket's name at most " + std::to_string(kMaxPathBytes) + ": " + path};
  }
}

std::string group_name(gid_t group) {
  char buffer[4096];
  ::group entry{}, *found = nullptr;
  if (::getgrgid_r(group, &entry, buffer, sizeof buffer, &found) == 0 && found != nullptr) return found->gr_name;
  return std::to_string(group);
}

// What denies is the socket itself or, where that cannot even be looked at, the nearest directory above that can.
Failure access_failure(const std::string& path) {
  std::string denying = path;
  struct stat status {};
  while (::stat(denying.c_str(), &status) != 0) {
    size_t slash = denying.rfind('/');
    if (slash == std::string::npos || denying == "/") return Failure{IOKV_EACCES, path + ": permission denied"};
    denying = slash == 0 ? "/" : denying.substr(0, slash);
  }
  return Failure{IOKV_EACCES, path + ": permission denied: join the group \"" + group_name(status.st_gid) +
                                  "\" of " + (denying == path ? "the socket" : denying)};
}

int connect_to(int socket, const std::string& path, const Deadline& deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  for (;;) {
    // A zero would mean no limit: at least one microsecond.
    int64_t left_us = deadline.never() ? 0 : std::max<int64_t>(deadline.left_ns() / 1000, 1);
    timeval limit{static_cast<time_t>(left_us / 1'000'000), static_cast<suseconds_t>(left_us % 1'000'000)};
    ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) break;
    if (errno != EINTR) return errno;
  }
  timeval none{};
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
  return 0;
}

const char* why_not(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR: return "does not exist";
    case ECONNREFUSED: return "nobody listens";
    case EPROTOTYPE: return "not a socket of iokvd";
    default: return nullptr;
  }
}

}  // namespace

std::vector<std::string> socket_candidates(const char* given) {
  std::vector<std::string> paths;
  auto add = [&paths](std::string path, const char* from) {
    check_path(path, from);
    if (std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(std::move(path));
  };
  if (given != nullptr) {
    add(given, "the options");
    return paths;
  }
  const char* named = std::getenv("IOKV_SOCKET");
  if (named != nullptr && *named != '\0') add(named, "$IOKV_SOCKET");
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime != '\0') add(std::string(runtime) + "/iokv.sock", "$XDG_RUNTIME_DIR");
  add("/run/iokv/iokv.sock", "the default");
  return paths;
}

Connected connect_first(const std::vector<std::string>& candidates, const Deadline& deadline) {
  std::string tried;
  for (const std::string& path : candidates) {
    Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!socket) throw system_failure("cannot make a socket", errno, IOKV_ENOMEM);
    int error = connect_to(socket.get(), path, deadline);
    if (error == 0) return Connected{std::move(socket), path};
    if (error == EACCES || error == EPERM) throw access_failure(path);
    if (error == EAGAIN) throw Failure{IOKV_ETIMEDOUT, path + ": the daemon does not accept connections"};
    const char* reason = why_not(error);
    if (reason == nullptr) throw system_failure(path, error, IOKV_ENODAEMON);
    tried += (tried.empty() ? "" : ", ") + path + " (" + reason + ")";
  }
  throw Failure{IOKV_ENODAEMON, "no daemon listens on " + tried + ": start iokvd, or say in $IOKV_SOCKET where it is"};
}

}  // namespace iokv
