// SPDX-License-Identifier: Apache-2.0
// See packet.h.
#include "libiokv/packet.h"

#include <sys/socket.h>

#include <cerrno>

namespace iokv {
namespace {

// Takes ownership of every descriptor that came; more than a packet may carry is closed at once.
void adopt_descriptors(msghdr& message, std::array<Descriptor, 2>& descriptors) {
  size_t count = 0;
  for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr; control = CMSG_NXTHDR(&message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    size_t received = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < received; i++) {
      int value;
      std::memcpy(&value, CMSG_DATA(control) + i * sizeof(int), sizeof value);
      Descriptor descriptor(value);
      if (count < descriptors.size()) descriptors[count++] = std::move(descriptor);
    }
  }
}

}  // namespace

Packet::Kind Packet::receive(int socket, int flags) {
  for (Descriptor& descriptor : descriptors) descriptor = Descriptor();
  iovec part{data.data(), data.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do {
    got = ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? Kind::nothing : Kind::gone;
  adopt_descriptors(message, descriptors);
  bytes = static_cast<size_t>(got);
  if (bytes == 0) return Kind::gone;
  if (bytes == 1) return Kind::doorbell;
  bool complete = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 && bytes >= sizeof(wire::MessageHeader) &&
                  header().magic == wire::kMagic && header().bytes == bytes;
  return complete ? Kind::message : Kind::malformed;
}

int send_message(int socket, const void* message, size_t bytes) {
  ssize_t sent;
  do {
    sent = ::send(socket, message, bytes, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? errno : 0;
}

}  // namespace iokv
