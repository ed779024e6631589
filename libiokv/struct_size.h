// SPDX-License-Identifier: Apache-2.0
// The struct_size rules of iokv.h (convention 5), once for all structs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace iokv {

// No struct of this library will ever be longer; a larger struct_size is an uninitialised one, not a newer caller's.
inline constexpr uint32_t kMaxStructBytes = 4096;

// Copies a caller's options: a shorter struct is filled up with zeros, a longer one must be zero beyond T.
// false: struct_size is impossible or the tail says something that this library does not know.
template <typename T>
bool read_struct(const T* given, T& out) {
  uint32_t bytes = given->struct_size;
  if (bytes < sizeof(uint32_t) || bytes > kMaxStructBytes) return false;
  const auto* raw = reinterpret_cast<const unsigned char*>(given);
  for (uint32_t i = sizeof(T); i < bytes; i++) {
    if (raw[i] != 0) return false;
  }
  out = T{};
  std::memcpy(&out, given, std::min<size_t>(bytes, sizeof(T)));
  return true;
}

// Fills a caller's struct as far as its struct_size reaches (at least 4, and `filled` has the same); returns how far.
template <typename T>
uint32_t write_struct(const T& filled, T* out) {
  uint32_t bytes = std::min<uint32_t>(out->struct_size, sizeof(T));
  std::memcpy(out, &filled, bytes);
  return bytes;
}

}  // namespace iokv
