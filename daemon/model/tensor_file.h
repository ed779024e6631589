// SPDX-License-Identifier: Apache-2.0
// The tensors of one or more mapped files by name: what both formats, safetensors and GGUF, are read into. Immutable
// once read, so any thread may look up and read.
//
// Invariants
//  1. Every view lies inside a mapping that this object owns, and bytes.size() is what type and shape say
//     (for StoredType::other: what the file says).
//  2. Names are unique; shapes are row-major, outermost first, in both formats.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/model/mapped_file.h"
#include "daemon/model/stored_type.h"

namespace iokv {

struct TensorView {
  std::string_view name;
  StoredType type = StoredType::other;
  std::vector<uint64_t> shape;
  std::span<const std::byte> bytes;
};

class TensorFile {
 public:
  const TensorView* find(std::string_view name) const;  // or null; valid while this object lives
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  const std::vector<MappedFile>& files() const { return files_; }
  uint64_t stored_bytes() const { return stored_bytes_; }  // of all tensors

  // For the readers: takes a file whose tensors follow; adds a view into one of the files. A name that is there
  // already is an Error.
  const MappedFile& keep(MappedFile file);
  Status add(std::string name, StoredType type, std::vector<uint64_t> shape, std::span<const std::byte> bytes);

 private:
  std::vector<MappedFile> files_;
  std::map<std::string, TensorView, std::less<>> tensors_;
  uint64_t stored_bytes_ = 0;
};

// "[576, 1536]"
std::string shape_text(std::span<const uint64_t> shape);

}  // namespace iokv
