// SPDX-License-Identifier: Apache-2.0
// The profiler: what a device that runs a model can do, measured through the backend's seam and on the device's clock
// alone, so that it is the same for every backend. Each curve of the Profile is fitted to medians of several rounds over
// rising sizes (daemon/sched/fit.h).
//
// Compute is measured while the link is busy, since that is how it runs in a step; where operations read the host's
// memory in place there is no link, nothing ever has to be carried, and h2d and d2h are 0.
#pragma once

#include <cstdint>

#include "daemon/backend/backend.h"
#include "daemon/model/spec.h"
#include "daemon/model/weights.h"
#include "daemon/runtime/measured_profile.h"
#include "daemon/runtime/probe.h"

namespace iokv {

struct ProfilerLimits {
  ProbeLimits probe;
  size_t least_copy_bytes = size_t{16} << 10;
  uint32_t rounds = 7;
  // A curve's time. Sizes rise while the next one is expected to take no more than a quarter of it, each is run three
  // times and they double, which makes 1.5 of it at most; then rounds are repeated while there is some left. So all
  // curves take 3 s at most, unless an operation of the least size takes longer than that quarter.
  uint64_t curve_ns = 250'000'000;
  // Short operations are repeated for as long, so that the clock's steps and the first launch do not count.
  uint64_t window_ns = 500'000;
  // And copies, whose end a sleeping thread or an interrupt may notice 50 us late: 1 % of it.
  uint64_t link_window_ns = 5'000'000;
};

// The executor's thread, with nothing else on the device. Fails when the device is lost, or has no memory for the
// Probe's buffers, which are gone when it returns.
Result<MeasuredProfile> measure(Backend& backend, const ModelSpec& spec, const Weights& weights,
                                const ProfilerLimits& limits);

}  // namespace iokv
