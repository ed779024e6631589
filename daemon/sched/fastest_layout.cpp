// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/fastest_layout.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "daemon/base/units.h"

namespace iokv {
namespace {

uint32_t blocks_of(uint32_t context) { return blocks_for(Tokens(context + 1)).value; }

struct Found {
  uint64_t at = 0;
  double ns = std::numeric_limits<double>::infinity();
};

// The fastest of ascending candidates, where what lies between two that were timed is about as fast as they are: some
// evenly, then those between the neighbours of the fastest, until it has none left.
template <typename Time>
Found fastest_of(std::span<const uint64_t> candidates, size_t at_once, const Time& time_of) {
  Found best;
  size_t first = 0, last = candidates.size() - 1, best_index = 0;
  for (;;) {
    const size_t step = std::max<size_t>(1, (last - first + at_once - 1) / at_once);
    for (size_t i = first;; i = std::min(i + step, last)) {
      if (i != best_index || best.ns == std::numeric_limits<double>::infinity()) {
        const double ns = time_of(candidates[i]);
        if (ns < best.ns) best = {candidates[i], ns}, best_index = i;
      }
      if (i == last) break;
    }
    if (step == 1) return best;
    first = best_index - std::min(best_index, step - 1);
    last = std::min(best_index + step - 1, candidates.size() - 1);
  }
}

// first, first + 1, ... last.
std::vector<uint64_t> numbers(uint64_t first, uint64_t last) {
  std::vector<uint64_t> all(last - first + 1);
  std::iota(all.begin(), all.end(), first);
  return all;
}

// As many tokens as are a block away at most.
std::vector<uint64_t> tokens_about(uint64_t at, uint64_t most) {
  return numbers(at - std::min<uint64_t>(at, kBlockTokens), std::min(most, at + kBlockTokens));
}

// Few enough to time, many enough for random steps to come within half a percent of brute force (bench/optimum.h). With
// 16 coarse splits and one looked at, a step in 300 was 2 % off; with lines along X and K,V in place of descents from
// four points of the grid, one in 200 was 3 % off: rounds and pieces change with every sequence.
constexpr size_t kCoarse = 24, kLookedAt = 3, kAtOnce = 8;  // splits
constexpr size_t kDescents = 4, kToTheToken = 8;            // placements
constexpr int64_t kFarthest = 8;                            // blocks

template <typename Visit>
void each_host_block(const LayoutProblem& problem, const CacheLayout& layout, const Visit& visit) {
  const uint64_t end = problem.blocks() - layout.kv_device_blocks;
  uint64_t block = 0;
  for (uint32_t context : problem.contexts) {
    for (uint32_t i = 0, left = context; i < blocks_of(context); ++i, ++block) {
      const uint32_t tokens = std::min(left, kBlockTokens);
      left -= tokens;
      if (block >= layout.x_device_blocks && block < end && tokens > 0) visit(tokens, left == 0);
    }
  }
}

class LayoutSearch {
 public:
  LayoutSearch(const LayoutProblem& problem, const TimeOfLayout& time_of) : problem_(problem), time_of_(time_of) {}

  Found split(CacheLayout layout, bool to_the_token) const {
    auto time = [&](uint64_t x_host_tokens) {
      layout.x_host_tokens = x_host_tokens;
      return time_of_(layout);
    };
    const std::vector<uint64_t> ends = problem_.splits_at_ends(layout), blocks = problem_.splits_at_blocks(layout);
    // The cost is a sawtooth over something convex: several of the coarse splits are worth a closer look.
    std::vector<Found> coarse;
    const size_t step = (ends.size() + kCoarse - 1) / kCoarse;
    for (size_t i = 0; i < ends.size() - 1; i += step) coarse.push_back({ends[i], time(ends[i])});
    coarse.push_back({ends.back(), time(ends.back())});
    std::vector<size_t> order(coarse.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return coarse[a].ns < coarse[b].ns; });
    Found best = coarse[order[0]];
    for (size_t i = 0; i < std::min(order.size(), kLookedAt); ++i) {
      const uint64_t before = coarse[order[i] - std::min<size_t>(order[i], 1)].at;
      const uint64_t behind = coarse[std::min(order[i] + 1, coarse.size() - 1)].at;
      const auto first = std::lower_bound(blocks.begin(), blocks.end(), before);
      const auto last = std::upper_bound(blocks.begin(), blocks.end(), behind);
      Found found = fastest_of(std::span(first, last), kAtOnce, time);
      if (to_the_token) {
        const Found near = fastest_of(tokens_about(found.at, blocks.back()), kAtOnce, time);
        if (near.ns < found.ns) found = near;
      }
      if (found.ns < best.ns) best = found;
    }
    return best;
  }

  CacheLayout layout() {
    std::vector<Placed> grid;
    const uint64_t most_x = problem_.most_x_device();
    for (uint64_t eighth = 0; eighth <= (most_x > 0 ? 8u : 0u); ++eighth) {
      const uint64_t x = most_x * eighth / 8, most_kv = problem_.most_kv_device(x);
      for (uint64_t quarter = most_kv > 0 ? 0 : 4; quarter <= 4; ++quarter) {
        grid.push_back(placed(x, most_kv * quarter / 4));
      }
    }
    std::stable_sort(grid.begin(), grid.end(), [](const Placed& a, const Placed& b) { return a.ns < b.ns; });
    for (size_t i = 0; i < std::min(grid.size(), kDescents); ++i) descend(grid[i]);
    // Those that are about the fastest, to the token.
    grid.clear();
    for (const auto& [key, one] : placed_) grid.push_back(one);
    std::stable_sort(grid.begin(), grid.end(), [](const Placed& a, const Placed& b) { return a.ns < b.ns; });
    Placed best = grid.front();
    for (size_t i = 0; i < std::min(grid.size(), kToTheToken); ++i) {
      const Found found = split(grid[i].layout, true);
      if (i > 0 && found.ns >= best.ns) continue;
      best = grid[i];
      best.layout.x_host_tokens = found.at;
      best.ns = found.ns;
    }
    return best.layout;
  }

 private:
  struct Placed {
    CacheLayout layout;
    double ns = 0;
  };

  // With its fastest split, timed once.
  Placed placed(uint64_t x_device, uint64_t kv_device) {
    const auto [entry, is_new] = placed_.try_emplace({x_device, kv_device});
    if (is_new) {
      const Found found = split({x_device, kv_device, 0}, false);
      entry->second = {{x_device, kv_device, found.at}, found.ns};
    }
    return entry->second;
  }

  // To the fastest of the neighbours some blocks away while one is faster, then closer; at last all within two blocks.
  Placed descend(Placed best) {
    for (int64_t apart = kFarthest; apart > 0; apart /= 2) {
      const int64_t reach = apart == 1 ? 2 : apart;
      for (bool moved = true; moved;) {
        const CacheLayout from = best.layout;
        for (int64_t dx = -reach; dx <= reach; dx += apart) {
          for (int64_t dkv = -reach; dkv <= reach; dkv += apart) {
            const auto x = static_cast<int64_t>(from.x_device_blocks) + dx;
            const auto kv = static_cast<int64_t>(from.kv_device_blocks) + dkv;
            if (!fits(x, kv)) continue;
            const Placed one = placed(static_cast<uint64_t>(x), static_cast<uint64_t>(kv));
            if (one.ns < best.ns) best = one;
          }
        }
        moved = !(best.layout == from);
      }
    }
    return best;
  }

  bool fits(int64_t x, int64_t kv) const {
    return x >= 0 && kv >= 0 && static_cast<uint64_t>(x) <= problem_.most_x_device() &&
           static_cast<uint64_t>(kv) <= problem_.most_kv_device(static_cast<uint64_t>(x));
  }

  const LayoutProblem& problem_;
  const TimeOfLayout& time_of_;
  std::map<std::pair<uint64_t, uint64_t>, Placed> placed_;
};

}  // namespace

uint64_t LayoutProblem::blocks() const {
  return std::accumulate(contexts.begin(), contexts.end(), uint64_t{0},
                         [](uint64_t sum, uint32_t context) { return sum + blocks_of(context); });
}

uint64_t LayoutProblem::most_x_device() const {
  return std::min(blocks(), device_bytes / shape.layers / kBlockTokens / shape.x_bytes);
}

uint64_t LayoutProblem::most_kv_device(uint64_t x_device_blocks) const {
  const uint64_t room = device_bytes / shape.layers / kBlockTokens;
  return std::min(blocks() - x_device_blocks, (room - x_device_blocks * shape.x_bytes) / shape.kv_bytes);
}

std::vector<uint64_t> LayoutProblem::splits_at_blocks(const CacheLayout& layout) const {
  std::vector<uint64_t> splits{0};
  each_host_block(*this, layout, [&](uint32_t tokens, bool) { splits.push_back(splits.back() + tokens); });
  return splits;
}

std::vector<uint64_t> LayoutProblem::splits_at_ends(const CacheLayout& layout) const {
  std::vector<uint64_t> splits{0};
  uint64_t at = 0, blocks_as_x = layout.x_device_blocks;
  each_host_block(*this, layout, [&](uint32_t tokens, bool last) {
    at += tokens;
    if (++blocks_as_x % slot_blocks == 0 || last) splits.push_back(at);
  });
  if (splits.back() != at) splits.push_back(at);
  return splits;
}

CacheLayout fastest_split(const LayoutProblem& problem, const CacheLayout& layout, const TimeOfLayout& time_of) {
  CacheLayout split = layout;
  split.x_host_tokens = LayoutSearch(problem, time_of).split(layout, true).at;
  return split;
}

CacheLayout fastest_layout(const LayoutProblem& problem, const TimeOfLayout& time_of) {
  return LayoutSearch(problem, time_of).layout();
}

}  // namespace iokv
