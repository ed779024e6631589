// SPDX-License-Identifier: Apache-2.0
// `iokv verify`: a client like any other that asks the daemon the same thing in two ways. Sequences of random tokens are
// decoded side by side, token by token, with whatever the daemon does to their cache: K,V sent, recomputed, resident. Then the
// same tokens are read as one prompt each, whose K,V nobody had cached. The logits must be the same.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "daemon/base/result.h"

namespace iokv {

struct VerifyQuestion {
  std::string socket_path;
  uint32_t sequences = 4;
  uint32_t prompt = 200;      // tokens of each: four blocks
  uint32_t generate = 64;     // tokens of each
  uint64_t seed = 1;
  double tolerance = 0;       // of VerifyAnswer::difference; 0: every bit the same
};

struct VerifyAnswer {
  std::string model;
  uint32_t sequences = 0, prompt = 0, generate = 0;  // as far as the model's context reaches
  uint32_t compared = 0, mismatches = 0;             // rows of logits
  double difference = 0;                             // the largest, relative to the largest logit of its row
  std::optional<uint64_t> audited, audit_mismatches; // since the daemon's start; nothing: it does not count them

  bool sound() const { return mismatches == 0 && audit_mismatches.value_or(0) == 0; }
};

// Blocks. Errors: those of iokv_connect and of operations.
Result<VerifyAnswer> verify(const VerifyQuestion& question);

std::string verify_text(const VerifyAnswer& answer);

}  // namespace iokv
