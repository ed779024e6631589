// SPDX-License-Identifier: Apache-2.0
#include "daemon/session/peer.h"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "daemon/base/assert.h"
#include "wire/handshake.h"

namespace iokv {
namespace {

// Linux 6.5; newer than the headers of Debian 12.
constexpr int kPeerPidFd = 77;

// SO_PEERPIDFD names the very process that connected. Before it there is pidfd_open, to which another process could answer
// that got the pid after the client's death; then the socket reports the death.
Descriptor open_pidfd(const Descriptor& socket, pid_t pid) {
  int pidfd = -1;
  socklen_t size = sizeof pidfd;
  if (::getsockopt(socket.number(), SOL_SOCKET, kPeerPidFd, &pidfd, &size) == 0) return Descriptor(pidfd);
  if (pid <= 0) return {};
  return Descriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

}  // namespace

Peer::Peer(Descriptor socket, Descriptor pidfd, pid_t pid, uid_t uid, gid_t gid)
    : socket_(std::move(socket)), pidfd_(std::move(pidfd)), pid_(pid), uid_(uid), gid_(gid) {}

Result<Peer> Peer::adopt(Descriptor socket) {
  ucred identity{};
  socklen_t size = sizeof identity;
  if (::getsockopt(socket.number(), SOL_SOCKET, SO_PEERCRED, &identity, &size) != 0) {
    return error(std::string("cannot tell who connected: ") + std::strerror(errno));
  }
  Descriptor pidfd = open_pidfd(socket, identity.pid);
  return Peer(std::move(socket), std::move(pidfd), identity.pid, identity.uid, identity.gid);
}

Peer::Sent Peer::send_message(std::span<const std::byte> message, std::span<const int> descriptors) {
  IOKV_ASSERT(message.size() > 1 && message.size() <= wire::kMaxMessageBytes);
  IOKV_ASSERT(descriptors.size() <= kMaxDescriptors);
  iovec part{const_cast<std::byte*>(message.data()), message.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kMaxDescriptors * sizeof(int))> control{};
  if (!descriptors.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  ssize_t sent;
  do {
    sent = ::sendmsg(socket_.number(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return Sent::sent;
  // ETOOMANYREFS: more descriptors on their way to clients that do not read than this user may have open.
  return errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS ? Sent::full : Sent::gone;
}

bool Peer::ring() {
  const std::byte doorbell{0};
  ssize_t sent;
  do {
    sent = ::send(socket_.number(), &doorbell, sizeof doorbell, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent >= 0 || errno == EAGAIN || errno == ENOBUFS;
}

Peer::Received Peer::receive() {
  Received received;
  std::array<std::byte, wire::kMaxMessageBytes> packet;
  for (uint32_t i = 0; i < kPacketsPerPass; i++) {
    // MSG_TRUNC: the packet's own length, even when it does not fit. No control buffer: descriptors are dropped.
    ssize_t bytes = ::recv(socket_.number(), packet.data(), packet.size(), MSG_DONTWAIT | MSG_TRUNC);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0 && errno == EAGAIN) return received;
    if (bytes <= 0) {
      received.hangup = true;
      return received;
    }
    if (bytes == 1) {
      received.doorbells++;
      continue;
    }
    const size_t length = static_cast<size_t>(bytes);
    if (length > packet.size()) {
      received.oversized = true;
    } else {
      received.message.emplace(packet.begin(), packet.begin() + static_cast<ptrdiff_t>(length));
    }
    return received;
  }
  return received;
}

}  // namespace iokv
