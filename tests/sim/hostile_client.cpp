// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/hostile_client.h"

#include <cstring>

namespace iokv::sim {

void HostileClient::act() {
  const uint32_t kind = below(100);
  if (kind < 60) return announce_entry(true);
  if (kind < 70) return announce_entry(false);
  if (kind < 85) {
    while (rings.reap()) continue;
    rings.give_back();
    return;
  }
  if (kind < 88) return write(wire::kUpCompletionHead, static_cast<uint32_t>(random_()));
  if (kind < 90) return write(wire::kUpResultHead, below(8192));
  if (kind < 92) return write(wire::kUpSubmissionTail, tail_ + below(64));
  if (kind < 94) return write(wire::kUpFlags, static_cast<uint32_t>(random_()));
  for (uint32_t i = 0; i < 32; i++) {
    write(wire::kUpEntries + below(static_cast<uint32_t>(wire::up_bytes(rings.geometry()) - wire::kUpEntries) / 4) * 4,
          static_cast<uint32_t>(random_()));
  }
}

void HostileClient::write(size_t offset, uint32_t value) { std::memcpy(rings.up() + offset, &value, sizeof value); }

void HostileClient::announce_entry(bool plausible) {
  wire::Submission entry{};
  auto* bytes = reinterpret_cast<unsigned char*>(&entry);
  if (plausible) {
    entry.opcode = static_cast<wire::Opcode>(1 + below(7));
    entry.operation = ++operation_;
    entry.sequence = (1 + below(4)) | uint64_t{1} << 32;
    if (entry.opcode == wire::Opcode::fork) entry.argument = (1 + below(4)) | uint64_t{1} << 32;
    if (entry.opcode == wire::Opcode::nop) entry.sequence = 0;
    if (entry.opcode == wire::Opcode::step) entry.m = below(400);
    if (entry.opcode == wire::Opcode::truncate || entry.opcode == wire::Opcode::fork) entry.n = below(200);
    if (entry.opcode == wire::Opcode::step && below(2) == 0) entry.flags = static_cast<uint16_t>(below(8));
    if (below(8) == 0) bytes[below(sizeof entry)] ^= static_cast<unsigned char>(1u << below(8));
  } else {
    for (size_t i = 0; i < sizeof entry; i++) bytes[i] = static_cast<unsigned char>(random_());
  }
  const uint32_t slot = tail_ % rings.geometry().submission_entries;
  std::memcpy(rings.up() + wire::kUpEntries + size_t{slot} * sizeof entry, &entry, sizeof entry);
  tail_++;
  write(wire::kUpSubmissionTail, tail_);
}

}  // namespace iokv::sim
