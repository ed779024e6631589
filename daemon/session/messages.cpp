// SPDX-License-Identifier: Apache-2.0
#include "daemon/session/messages.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "daemon/base/assert.h"
#include "include/iokv/iokv.h"

namespace iokv {
namespace {

Error malformed(const std::string& what) { return error(what, IOKV_EPROTOCOL); }

wire::MessageHeader header_of(wire::MessageType type, size_t bytes) {
  return {wire::kMagic, type, static_cast<uint16_t>(bytes)};
}

Result<wire::MessageHeader> parse_header(std::span<const std::byte> packet) {
  wire::MessageHeader header;
  if (packet.size() < sizeof header) return malformed("a control message shorter than its header");
  if (packet.size() > wire::kMaxMessageBytes) return malformed("a control message that is too long");
  std::memcpy(&header, packet.data(), sizeof header);
  if (header.magic != wire::kMagic) return malformed("a control message without iokv's magic number");
  if (header.bytes != packet.size()) return malformed("a control message whose length is not the packet's");
  return header;
}

template <typename Message>
Result<Message> parse_message(std::span<const std::byte> packet, wire::MessageType type, const std::string& name) {
  IOKV_TRY_ASSIGN(wire::MessageHeader header, parse_header(packet));
  if (header.type != type) return malformed("a control message of another type than " + name);
  if (packet.size() < sizeof(Message)) return malformed("a " + name + " that is too short");
  Message message;
  std::memcpy(&message, packet.data(), sizeof message);
  for (std::byte byte : packet.subspan(sizeof message)) {
    if (byte != std::byte{0}) return malformed("a " + name + " with fields that this daemon does not know");
  }
  return message;
}

wire::Farewell farewell(wire::MessageType type, int32_t code, std::string_view text) {
  wire::Farewell message{};
  message.header = header_of(type, sizeof message);
  message.code = code;
  put_text(message.message, text);
  return message;
}

uint32_t grant_one(uint32_t wanted, const GeometryLimits::Bounds& bounds) {
  if (wanted == 0) return bounds.usual;
  return std::clamp(std::bit_floor(wanted), bounds.smallest, bounds.largest);
}

bool valid(const GeometryLimits::Bounds& bounds) {
  return std::has_single_bit(bounds.smallest) && std::has_single_bit(bounds.usual) &&
         std::has_single_bit(bounds.largest) && bounds.smallest <= bounds.usual && bounds.usual <= bounds.largest;
}

}  // namespace

Result<wire::MessageType> type_of(std::span<const std::byte> packet) {
  IOKV_TRY_ASSIGN(wire::MessageHeader header, parse_header(packet));
  if (header.type == wire::MessageType::hello || header.type == wire::MessageType::fetch) return header.type;
  return malformed("a control message of type " + std::to_string(static_cast<uint16_t>(header.type)) +
                   ", which clients do not send");
}

Result<wire::Hello> parse_hello(std::span<const std::byte> packet) {
  IOKV_TRY_ASSIGN(wire::Hello hello, parse_message<wire::Hello>(packet, wire::MessageType::hello, "HELLO"));
  if (hello.version_min == 0 || hello.version_min > hello.version_max) return malformed("a HELLO without a version");
  if (std::memchr(hello.name, 0, sizeof hello.name) == nullptr) return malformed("a HELLO whose name does not end");
  if ((hello.flags & ~uint32_t{wire::kHelloObserver}) != 0) {
    return error("a HELLO with flags that this daemon does not know", IOKV_EUNSUPPORTED);
  }
  return hello;
}

Result<uint16_t> agree_on_version(const wire::Hello& hello) {
  if (hello.version_max < wire::kVersionMin) {
    return error("libiokv speaks protocol up to " + std::to_string(hello.version_max) + ", this daemon from " +
                     std::to_string(wire::kVersionMin) + " on: update the client",
                 IOKV_EVERSION);
  }
  if (hello.version_min > wire::kVersionMax) {
    return error("libiokv speaks protocol from " + std::to_string(hello.version_min) + " on, this daemon up to " +
                     std::to_string(wire::kVersionMax) + ": update iokvd",
                 IOKV_EVERSION);
  }
  return std::min(hello.version_max, wire::kVersionMax);
}

std::string name_of(const wire::Hello& hello) {
  std::string name(hello.name, ::strnlen(hello.name, sizeof hello.name));
  for (char& letter : name) {
    if (letter < ' ' || letter > '~') letter = '?';
  }
  return name;
}

Result<wire::Fetch> parse_fetch(std::span<const std::byte> packet) {
  IOKV_TRY_ASSIGN(wire::Fetch fetch, parse_message<wire::Fetch>(packet, wire::MessageType::fetch, "FETCH"));
  if (fetch.reserved != 0) return malformed("a FETCH whose reserved field is not zero");
  return fetch;
}

wire::Loading make_loading(uint32_t percent) {
  wire::Loading message{};
  message.header = header_of(wire::MessageType::loading, sizeof message);
  message.percent = percent;
  return message;
}

wire::Welcome make_welcome(uint16_t version) {
  wire::Welcome message{};
  message.header = header_of(wire::MessageType::welcome, sizeof message);
  message.version = version;
  return message;
}

wire::Farewell make_refused(int32_t code, std::string_view message) {
  return farewell(wire::MessageType::refused, code, message);
}

wire::Farewell make_ended(int32_t code, std::string_view message) {
  return farewell(wire::MessageType::ended, code, message);
}

wire::Blob make_blob(wire::BlobKind kind, int32_t result, uint64_t bytes) {
  wire::Blob message{};
  message.header = header_of(wire::MessageType::blob, sizeof message);
  message.kind = kind;
  message.result = result;
  message.bytes = bytes;
  return message;
}

void put_text(std::span<char> field, std::string_view text) {
  IOKV_ASSERT(!field.empty());
  size_t length = std::min(text.size(), field.size() - 1);
  // A UTF-8 character is kept whole or not at all: 10xxxxxx continues one.
  if (length < text.size()) {
    while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xc0) == 0x80) length--;
  }
  std::fill(field.begin(), field.end(), '\0');
  for (size_t i = 0; i < length; i++) field[i] = static_cast<unsigned char>(text[i]) < ' ' ? ' ' : text[i];
}

uint64_t least_result_bytes(uint32_t vocabulary) {
  const uint64_t row = (uint64_t{vocabulary} * sizeof(float) + wire::kPayloadAlignment - 1) & ~uint64_t{wire::kPayloadAlignment - 1};
  return std::bit_ceil(2 * (row + wire::top_bytes(wire::kMaxTopLogprobs)));
}

wire::Geometry grant(const wire::Geometry& wanted, const GeometryLimits& limits, uint32_t vocabulary) {
  IOKV_ASSERT(valid(limits.submission_entries) && valid(limits.completion_entries) && valid(limits.arena_bytes) &&
              valid(limits.result_bytes));
  GeometryLimits::Bounds result = limits.result_bytes;
  const uint64_t two_results = least_result_bytes(vocabulary);
  IOKV_ASSERT(two_results <= result.largest);
  result.smallest = std::max(result.smallest, static_cast<uint32_t>(two_results));
  result.usual = std::max(result.usual, result.smallest);
  return {grant_one(wanted.submission_entries, limits.submission_entries),
          grant_one(wanted.completion_entries, limits.completion_entries),
          grant_one(wanted.arena_bytes, limits.arena_bytes), grant_one(wanted.result_bytes, result)};
}

}  // namespace iokv
