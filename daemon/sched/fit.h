// SPDX-License-Identifier: Apache-2.0
// From measured times to a Curve. Pure.
#pragma once

#include <cstddef>
#include <span>

#include "daemon/sched/profile.h"

namespace iokv {

// How long an operation of some size took.
struct Sample {
  double size = 0;
  double ns = 0;
};

// The search costs their number to the fourth power: 2^24 steps of a nanosecond.
inline constexpr size_t kMostSamples = 64;

// The Curve from which the samples deviate least, each in proportion to its own time, so that a microsecond counts at
// small sizes as a millisecond does at large ones. Up to a third of the samples may be anything. Samples whose size or
// time is not above 0 say nothing; without others the Curve is 0, and with one size it is in proportion.
// Needs samples.size() <= kMostSamples.
Curve fit(std::span<const Sample> samples);

// The median of |curve.at(size)/ns - 1|; 0 without samples.
double misfit(const Curve& curve, std::span<const Sample> samples);

}  // namespace iokv
