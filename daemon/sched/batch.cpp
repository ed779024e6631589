// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/batch.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "daemon/base/assert.h"

namespace iokv {
namespace {

// Beside a greedy client a step may take twice as long as it did.
constexpr uint64_t kDangerFactor = 2;

// Would the operation miss its deadline if it now waited for others? It needs a step for each draw and for each part of
// its prompt.
bool in_danger(const Candidate& candidate, const BatchLimits& limits) {
  if (candidate.deadline_ns == 0 || limits.step_ns == 0) return false;
  const uint64_t parts = candidate.decode ? 0 : (candidate.rows - 1) / limits.prefill_rows;
  const uint64_t steps = parts + std::max(1u, candidate.draws_left);
  return candidate.deadline_ns <= limits.now_ns ||
         (candidate.deadline_ns - limits.now_ns) / limits.step_ns < kDangerFactor * steps;
}

auto urgency(const Candidate& candidate, const BatchLimits& limits) {
  return std::tuple(!in_danger(candidate, limits), -candidate.priority, candidate.deadline_ns - 1,  // none: the last
                    candidate.decode ? candidate.waits_since : candidate.arrival, candidate.slot);
}

auto wait(const Candidate& candidate) { return std::tuple(candidate.waits_since, candidate.arrival, candidate.slot); }

void add_decode(LayerWork& work, const Candidate& candidate) {
  work.rows++;
  work.attended += candidate.context;
  work.x_host += candidate.x_host;
  work.kv_host += candidate.kv_host;
}

}  // namespace

std::span<const Pick> BatchChooser::choose(std::span<const Candidate> candidates, const BatchLimits& limits,
                                           const StepModel& model) {
  IOKV_ASSERT(limits.max_rows >= 2 && limits.max_draws >= 2 && limits.prefill_rows >= 1);
  steps_++;
  picks_.clear();
  candidates_ = candidates;
  rows_left_ = limits.max_rows;
  draws_left_ = limits.max_draws;
  decodes_ = {};
  const bool decoding = std::any_of(candidates.begin(), candidates.end(), [](const Candidate& c) { return c.decode; });
  const bool reading = std::any_of(candidates.begin(), candidates.end(), [](const Candidate& c) { return !c.decode; });
  const bool bounded = decoding && !model.known();
  // A prompt's last rows need a draw: some are kept for them.
  const uint32_t kept_draws = reading ? std::max(1u, limits.max_draws / 8) : 0;
  const uint32_t kept_rows = reading ? std::max(1u, limits.max_rows / 8) : 0;

  collect(candidates, bounded ? std::min(limits.prefill_rows, limits.max_rows) : limits.max_rows);
  limit_greed(limits.free_rows);
  fill(kDecode, std::min(draws_left_ - kept_draws, rows_left_ - kept_rows), limits);
  const PrefillRows prefill = prefill_rows(limits, model);
  for (Share& share : shares_) {
    share.rows[kPrefill] = std::max(share.rows[kPrefill], std::min(share.prefill_wanted, prefill.free));
  }
  fill(kPrefill, std::min(prefill.most, rows_left_), limits);
  return picks_;
}

// Beside the decodes that have been picked.
PrefillRows BatchChooser::prefill_rows(const BatchLimits& limits, const StepModel& model) const {
  if (decodes_.rows == 0) return {0, limits.max_rows};
  if (!model.known()) return {0, limits.prefill_rows};
  const PrefillRows rows = prefill_beside(model, decodes_, prompt_row_, rows_left_);
  return {rows.free, std::max(1u, rows.most)};  // 1: else prompts would wait for as long as anybody decodes
}

void BatchChooser::join(uint32_t client, uint32_t weight) {
  if (client >= accounts_.size()) accounts_.resize(client + 1);
  accounts_[client] = {};
  for (Kind kind : {kDecode, kPrefill}) accounts_[client].lanes[kind] = {now_[kind] + 1.0 / weight, steps_, 0};
}

// One share a client, with what it wants, and its candidates side by side in order_.
void BatchChooser::collect(std::span<const Candidate> candidates, uint32_t prefill_rows) {
  shares_.clear();
  uint64_t prompts = 0, context = 0;
  for (const Candidate& candidate : candidates) {
    if (candidate.client >= accounts_.size()) accounts_.resize(candidate.client + 1);
    Account& account = accounts_[candidate.client];
    if (account.step != steps_) {
      account.step = steps_;
      account.share = static_cast<uint32_t>(shares_.size());
      shares_.push_back({.client = candidate.client, .weight = candidate.weight});
    }
    Share& share = shares_[account.share];
    const Kind kind = candidate.decode ? kDecode : kPrefill;
    share.candidates[kind]++;
    share.rows[kind] += std::min(candidate.rows, prefill_rows);
    if (candidate.decode) continue;
    share.prefill_wanted = share.rows[kind] = std::min(share.rows[kind], prefill_rows);
    prompts++;
    context += candidate.context;
  }
  prompt_row_ = {};
  if (prompts > 0) prompt_row_.attended = static_cast<double>(context) / static_cast<double>(prompts);
  uint32_t places = 0;
  for (Share& share : shares_) {
    for (Kind kind : {kDecode, kPrefill}) {
      share.end[kind] = places;  // grows as they are placed
      places += share.candidates[kind];
    }
  }
  order_.resize(candidates.size());
  oldest_.reserve(candidates.size());
  taken_.assign(candidates.size(), 0);
  turns_.reserve(shares_.size());
  heap_.reserve(shares_.size());
  picks_.reserve(std::min<size_t>(candidates.size(), rows_left_));
  for (uint32_t i = 0; i < candidates.size(); i++) {
    order_[shares_[accounts_[candidates[i].client].share].end[candidates[i].decode ? kDecode : kPrefill]++] = i;
  }
}

// Cuts what each share wants to what it may have.
void BatchChooser::limit_greed(uint32_t free_rows) {
  std::sort(shares_.begin(), shares_.end(), [](const Share& a, const Share& b) {
    const uint64_t left = uint64_t{a.wanted()} * b.weight, right = uint64_t{b.wanted()} * a.weight;
    return std::tuple(left, a.client) < std::tuple(right, b.client);
  });
  uint64_t sum = 0, before = 0, before_weight = 1, heaviest = 0;
  double cut = 0, cut_weights = 0;
  for (Share& share : shares_) {
    share.may = share.wanted();
    if (heaviest > 0) {
      const uint64_t doubled = sum * std::min<uint64_t>(share.weight, heaviest) / heaviest;
      const uint64_t alike = before * share.weight / before_weight;
      const uint64_t most = std::max({uint64_t{2}, uint64_t{free_rows}, doubled, alike});  // 2: decode and prompt
      share.may = static_cast<uint32_t>(std::min<uint64_t>(share.may, most));
    }
    before = share.may;
    before_weight = share.weight;
    sum += share.may;
    heaviest = std::max<uint64_t>(heaviest, share.weight);
    if (share.may == share.wanted()) continue;
    cut += share.may;
    cut_weights += share.weight;
  }
  for (Share& share : shares_) {
    if (share.may < share.wanted()) {
      // Whoever wants less than its part leaves the rest to those behind it.
      const double part = std::min<double>(share.wanted(), cut * share.weight / cut_weights);
      cut -= part;
      cut_weights -= share.weight;
      double& carry = accounts_[share.client].carry;
      const double rows = std::floor(part + carry);
      carry = part + carry - rows;
      share.may = std::min(share.wanted(), std::max(2u, static_cast<uint32_t>(rows)));
    }
    const uint32_t may = share.may;
    const uint32_t decodes = share.rows[kDecode], prefill = share.rows[kPrefill];
    const uint32_t reading = std::min(prefill, std::max(may / 2, may - std::min(may, decodes)));
    share.rows[kDecode] = std::min(decodes, may - reading);
    share.rows[kPrefill] = reading;
  }
}

void BatchChooser::fill(Kind kind, uint32_t capacity, const BatchLimits& limits) {
  divide(kind, capacity);
  for (const Turn& turn : turns_) serve(shares_[turn.share], kind, limits);
  settle(kind);
}

// Leaves in turns_ who wants rows of the kind, in the order of their tags, and in `granted` how many each gets.
void BatchChooser::divide(Kind kind, uint32_t capacity) {
  turns_.clear();
  uint64_t wanted = 0;
  for (uint32_t i = 0; i < shares_.size(); i++) {
    const Share& share = shares_[i];
    if (share.rows[kind] == 0) continue;
    const Lane& lane = accounts_[share.client].lanes[kind];
    turns_.push_back({std::max(lane.tag, now_[kind]), lane.served, i});
    wanted += share.rows[kind];
  }
  std::sort(turns_.begin(), turns_.end(), [](const Turn& a, const Turn& b) {
    return std::tuple(a.tag, a.served, a.share) < std::tuple(b.tag, b.served, b.share);
  });
  if (wanted > capacity) return grant_by_tag(kind, capacity);
  for (const Turn& turn : turns_) shares_[turn.share].granted[kind] = shares_[turn.share].rows[kind];
}

// Row after row to the lowest tag; among equals to the longest wait. What has been sorted is a heap.
void BatchChooser::grant_by_tag(Kind kind, uint32_t capacity) {
  auto later = [](const Turn& a, const Turn& b) {
    return std::tuple(a.tag, a.served, a.share) > std::tuple(b.tag, b.served, b.share);
  };
  heap_.assign(turns_.begin(), turns_.end());
  while (capacity > 0) {
    if (heap_.size() == 1) {
      shares_[heap_[0].share].granted[kind] += capacity;  // less than it wants
      return;
    }
    std::pop_heap(heap_.begin(), heap_.end(), later);
    Turn& turn = heap_.back();
    Share& share = shares_[turn.share];
    share.granted[kind]++;
    capacity--;
    turn.tag += 1.0 / share.weight;
    turn.served = steps_;
    if (share.granted[kind] == share.rows[kind]) {
      heap_.pop_back();
    } else {
      std::push_heap(heap_.begin(), heap_.end(), later);
    }
  }
}

// Charges what has been used. The tag now served is the latest that was, or when nobody lacks anything the latest end:
// everybody begins anew.
void BatchChooser::settle(Kind kind) {
  constexpr double kRebase = 4294967296;  // 2^32 rows: a double resolves 2^-20 there, a row of weight 1000 is 2^-10
  double served = now_[kind], ended = now_[kind];
  bool lacking = false;
  for (const Turn& turn : turns_) {
    const Share& share = shares_[turn.share];
    Lane& lane = accounts_[share.client].lanes[kind];
    const double each = 1.0 / share.weight;
    lane.tag = turn.tag + share.used[kind] * each;
    lacking |= share.used[kind] < share.rows[kind];
    if (share.used[kind] == 0) continue;
    lane.served = steps_;
    served = std::max(served, lane.tag - each);
    ended = std::max(ended, lane.tag);
  }
  now_[kind] = lacking ? served : ended;
  if (now_[kind] < kRebase) return;
  for (Account& account : accounts_) account.lanes[kind].tag = std::max(0.0, account.lanes[kind].tag - now_[kind]);
  now_[kind] = 0;
}

// Takes the share's candidates of the kind, the most urgent first but for every kAgedTurns-th, until it has what it was
// granted.
void BatchChooser::serve(Share& share, Kind kind, const BatchLimits& limits) {
  const auto end = order_.begin() + share.end[kind];
  auto heap_end = end;
  const auto begin = end - share.candidates[kind];
  uint32_t left = share.granted[kind], waiting = share.candidates[kind];
  auto take = [&](uint32_t candidate) {
    const uint32_t rows = pick(candidates_[candidate], left);
    taken_[candidate] = 1;
    waiting--;
    left -= rows;
    share.used[kind] += rows;
  };
  if (waiting == 1 || (kind == kDecode && left == waiting)) {
    std::for_each(begin, end, take);
    return;
  }
  auto less_urgent = [&](uint32_t a, uint32_t b) {
    return urgency(candidates_[a], limits) > urgency(candidates_[b], limits);
  };
  auto waits_less = [&](uint32_t a, uint32_t b) { return wait(candidates_[a]) > wait(candidates_[b]); };
  std::make_heap(begin, end, less_urgent);
  oldest_.clear();
  Lane& lane = accounts_[share.client].lanes[kind];
  while (left > 0 && rows_left_ > 0 && draws_left_ > 0 && waiting > 0) {
    uint32_t next = *begin;
    if (lane.turns % kAgedTurns == kAgedTurns - 1) {
      if (oldest_.empty()) {
        oldest_.assign(begin, heap_end);
        std::make_heap(oldest_.begin(), oldest_.end(), waits_less);
      }
      std::pop_heap(oldest_.begin(), oldest_.end(), waits_less);
      next = oldest_.back();
      oldest_.pop_back();
    } else {
      std::pop_heap(begin, heap_end--, less_urgent);
    }
    if (taken_[next] != 0) continue;
    lane.turns++;
    take(next);
  }
}

// Takes up to `budget` rows; returns how many.
uint32_t BatchChooser::pick(const Candidate& candidate, uint32_t budget) {
  uint32_t rows = std::min({candidate.rows, budget, rows_left_});
  // A span that draws takes one row of logits, or with `each` as many as it has rows.
  if (candidate.each) rows = std::min(rows, draws_left_);
  if (rows == 0 || draws_left_ == 0) return 0;
  picks_.push_back({candidate.slot, rows});
  if (candidate.decode) add_decode(decodes_, candidate);
  rows_left_ -= rows;
  draws_left_ -= candidate.each ? rows : 1;
  return rows;
}

}  // namespace iokv
