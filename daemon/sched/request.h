// SPDX-License-Identifier: Apache-2.0
// The two types at the edge between sessions and the scheduler: a Request is a submission entry that was copied out of
// shared memory and validated as far as one entry can be by itself; an Outcome is what becomes a completion entry.
// Plain values: nothing here points into memory that a client can write.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "daemon/base/sampling.h"
#include "iokv/iokv.h"

namespace iokv {

// A connection: slot in the daemon's client table and a generation, so that a late message cannot meet a successor.
struct ClientId {
  uint32_t slot = 0;
  uint32_t generation = 0;
  auto operator<=>(const ClientId&) const = default;
};

enum class RequestKind : uint8_t { nop, open, step, fork, truncate, cancel, close };

struct Request {
  RequestKind kind = RequestKind::nop;
  // STEP: a part of a longer append; see wire::kSubmissionPart.
  bool part = false;
  bool each = false;            // STEP: predict at every appended token
  bool logits = false;          // STEP: completions carry logits
  int32_t refuse = 0;           // a negative code: the entry was well-formed but asks for what cannot be (ETOKEN, EINVAL,
                                // ELIMIT ...); the operation completes with it and does nothing else
  iokv_limit limit = IOKV_LIMIT_NONE;  // with ELIMIT: which
  int16_t priority = 0;
  uint64_t operation = 0;
  uint64_t user_data = 0;
  uint64_t sequence = 0;        // the client's id; FORK: the child
  uint64_t parent = 0;          // FORK
  uint64_t target = 0;          // CANCEL: an operation, or 0 for all of the sequence's
  uint64_t deadline_ns = 0;     // STEP; 0 none
  uint32_t n = 0;               // FORK: tokens shared (UINT32_MAX all); TRUNCATE: new length
  uint32_t max_tokens = 0;      // STEP: m
  std::vector<int32_t> tokens;  // STEP: to append, each within the vocabulary
  std::vector<int32_t> stop_tokens;
  std::vector<int32_t> stop_sequences;        // tokens of all, one behind the other ...
  std::vector<uint32_t> stop_sequence_lengths;  // ... and of each, 1 at least
  std::optional<SampleParams> sampling;
  std::vector<TokenBias> biases;              // of `sampling`
  std::vector<uint32_t> masks;                // [masks][mask_words(vocabulary)]: bits of tokens that may be drawn; one for
                                              // each draw, or none at all
  uint32_t top_logprobs = 0;                  // most probable tokens that come with each draw

  // Of a refused one.
  void drop_payload() {
    tokens.clear(), stop_tokens.clear(), stop_sequences.clear(), stop_sequence_lengths.clear();
    sampling.reset(), biases.clear(), masks.clear(), top_logprobs = 0;
  }
};

struct Outcome {
  uint64_t user_data = 0;
  uint64_t operation = 0;
  uint64_t sequence = 0;
  int32_t result = 0;
  uint32_t flags = 0;  // enum iokv_completion_flags, LOGITS and TOP set exactly when logits and top are
  int32_t token = 0;
  float logprob = 0;
  uint32_t index = 0;
  uint32_t length = 0;
  uint64_t times = 0;         // wire/times.h; 0: it comes from no step
  std::vector<float> logits;  // [vocab], or empty
  std::vector<TokenLogprob> top;  // the most probable first, or empty
};

}  // namespace iokv
