// SPDX-License-Identifier: Apache-2.0
// Two stages. Least absolute deviation, found by trying every line through two samples (or through one and the origin)
// with every sample's time as the floor: an optimum passes through samples, and outliers do not move it. Then least
// squares over the samples near that curve, which averages their noise.
//
// P. J. Rousseeuw, A. M. Leroy, Robust Regression and Outlier Detection (1987): reweighted least squares.
#include "daemon/sched/fit.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "daemon/base/assert.h"

namespace iokv {
namespace {

// A curve with a parameter more must be better by as much, or the simpler one stays.
constexpr double kGain = 1e-6;
// Samples that deviate by more than so many median deviations are left out of the least squares. For normal noise the
// median deviation is 0.67 standard deviations: 4 of them keep 99 %.
constexpr double kNear = 4;

double deviation(const Curve& curve, const Sample& sample) { return std::abs(curve.at(sample.size) / sample.ns - 1); }

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::vector<Sample> usable(std::span<const Sample> samples) {
  std::vector<Sample> kept;
  for (const Sample& sample : samples) {
    if (sample.size > 0 && sample.ns > 0 && std::isfinite(sample.size) && std::isfinite(sample.ns)) kept.push_back(sample);
  }
  return kept;
}

// Keeps the curve of least absolute deviation.
class Best {
 public:
  explicit Best(const std::vector<Sample>& samples) : samples_(samples) {
    smallest_ = samples.front().size;
    for (const Sample& sample : samples) smallest_ = std::min(smallest_, sample.size);
  }

  // The line without a floor, and with each that it does not hide.
  void consider_line(double fixed_ns, double each_ns) {
    if (fixed_ns < 0 || each_ns < 0) return;
    consider({0, fixed_ns, each_ns});
    for (const Sample& sample : samples_) {
      if (sample.ns > fixed_ns + each_ns * smallest_) consider({sample.ns, fixed_ns, each_ns});
    }
  }

  const Curve& curve() const { return curve_; }

 private:
  void consider(const Curve& curve) {
    double sum = 0;
    for (const Sample& sample : samples_) {
      sum += deviation(curve, sample);
      if (sum >= least_) return;
    }
    if (sum >= least_ * (1 - kGain)) return;
    least_ = sum;
    curve_ = curve;
  }

  const std::vector<Sample>& samples_;
  double smallest_ = 0;
  double least_ = INFINITY;
  Curve curve_;
};

Curve least_absolute(const std::vector<Sample>& samples) {
  Best best(samples);
  for (const Sample& sample : samples) best.consider_line(0, sample.ns / sample.size);
  for (size_t i = 0; i < samples.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const double apart = samples[i].size - samples[j].size;
      if (apart == 0) continue;
      const double each_ns = (samples[i].ns - samples[j].ns) / apart;
      best.consider_line(samples[i].ns - each_ns * samples[i].size, each_ns);
    }
  }
  return best.curve();
}

// Sums of least squares with weights 1/ns².
struct Squares {
  double w = 0, ws = 0, wss = 0, wt = 0, wst = 0;  // s size, t time

  void add(const Sample& sample) {
    const double weight = 1 / (sample.ns * sample.ns);
    w += weight;
    ws += weight * sample.size;
    wss += weight * sample.size * sample.size;
    wt += weight * sample.ns;
    wst += weight * sample.size * sample.ns;
  }
};

double squared(const Curve& curve, const std::vector<Sample>& samples) {
  double sum = 0;
  for (const Sample& sample : samples) sum += deviation(curve, sample) * deviation(curve, sample);
  return sum;
}

// `curve` with its floor and its line moved to the middle of the samples that each explains, where that is better.
Curve least_squares(const Curve& curve, const std::vector<Sample>& samples) {
  Squares floor, line;
  for (const Sample& sample : samples) {
    const bool on_floor = curve.least_ns > curve.fixed_ns + curve.each_ns * sample.size;
    (on_floor ? floor : line).add(sample);
  }
  Curve moved = curve;
  if (floor.w > 0) moved.least_ns = floor.wt / floor.w;
  const double determinant = line.w * line.wss - line.ws * line.ws;
  if (curve.fixed_ns > 0 && determinant > 1e-9 * line.w * line.wss) {
    moved.each_ns = (line.w * line.wst - line.ws * line.wt) / determinant;
    moved.fixed_ns = (line.wt - moved.each_ns * line.ws) / line.w;
  }
  if (line.wss > 0 && (curve.fixed_ns == 0 || moved.fixed_ns < 0)) {
    moved.fixed_ns = 0;
    moved.each_ns = line.wst / line.wss;
  }
  if (moved.each_ns < 0) return curve;
  return squared(moved, samples) < squared(curve, samples) ? moved : curve;
}

}  // namespace

Curve fit(std::span<const Sample> samples) {
  IOKV_ASSERT(samples.size() <= kMostSamples);
  const std::vector<Sample> kept = usable(samples);
  if (kept.empty()) return {};
  const Curve robust = least_absolute(kept);
  const double far = kNear * std::max(misfit(robust, kept), 1e-9);
  std::vector<Sample> near;
  for (const Sample& sample : kept) {
    if (deviation(robust, sample) <= far) near.push_back(sample);
  }
  return least_squares(robust, near);
}

double misfit(const Curve& curve, std::span<const Sample> samples) {
  std::vector<double> deviations;
  for (const Sample& sample : usable(samples)) deviations.push_back(deviation(curve, sample));
  return median(std::move(deviations));
}

}  // namespace iokv
