// SPDX-License-Identifier: Apache-2.0
// `iokv generate`: text in, the model's continuation out, token by token. A client like any other.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/base/result.h"
#include "iokv/iokv.h"

namespace iokv {

struct GenerateQuestion {
  std::string socket_path;
  std::string prompt;
  uint32_t max_tokens = 128;
  iokv_sampling sampling{};   // struct_size is set by generate
  bool only_tokens = false;   // print the prompt's tokens, and draw none
  bool statistics = false;    // on standard error, behind the text
};

// Writes to standard output as tokens come. Blocks. Errors: those of iokv_connect and of operations; a tokenizer that is not
// there or not known.
Status generate(const GenerateQuestion& question);

}  // namespace iokv
