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

// Some of first ... last evenly, then those between the neighbours of the fastest, until it has none left. What lies
// between two that were timed should be about as fast as they are.
template <typename Time>
void narrow(size_t first, size_t last, size_t at_once, const Time& time_of) {
  Found best;
  for (;;) {
    const size_t step = std::max<size_t>(1, (last - first + at_once - 1) / at_once);
    for (size_t i = first;; i = std::min(i + step, last)) {
      const double ns = time_of(i);
      if (ns < best.ns) best = {i, ns};
      if (i == last) break;
    }
    if (step == 1) return;
    first = std::max(first, best.at - std::min(best.at, step - 1));
    last = std::min(best.at + step - 1, last);
  }
}

// Few enough to time, many enough for random steps to come within half a percent of brute force (bench/optimum.h).
struct Effort {
  size_t coarse = 0;     // splits that are timed first
  size_t looked_at = 0;  // of them, those about which every block may be timed
};
constexpr Effort kOfEach{32, 3}, kOfTheFastest{64, 8};              // placement
constexpr size_t kAtOnce = 8, kTokensAbout = 3;
constexpr size_t kAlongX = 16, kDescents = 6, kToTheToken = 24;     // placements
constexpr int64_t kFarthest = 8;                                    // blocks

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

// The splits of one placement that have been timed.
class SplitSearch {
 public:
  SplitSearch(const LayoutProblem& problem, const CacheLayout& layout, const TimeOfLayout& time_of)
      : time_of_(time_of),
        layout_(layout),
        ends_(problem.splits_at_ends(layout)),
        blocks_(problem.splits_at_blocks(layout)) {}

  // The time is a sawtooth over something convex: several of the coarse splits are worth a closer look. Every block where
  // there are few: then each of them counts.
  void to_the_block(const Effort& effort) {
    if (blocks_.size() <= effort.coarse) {
      for (uint64_t tokens : blocks_) time(tokens);
      return;
    }
    const size_t step = (ends_.size() + effort.coarse - 1) / effort.coarse, last = ends_.size() - 1;
    std::vector<size_t> timed;
    for (size_t i = 0; i < last; i += step) timed.push_back(i);
    timed.push_back(last);
    for (size_t i : timed) time(ends_[i]);
    std::vector<size_t> order(timed.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return time(ends_[timed[a]]) < time(ends_[timed[b]]); });
    order.resize(std::min(order.size(), effort.looked_at));
    for (size_t i : order) {
      narrow(block_at(ends_[timed[i - std::min<size_t>(i, 1)]]), block_at(ends_[timed[std::min(i + 1, timed.size() - 1)]]),
             kAtOnce, [&](size_t block) { return time(blocks_[block]); });
    }
  }

  // About the fastest, and the fastest of those that are a block away from it, and so on.
  void to_the_token() {
    std::vector<Found> order;
    for (const auto& [at, ns] : ns_) order.push_back({at, ns});
    std::stable_sort(order.begin(), order.end(), [](const Found& a, const Found& b) { return a.ns < b.ns; });
    std::vector<uint64_t> looked_at;
    for (const Found& found : order) {
      auto is_near = [&](uint64_t at) { return std::max(at, found.at) - std::min(at, found.at) < kBlockTokens; };
      if (looked_at.size() == kTokensAbout || std::any_of(looked_at.begin(), looked_at.end(), is_near)) continue;
      looked_at.push_back(found.at);
      narrow(found.at - std::min<uint64_t>(found.at, kBlockTokens), std::min(blocks_.back(), found.at + kBlockTokens),
             kAtOnce, [&](uint64_t tokens) { return time(tokens); });
    }
  }

  // The smallest of the fastest: what need not be recomputed is not.
  Found fastest() const {
    Found best;
    for (const auto& [at, ns] : ns_) {
      if (ns < best.ns) best = {at, ns};
    }
    return best;
  }

 private:
  double time(uint64_t x_host_tokens) {
    const auto [entry, is_new] = ns_.try_emplace(x_host_tokens);
    if (is_new) {
      layout_.x_host_tokens = x_host_tokens;
      entry->second = time_of_(layout_);
    }
    return entry->second;
  }

  size_t block_at(uint64_t tokens) const {
    return static_cast<size_t>(std::lower_bound(blocks_.begin(), blocks_.end(), tokens) - blocks_.begin());
  }

  const TimeOfLayout& time_of_;
  CacheLayout layout_;
  const std::vector<uint64_t> ends_, blocks_;
  std::map<uint64_t, double> ns_;
};

class LayoutSearch {
 public:
  LayoutSearch(const LayoutProblem& problem, const TimeOfLayout& time_of) : problem_(problem), time_of_(time_of) {}

  CacheLayout layout() {
    const uint64_t most_x = problem_.most_x_device();
    for (uint64_t eighth = 0; eighth <= (most_x > 0 ? 8u : 0u); ++eighth) {
      const uint64_t x = most_x * eighth / 8, most_kv = problem_.most_kv_device(x);
      for (uint64_t quarter = most_kv > 0 ? 0 : 4; quarter <= 4; ++quarter) place(x, most_kv * quarter / 4);
    }
    narrow(0, most_x, kAlongX, [&](uint64_t x) { return place(x, problem_.most_kv_device(x)).ns; });
    for (const Placed& from : fastest(kDescents)) descend(from);
    Placed best;
    for (const Placed& one : fastest(kToTheToken)) {
      SplitSearch split(problem_, one.layout, time_of_);
      split.to_the_block(kOfTheFastest);
      split.to_the_token();
      const Found found = split.fastest();
      if (found.ns < best.ns) best = {{one.layout.x_device_blocks, one.layout.kv_device_blocks, found.at}, found.ns};
    }
    return best.layout;
  }

 private:
  struct Placed {
    CacheLayout layout;
    double ns = std::numeric_limits<double>::infinity();
  };

  // With its fastest split, searched once.
  Placed place(uint64_t x_device, uint64_t kv_device) {
    const auto [entry, is_new] = placed_.try_emplace({x_device, kv_device});
    if (is_new) {
      SplitSearch split(problem_, {x_device, kv_device, 0}, time_of_);
      split.to_the_block(kOfEach);
      const Found found = split.fastest();
      entry->second = {{x_device, kv_device, found.at}, found.ns};
    }
    return entry->second;
  }

  std::vector<Placed> fastest(size_t count) const {
    std::vector<Placed> order;
    for (const auto& [key, one] : placed_) order.push_back(one);
    std::stable_sort(order.begin(), order.end(), [](const Placed& a, const Placed& b) { return a.ns < b.ns; });
    order.resize(std::min(order.size(), count));
    return order;
  }

  // To the fastest of the neighbours some blocks away while one is faster, then closer; at last all within two blocks.
  void descend(Placed best) {
    for (int64_t apart = kFarthest; apart > 0; apart /= 2) {
      for (bool moved = true; moved;) {
        const Placed found = fastest_about(best, apart, apart == 1 ? 2 : apart);
        moved = found.ns < best.ns;
        if (moved) best = found;
      }
    }
  }

  Placed fastest_about(const Placed& from, int64_t apart, int64_t reach) {
    Placed best = from;
    auto consider = [&](int64_t x, int64_t kv) {
      if (!fits(x, kv)) return;
      const Placed one = place(static_cast<uint64_t>(x), static_cast<uint64_t>(kv));
      if (one.ns < best.ns) best = one;
    };
    for (int64_t dx = -reach; dx <= reach; dx += apart) {
      const int64_t x = static_cast<int64_t>(from.layout.x_device_blocks) + dx;
      for (int64_t dkv = -reach; dkv <= reach; dkv += apart) {
        consider(x, static_cast<int64_t>(from.layout.kv_device_blocks) + dkv);
      }
      if (fits(x, 0)) consider(x, static_cast<int64_t>(problem_.most_kv_device(static_cast<uint64_t>(x))));
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
  SplitSearch search(problem, layout, time_of);
  search.to_the_block(kOfTheFastest);
  search.to_the_token();
  CacheLayout split = layout;
  split.x_host_tokens = search.fastest().at;
  return split;
}

CacheLayout fastest_layout(const LayoutProblem& problem, const TimeOfLayout& time_of) {
  return LayoutSearch(problem, time_of).layout();
}

}  // namespace iokv
