// SPDX-License-Identifier: Apache-2.0
// What the daemon hands to its clients, read-only, so that they can turn text into tokens and back: bytes by id, a
// tokenizer.json for HF `tokenizers`, the chat template. The daemon itself never tokenises.
#pragma once

#include <string>
#include <vector>

#include "daemon/base/result.h"

namespace iokv {

struct TokenizerExport {
  std::vector<std::string> token_bytes;  // id -> raw bytes; special tokens as their text; empty: no tokenizer
  std::string tokenizer_json;            // as HF `tokenizers` reads it; empty: none
  std::string chat_template;             // Jinja; empty: none
  std::string begin_text, end_text;      // of the special tokens bos and eos; empty: none
  bool adds_begin = false;               // the tokenizer puts bos before a prompt
  std::string note;                      // one line worth logging, such as an unknown pre-tokenizer; usually empty
};

}  // namespace iokv
