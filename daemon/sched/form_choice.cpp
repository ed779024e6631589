// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/form_choice.h"

#include <algorithm>
#include <cmath>

#include "daemon/sched/split.h"
#include "daemon/sched/whole_placement.h"

namespace iokv {
namespace {

// A sequence goes on in the form of its last block until the pool is off the share by more than this many blocks:
// stretches of one form are long copies.
constexpr double kStretchBlocks = 4;

double ratio(uint64_t part, uint64_t rest) {
  return part + rest == 0 ? 0 : static_cast<double>(part) / static_cast<double>(part + rest);
}

uint64_t part_of(double share, uint64_t tokens) {
  return static_cast<uint64_t>(std::llround(share * static_cast<double>(tokens)));
}

// The step with the given shares, and as many tokens on the device as fit.
LayerWork with_shares(const CacheShape& shape, const LayerWork& work, uint64_t device_bytes, const XShares& shares) {
  const double of_a_token = shape.layers * (shares.device * shape.x_bytes + (1 - shares.device) * shape.kv_bytes);
  const uint64_t tokens = work.kv_host;
  const uint64_t on_device = std::min(tokens, static_cast<uint64_t>(static_cast<double>(device_bytes) / of_a_token));
  LayerWork divided = work;  // those that the host attends to are K,V
  divided.x_device += part_of(shares.device, on_device);
  divided.x_host = part_of(shares.host, tokens - on_device);
  divided.kv_host = tokens - on_device - divided.x_host;
  return divided;
}

}  // namespace

XShares best_shares(const Profile& profile, const CacheShape& shape, const LayerWork& work, uint64_t device_bytes,
                    const XShares& now, double attendable) {
  if (work.kv_host == 0) return now;
  const LayerWork best = best_whole_placement(profile, shape, work, device_bytes, attendable);
  const double best_ns = streaming_cost(profile, shape, best).total_ns;
  LayerWork kept = with_shares(shape, work, device_bytes, now);
  const auto most_attended = static_cast<uint64_t>(attendable * static_cast<double>(kept.kv_host));
  const uint64_t attended = best_attended(profile, shape, kept, most_attended, kept.rows);
  if (attended > 0) kept = with_host(kept, attended, kept.rows);
  if (best_ns * (1 + kLeastGain) >= streaming_cost(profile, shape, kept).total_ns) return now;
  const uint64_t kv_host = best.kv_host + best.kv_attended, on_host = best.x_host + kv_host;
  const uint64_t on_device = work.kv_host - on_host, x_device = best.x_device - work.x_device;
  XShares shares = now;
  if (on_device > 0) shares.device = ratio(x_device, on_device - x_device);
  if (on_host > 0) shares.host = ratio(best.x_host, kv_host);
  return shares;
}

uint32_t FormChooser::x_of(uint32_t blocks, std::optional<BlockForm> last) const {
  if (suffixes_) return x_of_suffix(blocks, last);
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

uint32_t FormChooser::x_of_suffix(uint32_t blocks, std::optional<BlockForm> last) const {
  if (last == BlockForm::kv || x_share_ == 0) return 0;
  const double all = blocks, there = static_cast<double>(running_.x + running_.kv) + all;
  const double in_use = std::max(static_cast<double>(running_.expected), there);
  const double missing = x_share_ * there - static_cast<double>(running_.x);  // of X, when all are there
  if (fixed_host_share_ > 0) return static_cast<uint32_t>(std::clamp(missing, 0.0, std::floor((1 - fixed_host_share_) * (all - 1))));
  if (last == BlockForm::x && all < kStretchBlocks) {
    // What has been given back to K,V never becomes X again: not for what goes away by itself.
    const double stretch = std::max(kStretchBlocks, kWholePart / 2 * in_use);
    return missing > -stretch ? blocks : 0;
  }
  if (all <= kWholePart * in_use) return missing >= all / 2 ? blocks : 0;
  return static_cast<uint32_t>(std::lround(std::clamp(missing, 0.0, all)));
}

}  // namespace iokv
