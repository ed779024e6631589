// SPDX-License-Identifier: Apache-2.0
// Replaces the program's operator new by one that counts. Included once in a program, by the file that has main().
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace iokv {

inline std::atomic<uint64_t> allocations{0};

}  // namespace iokv

// Not inlined: then the compiler sees malloc and delete, or new and free, side by side and calls them mismatched.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  iokv::allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) std::abort();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
