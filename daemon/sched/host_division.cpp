// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/host_division.h"

#include <algorithm>
#include <array>
#include <bit>

#include "daemon/base/units.h"
#include "daemon/sched/form_choice.h"
#include "daemon/sched/split.h"
#include "daemon/sched/whole_placement.h"

namespace iokv {
namespace {

// What many sequences read together: so many tokens that only rates count.
constexpr uint64_t kManyRows = 64, kManyTokens = kManyRows * 1024;

// Of the cached tokens of one span.
struct Cached {
  uint32_t x_host = 0, kv_host = 0, x_device = 0;
  bool new_x = false, new_kv = false;
  uint32_t from = kAllOnDevice;  // from here on all are K,V of the host pool, of this sequence alone
};

Cached cached_of(const Plan& plan, const PlanSpan& span) {
  Cached cached;
  uint32_t begin = 0;
  for (uint32_t r = span.first_run; r < span.first_run + span.runs; ++r) {
    const BlockRun& run = plan.runs[r];
    const uint32_t end = begin + run.blocks * kBlockTokens;
    const uint32_t tokens = std::min(end, span.first_position) - std::min(begin, span.first_position);
    const bool x = run.used_form() == BlockForm::x;
    if (x) (run.resident() ? cached.x_device : cached.x_host) += tokens;
    if (!x && !run.resident()) cached.kv_host += tokens;
    if (end > span.first_position) (run.form == BlockForm::x ? cached.new_x : cached.new_kv) = true;
    const bool attendable = !x && !run.resident() && !run.shared && run.kv_id == kNoBlock;
    if (tokens > 0 && !attendable) cached.from = kAllOnDevice;
    if (tokens > 0 && attendable && cached.from == kAllOnDevice) cached.from = begin;
    begin = end;
  }
  return cached;
}

}  // namespace

double fixed_host_share(const Profile& profile, const CacheShape& shape) {
  if (!profile.host_attends()) return 0;
  LayerWork work;
  work.rows = kManyRows;
  work.attended = work.products = work.kv_host = kManyTokens;
  const LayerWork best = best_whole_placement(profile, shape, work, 0);
  return static_cast<double>(best.kv_attended) / kManyTokens;
}

uint32_t fixed_host_from(const Profile& profile, double share, uint32_t cached) {
  const auto on_device = static_cast<uint32_t>((1 - share) * cached);
  const uint32_t from = on_device / kBlockTokens * kBlockTokens;
  const double handed_over_ns = profile.host_attend.at(1) + profile.exchange.at(1);
  if (share == 0 || from >= cached) return kAllOnDevice;
  return profile.host_attend.each_ns * (cached - from) < handed_over_ns ? kAllOnDevice : from;
}

void HostDivision::divide(Plan& plan, const StepModel& model, double least_share) {
  if (staging_.in_place || !model.profile.host_attends()) return;
  const LayerWork work = look_at(plan, model);
  const uint64_t wanted = tokens_for(model, work, least_share);
  if (wanted == 0) return;
  // The longest ends first, within a factor of two.
  constexpr size_t kSizes = 33;
  std::array<uint32_t, kSizes> counts{};
  const auto size_of = [&](const End& end) { return static_cast<int>(std::bit_width(plan.spans[end.span].first_position - end.from)); };
  for (const End& end : ends_) ++counts[static_cast<size_t>(size_of(end))];
  uint64_t left = wanted;
  for (int size = kSizes - 1; size >= 0 && left > 0; --size) {
    if (counts[static_cast<size_t>(size)] == 0) continue;
    for (const End& end : ends_) {
      if (size_of(end) != size) continue;
      PlanSpan& span = plan.spans[end.span];
      const uint32_t tokens = span.first_position - end.from;
      uint32_t from = end.from;
      if (tokens > left) {
        from = (span.first_position - static_cast<uint32_t>(left) + kBlockTokens / 2) / kBlockTokens * kBlockTokens;
        if (from >= span.first_position) return;
      }
      give(span, std::max(from, end.from));
      left -= std::min<uint64_t>(left, span.host_tokens());
      if (left == 0) return;
    }
  }
}

void HostDivision::divide_by_share(Plan& plan, const Profile& profile, double share) {
  if (staging_.in_place || share == 0) return;
  for (PlanSpan& span : plan.spans) {
    if (!span.decode || span.rows != 1) continue;
    const uint32_t from = fixed_host_from(profile, share, span.first_position), first = cached_of(plan, span).from;
    if (from != kAllOnDevice && first != kAllOnDevice) give(span, std::max(from, first));
  }
}

// The work of the Plan with nothing for the host, and the ends that it could have.
LayerWork HostDivision::look_at(const Plan& plan, const StepModel& model) {
  LayerWork work = model.no_rows();
  ends_.clear();
  tokens_ = 0;
  for (uint32_t s = 0; s < plan.spans.size(); ++s) {
    const PlanSpan& span = plan.spans[s];
    const Cached cached = cached_of(plan, span);
    work = with_prompt(work, {span.rows, span.first_position, cached.x_host, cached.kv_host, cached.new_x, cached.new_kv},
                       span.rows, model.batch_rows);
    work.x_device += cached.x_device;
    if (span.rows != 1 || span.slot == kNoSlot || cached.from == kAllOnDevice) continue;
    ends_.push_back({s, cached.from});
    tokens_ += span.first_position - cached.from;
  }
  return work;
}

uint64_t HostDivision::tokens_for(const StepModel& model, const LayerWork& work, double least_share) const {
  const Profile& profile = model.profile;
  const uint64_t rows = ends_.size(), most = tokens_;
  const uint64_t best = best_attended(profile, model.shape, work, most, rows);
  const double none_ns = streaming_cost(profile, model.shape, work).total_ns;
  const auto least = static_cast<uint64_t>(least_share * none_ns / model.shape.layers / profile.host_attend.each_ns);
  const bool gains = best > 0 && streaming_cost(profile, model.shape, with_host(work, best, rows)).total_ns * (1 + kLeastGain) < none_ns;
  return std::max(gains ? best : 0, std::min(most, least));
}

// The block with the row's own token still has an area, and what is cached in it is not brought.
void HostDivision::give(PlanSpan& span, uint32_t host_from) const {
  span.host_from = host_from;
  const uint32_t blocks = blocks_for(Tokens(span.first_position)).value - host_from / kBlockTokens;
  const uint32_t areas = blocks - (span.first_position % kBlockTokens != 0 ? 1 : 0);
  span.load.areas -= std::min(span.load.areas, areas);
  span.load.link_units -= std::min(span.load.link_units, blocks * staging_.kv_units);
}

}  // namespace iokv
