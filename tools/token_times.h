// SPDX-License-Identifier: Apache-2.0
// What the daemon counts of the times between tokens (wire/counters.h), read as a distribution.
#pragma once

#include <cstdint>
#include <optional>

#include "tools/observer.h"
#include "wire/counters.h"

namespace iokv {

inline uint64_t tokens_of(const CounterSnapshot& snapshot, const wire::TokenTimes& times) {
  uint64_t tokens = 0;
  for (uint32_t i = 0; i <= wire::kTokenTimeBounds; ++i) tokens += snapshot[times.slot(i)];
  return tokens;
}

// The bound that `share` (0 to 1) of the tokens kept. Nothing: there were no tokens, or it is beyond the last bound.
inline std::optional<uint64_t> quantile_ns(const CounterSnapshot& snapshot, const wire::TokenTimes& times, double share) {
  const double wanted = share * static_cast<double>(tokens_of(snapshot, times));
  uint64_t tokens = 0;
  for (uint32_t i = 0; i < wire::kTokenTimeBounds; ++i) {
    tokens += snapshot[times.slot(i)];
    if (tokens > 0 && static_cast<double>(tokens) >= wanted) return wire::kTokenTimeBounds_ns[i];
  }
  return std::nullopt;
}

}  // namespace iokv
