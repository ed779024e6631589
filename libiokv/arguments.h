// SPDX-License-Identifier: Apache-2.0
// What a caller asks of iokv_open and iokv_step, checked and made into a payload; and why it was refused. Submitting thread.
//
// Invariants
//  1. Nothing here changes the client: a refused call has had no effect.
//  2. A payload of which nothing came later than 1.0 is written as at 1.0, so that every daemon takes it; whatever came
//     later is refused where the daemon did not grant the feature.
//  3. Everything but the tokens to append fits half of the arena, so that a longer append (long_append.h) always ends.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "include/iokv/iokv.h"
#include "wire/handshake.h"

namespace iokv {

// Why a call returned its code. Allocates nothing.
class Refusal {
 public:
  void clear() { code_ = 0, line_[0] = '\0'; }
  // Remembers both and returns the code.
  [[gnu::format(printf, 3, 4)]] int refuse(int code, const char* format, ...);
  // As refuse() with the code's own sentence, unless there is a line for this code already; 0 clears.
  int note(int code);

  int code() const { return code_; }
  const char* line() const { return line_.data(); }

 private:
  int code_ = 0;
  std::array<char, 256> line_{};
};

// What is written to the arena: the header, the tokens to append, and behind them the arrays that wire::StepPayload names,
// in its order. Points into the caller's memory.
struct Payload {
  wire::StepPayload header{};  // struct_bytes is set by write_payload
  std::span<const int32_t> tokens;
  std::array<std::span<const std::byte>, 5> behind{};

  uint32_t header_bytes() const;
  uint64_t behind_bytes() const;
  // 64 bits: the counts come from a caller.
  uint64_t bytes() const { return header_bytes() + tokens.size_bytes() + behind_bytes(); }
};

void write_payload(const Payload& payload, std::byte* out);

// Each: 0, or the code of a refusal that has been noted.
int read_open(const iokv_open_options* given, const wire::Welcome& facts, iokv_open_options& options, Payload& payload,
              Refusal& refusal);
int read_step(const iokv_step_options* given, const wire::Welcome& facts, iokv_step_options& options, Payload& payload,
              Refusal& refusal);

}  // namespace iokv
