// SPDX-License-Identifier: Apache-2.0
// The tensors of one or more mapped files by name: what both formats, safetensors and GGUF, are read into, and random ones
// that no file has (random_tensors.h). Immutable once read, so any thread may look up and read.
//
// Invariants
//  1. Every view lies inside a mapping that this object owns, and bytes.size() is what type and shape say
//     (for StoredType::other: what the file says).
//  2. Names are unique; shapes are row-major, outermost first, in both formats.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/model/mapped_file.h"
#include "daemon/model/repeated_memory.h"
#include "daemon/model/stored_type.h"

namespace iokv {

struct TensorView {
  std::string_view name;
  StoredType type = StoredType::other;
  std::string_view type_name;  // as the file says, also where it is no type of ours; lives as long as the file
  std::vector<uint64_t> shape;
  std::span<const std::byte> bytes;
};

class TensorFile {
 public:
  const TensorView* find(std::string_view name) const;  // or null; valid while this object lives
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  const std::vector<MappedFile>& files() const { return files_; }
  uint64_t stored_bytes() const { return stored_bytes_; }  // of all tensors
  // The type that most bytes are stored in; `other` of a file without tensors.
  StoredType main_type() const;

  // For the readers: takes a file, or memory, whose tensors follow; adds a view into one of them. A name that is there
  // already is an Error.
  const MappedFile& keep(MappedFile file);
  const RepeatedMemory& keep(RepeatedMemory memory);
  struct Type {
    StoredType type = StoredType::other;
    std::string_view name;  // static, or of the mapping
  };
  Status add(std::string name, Type type, std::vector<uint64_t> shape, std::span<const std::byte> bytes);

 private:
  std::vector<MappedFile> files_;
  std::vector<RepeatedMemory> memories_;
  std::map<std::string, TensorView, std::less<>> tensors_;
  uint64_t stored_bytes_ = 0;
};

// The product of the sizes, or nothing where it exceeds 2^59 (more than any file holds, and what stored_bytes_of takes).
std::optional<uint64_t> element_count(std::span<const uint64_t> shape);

// For messages of one line: "[576, 1536]"; a name out of a file, quoted, cut at 80 bytes and with every byte that is not
// printable ASCII shown as '?'.
std::string shape_text(std::span<const uint64_t> shape);
std::string shown(std::string_view name);

}  // namespace iokv
