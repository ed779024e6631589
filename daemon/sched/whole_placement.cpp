// SPDX-License-Identifier: Apache-2.0
// The linear programme says how many tokens lie on the device as X; the device's other room holds K,V, and what is on
// the host is split by the whole cost. The programme knows rates and shares only. So its neighbours in whole tokens are
// tried, too, and the corners where the fixed part of an operation can decide: no X on the device, as little as makes
// all tokens fit, as much as fits.
#include "daemon/sched/whole_placement.h"

#include <algorithm>
#include <array>

#include "daemon/base/assert.h"
#include "daemon/sched/placement.h"
#include "daemon/sched/split.h"

namespace iokv {
namespace {

// With a host the share of X is found to within this part of the tokens: closer ones are of no use to anybody, and each is
// some dozen costs.
constexpr uint64_t kSharesApart = 1024;

class WholePlacement {
 public:
  WholePlacement(const Profile& profile, const CacheShape& shape, const LayerWork& work, uint64_t device_bytes,
                 double attendable)
      : profile_(profile),
        shape_(shape),
        work_(work),
        device_bytes_(device_bytes),
        attendable_(attendable),
        tokens_(work.kv_host),
        room_(device_bytes / shape.layers) {
    IOKV_ASSERT(work.x_host == 0);
  }

  // Bytes of weights that stay.
  double programmed_weights(uint64_t weight_bytes) const {
    return static_cast<double>(weight_bytes) - programmed(weight_bytes).streamed_weight_bytes;
  }

  LayerWork best() const {
    const uint64_t most_x = std::min(tokens_, room_ / shape_.x_bytes);
    const uint64_t near = programmed_x();
    LayerWork best = split_host(work_);
    std::array candidates{uint64_t{0}, near, near + 1, near + 2, least_x_that_fits(), most_x};
    std::sort(candidates.begin(), candidates.end());
    for (auto at = candidates.begin(), end = std::unique(at, candidates.end()); at != end; ++at) {
      const uint64_t x_device = *at;
      if (x_device > most_x) continue;
      const LayerWork one = split_host(with_x_on_device(x_device));
      if (total_ns(one) < total_ns(best)) best = one;
    }
    return best;
  }

 private:
  double total_ns(const LayerWork& work) const { return streaming_cost(profile_, shape_, work).total_ns; }

  LayerWork with_x_on_device(uint64_t x_device) const {
    LayerWork work = work_;
    work.x_device += x_device;
    work.kv_host -= x_device + std::min(tokens_ - x_device, (room_ - x_device * shape_.x_bytes) / shape_.kv_bytes);
    return work;
  }

  LayerWork split_host(LayerWork work) const {
    if (profile_.host_attends()) return split_three_ways(work);
    work.x_host = best_split(profile_, shape_, work, 0, work.kv_host);
    work.kv_host -= work.x_host;
    return work;
  }

  // With no K,V, some or all that can be attended to there. Within each of these costs are convex: the least over one of two
  // variables of something convex is convex in the other one. Meanwhile all rows are taken for divided, since their number
  // goes by steps.
  LayerWork split_three_ways(const LayerWork& work) const {
    LayerWork best = work;
    best.x_host = best_split(profile_, shape_, work, 0, work.kv_host);
    best.kv_host -= best.x_host;
    const auto attended = [&](const LayerWork& one, uint64_t tokens) {
      return tokens == 0 ? one : with_host(one, tokens, work.rows);
    };
    const auto consider = [&](const LayerWork& one) {
      const double ns = total_ns(one);
      if (ns < total_ns(best)) best = one;
      return ns;
    };
    for (const bool all : {false, true}) {
      const auto with_x = [&](uint64_t x_host) {
        LayerWork one = work;
        one.x_host = x_host;
        one.kv_host -= x_host;
        return attended(one, all ? attendable_of(one) : most_useful(one));
      };
      consider(with_x(0));
      uint64_t first = 1, last = work.kv_host;
      for (const uint64_t close = last / kSharesApart; last - first > close;) {
        // At thirds: between neighbours whole tokens for the host make more of a difference than one of X.
        const uint64_t third = (last - first) / 3, left = first + third, right = last - third - (third == 0 ? 1 : 0);
        if (consider(with_x(left)) <= consider(with_x(right))) {
          last = right;
        } else {
          first = left + 1;
        }
      }
    }
    best.divided = rows_of(best.kv_attended);
    return best;
  }

  uint64_t attendable_of(const LayerWork& work) const {
    return static_cast<uint64_t>(attendable_ * static_cast<double>(work.kv_host));
  }

  // Of the K,V some, whatever that gains.
  uint64_t most_useful(const LayerWork& work) const {
    const uint64_t most = attendable_of(work);
    uint64_t first = std::min<uint64_t>(most, 1), last = most - std::min<uint64_t>(most, 1);
    const uint64_t rows = work.rows;
    while (first < last) {
      const uint64_t middle = first + (last - first) / 2;
      if (total_ns(with_host(work, middle, rows)) <= total_ns(with_host(work, middle + 1, rows))) {
        last = middle;
      } else {
        first = middle + 1;
      }
    }
    return first;
  }

  // That have so many cached tokens if all have alike.
  uint64_t rows_of(uint64_t tokens) const { return tokens_ == 0 ? 0 : (tokens * work_.rows + tokens_ - 1) / tokens_; }

  // Solved for, with weights of so many bytes on the device or over the link.
  Placement programmed(uint64_t weight_bytes) const {
    const double all = static_cast<double>(tokens_);
    const TokenClass one{all, 1, all};
    LayerWork nothing_cached = work_;
    nothing_cached.kv_host = 0;
    const StepCost alone = streaming_cost(profile_, shape_, nothing_cached);
    PlacementProblem problem;
    problem.shape = shape_;
    problem.h2d_ns_per_byte = profile_.h2d.each_ns;
    problem.recompute_ns = profile_.recompute.each_ns;
    problem.contention = profile_.contention;
    problem.device_ns = alone.dense_ns;
    problem.link_ns = alone.h2d_ns;
    problem.host_attend_ns = profile_.host_attend.each_ns;
    const double attention_ns = profile_.attention_ns(static_cast<double>(work_.attended), static_cast<double>(work_.products));
    const double around_ns = profile_.host_attend.fixed_ns + profile_.exchange.at(static_cast<double>(work_.rows)) - attention_ns;
    problem.host_ns = alone.dense_ns + shape_.layers * around_ns;
    problem.host_contention = profile_.host_contention;
    problem.weight_bytes = weight_bytes;
    problem.device_bytes = device_bytes_;
    problem.host_bytes = tokens_ * shape_.layers * std::max(shape_.x_bytes, shape_.kv_bytes);
    problem.classes = std::span(&one, 1);
    return best_placement(problem);
  }
  uint64_t programmed_x() const {
    return static_cast<uint64_t>(programmed(0).tokens[0][static_cast<size_t>(Place::x_device)]);
  }

  // With how many tokens as X, and all others as K,V, everything is on the device; if it can be at all.
  uint64_t least_x_that_fits() const {
    const uint64_t as_kv = tokens_ * shape_.kv_bytes;
    if (as_kv <= room_ || shape_.x_bytes >= shape_.kv_bytes) return 0;
    const uint64_t saved = shape_.kv_bytes - shape_.x_bytes;
    return (as_kv - room_ + saved - 1) / saved;
  }

  const Profile& profile_;
  const CacheShape& shape_;
  const LayerWork work_;
  const uint64_t device_bytes_;
  const double attendable_;
  const uint64_t tokens_;
  const uint64_t room_;  // bytes of a layer
};

}  // namespace

LayerWork best_whole_placement(const Profile& profile, const CacheShape& shape, const LayerWork& work,
                               uint64_t device_bytes, double attendable) {
  return WholePlacement(profile, shape, work, device_bytes, attendable).best();
}

// The programme says how many layers stay, but for whole ones, and for the slots that the others come through.
DeviceDivision best_division(const Profile& profile, const CacheShape& shape, const LayerWork& work,
                             const WeightSizes& sizes, uint64_t device_bytes) {
  auto choice = choose_weights(WeightSetting::automatic, sizes, device_bytes);
  IOKV_ASSERT(choice);
  const uint32_t most = sizes.layers - choice->layers.streamed;
  const uint64_t all = sizes.layers * sizes.layer_bytes, beside_fixed = device_bytes - sizes.fixed_bytes;
  const uint64_t ring = std::min<uint64_t>(kWeightSlots * sizes.layer_bytes, beside_fixed);
  const WholePlacement programme(profile, shape, work, beside_fixed - ring, 1);
  const auto near = static_cast<uint32_t>(programme.programmed_weights(all) / static_cast<double>(sizes.layer_bytes));
  DeviceDivision best;
  double best_ns = 0;
  for (uint32_t stay : {most, near, near + 1, 0u}) {
    if (stay > most) continue;
    DeviceDivision one;
    one.weights.layers = {sizes.layers, sizes.layers - stay};
    one.weights.slots = stay == sizes.layers ? 1 : choice->layers.streamed > 0 ? choice->slots : std::min(kWeightSlots, sizes.layers);
    const uint32_t slots = stay == sizes.layers ? 0 : one.weights.slots;
    one.weights.device_bytes = sizes.fixed_bytes + (stay + slots) * sizes.layer_bytes;
    if (one.weights.device_bytes > device_bytes) continue;
    one.work = work;
    one.work.weight_bytes = one.weights.layers.streamed * sizes.layer_bytes / sizes.layers;
    one.work = best_whole_placement(profile, shape, one.work, device_bytes - one.weights.device_bytes);
    const double ns = streaming_cost(profile, shape, one.work).total_ns;
    if (best_ns != 0 && ns >= best_ns) continue;
    best = one;
    best_ns = ns;
  }
  return best;
}

}  // namespace iokv
