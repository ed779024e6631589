// SPDX-License-Identifier: Apache-2.0
// Many durations: exact percentiles of those that were measured one by one, and a histogram to look at. Pure.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>

namespace iokv {

// The nearest rank: the smallest value of which `percent` of all values, 0 < percent <= 100, are no larger. 0 of none.
inline uint64_t percentile(std::vector<uint64_t>& values, double percent) {
  if (values.empty()) return 0;
  const auto rank = static_cast<size_t>(std::ceil(percent / 100 * static_cast<double>(values.size())));
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(std::clamp<size_t>(rank, 1, values.size()) - 1);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

// "950 us", "12.3 ms", "4.56 s".
inline std::string short_duration(double ns) {
  if (ns < 1e6) return fmt::format("{:.0f} us", ns / 1e3);
  if (ns < 1e9) return fmt::format("{:.1f} ms", ns / 1e6);
  return fmt::format("{:.2f} s", ns / 1e9);
}

// A line for each of the bounds 1, 2, 5, 10 ... that has values at or below it and above the one before, with a bar.
inline std::string histogram_text(const std::vector<uint64_t>& values) {
  std::string text;
  if (values.empty()) return text;
  const uint64_t largest = *std::max_element(values.begin(), values.end());
  const uint64_t smallest = *std::min_element(values.begin(), values.end());
  std::vector<uint64_t> bounds;
  for (uint64_t decade = 1000; bounds.empty() || bounds.back() < largest; decade *= 10) {
    for (uint64_t step : {1, 2, 5}) bounds.push_back(decade * step);
  }
  std::vector<size_t> counts(bounds.size());
  for (uint64_t value : values) {
    counts[static_cast<size_t>(std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin())]++;
  }
  const size_t most = *std::max_element(counts.begin(), counts.end());
  constexpr size_t kBar = 50;
  for (size_t i = 0; i < bounds.size(); ++i) {
    if (bounds[i] < smallest || (i > 0 && bounds[i - 1] >= largest)) continue;
    text += fmt::format("  <= {:>8} {:>8}  {}\n", short_duration(static_cast<double>(bounds[i])), counts[i],
                        std::string((counts[i] * kBar + most - 1) / most, '#'));
  }
  return text;
}

}  // namespace iokv
