// SPDX-License-Identifier: Apache-2.0
// Drift: predicted and measured times of steps side by side, and the Profile corrected when they have parted. A link
// that other work has begun to use, or a device that has been clocked down, shows here within seconds. Pure: time is the
// sum of the steps' own.
//
// Link, device and host are watched apart. Of each, the logarithm of measured/predicted is averaged with weights that fall off
// exponentially. An average beyond the bound begins a suspicion, one within half of it ends it: that is the hysteresis. A
// suspicion that has lasted for enough steps and long enough becomes a re-fit: the part's rates are scaled by the mean
// ratio since it began, and predictions are right again.
//
// The host's CPU is others' as well, and all rows of a step wait for its part: one step whose part has taken much longer
// than predicted is enough to believe that, so that the next ones give it less. Coming back takes a suspicion as of any
// part: that is the host's hysteresis.
//
// Who observes shows it steps that decode and nothing else (Conductor::watch_drift). There is one factor for all that the
// device does, and predictions of decodes are what everything is planned by: which form tokens are kept in, how much of a
// prompt goes in beside them. A step with prompts is mostly products of many rows. Were those a fifth slower than the
// curve says, on a device whose rates have not changed at all, the factor would follow the mix of prompts and decodes and
// each would be predicted wrong by what the other one's curve is off.
//
// Invariants
//  1. Steps that deviate by less than the bound never cause a re-fit, however they are ordered: an average of values
//     within the bound is within it.
//  2. Between two re-fits of a part there are at least `steps` steps and `ns` of steps.
#pragma once

#include <cstdint>

#include "daemon/sched/profile.h"

namespace iokv {

// Of one step. A part that did nothing is 0.
struct StepTimes {
  double link_ns = 0;    // of the busier direction
  double device_ns = 0;  // dense work and recomputation together
  double host_ns = 0;    // attention on the host
  double total_ns = 0;
};

struct DriftLimits {
  double bound = 0.15;           // of |measured/predicted - 1|: above what a busy machine's steps vary by
  uint32_t steps = 4;            // that a suspicion lasts
  uint64_t ns = 500'000'000;     // and how long
  uint64_t average_ns = 500'000'000;  // time constant of the average, within the two below
  double least_weight = 1.0 / 64, most_weight = 1.0 / 4;  // of the latest step in it
  double least_share = 0.05;     // of the total: a part that is predicted to take less tells little
  double busy_host = 1.5;        // of the host's measured/predicted: beyond it a step is enough
  double most_ratio = 4;         // a step that deviates by more counts as that: it was interrupted
  double most_factor = 64;       // of a correction, either way
  double restored = 0.05;        // a correction that is this near to none becomes none: the disturbance has ended
};

class Drift {
 public:
  explicit Drift(const Profile& measured, const DriftLimits& limits = {});

  // A step that was predicted with profile() when fits() was `fit`, as it is known of a Plan that was made before a
  // re-fit and ran after it: its prediction says nothing of the new rates, and is passed over. True when the step has
  // caused a re-fit: profile() is another one now.
  bool observe(const StepTimes& predicted, const StepTimes& measured, uint32_t fit);

  const Profile& measured() const { return measured_; }
  // The measured rates, corrected.
  const Profile& profile() const { return corrected_; }
  double link_factor() const { return link_.factor; }      // of h2d's and d2h's times
  double device_factor() const { return device_.factor; }  // of the device's
  double host_factor() const { return host_.factor; }      // of attention on the host

  // Counters, since the start.
  uint32_t fits() const { return fits_; }  // re-fits
  uint64_t steps() const { return steps_; }
  uint64_t drifted_steps() const { return drifted_; }  // whose total was predicted wrong by more than the bound
  // Averages of measured/predicted now. Link and device right and the total not: they wait for each other.
  double link_ratio() const;
  double device_ratio() const;
  double host_ratio() const;
  double total_ratio() const;

 private:
  struct Part {
    double factor = 1;       // of the measured rates
    double average = 0;      // of log(measured/predicted)
    bool suspected = false;
    uint32_t steps = 0;      // since the suspicion began
    double ns = 0, sum = 0;  // likewise: their time, and their logarithms
  };

  double weight(const StepTimes& predicted) const;
  double log_ratio(double predicted_ns, double measured_ns) const;
  bool observe(Part& part, double predicted_ns, double measured_ns, const StepTimes& predicted, double step_ns);
  bool observe_host(const StepTimes& predicted, const StepTimes& measured);
  bool suspect(Part& part, double logarithm, double share, double step_ns) const;
  void correct(Part& part) const;

  const Profile measured_;
  const DriftLimits limits_;
  Profile corrected_;
  Part link_, device_, host_;
  double total_average_ = 0;
  uint32_t fits_ = 0;
  uint64_t steps_ = 0, drifted_ = 0;
};

// The profile of a link whose copies take `link_factor` times as long, a device whose operations take `device_factor`
// times as long, and a host whose attention takes `host_factor` times as long.
Profile scaled(const Profile& profile, double link_factor, double device_factor, double host_factor);

}  // namespace iokv
