// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/drift.h"

#include <algorithm>
#include <cmath>

#include "daemon/base/assert.h"

namespace iokv {
namespace {

bool usable(double ns) { return std::isfinite(ns) && ns > 0; }

Curve scaled(const Curve& curve, double factor) {
  return {curve.least_ns * factor, curve.fixed_ns * factor, curve.each_ns * factor};
}

}  // namespace

Drift::Drift(const Profile& measured, const DriftLimits& limits)
    : measured_(measured), limits_(limits), corrected_(measured) {
  IOKV_ASSERT(limits.bound > 0 && limits.bound < 1 && limits.steps != 0);
}

bool Drift::observe(const StepTimes& predicted, const StepTimes& measured, uint32_t fit) {
  if (fit != fits_ || !usable(predicted.total_ns) || !usable(measured.total_ns)) return false;
  ++steps_;
  const double logarithm = log_ratio(predicted.total_ns, measured.total_ns);
  if (std::abs(logarithm) > std::log1p(limits_.bound)) ++drifted_;
  total_average_ += weight(predicted) * (logarithm - total_average_);

  const bool link = observe(link_, predicted.link_ns, measured.link_ns, predicted, measured.total_ns);
  const bool device = observe(device_, predicted.device_ns, measured.device_ns, predicted, measured.total_ns);
  const bool host = observe_host(predicted, measured);
  if (!link && !device && !host) return false;
  ++fits_;
  total_average_ = 0;
  corrected_ = scaled(measured_, link_.factor, device_.factor, host_.factor);
  return true;
}

// Whether the part's factor has changed.
bool Drift::observe(Part& part, double predicted_ns, double measured_ns, const StepTimes& predicted, double step_ns) {
  if (!usable(predicted_ns) || !usable(measured_ns)) return false;
  if (predicted_ns < limits_.least_share * predicted.total_ns) return false;
  if (!suspect(part, log_ratio(predicted_ns, measured_ns), weight(predicted), step_ns)) return false;
  correct(part);
  return true;
}

bool Drift::observe_host(const StepTimes& predicted, const StepTimes& measured) {
  const bool busy = usable(predicted.host_ns) && measured.host_ns > limits_.busy_host * predicted.host_ns &&
                    measured.host_ns >= limits_.least_share * measured.total_ns;
  if (!busy) return observe(host_, predicted.host_ns, measured.host_ns, predicted, measured.total_ns);
  host_.sum = std::log(measured.host_ns / predicted.host_ns);
  host_.steps = 1;
  correct(host_);
  return true;
}

// Whether a suspicion has lasted long enough.
bool Drift::suspect(Part& part, double logarithm, double share, double step_ns) const {
  const double bound = std::log1p(limits_.bound);
  part.average += share * (logarithm - part.average);
  const double away = std::abs(part.average);
  if (part.suspected ? away < bound / 2 : away <= bound) {
    part.suspected = false;
    part.steps = 0;
    part.ns = part.sum = 0;
    return false;
  }
  part.suspected = true;
  ++part.steps;
  part.ns += step_ns;
  part.sum += logarithm;
  return part.steps >= limits_.steps && part.ns >= static_cast<double>(limits_.ns);
}

// The mean since the suspicion began is that of the new rates; the average still remembers the old ones.
void Drift::correct(Part& part) const {
  double factor = part.factor * std::exp(part.sum / part.steps);
  factor = std::clamp(factor, 1 / limits_.most_factor, limits_.most_factor);
  if (std::abs(std::log(factor)) < std::log1p(limits_.restored)) factor = 1;
  part = Part{};
  part.factor = factor;
}

// Of a step in the average: what an exponential of the time constant gives it, within bounds, so that a few long steps
// still are an average and many short ones need not fill the time constant. By the time predicted: a step that was
// interrupted counts no more than its neighbours.
double Drift::weight(const StepTimes& predicted) const {
  const double share = 1 - std::exp(-predicted.total_ns / static_cast<double>(limits_.average_ns));
  return std::clamp(share, limits_.least_weight, limits_.most_weight);
}

double Drift::log_ratio(double predicted_ns, double measured_ns) const {
  return std::clamp(std::log(measured_ns / predicted_ns), -std::log(limits_.most_ratio), std::log(limits_.most_ratio));
}

double Drift::link_ratio() const { return std::exp(link_.average); }
double Drift::device_ratio() const { return std::exp(device_.average); }
double Drift::host_ratio() const { return std::exp(host_.average); }
double Drift::total_ratio() const { return std::exp(total_average_); }

Profile scaled(const Profile& profile, double link_factor, double device_factor, double host_factor) {
  Profile result = profile;
  result.h2d = scaled(profile.h2d, link_factor);
  result.d2h = scaled(profile.d2h, link_factor);
  result.piece_ns = profile.piece_ns * link_factor;
  result.recompute = scaled(profile.recompute, device_factor);
  result.attend = scaled(profile.attend, device_factor);
  result.attend_rows = scaled(profile.attend_rows, device_factor);
  result.dense = scaled(profile.dense, device_factor);
  result.head = scaled(profile.head, device_factor);
  result.embed_ns = profile.embed_ns * device_factor;
  result.keep_x = scaled(profile.keep_x, device_factor);
  result.exchange = scaled(profile.exchange, device_factor);
  result.host_attend = scaled(profile.host_attend, host_factor);
  return result;
}

}  // namespace iokv
