// SPDX-License-Identifier: Apache-2.0
// Block layouts as in ggml's ggml-common.h; all little-endian, as is every machine that this runs on. The order of the
// floating-point operations is ggml's reference (dequantize_row_*), which is what makes results equal bit for bit; the
// build forbids contraction into fused multiply-adds.
#include "daemon/model/stored_type.h"

#include <array>
#include <bit>
#include <cstring>

#include "daemon/base/assert.h"
#include "daemon/base/dtype.h"

namespace iokv {
namespace {

static_assert(std::endian::native == std::endian::little);

// Elements of a block of the simple quantised types, and of the "K" types' super-blocks.
constexpr size_t kBlock = 32, kSuperBlock = 256;

constexpr std::array<StoredLayout, 15> kLayouts = {{
    {"F32", 1, 4},
    {"F16", 1, 2},
    {"BF16", 1, 2},
    {"Q4_0", kBlock, 2 + 16},
    {"Q4_1", kBlock, 2 + 2 + 16},
    {"Q5_0", kBlock, 2 + 4 + 16},
    {"Q5_1", kBlock, 2 + 2 + 4 + 16},
    {"Q8_0", kBlock, 2 + 32},
    {"Q2_K", kSuperBlock, 16 + 64 + 2 + 2},
    {"Q3_K", kSuperBlock, 32 + 64 + 12 + 2},
    {"Q4_K", kSuperBlock, 2 + 2 + 12 + 128},
    {"Q5_K", kSuperBlock, 2 + 2 + 12 + 32 + 128},
    {"Q6_K", kSuperBlock, 128 + 64 + 16 + 2},
    {"IQ4_NL", kBlock, 2 + 16},
    {"other", 0, 0},
}};
static_assert(kLayouts.size() == static_cast<size_t>(StoredType::other) + 1);

template <typename T>
T read(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

float half(const uint8_t* from) { return f16_to_f32(read<uint16_t>(from)); }

// 32 elements of `bits` + 1 bits: the low four as nibbles (0..15 low, 16..31 high), the fifth from a bit set.
template <bool kFifthBit>
void unpack_nibbles(const uint8_t* nibbles, uint32_t fifth_bits, int (&quants)[kBlock]) {
  for (size_t i = 0; i < kBlock / 2; ++i) {
    quants[i] = nibbles[i] & 0x0f;
    quants[i + kBlock / 2] = nibbles[i] >> 4;
  }
  if constexpr (kFifthBit) {
    for (size_t i = 0; i < kBlock; ++i) quants[i] |= static_cast<int>((fifth_bits >> i) & 1u) << 4;
  }
}

// scale f16 | [32-bit fifth bits] | nibbles: (quant - middle)·scale.
template <bool kFifthBit>
void decode_symmetric(const uint8_t* block, float* out) {
  int quants[kBlock];
  unpack_nibbles<kFifthBit>(block + (kFifthBit ? 6 : 2), kFifthBit ? read<uint32_t>(block + 2) : 0, quants);
  float scale = half(block);
  for (size_t i = 0; i < kBlock; ++i) out[i] = scale * static_cast<float>(quants[i] - (kFifthBit ? 16 : 8));
}

// scale f16 | minimum f16 | [32-bit fifth bits] | nibbles: quant·scale + minimum.
template <bool kFifthBit>
void decode_affine(const uint8_t* block, float* out) {
  int quants[kBlock];
  unpack_nibbles<kFifthBit>(block + (kFifthBit ? 8 : 4), kFifthBit ? read<uint32_t>(block + 4) : 0, quants);
  float scale = half(block), minimum = half(block + 2);
  for (size_t i = 0; i < kBlock; ++i) out[i] = scale * static_cast<float>(quants[i]) + minimum;
}

void decode_q8_0(const uint8_t* block, float* out) {
  float scale = half(block);
  for (size_t i = 0; i < kBlock; ++i) out[i] = scale * static_cast<float>(read<int8_t>(block + 2 + i));
}

constexpr std::array<int8_t, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// scale f16 | nibbles, which number the values that ggml found to fit normally distributed weights best.
void decode_iq4_nl(const uint8_t* block, float* out) {
  int quants[kBlock];
  unpack_nibbles<false>(block + 2, 0, quants);
  float scale = half(block);
  for (size_t i = 0; i < kBlock; ++i) out[i] = scale * static_cast<float>(kIq4Values[static_cast<size_t>(quants[i])]);
}

// Element i of a super-block's bit pairs (64 bytes): those of elements 32 apart share a byte, in halves of 128 elements.
uint32_t bit_pair(const uint8_t* pairs, size_t i) { return (pairs[32 * (i / 128) + i % 32] >> (i % 128 / 32 * 2)) & 3u; }

// 16 bytes of sub-scale (low nibble) and sub-minimum (high) of 16 elements each | 64 bytes of bit pairs | scale f16 |
// minimum f16.
void decode_q2_k(const uint8_t* block, float* out) {
  float scale = half(block + 80), minimum = half(block + 82);
  for (size_t i = 0; i < kSuperBlock; ++i) {
    uint32_t sub = block[i / 16];
    float sub_factor = scale * static_cast<float>(sub & 15u), sub_minimum = minimum * static_cast<float>(sub >> 4);
    out[i] = sub_factor * static_cast<float>(bit_pair(block + 16, i)) - sub_minimum;
  }
}

// 32 bytes of third bits, bit b of byte j for element 32·b + j | 64 bytes of bit pairs | 12 bytes of 6-bit sub-scales |
// scale f16. The third bit is kept inverted: without it 4 is taken off. Of sub-scale i the low four bits are nibble i / 8
// of byte i % 8, the high two are pair i / 4 of byte 8 + i % 4.
int q3_k_scale(const uint8_t* block, size_t s) {
  const uint8_t* packed = block + 96;
  uint32_t sub = (packed[s % 8] >> (s / 8 * 4)) & 15u;
  sub |= ((packed[8 + s % 4] >> (s / 4 * 2)) & 3u) << 4;
  return static_cast<int>(sub) - 32;
}
int q3_k_quant(const uint8_t* block, size_t i) {
  return static_cast<int>(bit_pair(block + 32, i)) - ((block[i % 32] >> (i / 32)) & 1 ? 0 : 4);
}
void decode_q3_k(const uint8_t* block, float* out) {
  float scale = half(block + 108);
  for (size_t i = 0; i < kSuperBlock; ++i) {
    out[i] = scale * static_cast<float>(q3_k_scale(block, i / 16)) * static_cast<float>(q3_k_quant(block, i));
  }
}

// The eight 6-bit scales and minima of a Q4_K or Q5_K super-block, packed in 12 bytes: the low six bits of bytes 0..3
// and 4..7 are scales and minima 0..3; of 4..7, the low four bits are nibbles of bytes 8..11, the high two are the tops
// of bytes 0..3 and 4..7.
struct SubScale {
  float scale, minimum;
};
SubScale sub_scale(const uint8_t* packed, size_t i) {
  uint32_t scale, minimum;
  if (i < 4) {
    scale = packed[i] & 63u;
    minimum = packed[i + 4] & 63u;
  } else {
    scale = (packed[i + 4] & 15u) | ((packed[i - 4] >> 6) << 4);
    minimum = (packed[i + 4] >> 4) | ((packed[i] >> 6) << 4);
  }
  return {static_cast<float>(scale), static_cast<float>(minimum)};
}

// scale f16 | minimum f16 | 12 bytes of sub-scales | [32 bytes of fifth bits] | 128 bytes of nibbles. Sub-block i of 32
// elements takes the low (even i) or high (odd i) nibbles of bytes 32·(i/2).., and bit i of each byte of fifth bits.
template <bool kFifthBit>
uint32_t k45_quant(const uint8_t* block, size_t i, size_t j) {
  uint32_t quant = (block[(kFifthBit ? 48 : 16) + kBlock * (i / 2) + j] >> (i % 2 * 4)) & 15u;
  if constexpr (kFifthBit) quant |= ((block[16 + j] >> i) & 1u) << 4;
  return quant;
}
template <bool kFifthBit>
void decode_k45(const uint8_t* block, float* out) {
  float scale = half(block), minimum = half(block + 2);
  for (size_t i = 0; i < kSuperBlock / kBlock; ++i) {
    SubScale sub = sub_scale(block + 4, i);
    float sub_factor = scale * sub.scale, sub_minimum = minimum * sub.minimum;
    for (size_t j = 0; j < kBlock; ++j) {
      out[kBlock * i + j] = sub_factor * static_cast<float>(k45_quant<kFifthBit>(block, i, j)) - sub_minimum;
    }
  }
}

// 128 bytes of low nibbles | 64 bytes of high bit pairs | 16 int8 sub-scales | scale f16.
int q6_k_quant(const uint8_t* block, size_t i) {
  size_t part = i / 128, r = i % 128;
  uint32_t quant = (block[64 * part + r % 64] >> (r / 64 * 4)) & 15u;
  quant |= bit_pair(block + 128, i) << 4;
  return static_cast<int>(quant) - 32;
}
void decode_q6_k(const uint8_t* block, float* out) {
  float scale = half(block + 208);
  for (size_t i = 0; i < kSuperBlock; ++i) {
    out[i] = scale * static_cast<float>(read<int8_t>(block + 192 + i / 16)) * static_cast<float>(q6_k_quant(block, i));
  }
}

// ---- as quants with scales ------------------------------------------------------------------------------------------

template <bool kFifthBit>
void unpack_patterns(const uint8_t* nibbles, uint32_t fifth_bits, int offset, uint8_t* quants) {
  int unpacked[kBlock];
  unpack_nibbles<kFifthBit>(nibbles, fifth_bits, unpacked);
  for (size_t i = 0; i < kBlock; ++i) quants[i] = static_cast<uint8_t>(unpacked[i] - offset);
}

struct BlockQuants {
  uint8_t* quants;
  float* scales;
  float* minima;
};

void quants_of(StoredType type, const uint8_t* block, BlockQuants to) {
  switch (type) {
    case StoredType::q4_0:
    case StoredType::iq4_nl:
      *to.scales = half(block);
      return unpack_patterns<false>(block + 2, 0, 0, to.quants);
    case StoredType::q4_1:
      *to.scales = half(block), *to.minima = half(block + 2);
      return unpack_patterns<false>(block + 4, 0, 0, to.quants);
    case StoredType::q5_0:
      *to.scales = half(block);
      return unpack_patterns<true>(block + 6, read<uint32_t>(block + 2), 16, to.quants);
    case StoredType::q5_1:
      *to.scales = half(block), *to.minima = half(block + 2);
      return unpack_patterns<true>(block + 8, read<uint32_t>(block + 4), 0, to.quants);
    case StoredType::q8_0:
      *to.scales = half(block);
      std::memcpy(to.quants, block + 2, kBlock);
      return;
    case StoredType::q2_k: {
      const float scale = half(block + 80), minimum = half(block + 82);
      for (size_t s = 0; s < 16; ++s) {
        to.scales[s] = scale * static_cast<float>(block[s] & 15u);
        to.minima[s] = -(minimum * static_cast<float>(block[s] >> 4));
      }
      for (size_t i = 0; i < kSuperBlock; ++i) to.quants[i] = static_cast<uint8_t>(bit_pair(block + 16, i));
      return;
    }
    case StoredType::q3_k:
      for (size_t s = 0; s < 16; ++s) to.scales[s] = half(block + 108) * static_cast<float>(q3_k_scale(block, s));
      for (size_t i = 0; i < kSuperBlock; ++i) to.quants[i] = static_cast<uint8_t>(q3_k_quant(block, i));
      return;
    case StoredType::q4_k:
    case StoredType::q5_k: {
      const bool five = type == StoredType::q5_k;
      const float scale = half(block), minimum = half(block + 2);
      for (size_t i = 0; i < kSuperBlock / kBlock; ++i) {
        const SubScale sub = sub_scale(block + 4, i);
        to.scales[i] = scale * sub.scale;
        to.minima[i] = -(minimum * sub.minimum);
        for (size_t j = 0; j < kBlock; ++j) {
          to.quants[kBlock * i + j] = static_cast<uint8_t>(five ? k45_quant<true>(block, i, j) : k45_quant<false>(block, i, j));
        }
      }
      return;
    }
    case StoredType::q6_k:
      for (size_t s = 0; s < 16; ++s) to.scales[s] = half(block + 208) * static_cast<float>(read<int8_t>(block + 192 + s));
      for (size_t i = 0; i < kSuperBlock; ++i) to.quants[i] = static_cast<uint8_t>(q6_k_quant(block, i));
      return;
    default: IOKV_ASSERT(!"a type that is not quantised");
  }
}

template <void (*kDecode)(const uint8_t*, float*)>
void decode_blocks(const uint8_t* from, const StoredLayout& layout, float* out, size_t n) {
  for (size_t i = 0; i < n; i += layout.block_elements, from += layout.block_bytes) kDecode(from, out + i);
}

}  // namespace

const StoredLayout& layout_of(StoredType type) { return kLayouts[static_cast<size_t>(type)]; }

uint64_t stored_bytes_of(StoredType type, uint64_t elements) {
  const StoredLayout& layout = layout_of(type);
  IOKV_ASSERT(layout.block_elements != 0 && elements % layout.block_elements == 0 && elements <= uint64_t{1} << 59);
  return elements / layout.block_elements * layout.block_bytes;
}

void dequantize_row(StoredType type, std::span<const std::byte> row, float* out, size_t n) {
  IOKV_ASSERT(row.size() == stored_bytes_of(type, n));
  const StoredLayout& layout = layout_of(type);
  const auto* from = reinterpret_cast<const uint8_t*>(row.data());
  switch (type) {
    case StoredType::f32:
      if (n != 0) std::memcpy(out, from, row.size());
      break;
    case StoredType::f16:
      for (size_t i = 0; i < n; ++i) out[i] = half(from + 2 * i);
      break;
    case StoredType::bf16:
      for (size_t i = 0; i < n; ++i) out[i] = bf16_to_f32(read<uint16_t>(from + 2 * i));
      break;
    case StoredType::q4_0: return decode_blocks<decode_symmetric<false>>(from, layout, out, n);
    case StoredType::q4_1: return decode_blocks<decode_affine<false>>(from, layout, out, n);
    case StoredType::q5_0: return decode_blocks<decode_symmetric<true>>(from, layout, out, n);
    case StoredType::q5_1: return decode_blocks<decode_affine<true>>(from, layout, out, n);
    case StoredType::q8_0: return decode_blocks<decode_q8_0>(from, layout, out, n);
    case StoredType::q2_k: return decode_blocks<decode_q2_k>(from, layout, out, n);
    case StoredType::q3_k: return decode_blocks<decode_q3_k>(from, layout, out, n);
    case StoredType::q4_k: return decode_blocks<decode_k45<false>>(from, layout, out, n);
    case StoredType::q5_k: return decode_blocks<decode_k45<true>>(from, layout, out, n);
    case StoredType::q6_k: return decode_blocks<decode_q6_k>(from, layout, out, n);
    case StoredType::iq4_nl: return decode_blocks<decode_iq4_nl>(from, layout, out, n);
    case StoredType::other: IOKV_ASSERT(type != StoredType::other);
  }
}

QuantForm quant_form_of(StoredType type) {
  constexpr std::array<int8_t, 16> kSigned = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
  constexpr std::array<int8_t, 16> kUnsigned = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  // Sub-scales of the "K" types are products, which f16 does not hold.
  switch (type) {
    case StoredType::q4_0: return {4, 32, false, true, kSigned};
    case StoredType::q4_1: return {4, 32, true, true, kUnsigned};
    case StoredType::iq4_nl: return {4, 32, false, true, kIq4Values};
    case StoredType::q4_k: return {4, 32, true, false, kUnsigned};
    case StoredType::q5_0:
    case StoredType::q8_0: return {8, 32, false, true, {}};
    case StoredType::q5_1: return {8, 32, true, true, {}};
    case StoredType::q5_k: return {8, 32, true, false, {}};
    case StoredType::q2_k: return {8, 16, true, false, {}};
    case StoredType::q3_k:
    case StoredType::q6_k: return {8, 16, false, false, {}};
    default: return {};
  }
}

void read_quants(StoredType type, std::span<const std::byte> row, const QuantRow& to) {
  const StoredLayout& layout = layout_of(type);
  const size_t scales = layout.block_elements / quant_form_of(type).block, blocks = to.quants.size() / layout.block_elements;
  IOKV_ASSERT(row.size() == blocks * layout.block_bytes);
  for (float& minimum : to.minima) minimum = 0;
  for (size_t i = 0; i < blocks; ++i) {
    quants_of(type, reinterpret_cast<const uint8_t*>(row.data()) + i * layout.block_bytes,
              {&to.quants[i * layout.block_elements], &to.scales[i * scales], &to.minima[i * scales]});
  }
}

}  // namespace iokv
