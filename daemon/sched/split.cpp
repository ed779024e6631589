// SPDX-License-Identifier: Apache-2.0
// Costs are convex in l: sums and maxima of lines. Only the step from nothing to the first token is not (a Curve's
// fixed part), and where a copy more is needed; so l = least is compared on its own, and copies are taken as the lines
// that they are on average.
#include "daemon/sched/split.h"

#include <algorithm>

#include "daemon/base/assert.h"

namespace iokv {
namespace {

// Costs that differ by less are equal: sums of some dozen terms, each rounded.
constexpr double kRounding = 1e-12;

// The smallest l in [first, last] at which the convex `cost` is least.
template <typename Cost>
uint64_t least_of(uint64_t first, uint64_t last, const Cost& cost) {
  while (first < last) {
    const uint64_t middle = first + (last - first) / 2;
    if (cost(middle) <= cost(middle + 1) * (1 + kRounding)) {
      last = middle;
    } else {
      first = middle + 1;
    }
  }
  return first;
}

template <typename Cost>
uint64_t least_with_ends(uint64_t least, uint64_t most, const Cost& cost) {
  if (least == most) return least;
  // Both ends have operations less than what is between them.
  uint64_t best = least;
  auto consider = [&](uint64_t l) {
    if (cost(l) < cost(best) * (1 - kRounding)) best = l;
  };
  if (most - least > 1) consider(least_of(least + 1, most - 1, cost));
  consider(most);
  return best;
}

}  // namespace

uint64_t paper_split(const Profile& profile, const CacheShape& shape, uint64_t tokens, uint64_t sequences,
                     PaperSchedule schedule) {
  return least_with_ends(0, tokens, [&](uint64_t l) {
    LayerWork work;
    work.x_host = l * sequences;
    work.kv_host = (tokens - l) * sequences;
    return serial_cost(profile, shape, work, schedule).total_ns;
  });
}

uint64_t best_split(const Profile& profile, const CacheShape& shape, const LayerWork& work, uint64_t least_x,
                    uint64_t most_x) {
  const uint64_t tokens = work.x_host + work.kv_host;
  IOKV_ASSERT(least_x <= most_x && most_x <= tokens);
  // With copies of one size the cost has a small tooth where each begins. A line through the teeth has the same
  // optimum to within a copy, and can be searched.
  Profile smooth = profile;
  if (work.copy_bytes > 0) {
    smooth.h2d = {0, 0, profile.h2d.at(work.copy_bytes) / work.copy_bytes};
  }
  return least_with_ends(least_x, most_x, [&](uint64_t l) {
    LayerWork split = work;
    split.x_host = l;
    split.kv_host = tokens - l;
    return streaming_cost(smooth, shape, split).total_ns;
  });
}

LayerWork with_host(const LayerWork& work, uint64_t tokens, uint64_t divided) {
  LayerWork shared = work;
  shared.kv_host -= tokens;
  shared.attended -= tokens;
  shared.products -= tokens;
  shared.kv_attended += tokens;
  shared.divided += divided;
  return shared;
}

uint64_t best_attended(const Profile& profile, const CacheShape& shape, const LayerWork& work, uint64_t most, uint64_t rows) {
  IOKV_ASSERT(most <= work.kv_host);
  if (!profile.host_attends() || most == 0) return 0;
  return least_with_ends(0, most, [&](uint64_t tokens) {
    return streaming_cost(profile, shape, with_host(work, tokens, tokens == 0 ? 0 : rows)).total_ns;
  });
}

}  // namespace iokv
