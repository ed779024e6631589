// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/form_choice.h"

#include <algorithm>
#include <cmath>

#include "daemon/sched/split.h"

namespace iokv {
namespace {

// A sequence goes on in the form of its last block until the pool is off the share by more than this many blocks:
// stretches of one form are long copies, and each change of form is a pass of its own (plan_build.h).
constexpr double kStretchBlocks = 4;

double share_of(const RecomputeSetting& setting) {
  switch (setting.mode) {
    case Recompute::never: return 0;
    case Recompute::always: return 1;
    case Recompute::fraction: return setting.fraction;
    case Recompute::automatic: return 0;  // until something is known
  }
  return 0;
}

}  // namespace

FormChooser::FormChooser(const RecomputeSetting& setting) : mode_(setting.mode), x_share_(share_of(setting)) {}

uint32_t FormChooser::x_of(uint32_t blocks, std::optional<BlockForm> last) const {
  const auto x = static_cast<double>(blocks_[static_cast<size_t>(BlockForm::x)]);
  const auto kv = static_cast<double>(blocks_[static_cast<size_t>(BlockForm::kv)]);
  const double missing = x_share_ * (x + kv + blocks) - x;  // of X, when all are there
  const double wanted = std::clamp(missing, 0.0, static_cast<double>(blocks));
  const bool mixed = x_share_ > 0 && x_share_ < 1;
  if (last && mixed && blocks < kStretchBlocks) {
    const bool as_x = *last == BlockForm::x;
    const double surplus = as_x ? -missing : missing - blocks;  // of the last block's form
    if (surplus < kStretchBlocks) return as_x ? blocks : 0;
  }
  return static_cast<uint32_t>(std::lround(wanted));
}

void FormChooser::observe(const Profile& profile, const CacheShape& shape, const LayerWork& work) {
  const uint64_t tokens = work.x_host + work.kv_host;
  if (mode_ != Recompute::automatic || tokens == 0) return;
  auto step_ns = [&](uint64_t l) {
    LayerWork split = work;
    split.x_host = l;
    split.kv_host = tokens - l;
    return streaming_cost(profile, shape, split).total_ns;
  };
  const uint64_t best = best_split(profile, shape, work, 0, tokens);
  const auto now = static_cast<uint64_t>(std::llround(x_share_ * static_cast<double>(tokens)));
  if (step_ns(best) * (1 + kLeastGain) >= step_ns(now)) return;
  x_share_ = static_cast<double>(best) / static_cast<double>(tokens);
}

}  // namespace iokv
