// SPDX-License-Identifier: Apache-2.0
// Control messages between bytes and structs: pure functions, no sockets, any thread. What parse_... returns has passed
// every check that can be made without knowing the daemon's state.
//
// Invariants
//  1. Nothing is read beyond the packet, whatever the packet says about its own length.
//  2. A message longer than its struct is accepted when the rest is zero (a newer peer), a shorter one is not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "daemon/base/result.h"
#include "wire/handshake.h"

namespace iokv {

// Which message a packet is. Error (EPROTOCOL): not a control message, or one that only daemons send.
Result<wire::MessageType> type_of(std::span<const std::byte> packet);

// Errors: EPROTOCOL (malformed), EUNSUPPORTED (a flag that is not known). Features are an offer: WELCOME says which of
// them hold, unknown ones do not.
Result<wire::Hello> parse_hello(std::span<const std::byte> packet);
// The highest version that both know. Error: EVERSION, with a line that says which side is the older.
Result<uint16_t> agree_on_version(const wire::Hello& hello);
// The client's name with everything that is not printable ASCII replaced, fit for a log.
std::string name_of(const wire::Hello& hello);

// Errors: EPROTOCOL. An unknown kind is not an error here: it is answered with EUNSUPPORTED in BLOB.
Result<wire::Fetch> parse_fetch(std::span<const std::byte> packet);

wire::Loading make_loading(uint32_t percent);
// With its header; the caller fills in the rest.
wire::Welcome make_welcome(uint16_t version);
wire::Farewell make_refused(int32_t code, std::string_view message);
wire::Farewell make_ended(int32_t code, std::string_view message);
wire::Blob make_blob(wire::BlobKind kind, int32_t result, uint64_t bytes);

// Copies a text into a fixed field, cut to fit with its NUL; control characters become spaces, so that it stays one line.
void put_text(std::span<char> field, std::string_view text);

template <typename Message>
std::span<const std::byte> bytes_of(const Message& message) {
  return std::as_bytes(std::span<const Message, 1>(&message, 1));
}

// What a client may have of each buffer: what it gets when it asks for nothing in particular, and the bounds. The lower
// bound of the result FIFO is two rows of logits (wire/rings.h, invariant 6).
struct GeometryLimits {
  struct Bounds {
    uint32_t smallest, usual, largest;  // powers of two
  };
  Bounds submission_entries{8, 256, 4096};
  Bounds completion_entries{16, 1024, 65536};
  Bounds arena_bytes{4u << 10, 1u << 20, 16u << 20};
  Bounds result_bytes{4u << 10, 8u << 20, 64u << 20};
};

// A result FIFO that holds two of the largest results: of `vocabulary` logits and as many most probable tokens as there can
// be. A power of two.
uint64_t least_result_bytes(uint32_t vocabulary);

// The geometry for a client that asks for `wanted`: powers of two within the limits, at most what was asked for where
// the limits allow that. least_result_bytes must fit limits.result_bytes.largest (asserted: the daemon checks its model
// at start).
wire::Geometry grant(const wire::Geometry& wanted, const GeometryLimits& limits, uint32_t vocabulary);

}  // namespace iokv
