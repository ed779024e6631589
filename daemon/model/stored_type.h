// SPDX-License-Identifier: Apache-2.0
// The element types that model files store tensors in, and their exact conversion to f32. Quantised types come in
// blocks of a fixed number of elements and bytes; a row is a whole number of blocks. The conversions round as ggml's
// reference (and the Python package gguf) does, bit for bit. Any thread; no state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "daemon/base/quant_form.h"

namespace iokv {

// `other`: a type that no role of a model may have (integers, booleans); its tensor is bounds-checked and ignored.
enum class StoredType : uint8_t {
  f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, other
};

struct StoredLayout {
  std::string_view name;        // as the formats write it: "F32", "Q4_1"
  uint32_t block_elements = 0;  // 0 for `other`
  uint32_t block_bytes = 0;
};

const StoredLayout& layout_of(StoredType type);

// Bytes of n elements, a multiple of the type's block. Does not overflow for n <= 2^59.
uint64_t stored_bytes_of(StoredType type, uint64_t elements);

// out[0:n] = the n elements stored in `row`, which has exactly stored_bytes_of(type, n) bytes, at any alignment.
void dequantize_row(StoredType type, std::span<const std::byte> row, float* out, size_t n);

// How the type's rows are quants with scales; none for types that are not quantised. Values are those that dequantize_row
// gives, bit for bit, with the product rounded before the sum.
QuantForm quant_form_of(StoredType type);
// The quants of a row, as for dequantize_row; `to` is as long as its form says.
void read_quants(StoredType type, std::span<const std::byte> row, const QuantRow& to);

}  // namespace iokv
