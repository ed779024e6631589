// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/tensor_file.h"

#include <algorithm>
#include <utility>

namespace iokv {

const TensorView* TensorFile::find(std::string_view name) const {
  auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const MappedFile& TensorFile::keep(MappedFile file) { return files_.emplace_back(std::move(file)); }

const RepeatedMemory& TensorFile::keep(RepeatedMemory memory) { return memories_.emplace_back(std::move(memory)); }

Status TensorFile::add(std::string name, Type type, std::vector<uint64_t> shape, std::span<const std::byte> bytes) {
  auto [entry, added] = tensors_.try_emplace(std::move(name));
  if (!added) return error("tensor " + shown(entry->first) + " is there twice");
  entry->second = TensorView{entry->first, type.type, type.name, std::move(shape), bytes};
  stored_bytes_ += bytes.size();
  return {};
}

StoredType TensorFile::main_type() const {
  std::map<StoredType, uint64_t> bytes;
  for (const auto& [name, tensor] : tensors_) bytes[tensor.type] += tensor.bytes.size();
  const auto most = std::ranges::max_element(bytes, {}, [](const auto& entry) { return entry.second; });
  return most == bytes.end() ? StoredType::other : most->first;
}

std::optional<uint64_t> element_count(std::span<const uint64_t> shape) {
  uint64_t count = 1;
  for (uint64_t size : shape) {
    if (__builtin_mul_overflow(count, size, &count)) return std::nullopt;
  }
  if (count > uint64_t{1} << 59) return std::nullopt;
  return count;
}

std::string shape_text(std::span<const uint64_t> shape) {
  // A message is one line: eight dimensions are more than any weight has.
  constexpr size_t kShown = 8;
  std::string text = "[";
  for (size_t i = 0; i < shape.size() && i < kShown; ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() > kShown ? ", ...]" : "]");
}

std::string shown(std::string_view name) {
  constexpr size_t kShown = 80;
  std::string text = "'";
  for (char c : name.substr(0, kShown)) text += c >= ' ' && c <= '~' ? c : '?';
  return text + (name.size() > kShown ? "...'" : "'");
}

}  // namespace iokv
