// SPDX-License-Identifier: Apache-2.0
// Counts that must never be mixed at an interface: tokens, KV blocks (of kBlockTokens tokens of one layer) and the pool
// units that blocks are made of.
#pragma once

#include <compare>
#include <cstdint>

namespace iokv {

template <typename Tag>
struct Count {
  uint32_t value = 0;

  constexpr Count() = default;
  constexpr explicit Count(uint32_t count) : value(count) {}
  constexpr auto operator<=>(const Count&) const = default;
  constexpr Count operator+(Count other) const { return Count(value + other.value); }
  constexpr Count operator-(Count other) const { return Count(value - other.value); }
  constexpr Count& operator+=(Count other) { return value += other.value, *this; }
  constexpr Count& operator-=(Count other) { return value -= other.value, *this; }
};

using Tokens = Count<struct TokensTag>;
using Blocks = Count<struct BlocksTag>;
using Units = Count<struct UnitsTag>;  // smallest allocation of the pool: one layer's bytes of the smaller stored form

// Tokens in a KV block. 64 tokens of K,V of a 4096-wide MHA layer in fp16 are 1 MiB: long enough a run for the link
// (48.8 of 55.5 GB/s at 1 MiB a copy, more when neighbours are contiguous), short enough that a sequence's last,
// partly filled block wastes 32 tokens on average.
inline constexpr uint32_t kBlockTokens = 64;

// Of a row whose context host and device divide between them, the first cached token that is the host's; of others this.
inline constexpr uint32_t kAllOnDevice = UINT32_MAX;

constexpr Blocks blocks_for(Tokens tokens) { return Blocks((tokens.value + kBlockTokens - 1) / kBlockTokens); }

}  // namespace iokv
