// SPDX-License-Identifier: Apache-2.0
// Rows of weights that are stored in few bits: whole numbers ("quants") in blocks, value = quant · scale + minimum with a
// scale and a minimum a block. What files call Q4_0 or Q6_K is this with other numbers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace iokv {

struct QuantForm {
  uint32_t bits = 0;        // 4, 8; 0: the rows are not stored so
  uint32_t block = 32;      // elements of a block: 16 or 32
  bool minima = false;      // false: all of them are 0
  bool halves = false;      // scales and minima are f16 numbers, else f32
  // Of 4 bits, what each of the 16 patterns means; whole numbers from -128 to 127.
  std::array<int8_t, 16> values{};

  constexpr explicit operator bool() const { return bits != 0; }
  constexpr bool operator==(const QuantForm&) const = default;
};

// A row of k elements, k a multiple of the block.
struct QuantRow {
  std::span<uint8_t> quants;   // [k]: of 4 bits the pattern, of 8 a number in two's complement
  std::span<float> scales;     // [k / block]
  std::span<float> minima;     // [k / block], zeros without minima
};

// What both kinds of rows can be turned into without a change of any value; false where one of them is none.
constexpr QuantForm common_form(const QuantForm& a, const QuantForm& b) {
  if (!a || !b) return {};
  QuantForm common = a;
  if (a.bits != b.bits || a.values != b.values) {
    common.bits = 8;
    common.values = {};
  }
  common.block = a.block < b.block ? a.block : b.block;
  common.minima = a.minima || b.minima;
  common.halves = a.halves && b.halves;
  return common;
}

// Turns a row, as long as it is in spans for `to`, from one form into a common one.
inline void widen(const QuantForm& from, const QuantForm& to, const QuantRow& row) {
  if (from.bits == 4 && to.bits == 8) {
    for (uint8_t& quant : row.quants) quant = static_cast<uint8_t>(from.values[quant]);
  }
  const size_t times = from.block / to.block;
  if (times == 1) return;
  for (size_t i = row.scales.size(); i-- > 0;) {
    row.scales[i] = row.scales[i / times];
    row.minima[i] = row.minima[i / times];
  }
}

}  // namespace iokv
