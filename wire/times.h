// SPDX-License-Identifier: Apache-2.0
// What a step's time went to, in the eight bytes that a completion has for it: four durations of 16 bits each. Such a
// duration has an exponent e in its upper 5 bits and m in its lower 11: m ns for e = 0, else (2048 + m)·2^(e-1) ns. So it is
// exact below 4096 ns, within 1/4096 (0.025 %) above, and reaches to 4095·2^30 ns = 73 min, which stands for all beyond.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace iokv::wire {

// Of the step that a completion comes from, in ns. Those of the device are times that its queues were busy; they overlap
// each other, and the link also works ahead, before the step begins.
struct SpentTimes {
  uint64_t queued_ns = 0;     // from when the sequence could be computed to the step's start
  uint64_t link_ns = 0;       // the busier direction
  uint64_t recompute_ns = 0;
  uint64_t dense_ns = 0;
};

constexpr uint16_t pack_duration(uint64_t ns) {
  constexpr uint64_t kMost = uint64_t{4095} << 30;
  ns = std::min(ns, kMost);
  if (ns < 2048) return static_cast<uint16_t>(ns);
  uint32_t exponent = static_cast<uint32_t>(std::bit_width(ns)) - 11;  // 2048·2^(e-1) <= ns
  const uint64_t half = exponent > 1 ? uint64_t{1} << (exponent - 2) : 0;
  uint64_t mantissa = (ns + half) >> (exponent - 1);
  if (mantissa == 4096) {  // rounded up to the next power of two
    mantissa = 2048;
    exponent++;
  }
  return static_cast<uint16_t>(exponent << 11 | (mantissa - 2048));
}

constexpr uint64_t unpack_duration(uint16_t packed) {
  const uint32_t exponent = packed >> 11;
  const uint64_t mantissa = packed & 2047;
  return exponent == 0 ? mantissa : (2048 + mantissa) << (exponent - 1);
}

// Never 0, which says that nothing is told: a step that took no dense time is given a nanosecond of it.
constexpr uint64_t pack_times(const SpentTimes& times) {
  return uint64_t{pack_duration(times.queued_ns)} | uint64_t{pack_duration(times.link_ns)} << 16 |
         uint64_t{pack_duration(times.recompute_ns)} << 32 |
         uint64_t{pack_duration(std::max<uint64_t>(times.dense_ns, 1))} << 48;
}

constexpr SpentTimes unpack_times(uint64_t packed) {
  return {unpack_duration(static_cast<uint16_t>(packed)), unpack_duration(static_cast<uint16_t>(packed >> 16)),
          unpack_duration(static_cast<uint16_t>(packed >> 32)), unpack_duration(static_cast<uint16_t>(packed >> 48))};
}

}  // namespace iokv::wire
