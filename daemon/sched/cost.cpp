// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/cost.h"

#include <algorithm>
#include <cmath>

namespace iokv {
namespace {

// Bytes in copies of copy_bytes, the last one shorter.
double copies_ns(const Curve& copy, double bytes, double copy_bytes) {
  if (copy_bytes <= 0 || bytes <= copy_bytes) return copy.at(bytes);
  const double whole = std::floor(bytes / copy_bytes);
  return whole * copy.at(copy_bytes) + copy.at(bytes - whole * copy_bytes);
}

struct LayerTimes {
  double x = 0, kv = 0, weights = 0;  // h2d
  double d2h = 0;
  double recompute = 0;
  double dense = 0;
  double attend = 0;  // of dense
  double host = 0;
};

LayerTimes times_of(const Profile& profile, const CacheShape& shape, const LayerWork& work) {
  auto h2d = [&](uint64_t bytes) { return copies_ns(profile.h2d, static_cast<double>(bytes), work.copy_bytes); };
  LayerTimes times;
  times.x = h2d(work.x_host * shape.x_bytes);
  times.kv = h2d(work.kv_host * shape.kv_bytes);
  times.weights = h2d(work.weight_bytes);
  times.d2h = profile.d2h.at(static_cast<double>(work.new_x * shape.x_bytes + work.new_kv * shape.kv_bytes));
  times.recompute = profile.recompute.at(static_cast<double>(work.x_host + work.x_device));
  const auto batches = static_cast<double>(work.batches);
  times.attend = profile.attention_ns(static_cast<double>(work.attended), static_cast<double>(work.products));
  times.dense = batches * profile.dense.at(static_cast<double>(work.rows) / batches) + times.attend;
  if (work.kv_attended > 0) {
    times.dense += profile.exchange.at(static_cast<double>(work.divided));
    times.host = profile.host_attend.at(static_cast<double>(work.kv_attended));
  }
  return times;
}

double device_beside_host_ns(const Profile& profile, const StepCost& cost) {
  return cost.device_ns + profile.host_contention * cost.host_ns;
}

StepCost sum_of(const Profile& profile, const CacheShape& shape, const LayerWork& work, const LayerTimes& times) {
  const double layers = shape.layers;
  StepCost cost;
  cost.host_ns = layers * times.host;
  cost.h2d_ns = layers * (times.x + times.kv + times.weights);
  cost.d2h_ns = layers * times.d2h;
  // While both directions run each is slower; the shorter one runs beside the other from end to end.
  const double both = std::min(cost.h2d_ns, cost.d2h_ns) * (profile.duplex - 1);
  cost.h2d_ns += both;
  cost.d2h_ns += both;
  // Likewise while the host attends, which slows what is left of it, or all of it where it ends before the host.
  const double slow = profile.host_slows_link, beside_host = cost.host_ns * (1 - 1 / slow);
  cost.h2d_ns = std::min(cost.h2d_ns * slow, cost.h2d_ns + beside_host);
  cost.d2h_ns = std::min(cost.d2h_ns * slow, cost.d2h_ns + beside_host);
  cost.recompute_ns = layers * times.recompute;
  cost.dense_ns = layers * times.dense + profile.head.at(static_cast<double>(work.rows));
  cost.device_ns = std::max(cost.recompute_ns, cost.dense_ns) +
                   profile.contention * std::min(cost.recompute_ns, cost.dense_ns);
  // The curves are those beside a busy link: what runs while it is idle takes 1/slowdown of that.
  const double slowdown = profile.link_slowdown;
  cost.device_ns = std::min(cost.device_ns, cost.device_ns / slowdown + cost.h2d_ns * (1 - 1 / slowdown));
  if (cost.host_ns > 0) cost.chain_ns = cost.host_ns + cost.dense_ns - layers * times.attend;
  const double link_ns = std::max(cost.h2d_ns, cost.d2h_ns), computed_ns = device_beside_host_ns(profile, cost);
  cost.bound = link_ns >= std::max(computed_ns, cost.chain_ns) ? Bound::link
               : cost.chain_ns > computed_ns                   ? Bound::host
               : cost.recompute_ns > cost.dense_ns             ? Bound::recompute
                                                               : Bound::dense;
  return cost;
}

}  // namespace

const char* name_of(Bound bound) {
  switch (bound) {
    case Bound::link: return "link";
    case Bound::recompute: return "recompute";
    case Bound::dense: return "dense";
    case Bound::host: return "host";
  }
  return "";
}

StepCost streaming_cost(const Profile& profile, const CacheShape& shape, const LayerWork& work) {
  StepCost cost = sum_of(profile, shape, work, times_of(profile, shape, work));
  cost.total_ns = std::max({cost.h2d_ns, cost.d2h_ns, device_beside_host_ns(profile, cost), cost.chain_ns});
  return cost;
}

StepCost serial_cost(const Profile& profile, const CacheShape& shape, const LayerWork& work, PaperSchedule schedule) {
  const LayerTimes times = times_of(profile, shape, work);
  StepCost cost = sum_of(profile, shape, work, times);
  const double waited = schedule == PaperSchedule::column_by_column ? times.x : 0;
  cost.total_ns = shape.layers * (times.weights + waited + std::max(times.recompute, times.kv)) + cost.dense_ns;
  return cost;
}

}  // namespace iokv
