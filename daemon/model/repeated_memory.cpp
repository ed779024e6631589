// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/repeated_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "daemon/base/assert.h"
#include "daemon/base/memfd.h"

namespace iokv {

Result<RepeatedMemory> RepeatedMemory::make(size_t block_bytes, size_t bytes) {
  IOKV_ASSERT(block_bytes > 0 && block_bytes % 4096 == 0);
  bytes = (bytes + block_bytes - 1) / block_bytes * block_bytes;
  IOKV_TRY_ASSIGN(const Descriptor file, create_memfd("iokv-repeated", block_bytes));
  void* range = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return error(std::to_string(bytes) + " bytes of addresses: " + std::strerror(errno));
  RepeatedMemory memory(static_cast<std::byte*>(range), block_bytes, bytes);
  for (size_t at = 0; at < bytes; at += block_bytes) {
    // Over the range reserved, which nobody else has been told of.
    if (::mmap(memory.base_ + at, block_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.number(), 0) == MAP_FAILED) {
      return error("a block of " + std::to_string(block_bytes) + " bytes cannot be mapped again: " + std::strerror(errno));
    }
  }
  return memory;
}

RepeatedMemory::RepeatedMemory(RepeatedMemory&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)), block_bytes_(other.block_bytes_), bytes_(other.bytes_) {}

RepeatedMemory::~RepeatedMemory() {
  if (base_ != nullptr) ::munmap(base_, bytes_);
}

}  // namespace iokv
