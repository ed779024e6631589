// SPDX-License-Identifier: Apache-2.0
// One packet of the SEQPACKET socket, with the descriptors that came with it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <algorithm>

#include "libiokv/descriptor.h"
#include "wire/handshake.h"

namespace iokv {

struct Packet {
  enum class Kind { nothing, gone, doorbell, message, malformed };

  // Receives one packet. `flags` as recv(2) takes them; with MSG_DONTWAIT `nothing` means that none is there. gone: the
  // peer has closed. Interrupted calls are repeated.
  Kind receive(int socket, int flags);

  wire::MessageType type() const { return header().type; }
  const wire::MessageHeader& header() const { return *reinterpret_cast<const wire::MessageHeader*>(data.data()); }

  // The message as a T. false: shorter than T, or it says more than T knows.
  template <typename T>
  bool read(T& out) const {
    if (bytes < sizeof(T)) return false;
    std::memcpy(&out, data.data(), sizeof(T));
    return std::all_of(data.begin() + sizeof(T), data.begin() + bytes, [](std::byte b) { return b == std::byte{0}; });
  }

  alignas(8) std::array<std::byte, wire::kMaxMessageBytes> data;
  size_t bytes = 0;
  std::array<Descriptor, 2> descriptors;
};

// Sends one message, blocking while the socket is full. 0 or an errno.
int send_message(int socket, const void* message, size_t bytes);

template <typename T>
wire::MessageHeader header_of(wire::MessageType type) {
  return wire::MessageHeader{wire::kMagic, type, sizeof(T)};
}

}  // namespace iokv
