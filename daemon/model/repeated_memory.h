// SPDX-License-Identifier: Apache-2.0
// A block of memory that lies many times behind itself: addresses for any length, pages for one block. What is written to
// the block is read from all of its repetitions.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "daemon/base/result.h"

namespace iokv {

class RepeatedMemory {
 public:
  // Zeroed; `block_bytes` is whole pages, `bytes` how many there are at least from the first to the last repetition's
  // end. Error: the kernel has no memory or no addresses for it.
  static Result<RepeatedMemory> make(size_t block_bytes, size_t bytes);
  RepeatedMemory(RepeatedMemory&& other) noexcept;
  RepeatedMemory& operator=(RepeatedMemory&&) = delete;
  ~RepeatedMemory();

  std::span<std::byte> block() { return {base_, block_bytes_}; }
  std::span<const std::byte> bytes() const { return {base_, bytes_}; }

 private:
  RepeatedMemory(std::byte* base, size_t block_bytes, size_t bytes) : base_(base), block_bytes_(block_bytes), bytes_(bytes) {}

  std::byte* base_;  // the mapping, or null once it is another's
  size_t block_bytes_, bytes_;
};

}  // namespace iokv
