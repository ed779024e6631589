// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/host_division.h"

#include <algorithm>

#include "daemon/base/units.h"
#include "daemon/sched/form_choice.h"
#include "daemon/sched/split.h"
#include "daemon/sched/whole_placement.h"

namespace iokv {
namespace {

// What many sequences read together: so many tokens that only rates count.
constexpr uint64_t kManyRows = 64, kManyTokens = kManyRows * 1024;

// Of what Plans have read, from one to the next: some hundred count.
constexpr double kFallOff = 1 - 1.0 / 128;

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

uint32_t fixed_host_from(const Profile& profile, const CacheShape& shape, double share, uint32_t cached) {
  const auto on_device = static_cast<uint32_t>((1 - share) * cached);
  const uint32_t from = on_device / kBlockTokens * kBlockTokens;
  const double handed_over_ns = profile.host_attend.at(1) + profile.exchange.at(1);
  if (share == 0 || from >= cached) return kAllOnDevice;
  return profile.h2d.each_ns * shape.kv_bytes * (cached - from) < handed_over_ns ? kAllOnDevice : from;
}

void HostDivision::divide(Plan& plan, const StepModel& model, double least_share) {
  if (staging_.in_place || !model.profile.host_attends()) return;
  const LayerWork work = look_at(plan, model);
  const auto ns_with = [&](uint64_t tokens, uint64_t rows) {
    return streaming_cost(model.profile, model.shape, tokens == 0 ? work : with_host(work, tokens, rows)).total_ns;
  };
  const double whole_ns = ns_with(0, 0);
  const uint64_t best = best_attended(model.profile, model.shape, work, tokens_, ends_.size());
  const auto least = static_cast<uint64_t>(least_share * whole_ns / model.shape.layers / model.profile.host_attend.each_ns);
  const bool probes = least_share > 0;
  const uint64_t wanted = std::max(best, std::min(tokens_, probes ? std::max<uint64_t>(least, 1) : 0));
  const uint64_t whole_ends = take_longest(wanted);
  if (taken_.empty()) return;
  // The last one in part: of the two blocks that it could begin at the one with the shorter step, where it has two.
  const uint64_t rows = taken_.size();
  uint64_t tokens = whole_ends;
  if (whole_ends < wanted) {
    End& last = taken_.back();
    const uint32_t cached = last.from + last.tokens, left = static_cast<uint32_t>(wanted - whole_ends);
    const uint32_t first = std::max(last.from, (cached - left) / kBlockTokens * kBlockTokens), second = first + kBlockTokens;
    const uint64_t more = whole_ends + cached - first, less = second < cached ? whole_ends + cached - second : whole_ends;
    const bool shorter = ns_with(less, less == whole_ends ? rows - 1 : rows) < ns_with(more, rows);
    const bool fewer = shorter && (less > 0 || !probes);
    tokens = fewer ? less : more;
    last.from = fewer ? second : first;
    if (last.from >= cached) taken_.pop_back();
  }
  const bool gains = ns_with(tokens, taken_.size()) * (1 + kLeastGain) < whole_ns;
  if (!gains && !probes) return;
  for (const End& end : taken_) give(plan.spans[end.span], end.from);
}

// Into taken_, until they have `wanted` tokens: longer ones first, to within a factor of two. Returns how many there are in
// those that are needed as a whole: all, or all but the last one.
uint64_t HostDivision::take_longest(uint64_t wanted) {
  taken_.clear();
  size_t size = kSizes;
  uint64_t longer = 0;  // tokens of ends that are longer than those of `size`
  while (size > 0 && longer + tokens_by_size_[size - 1] <= wanted) longer += tokens_by_size_[--size];
  for (const End& end : ends_) {
    if (size_of(end) >= size) taken_.push_back(end);
  }
  uint64_t tokens = longer;
  if (size == 0 || tokens == wanted) return tokens;
  for (const End& end : ends_) {
    if (size_of(end) != size - 1) continue;
    taken_.push_back(end);
    if (tokens + end.tokens > wanted) return tokens;
    tokens += end.tokens;
    if (tokens == wanted) return tokens;
  }
  return tokens;
}

void HostDivision::divide_by_share(Plan& plan, const Profile& profile, const CacheShape& shape) {
  if (staging_.in_place) return;
  for (PlanSpan& span : plan.spans) {
    if (!span.decode || span.rows != 1 || span.host_share == 0) continue;
    const uint32_t from = fixed_host_from(profile, shape, span.host_share, span.first_position), first = cached_of(plan, span).from;
    if (from != kAllOnDevice && first != kAllOnDevice) give(span, std::max(from, first));
  }
}

// The work of the Plan with nothing for the host, and the ends that it could have.
LayerWork HostDivision::look_at(const Plan& plan, const StepModel& model) {
  LayerWork alone, work = model.no_rows();  // of single rows, most by far; of all
  ends_.clear();
  tokens_ = 0;
  tokens_by_size_ = {};
  read_ *= kFallOff, read_alone_ *= kFallOff;
  for (uint32_t s = 0; s < plan.spans.size(); ++s) {
    const PlanSpan& span = plan.spans[s];
    const Cached cached = cached_of(plan, span);
    work.x_device += cached.x_device;
    if (span.rows != 1) {
      work = with_prompt(work, {span.rows, span.first_position, cached.x_host, cached.kv_host, cached.new_x, cached.new_kv},
                         span.rows, model.batch_rows);
      read_ += cached.x_host + cached.kv_host;
      continue;
    }
    ++alone.rows;
    alone.attended += span.first_position + 1;
    alone.x_host += cached.x_host;
    alone.kv_host += cached.kv_host;
    alone.new_x += cached.new_x ? 1 : 0;
    alone.new_kv += cached.new_kv ? 1 : 0;
    if (span.slot == kNoSlot || cached.from == kAllOnDevice) continue;
    ends_.push_back({s, cached.from, span.first_position - cached.from});
    tokens_ += ends_.back().tokens;
    tokens_by_size_[size_of(ends_.back())] += ends_.back().tokens;
  }
  const auto read_alone = static_cast<double>(alone.x_host + alone.kv_host);
  read_ += read_alone, read_alone_ += read_alone;
  work.rows += alone.rows;
  work.batches = 1 + (work.rows - std::min<uint64_t>(work.rows, 1)) / model.batch_rows;
  work.attended += alone.attended;
  work.products += alone.attended;
  work.x_host += alone.x_host;
  work.kv_host += alone.kv_host;
  work.new_x += alone.new_x;
  work.new_kv += alone.new_kv;
  return work;
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
