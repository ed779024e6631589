// SPDX-License-Identifier: Apache-2.0
// JSON files of a model directory, read whole. The parser keeps at most a small multiple of the file's bytes.
#pragma once

#include <span>
#include <string>

#include <nlohmann/json.hpp>

#include "daemon/base/result.h"

namespace iokv {

// Largest config.json, index or tokenizer.json that is believed: the largest published tokenizer.json has 35 MB.
inline constexpr uint64_t kMaxJsonBytes = 256u << 20;

// The object in `text`; anything else, a repeated key in its outermost object included (a parser would keep one of the
// two silently), is an Error that begins with `what`.
Result<nlohmann::json> parse_json_object(std::span<const char> text, const std::string& what);

Result<nlohmann::json> read_json_object(const std::string& path);

// The file's bytes; at most kMaxJsonBytes.
Result<std::string> read_text(const std::string& path);

}  // namespace iokv
