// SPDX-License-Identifier: Apache-2.0
// Which cached tokens of a Plan's rows the host attends to (plan.h: Host). Pure; the conductor's thread.
//
// The host's part of a row is the end of its context, in blocks of K,V of the host pool that belong to its sequence alone:
// what several sequences share crosses the link once for all of them. How many tokens the host gets in all is what makes
// the predicted step shortest; from whom it gets them makes no difference to that, so they come from the longest of such
// ends, and few rows are divided.
//
// Where a row's bits may not depend on who else is in its step, its part is a share of its own context instead, which is
// fixed for its sequence: fixed_host_share.
//
// Invariants
//  1. Nothing but host_from and the loads of spans changes. Rows that are not alone in their span are never divided.
//  2. Time is O(spans + runs); no memory is taken once the largest Plan has been seen.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <vector>

#include "daemon/sched/plan.h"
#include "daemon/sched/plan_build.h"
#include "daemon/sched/prefill.h"

namespace iokv {

// Of a context's tokens, those that the host attends to where many of them are read and nothing is on the device: of rates
// alone, so that it does not depend on who is there.
double fixed_host_share(const Profile& profile, const CacheShape& shape);

// The first token of the host's part of a context of `cached` tokens: a block's start. kAllOnDevice where a part would be
// on the link for less time than it takes to hand anything over.
uint32_t fixed_host_from(const Profile& profile, const CacheShape& shape, double share, uint32_t cached);

class HostDivision {
 public:
  explicit HostDivision(const StagingShape& staging) : staging_(staging) {}

  // Of a Plan with all its spans and no program. The host gets `least_share` of the step's time whatever it gains, and a
  // block at the least, to see how long that takes; 0: nothing that gains less than kLeastGain.
  void divide(Plan& plan, const StepModel& model, double least_share = 0);

  // Each by its host_share: of rows that decode, so that it makes no difference in which parts a prompt was computed.
  void divide_by_share(Plan& plan, const Profile& profile, const CacheShape& shape);

  // Of the cached tokens that lately were brought, or could have been, and of `to_come` that will be for single rows, the share
  // that is of single rows: which the host could attend to.
  double attendable(double to_come) const { return read_ > 0 ? (read_alone_ + to_come) / (read_ + to_come) : 1; }

 private:
  // A span whose cached tokens from `from` on the host could attend to.
  struct End {
    uint32_t span = 0, from = 0, tokens = 0;
  };
  // Of an end: of those of one size some have up to twice as many tokens as others.
  static size_t size_of(const End& end) { return static_cast<size_t>(std::bit_width(end.tokens)); }
  static constexpr size_t kSizes = 33;

  LayerWork look_at(const Plan& plan, const StepModel& model);
  uint64_t take_longest(uint64_t wanted);
  void give(PlanSpan& span, uint32_t host_from) const;

  const StagingShape staging_;
  std::vector<End> ends_, taken_;
  uint64_t tokens_ = 0;  // of all ends
  std::array<uint64_t, kSizes> tokens_by_size_{};
  double read_ = 0, read_alone_ = 0;  // sums that fall off with each Plan
};

}  // namespace iokv
