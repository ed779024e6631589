// SPDX-License-Identifier: Apache-2.0
#include "daemon/session/submission.h"

#include <cmath>
#include <cstring>

#include "daemon/base/assert.h"
#include "include/iokv/iokv.h"

namespace iokv {
namespace {

constexpr int16_t kMaxPriority = 100;
constexpr uint16_t kStepFlags = wire::kSubmissionEach | wire::kSubmissionLogits | wire::kSubmissionPart;

bool is_step(const wire::Submission& entry) { return entry.opcode == wire::Opcode::step; }
bool has_flag(const wire::Submission& entry, uint16_t flag) { return (entry.flags & flag) != 0; }
uint32_t generation_of(uint64_t sequence) { return static_cast<uint32_t>(sequence >> 32); }

RequestKind kind_of(wire::Opcode opcode) {
  switch (opcode) {
    case wire::Opcode::nop: return RequestKind::nop;
    case wire::Opcode::open: return RequestKind::open;
    case wire::Opcode::step: return RequestKind::step;
    case wire::Opcode::fork: return RequestKind::fork;
    case wire::Opcode::truncate: return RequestKind::truncate;
    case wire::Opcode::cancel: return RequestKind::cancel;
    case wire::Opcode::close: return RequestKind::close;
  }
  IOKV_ASSERT(!"an opcode that check_reserved let through");
  return RequestKind::nop;
}

// NaN fails every comparison, so the conditions say what is allowed.
bool sampling_allowed(const wire::StepPayload& payload) {
  return payload.temperature >= 0 && std::isfinite(payload.temperature) && payload.top_p >= 0 && payload.top_p <= 1;
}

SampleParams sampling_of(const wire::StepPayload& payload) {
  SampleParams sampling;
  sampling.temperature = payload.temperature;
  sampling.top_p = payload.top_p == 0 ? 1.0f : payload.top_p;  // 0 means the default: no cut
  sampling.top_k = payload.top_k;
  sampling.seed = payload.seed;
  return sampling;
}

bool all_zero(std::span<const std::byte> bytes) {
  for (std::byte byte : bytes) {
    if (byte != std::byte{0}) return false;
  }
  return true;
}

}  // namespace

SubmissionRules::SubmissionRules(const SessionLimits& limits, uint32_t arena_bytes)
    : limits_(limits), arena_bytes_(arena_bytes) {
  uint64_t bytes = wire::kMaxStepPayloadBytes + (uint64_t{limits.max_step_tokens} + limits.max_stop_tokens) * 4;
  bytes = bytes < arena_bytes ? bytes : arena_bytes;
  max_payload_bytes_ = wire::padded(static_cast<uint32_t>(bytes));
}

const char* SubmissionRules::check_entry(const wire::Submission& entry, Request& request) {
  if (const char* reason = check_reserved(entry)) return reason;
  if (const char* reason = check_identity(entry)) return reason;
  if (const char* reason = check_place(entry)) return reason;

  request.kind = kind_of(entry.opcode);
  request.part = has_flag(entry, wire::kSubmissionPart);
  request.each = has_flag(entry, wire::kSubmissionEach);
  request.logits = has_flag(entry, wire::kSubmissionLogits);
  request.priority = entry.priority;
  request.operation = entry.operation;
  request.user_data = entry.user_data;
  request.sequence = entry.sequence;
  request.n = entry.n;
  request.max_tokens = entry.m;
  if (is_step(entry)) request.deadline_ns = entry.argument;
  if (entry.opcode == wire::Opcode::fork) request.parent = entry.argument;
  if (entry.opcode == wire::Opcode::cancel) request.target = entry.argument;
  request.refuse = refusal_of(entry);
  return nullptr;
}

// What an opcode does not use is zero, so that it can get a meaning later.
const char* SubmissionRules::check_reserved(const wire::Submission& entry) const {
  const bool open = entry.opcode == wire::Opcode::open;
  bool uses_sequence = true, uses_argument = false, uses_n = false;
  switch (entry.opcode) {
    case wire::Opcode::nop: uses_sequence = false; break;
    case wire::Opcode::open:
    case wire::Opcode::close: break;
    case wire::Opcode::step:
    case wire::Opcode::fork: uses_argument = uses_n = true; break;
    case wire::Opcode::truncate: uses_n = true; break;
    case wire::Opcode::cancel: uses_argument = true; break;
    default: return "unknown opcode";
  }
  if (entry.reserved0 != 0 || entry.reserved1 != 0) return "a reserved field is not zero";
  if ((entry.flags & ~(is_step(entry) ? kStepFlags : 0)) != 0) return "unknown flags";
  bool unused_set = (!uses_sequence && entry.sequence != 0) || (!uses_argument && entry.argument != 0) ||
                    (!uses_n && entry.n != 0) || (!is_step(entry) && entry.m != 0) ||
                    (!open && (entry.model != 0 || entry.adapter != 0)) ||
                    (!open && !is_step(entry) && (entry.priority != 0 || entry.payload_bytes != 0)) ||
                    (entry.payload_bytes == 0 && entry.payload_offset != 0);
  if (unused_set) return "a field that the opcode does not use is not zero";
  if (has_flag(entry, wire::kSubmissionPart) && entry.m != 0) return "a part of an append samples";
  return nullptr;
}

const char* SubmissionRules::check_identity(const wire::Submission& entry) {
  if (entry.operation == 0) return "operation id 0";
  continues_append_ = append_operation_ != 0 && entry.operation == append_operation_ && is_step(entry);
  if (continues_append_) {
    if (entry.sequence != append_sequence_) return "the parts of an append name different sequences";
    if (!has_flag(entry, wire::kSubmissionPart)) append_operation_ = 0;
    return nullptr;
  }
  if (entry.operation <= last_operation_) return "operation ids do not rise";
  last_operation_ = entry.operation;
  if (has_flag(entry, wire::kSubmissionPart)) {
    if (append_operation_ != 0) return "an append in parts begins before the one before has ended";
    append_operation_ = entry.operation;
    append_sequence_ = entry.sequence;
  }
  bool names_new = entry.opcode == wire::Opcode::open || entry.opcode == wire::Opcode::fork;
  if (names_new && generation_of(entry.sequence) == 0) return "a new sequence of generation 0";
  return nullptr;
}

// There is one place where a FIFO can have put it: what lies there is whole, within the arena and aligned.
const char* SubmissionRules::check_place(const wire::Submission& entry) {
  if (entry.payload_bytes == 0) return nullptr;
  if (entry.payload_bytes > arena_bytes_) return "a payload larger than the arena";
  if (entry.payload_bytes < sizeof(wire::StepPayload)) return "a payload shorter than its struct";
  const uint32_t bytes = wire::padded(entry.payload_bytes);  // at most arena_bytes_, a power of two: no overflow
  if (entry.payload_offset != wire::place(arena_position_, bytes, arena_bytes_)) {
    return "a payload that does not follow the one before";
  }
  arena_position_ = entry.payload_offset + bytes;
  return nullptr;
}

int32_t SubmissionRules::refusal_of(const wire::Submission& entry) const {
  if (entry.model != 0 || entry.adapter != 0) return IOKV_EUNSUPPORTED;
  if (entry.priority < -kMaxPriority || entry.priority > kMaxPriority) return IOKV_EINVAL;
  if (entry.opcode != wire::Opcode::nop && generation_of(entry.sequence) == 0) return IOKV_ESEQUENCE;
  if (entry.opcode == wire::Opcode::fork && generation_of(entry.argument) == 0) return IOKV_ESEQUENCE;
  if (is_step(entry)) {
    bool in_parts = continues_append_ || has_flag(entry, wire::kSubmissionPart);
    if (in_parts && has_flag(entry, wire::kSubmissionEach)) return IOKV_EINVAL;
    if (entry.n > limits_.max_step_tokens) return IOKV_ELIMIT;
  }
  return 0;
}

uint32_t SubmissionRules::payload_to_read(const wire::Submission& entry, const Request& request) const {
  if (request.refuse != 0) return 0;
  uint32_t bytes = wire::padded(entry.payload_bytes);
  // More than the limits allow cannot be accepted; the head is enough to find out why.
  return bytes <= max_payload_bytes_ ? bytes : uint32_t{sizeof(wire::StepPayload)};
}

const char* SubmissionRules::check_payload(const wire::Submission& entry, std::span<const std::byte> payload,
                                           Request& request) const {
  if (request.refuse != 0) return nullptr;
  if (entry.payload_bytes == 0) {
    return is_step(entry) && entry.n != 0 ? "tokens without a payload" : nullptr;
  }
  wire::StepPayload head;
  IOKV_ASSERT(payload.size() >= sizeof head);
  std::memcpy(&head, payload.data(), sizeof head);

  if (head.struct_bytes < sizeof head || head.struct_bytes % wire::kPayloadAlignment != 0 ||
      head.struct_bytes > wire::kMaxStepPayloadBytes) {
    return "a payload's struct_bytes is impossible";
  }
  if (head.has_sampling > 1) return "a payload's has_sampling is neither 0 nor 1";
  const uint32_t n = is_step(entry) ? entry.n : 0;
  const uint64_t needed = head.struct_bytes + (uint64_t{n} + head.stop_tokens) * sizeof(int32_t);
  if (entry.payload_bytes != needed) return "a payload's length is not that of its struct and tokens";
  if (head.stop_tokens > limits_.max_stop_tokens) return request.refuse = IOKV_ELIMIT, nullptr;
  IOKV_ASSERT(payload.size() >= needed);  // n and stop_tokens are within the limits, so max_payload_bytes_ sufficed
  if (!all_zero(payload.subspan(sizeof head, head.struct_bytes - sizeof head))) {
    return "a payload's struct has fields that this daemon does not know";
  }

  if (head.stop_tokens != 0 && (!is_step(entry) || request.part)) return request.refuse = IOKV_EINVAL, nullptr;
  if (head.has_sampling != 0 && !sampling_allowed(head)) return request.refuse = IOKV_EINVAL, nullptr;
  request.tokens.resize(n);
  request.stop_tokens.resize(head.stop_tokens);
  // memcpy's pointers must not be null, and those of an empty vector may be.
  const std::byte* tokens = payload.data() + head.struct_bytes;
  if (n != 0) std::memcpy(request.tokens.data(), tokens, size_t{n} * sizeof(int32_t));
  if (head.stop_tokens != 0) {
    std::memcpy(request.stop_tokens.data(), tokens + size_t{n} * sizeof(int32_t), head.stop_tokens * sizeof(int32_t));
  }
  for (const std::vector<int32_t>* list : {&request.tokens, &request.stop_tokens}) {
    for (int32_t token : *list) {
      // As unsigned, a negative token is beyond every vocabulary.
      if (static_cast<uint32_t>(token) >= limits_.vocabulary) request.refuse = IOKV_ETOKEN;
    }
  }
  if (request.refuse != 0) {
    request.tokens.clear();
    request.stop_tokens.clear();
    return nullptr;
  }
  if (head.has_sampling != 0) request.sampling = sampling_of(head);
  return nullptr;
}

}  // namespace iokv
