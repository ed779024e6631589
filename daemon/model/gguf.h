// SPDX-License-Identifier: Apache-2.0
// Reader of GGUF files, versions 2 and 3, little-endian: metadata values by key, and the tensors. Nothing is copied but
// names: values are views of the mapping, checked once, when the file is opened.
//
// Invariants
//  1. Every count was compared with the bytes that are left before anything was allocated for it.
//  2. Values are well formed: strings and arrays lie inside their value's bytes.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "daemon/base/result.h"
#include "daemon/model/tensor_file.h"

namespace iokv {

// Numbered as in the file.
enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

struct GgufValue {
  GgufType type = GgufType::u8;
  GgufType element = GgufType::u8;   // of an array
  uint64_t count = 0;                // elements of an array; 1 otherwise
  std::span<const std::byte> bytes;  // a string's text, an array's elements, a number's bytes
};

struct GgufFile {
  std::map<std::string, GgufValue, std::less<>> metadata;
  TensorFile tensors;

  const GgufValue* find(std::string_view key) const;  // or null
};

Result<GgufFile> open_gguf(const std::string& path);

// A string's text; empty for null and for other types.
std::string_view text_of(const GgufValue* value);
// An array's strings, or numbers; empty for null and for arrays of anything else.
std::vector<std::string_view> strings_of(const GgufValue* value);
std::vector<double> numbers_of(const GgufValue* value);

// The metadata as a JSON object by full keys: numbers, booleans and strings as they are, an array as {"length": n}.
nlohmann::json settings_of(const GgufFile& file);

}  // namespace iokv
