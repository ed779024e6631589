// SPDX-License-Identifier: Apache-2.0
#include "libiokv/arguments.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "libiokv/struct_size.h"

namespace iokv {
namespace {

constexpr int32_t kMaxPriority = 100;
constexpr uint32_t kStepFlags = IOKV_STEP_EACH | IOKV_STEP_LOGITS;
static_assert(kStepFlags == (wire::kSubmissionEach | wire::kSubmissionLogits));
static_assert(wire::kMaxLogitBiases == IOKV_MAX_LOGIT_BIAS && wire::kMaxTopLogprobs == IOKV_MAX_TOP_LOGPROBS);
static_assert(wire::kMaxStopSequences == IOKV_MAX_STOP_SEQUENCES && wire::kMaxMasks == IOKV_MAX_MASKS);
static_assert(sizeof(wire::LogitBias) == sizeof(iokv_logit_bias));

// A parameter and what it may be; `unset` is the zero that stands for the default.
struct Range {
  const char* name;
  float value, least, most;
  bool zero_is_default = false;
};

int check_range(const Range& range, Refusal& refusal) {
  // NaN fails every comparison.
  if ((range.value >= range.least && range.value <= range.most) || (range.zero_is_default && range.value == 0)) return 0;
  return refusal.refuse(IOKV_EINVAL, "%s is %g: it must be %g to %g%s", range.name, double{range.value},
                        double{range.least}, double{range.most}, range.zero_is_default ? ", or 0 for none" : "");
}

template <typename T>
std::span<const std::byte> bytes_of(const T* values, size_t count) {
  return std::as_bytes(std::span(values, count));
}

int check_biases(const iokv_sampling& sampling, const wire::Welcome& facts, Refusal& refusal) {
  const uint32_t count = sampling.logit_bias_count;
  if (count > IOKV_MAX_LOGIT_BIAS) {
    return refusal.refuse(IOKV_ELIMIT, "logit_bias_count is %u: at most %d tokens can have a bias", count, IOKV_MAX_LOGIT_BIAS);
  }
  if (count != 0 && sampling.logit_bias == nullptr) {
    return refusal.refuse(IOKV_EINVAL, "logit_bias is NULL, and logit_bias_count %u", count);
  }
  for (uint32_t i = 0; i < count; ++i) {
    const iokv_logit_bias& bias = sampling.logit_bias[i];
    // As unsigned, a negative token is beyond every vocabulary.
    if (static_cast<uint32_t>(bias.token) >= facts.vocabulary) {
      return refusal.refuse(IOKV_ETOKEN, "logit_bias[%u].token is %d: it must be 0 to %u", i, bias.token, facts.vocabulary - 1);
    }
    if (int code = check_range({"a logit_bias", bias.bias, -10000, 10000}, refusal); code != 0) return code;
  }
  return 0;
}

int read_sampling(const iokv_sampling* given, const wire::Welcome& facts, Payload& payload, Refusal& refusal) {
  if (given == nullptr) return 0;
  iokv_sampling sampling{};
  if (!read_struct(given, sampling)) {
    return refusal.refuse(IOKV_EINVAL, "sampling.struct_size is impossible, or it says what this library does not know");
  }
  const Range ranges[] = {{"temperature", sampling.temperature, 0, 3.4028235e38f},
                          {"top_p", sampling.top_p, 0, 1},
                          {"min_p", sampling.min_p, 0, 1},
                          {"typical_p", sampling.typical_p, 0, 1},
                          {"repetition_penalty", sampling.repetition_penalty, 0.01f, 100, true},
                          {"presence_penalty", sampling.presence_penalty, -100, 100},
                          {"frequency_penalty", sampling.frequency_penalty, -100, 100}};
  for (const Range& range : ranges) {
    if (int code = check_range(range, refusal); code != 0) return code;
  }
  if (int code = check_biases(sampling, facts, refusal); code != 0) return code;
  wire::StepPayload& out = payload.header;
  out.has_sampling = 1;
  out.temperature = sampling.temperature;
  out.top_p = sampling.top_p;
  out.top_k = sampling.top_k;
  out.seed = sampling.seed;
  out.min_p = sampling.min_p;
  out.typical_p = sampling.typical_p;
  out.repetition_penalty = sampling.repetition_penalty;
  out.presence_penalty = sampling.presence_penalty;
  out.frequency_penalty = sampling.frequency_penalty;
  out.repetition_from = sampling.repetition_from;
  out.frequency_from = sampling.frequency_from;
  out.logit_biases = sampling.logit_bias_count;
  payload.behind[3] = bytes_of(sampling.logit_bias, sampling.logit_bias_count);
  return 0;
}

int check_priority(int32_t priority, Refusal& refusal) {
  if (priority >= -kMaxPriority && priority <= kMaxPriority) return 0;
  return refusal.refuse(IOKV_EINVAL, "priority is %d: it must be -100 to 100", priority);
}

int read_stops(const iokv_step_options& options, const wire::Welcome& facts, Payload& payload, Refusal& refusal) {
  if (options.stop_token_count != 0 && options.stop_tokens == nullptr) {
    return refusal.refuse(IOKV_EINVAL, "stop_tokens is NULL, and stop_token_count %u", options.stop_token_count);
  }
  if (options.stop_sequence_count > IOKV_MAX_STOP_SEQUENCES) {
    return refusal.refuse(IOKV_ESTOP, "stop_sequence_count is %u: a step can have %d", options.stop_sequence_count,
                          IOKV_MAX_STOP_SEQUENCES);
  }
  if (options.stop_sequence_count != 0 && (options.stop_sequences == nullptr || options.stop_sequence_lengths == nullptr)) {
    return refusal.refuse(IOKV_EINVAL, "stop_sequences or stop_sequence_lengths is NULL, and stop_sequence_count %u",
                          options.stop_sequence_count);
  }
  uint64_t tokens = 0;
  for (uint32_t i = 0; i < options.stop_sequence_count; ++i) {
    if (options.stop_sequence_lengths[i] == 0) return refusal.refuse(IOKV_ESTOP, "stop_sequence_lengths[%u] is 0", i);
    tokens += options.stop_sequence_lengths[i];
  }
  if (tokens + options.stop_token_count > facts.max_stop_tokens) {
    return refusal.refuse(IOKV_ESTOP, "stop tokens and stop sequences have %llu tokens: they may have %u together",
                          static_cast<unsigned long long>(tokens + options.stop_token_count), facts.max_stop_tokens);
  }
  payload.header.stop_tokens = options.stop_token_count;
  payload.header.stop_sequences = options.stop_sequence_count;
  payload.header.stop_sequence_tokens = static_cast<uint32_t>(tokens);
  payload.behind[0] = bytes_of(options.stop_tokens, options.stop_token_count);
  payload.behind[1] = bytes_of(options.stop_sequence_lengths, options.stop_sequence_count);
  payload.behind[2] = bytes_of(options.stop_sequences, tokens);
  return 0;
}

int read_masks(const iokv_step_options& options, const wire::Welcome& facts, Payload& payload, Refusal& refusal) {
  const uint32_t words = options.mask_count == 0 ? 0 : wire::mask_words(facts.vocabulary);
  if (options.mask_words != words) {
    return refusal.refuse(IOKV_EMASK, "mask_words is %u: a mask of %u tokens has %u, and without masks it must be 0",
                          options.mask_words, facts.vocabulary, wire::mask_words(facts.vocabulary));
  }
  if (options.mask_count == 0) return 0;
  const bool each = (options.flags & IOKV_STEP_EACH) != 0 && options.token_count != 0;
  const uint64_t predicted = each ? options.token_count - (options.max_tokens != 0 ? 1 : 0) : 0;
  if (options.mask_count > IOKV_MAX_MASKS || options.mask_count != predicted + options.max_tokens) {
    return refusal.refuse(IOKV_EMASK, "mask_count is %u: the step draws %llu tokens, and there can be %d masks",
                          options.mask_count, static_cast<unsigned long long>(predicted + options.max_tokens), IOKV_MAX_MASKS);
  }
  if (options.masks == nullptr) return refusal.refuse(IOKV_EINVAL, "masks is NULL, and mask_count %u", options.mask_count);
  payload.header.masks = options.mask_count;
  payload.behind[4] = bytes_of(options.masks, size_t{options.mask_count} * words);
  return 0;
}

int check_size(const Payload& payload, const wire::Welcome& facts, Refusal& refusal) {
  if (payload.header_bytes() > wire::kFirstStepPayloadBytes && (facts.features & wire::kFeatureSampling) == 0) {
    return refusal.refuse(IOKV_EUNSUPPORTED, "this daemon (%s) is older than what the sampling, stop sequences, top_logprobs or "
                          "masks ask for: update it", facts.daemon_version);
  }
  const uint64_t bytes = payload.header_bytes() + payload.behind_bytes();
  if (bytes <= facts.geometry.arena_bytes / 2) return 0;
  return refusal.refuse(IOKV_ELIMIT, "stop tokens, biases and masks take %llu bytes: half of the arena is %u; connect with a "
                        "larger arena_bytes", static_cast<unsigned long long>(bytes), facts.geometry.arena_bytes / 2);
}

}  // namespace

int Refusal::refuse(int code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line_.data(), line_.size(), format, arguments);
  va_end(arguments);
  code_ = code;
  return code;
}

int Refusal::note(int code) {
  if (code == 0) clear();
  if (code != code_) refuse(code, "%s", iokv_strerror(code));
  return code;
}

uint32_t Payload::header_bytes() const {
  const auto bytes = std::as_bytes(std::span(&header, 1)).subspan(wire::kFirstStepPayloadBytes);
  for (std::byte byte : bytes) {
    if (byte != std::byte{0}) return sizeof header;
  }
  return wire::kFirstStepPayloadBytes;
}

uint64_t Payload::behind_bytes() const {
  uint64_t bytes = 0;
  for (const auto& part : behind) bytes += part.size();
  return bytes;
}

void write_payload(const Payload& payload, std::byte* out) {
  wire::StepPayload header = payload.header;
  header.struct_bytes = payload.header_bytes();
  auto append = [&out](const void* data, size_t bytes) {
    // memcpy's pointers must not be null, and those of an empty span may be.
    if (bytes != 0) std::memcpy(out, data, bytes);
    out += bytes;
  };
  append(&header, header.struct_bytes);
  append(payload.tokens.data(), payload.tokens.size_bytes());
  for (const auto& part : payload.behind) append(part.data(), part.size());
}

int read_open(const iokv_open_options* given, const wire::Welcome& facts, iokv_open_options& options, Payload& payload,
              Refusal& refusal) {
  options = {};
  if (given != nullptr && !read_struct(given, options)) {
    return refusal.refuse(IOKV_EINVAL, "options.struct_size is impossible, or they say what this library does not know");
  }
  if (options.flags != 0 || options.reserved != 0) return refusal.refuse(IOKV_EINVAL, "flags and reserved must be 0");
  if (options.model > UINT16_MAX) return refusal.refuse(IOKV_EINVAL, "model is %u: there are no more than 65536", options.model);
  if (int code = check_priority(options.priority, refusal); code != 0) return code;
  if (int code = read_sampling(options.sampling, facts, payload, refusal); code != 0) return code;
  return check_size(payload, facts, refusal);
}

int read_step(const iokv_step_options* given, const wire::Welcome& facts, iokv_step_options& options, Payload& payload,
              Refusal& refusal) {
  options = {};
  if (given == nullptr || !read_struct(given, options)) {
    return refusal.refuse(IOKV_EINVAL, "options are NULL, their struct_size is impossible, or they say what this library "
                          "does not know");
  }
  if ((options.flags & ~kStepFlags) != 0) return refusal.refuse(IOKV_EINVAL, "flags are 0x%x: unknown", options.flags);
  if (int code = check_priority(options.priority, refusal); code != 0) return code;
  if (options.token_count > facts.max_step_tokens) {
    return refusal.refuse(IOKV_EINVAL, "token_count is %u: a step can append %u", options.token_count, facts.max_step_tokens);
  }
  if (options.token_count != 0 && options.tokens == nullptr) {
    return refusal.refuse(IOKV_EINVAL, "tokens is NULL, and token_count %u", options.token_count);
  }
  payload.tokens = {options.tokens, options.token_count};
  if (int code = read_stops(options, facts, payload, refusal); code != 0) return code;
  if (options.top_logprobs > IOKV_MAX_TOP_LOGPROBS) {
    return refusal.refuse(IOKV_EINVAL, "top_logprobs is %u: it must be 0 to %d", options.top_logprobs, IOKV_MAX_TOP_LOGPROBS);
  }
  payload.header.top_logprobs = options.top_logprobs;
  if (int code = read_sampling(options.sampling, facts, payload, refusal); code != 0) return code;
  if (int code = read_masks(options, facts, payload, refusal); code != 0) return code;
  const bool is_long = payload.bytes() > facts.geometry.arena_bytes;
  if (is_long && (options.flags & IOKV_STEP_EACH) != 0) {
    return refusal.refuse(IOKV_EINVAL, "IOKV_STEP_EACH with more tokens than the arena holds: connect with a larger "
                          "arena_bytes, or append them before");
  }
  return check_size(payload, facts, refusal);
}

}  // namespace iokv
