// SPDX-License-Identifier: Apache-2.0
// Text to tokens by a tokenizer.json as Hugging Face `tokenizers` writes it: byte-pair encoding, byte-level or with byte
// fallback, behind the usual normalisers and pre-tokenisers. What such a file can hold beyond that is an Error that names
// it. Expressions and normal forms are ICU's. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/result.h"

namespace iokv {

class TextEncoder {
 public:
  static Result<TextEncoder> make(std::span<const char> tokenizer_json);
  TextEncoder(TextEncoder&&) noexcept;
  ~TextEncoder();

  // Special tokens that are spelled out in the text are those tokens; what the file says is put before and behind it is.
  // Error: a character that the vocabulary has no token for.
  Result<std::vector<int32_t>> encode(std::string_view text) const;

 private:
  struct State;
  explicit TextEncoder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace iokv
