// SPDX-License-Identifier: Apache-2.0
// Any bytes as a .safetensors file: refused with one line, or tensors cover the file exactly.
#include <cstring>

#include "daemon/model/safetensors.h"
#include "tests/fuzz/file_of_bytes.h"

using namespace iokv;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const FileOfBytes bytes(data, size);
  auto file = open_safetensors(bytes.path());
  if (!file) {
    const std::string& message = file.failure().message;
    IOKV_ASSERT(!message.empty() && message.find('\n') == std::string::npos);
    return 0;
  }
  uint64_t covered = 0;
  for (const auto& [name, tensor] : file->tensors()) covered += tensor.bytes.size();
  uint64_t header = 0;
  std::memcpy(&header, data, sizeof header);
  IOKV_ASSERT(covered == size - sizeof header - header);
  return 0;
}
