// SPDX-License-Identifier: Apache-2.0
#include "daemon/session/listener.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace iokv {
namespace {

constexpr mode_t kSocketMode = 0660;  // owner and group: who may use the daemon is who is in its group
constexpr int kWaitingClients = 128;
constexpr const char* kOtherPath = "choose another path with --socket or IOKV_SOCKET";

std::string lock_path_of(const std::string& path) { return path + ".lock"; }

std::string directory_of(const std::string& path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Error file_error(const std::string& path, int number) {
  const std::string directory = directory_of(path);
  switch (number) {
    case ENOENT:
      return error("cannot listen on " + path + ": there is no directory " + directory + "; create it or " + kOtherPath);
    case EACCES:
    case EPERM:
    case EROFS:
      return error("cannot listen on " + path + ": no permission to write in " + directory + "; run as its owner or " +
                   kOtherPath);
    default: return error("cannot listen on " + path + ": " + std::strerror(number));
  }
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty()) return error(std::string("the socket path is empty; ") + kOtherPath);
  if (path.size() >= sizeof address.sun_path) {
    return error("the socket path " + path + " has " + std::to_string(path.size()) + " bytes, the system allows " +
                 std::to_string(sizeof address.sun_path - 1) + "; " + kOtherPath);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// The lock file is removed by its holder, so the file that was locked may be one that no longer has the name.
Result<Descriptor> take_lock(const std::string& path) {
  const std::string lock_path = lock_path_of(path);
  constexpr int attempts = 100;  // each needs another daemon to have ended in between
  for (int i = 0; i < attempts; i++) {
    Descriptor lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock) {
      const int number = errno;  // access sets its own
      if (number == EACCES && ::access(lock_path.c_str(), F_OK) == 0) {
        return error("cannot listen on " + path + ": " + lock_path + " belongs to another user's iokvd; " + kOtherPath);
      }
      return file_error(path, number);
    }
    if (::flock(lock.number(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) {
        return error("another iokvd already listens on " + path + "; stop it or " + kOtherPath);
      }
      return file_error(path, errno);
    }
    struct stat locked{}, named{};
    if (::fstat(lock.number(), &locked) == 0 && ::stat(lock_path.c_str(), &named) == 0 &&
        locked.st_ino == named.st_ino && locked.st_dev == named.st_dev) {
      return lock;
    }
  }
  return error("cannot lock " + lock_path + ": it keeps being replaced");
}

// Under the lock: what is at the path is stale when nobody answers there.
Status remove_stale_socket(const std::string& path, const sockaddr_un& address) {
  struct stat file{};
  if (::lstat(path.c_str(), &file) != 0) return errno == ENOENT ? Status() : Status(file_error(path, errno));
  if (!S_ISSOCK(file.st_mode)) return error(path + " exists and is not a socket; remove it or " + kOtherPath);
  Descriptor probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return file_error(path, errno);
  if (::connect(probe.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
      errno != ECONNREFUSED) {
    return error("another process listens on " + path + "; stop it or " + kOtherPath);
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return file_error(path, errno);
  return {};
}

Descriptor spare_descriptor() { return Descriptor(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

std::string choose_socket_path(const std::string& configured) {
  if (!configured.empty()) return configured;
  const char* named = std::getenv("IOKV_SOCKET");
  if (named != nullptr && *named != '\0') return named;
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime != '\0') return std::string(runtime) + "/iokv.sock";
  return "/run/iokv/iokv.sock";
}

Result<Listener> Listener::open(const std::string& path) {
  IOKV_TRY_ASSIGN(sockaddr_un address, address_of(path));
  IOKV_TRY_ASSIGN(Descriptor lock, take_lock(path));
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return file_error(path, errno);
  Listener listener(path, std::move(lock), std::move(socket), spare_descriptor());

  IOKV_TRY(remove_stale_socket(path, address));
  if (::bind(listener.descriptor(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return file_error(path, errno);
  }
  struct stat file{};
  if (::lstat(path.c_str(), &file) != 0) return file_error(path, errno);
  listener.device_ = file.st_dev;
  listener.inode_ = file.st_ino;
  // Before listen: until then nobody can connect, so nobody can through bits that the umask left.
  if (::chmod(path.c_str(), kSocketMode) != 0 || ::listen(listener.descriptor(), kWaitingClients) != 0) {
    return file_error(path, errno);
  }
  return listener;
}

Result<Listener> Listener::adopt(Descriptor socket) {
  auto option = [&](int name) {
    int value = 0;
    socklen_t size = sizeof value;
    return ::getsockopt(socket.number(), SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
  };
  sockaddr_un address{};
  socklen_t size = sizeof address;
  const bool named = ::getsockname(socket.number(), reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (!named || address.sun_family != AF_UNIX || option(SO_TYPE) != SOCK_SEQPACKET || option(SO_ACCEPTCONN) != 1) {
    return error("what was passed on is no listening Unix socket of sequential packets: the .socket unit has to name it "
                 "with ListenSequentialPacket=");
  }
  const int flags = ::fcntl(socket.number(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.number(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return error(std::string("the socket that was passed on: ") + std::strerror(errno));
  }
  std::string path(address.sun_path, ::strnlen(address.sun_path, size - offsetof(sockaddr_un, sun_path)));
  return Listener(std::move(path), Descriptor(), std::move(socket), spare_descriptor());
}

Listener::Listener(std::string path, Descriptor lock, Descriptor socket, Descriptor spare)
    : path_(std::move(path)), lock_(std::move(lock)), socket_(std::move(socket)), spare_(std::move(spare)) {}

Listener::~Listener() {
  if (!lock_) return;  // adopted, or moved from
  struct stat file{};
  if (inode_ != 0 && ::lstat(path_.c_str(), &file) == 0 && file.st_dev == device_ && file.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
  ::unlink(lock_path_of(path_).c_str());
}

Result<std::optional<Peer>> Listener::accept() {
  Descriptor socket(::accept4(socket_.number(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (socket) {
    IOKV_TRY_ASSIGN(Peer peer, Peer::adopt(std::move(socket)));
    return std::optional<Peer>(std::move(peer));
  }
  const int number = errno;
  if (number == EAGAIN || number == EINTR || number == ECONNABORTED) return std::optional<Peer>();
  if (number == EMFILE || number == ENFILE) {
    spare_.close();
    Descriptor(::accept4(socket_.number(), nullptr, nullptr, SOCK_CLOEXEC)).close();
    spare_ = spare_descriptor();
    return error("turned a client away: no descriptors left; raise LimitNOFILE (ulimit -n)");
  }
  return error("cannot accept clients on " + path_ + ": " + std::strerror(number));
}

}  // namespace iokv
