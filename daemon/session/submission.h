// SPDX-License-Identifier: Apache-2.0
// The rules for submission entries: from a private copy of an entry and of its payload to a Request. Touches no shared
// memory. One object a connection, on the conductor's thread.
//
// Invariants
//  1. Every 64 bytes and every payload end in exactly one of three ways: a Request to carry out, a Request with `refuse`
//     set (well-formed, but asks for what cannot be: the operation completes with that code), or a reason why the client
//     broke the protocol and is ended. Only a client that does not use libiokv, or has overwritten its memory, gets there.
//  2. Operation ids rise. All parts of a longer append carry the id of the STEP that ends it; one such append at a time is
//     under way, other entries may come in between.
//  3. Each payload lies where wire::place puts it behind the one before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "daemon/sched/request.h"
#include "wire/rings.h"

namespace iokv {

struct SessionLimits {
  uint32_t vocabulary = 0;
  uint32_t max_step_tokens = 0;
  uint32_t max_stop_tokens = 0;
  uint32_t copy_bytes_per_pass = 256 * 1024;
};

class SubmissionRules {
 public:
  SubmissionRules(const SessionLimits& limits, uint32_t arena_bytes);

  // Checks the entry alone and fills what it says into `request`. Returns nullptr, or how it broke the protocol (a
  // static line).
  const char* check_entry(const wire::Submission& entry, Request& request);
  // Bytes at entry.payload_offset that check_payload must see: a multiple of 8, 0 when there is nothing to read (no
  // payload, or it would not change that the entry is refused). At most max_payload_bytes().
  uint32_t payload_to_read(const wire::Submission& entry, const Request& request) const;
  // Checks the copied payload and adds what it says. As check_entry.
  const char* check_payload(const wire::Submission& entry, std::span<const std::byte> payload, Request& request) const;

  uint32_t max_payload_bytes() const { return max_payload_bytes_; }

 private:
  // Refuses what is well-formed and cannot be: 0, or the code.
  int32_t refusal_of_step(const wire::Submission& entry, const wire::StepPayload& head, const Request& request) const;
  int32_t refusal_of_values(const Request& request) const;
  const char* check_reserved(const wire::Submission& entry) const;
  const char* check_identity(const wire::Submission& entry);
  const char* check_place(const wire::Submission& entry);
  int32_t refusal_of(const wire::Submission& entry) const;

  SessionLimits limits_;
  uint32_t arena_bytes_;
  uint32_t max_payload_bytes_;
  uint32_t arena_position_ = 0;  // end of the payload before
  uint64_t last_operation_ = 0;
  uint64_t append_operation_ = 0;  // of the longer append under way, or 0
  uint64_t append_sequence_ = 0;
  bool continues_append_ = false;  // the present entry belongs to it
};

}  // namespace iokv
