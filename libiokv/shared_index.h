// SPDX-License-Identifier: Apache-2.0
// A u32 in shared memory that one side stores and the other loads. Which order pairs with which is said where it is used.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace iokv {

// The daemon's words are in a read-only mapping: only load() may be used on those.
inline std::atomic_ref<uint32_t> shared_index(const std::byte* region, size_t offset) {
  return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(const_cast<std::byte*>(region) + offset));
}

static_assert(std::atomic_ref<uint32_t>::is_always_lock_free);

// Between a store of ours and a load of the peer's word that decides whether to ring or to sleep; the peer has the same
// fence between its store and its load, so that at least one of the two sees the other's store.
inline void full_fence() {
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
  // gcc: thread sanitizer knows no fences. Nothing is proven race-free by these: every datum has an acquire of its own.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
  std::atomic_thread_fence(std::memory_order_seq_cst);
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}

}  // namespace iokv
