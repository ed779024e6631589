// SPDX-License-Identifier: Apache-2.0
// Any bytes as a .gguf file: refused with one line, or every tensor and metadata value can be read.
#include <algorithm>

#include <nlohmann/json.hpp>

#include "daemon/model/gguf.h"
#include "daemon/model/model_files.h"
#include "daemon/model/stored_type.h"
#include "tests/fuzz/file_of_bytes.h"

using namespace iokv;

namespace {

void check_line(const std::string& message) {
  IOKV_ASSERT(!message.empty() && message.find('\n') == std::string::npos && message.size() < 4096);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const FileOfBytes bytes(data, size);
  auto file = open_gguf(bytes.path());
  if (!file) {
    check_line(file.failure().message);
    return 0;
  }
  for (const auto& [key, value] : file->metadata) {
    text_of(&value);
    strings_of(&value);
    numbers_of(&value);
  }
  for (const auto& [name, tensor] : file->tensors.tensors()) {
    const uint64_t elements = std::min<uint64_t>(*element_count(tensor.shape), 4096);
    const StoredLayout& layout = layout_of(tensor.type);
    const uint64_t whole = elements - elements % layout.block_elements;
    std::vector<float> values(whole);
    dequantize_row(tensor.type, tensor.bytes.first(stored_bytes_of(tensor.type, whole)), values.data(), whole);
  }
  if (auto model = open_model(bytes.path()); !model) check_line(model.failure().message);
  return 0;
}
