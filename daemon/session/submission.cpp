// SPDX-License-Identifier: Apache-2.0
#include "daemon/session/submission.h"

#include <algorithm>
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

// NaN fails every comparison, so the conditions say what is allowed: the ranges of iokv_sampling.
bool within(float value, float least, float most) { return value >= least && value <= most; }

bool sampling_allowed(const wire::StepPayload& payload) {
  const bool cuts = within(payload.top_p, 0, 1) && within(payload.min_p, 0, 1) && within(payload.typical_p, 0, 1);
  const bool penalties = within(payload.presence_penalty, -100, 100) && within(payload.frequency_penalty, -100, 100) &&
                         (payload.repetition_penalty == 0 || within(payload.repetition_penalty, 0.01f, 100));
  return payload.temperature >= 0 && std::isfinite(payload.temperature) && cuts && penalties;
}

// 0 means the default, which is 1 where it says "all" or "none".
SampleParams sampling_of(const wire::StepPayload& payload) {
  auto one_for_zero = [](float value) { return value == 0 ? 1.0f : value; };
  SampleParams sampling;
  sampling.temperature = payload.temperature;
  sampling.top_p = one_for_zero(payload.top_p);
  sampling.top_k = payload.top_k;
  sampling.seed = payload.seed;
  sampling.min_p = payload.min_p;
  sampling.typical_p = one_for_zero(payload.typical_p);
  sampling.repetition_penalty = one_for_zero(payload.repetition_penalty);
  sampling.presence_penalty = payload.presence_penalty;
  sampling.frequency_penalty = payload.frequency_penalty;
  sampling.repetition_from = payload.repetition_from;
  sampling.frequency_from = payload.frequency_from;
  return sampling;
}

bool has_unused_sampling(const wire::StepPayload& payload) {
  return payload.has_sampling == 0 &&
         (payload.min_p != 0 || payload.typical_p != 0 || payload.repetition_penalty != 0 || payload.presence_penalty != 0 ||
          payload.frequency_penalty != 0 || payload.repetition_from != 0 || payload.frequency_from != 0 ||
          payload.logit_biases != 0);
}

// Tokens that the step draws, appended ones that it predicts at included.
uint64_t draws_of(const wire::Submission& entry) {
  const bool each = has_flag(entry, wire::kSubmissionEach) && entry.n != 0;
  return uint64_t{entry.m} + (each ? entry.n - (entry.m != 0 ? 1 : 0) : 0);
}

// Copies the next `count` values from `bytes`, and leaves what is behind them.
template <typename T>
void take(std::span<const std::byte>& bytes, uint64_t count, std::vector<T>& to) {
  to.resize(count);
  const size_t size = count * sizeof(T);
  // memcpy's pointers must not be null, and those of an empty vector may be.
  if (size != 0) std::memcpy(to.data(), bytes.data(), size);
  bytes = bytes.subspan(size);
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
  const uint64_t words = uint64_t{limits.max_step_tokens} + limits.max_stop_tokens + wire::kMaxStopSequences +
                         2 * wire::kMaxLogitBiases + uint64_t{wire::kMaxMasks} * wire::mask_words(limits.vocabulary);
  uint64_t bytes = wire::kMaxStepPayloadBytes + words * sizeof(uint32_t);
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
  if (entry.payload_bytes < wire::kFirstStepPayloadBytes) return "a payload shorter than its struct";
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
  return bytes <= max_payload_bytes_ ? bytes : std::min(bytes, uint32_t{sizeof(wire::StepPayload)});
}

const char* SubmissionRules::check_payload(const wire::Submission& entry, std::span<const std::byte> payload,
                                           Request& request) const {
  if (request.refuse != 0) return nullptr;
  if (entry.payload_bytes == 0) {
    return is_step(entry) && entry.n != 0 ? "tokens without a payload" : nullptr;
  }
  wire::StepPayload head{};
  IOKV_ASSERT(payload.size() >= wire::kFirstStepPayloadBytes);
  std::memcpy(&head, payload.data(), wire::kFirstStepPayloadBytes);
  if (head.struct_bytes < wire::kFirstStepPayloadBytes || head.struct_bytes % wire::kPayloadAlignment != 0 ||
      head.struct_bytes > wire::kMaxStepPayloadBytes || head.struct_bytes > entry.payload_bytes) {
    return "a payload's struct_bytes is impossible";
  }
  const size_t known = std::min<size_t>(head.struct_bytes, sizeof head);
  IOKV_ASSERT(payload.size() >= known);
  std::memcpy(&head, payload.data(), known);
  if (head.has_sampling > 1) return "a payload's has_sampling is neither 0 nor 1";
  const uint32_t n = is_step(entry) ? entry.n : 0;
  const uint32_t words_of_mask = wire::mask_words(limits_.vocabulary);
  const uint64_t words = uint64_t{n} + head.stop_tokens + head.stop_sequences + head.stop_sequence_tokens +
                         2 * uint64_t{head.logit_biases} + uint64_t{head.masks} * words_of_mask;
  if (entry.payload_bytes != head.struct_bytes + words * sizeof(int32_t)) {
    return "a payload's length is not that of its struct and arrays";
  }
  if (int32_t code = refusal_of_step(entry, head, request); code != 0) return request.refuse = code, nullptr;
  IOKV_ASSERT(payload.size() >= entry.payload_bytes);  // all counts are within the limits, so max_payload_bytes_ sufficed
  if (!all_zero(payload.subspan(known, head.struct_bytes - known))) {
    return "a payload's struct has fields that this daemon does not know";
  }
  if (has_unused_sampling(head)) return "a payload says how to sample, and has_sampling 0";

  std::span<const std::byte> arrays = payload.subspan(head.struct_bytes);
  take(arrays, n, request.tokens);
  take(arrays, head.stop_tokens, request.stop_tokens);
  take(arrays, head.stop_sequences, request.stop_sequence_lengths);
  take(arrays, head.stop_sequence_tokens, request.stop_sequences);
  static_assert(sizeof(TokenBias) == sizeof(wire::LogitBias));
  take(arrays, head.logit_biases, request.biases);
  take(arrays, uint64_t{head.masks} * words_of_mask, request.masks);
  request.top_logprobs = head.top_logprobs;
  uint64_t stop_sequence_tokens = 0;
  for (uint32_t length : request.stop_sequence_lengths) {
    if (length == 0) return "a stop sequence of no tokens";
    stop_sequence_tokens += length;
  }
  if (stop_sequence_tokens != head.stop_sequence_tokens) return "the lengths of the stop sequences are not those of their tokens";
  if (int32_t code = refusal_of_values(request); code != 0) {
    request.drop_payload();
    return request.refuse = code, nullptr;
  }
  if (head.has_sampling != 0) request.sampling = sampling_of(head);
  return nullptr;
}

int32_t SubmissionRules::refusal_of_step(const wire::Submission& entry, const wire::StepPayload& head,
                                         const Request& request) const {
  if (head.stop_sequences > wire::kMaxStopSequences) return IOKV_ESTOP;
  if (uint64_t{head.stop_tokens} + head.stop_sequence_tokens > limits_.max_stop_tokens) return IOKV_ESTOP;
  if (head.logit_biases > wire::kMaxLogitBiases) return IOKV_ELIMIT;
  if (head.masks > wire::kMaxMasks) return IOKV_EMASK;
  const bool ends_step = is_step(entry) && !request.part;
  if (!ends_step && (head.stop_tokens != 0 || head.stop_sequences != 0 || head.masks != 0 || head.top_logprobs != 0)) {
    return IOKV_EINVAL;
  }
  if (head.masks != 0 && head.masks != draws_of(entry)) return IOKV_EMASK;
  if (head.top_logprobs > wire::kMaxTopLogprobs) return IOKV_EINVAL;
  return head.has_sampling != 0 && !sampling_allowed(head) ? IOKV_EINVAL : 0;
}

int32_t SubmissionRules::refusal_of_values(const Request& request) const {
  // As unsigned, a negative token is beyond every vocabulary.
  auto unknown = [this](int32_t token) { return static_cast<uint32_t>(token) >= limits_.vocabulary; };
  for (const std::vector<int32_t>* list : {&request.tokens, &request.stop_tokens, &request.stop_sequences}) {
    if (std::any_of(list->begin(), list->end(), unknown)) return IOKV_ETOKEN;
  }
  for (const TokenBias& bias : request.biases) {
    if (unknown(bias.token)) return IOKV_ETOKEN;
    if (!within(bias.bias, -10000, 10000)) return IOKV_EINVAL;
  }
  const size_t words = wire::mask_words(limits_.vocabulary);
  const uint32_t last = limits_.vocabulary % 32 == 0 ? ~0u : (1u << limits_.vocabulary % 32) - 1;
  for (size_t first = 0; first < request.masks.size(); first += words) {
    const auto mask = std::span(request.masks).subspan(first, words);
    const bool any = std::any_of(mask.begin(), mask.end() - 1, [](uint32_t word) { return word != 0; });
    if (!any && (mask.back() & last) == 0) return IOKV_EMASK;
  }
  return 0;
}

}  // namespace iokv
