// SPDX-License-Identifier: Apache-2.0
// What the daemon hands to its clients, read-only, so that they can turn text into tokens and back: bytes by id, a
// tokenizer.json for HF `tokenizers`, the chat template. The daemon itself never tokenises. Pure functions of files.
#pragma once

#include <string>
#include <vector>

#include "daemon/base/result.h"

namespace iokv {

struct GgufFile;

struct TokenizerExport {
  std::vector<std::string> token_bytes;  // id -> raw bytes; special tokens as their text; empty: no tokenizer
  std::string tokenizer_json;            // as HF `tokenizers` reads it; empty: none
  std::string chat_template;             // Jinja; empty: none
  std::string begin_text, end_text;      // of the special tokens bos and eos; empty: none
  bool adds_begin = false;               // the tokenizer puts bos before a prompt
  std::string note;                      // one line worth logging, such as an unknown pre-tokenizer; usually empty
};

// From a Hugging Face directory: tokenizer.json as it is, tokenizer_config.json, chat_template.jinja. What is not there
// stays empty; a file that is there and cannot be read is an Error.
Result<TokenizerExport> export_tokenizer(const std::string& directory);

// From GGUF metadata: a tokenizer.json made from its tokens, merges and the name of its pre-tokenizer ("gpt2" models:
// byte-level BPE; "llama" models: SentencePiece-like BPE with scores, of which only the bytes are exported).
TokenizerExport export_tokenizer(const GgufFile& file);

}  // namespace iokv
