// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/batch.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

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

Prompt prompt_of(const Candidate& candidate) {
  return {candidate.rows, candidate.cached, candidate.x_host, candidate.kv_host, candidate.new_x, candidate.new_kv};
}

}  // namespace

std::span<const Pick> BatchChooser::choose(std::span<const Candidate> candidates, const BatchLimits& given,
                                           const StepModel& model) {
  IOKV_ASSERT(given.max_rows >= 2 && given.max_draws >= 2 && given.prefill_rows >= 1);
  BatchLimits limits = given;
  if (model.known()) limits.prefill_rows = std::min(part_rows_, limits.max_rows);
  steps_++;
  picks_.clear();
  candidates_ = candidates;
  rows_left_ = limits.max_rows;
  draws_left_ = limits.max_draws;
  decodes_ = model.no_rows();
  const bool decoding = std::any_of(candidates.begin(), candidates.end(), [](const Candidate& c) { return c.decode; });
  const bool reading = std::any_of(candidates.begin(), candidates.end(), [](const Candidate& c) { return !c.decode; });
  const bool bounded = decoding && !model.known();
  // A prompt's last rows need a draw: some are kept for them.
  const uint32_t kept_draws = reading ? std::max(1u, limits.max_draws / 8) : 0;
  const uint32_t kept_rows = reading ? std::max(1u, limits.max_rows / 8) : 0;

  collect(candidates, bounded ? std::min(limits.prefill_rows, limits.max_rows) : limits.max_rows);
  limit_greed(model.known() ? model.free_rows(limits.max_rows) : limits.free_rows);
  fill_decodes(std::min(draws_left_ - kept_draws, rows_left_ - kept_rows), limits);
  if (decodes_.rows > 0 && model.known()) {
    PrefillRoom room(model, decodes_, owed_ns_ <= 0);
    fill_prompts(rows_left_, &room, limits);
    owed_ns_ = room.excess_ns() > 0 ? room.excess_ns() : std::max(0.0, owed_ns_ - room.allowance_ns());
  } else {
    fill_prompts(std::min(bounded ? limits.prefill_rows : limits.max_rows, rows_left_), nullptr, limits);
  }
  return picks_;
}

void BatchChooser::join(uint32_t client, uint32_t weight) {
  if (client >= accounts_.size()) accounts_.resize(client + 1);
  accounts_[client] = {};
  for (Kind kind : {kDecode, kPrefill}) accounts_[client].lanes[kind] = {now_[kind] + 1.0 / weight, steps_, 0};
}

// One share a client, with what it wants, and its candidates side by side in order_.
void BatchChooser::collect(std::span<const Candidate> candidates, uint32_t prefill_rows) {
  shares_.clear();
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
    if (!candidate.decode) share.rows[kind] = std::min(share.rows[kind], prefill_rows);
  }
  uint32_t places = 0;
  for (Share& share : shares_) {
    for (Kind kind : {kDecode, kPrefill}) {
      share.end[kind] = places;  // grows as they are placed
      places += share.candidates[kind];
    }
  }
  order_.resize(candidates.size());
  oldest_.resize(candidates.size());
  taken_.assign(candidates.size(), 0);
  turns_.reserve(shares_.size());
  heap_.reserve(shares_.size());
  picks_.reserve(std::min<size_t>(candidates.size(), rows_left_));
  for (uint32_t i = 0; i < candidates.size(); i++) {
    order_[shares_[accounts_[candidates[i].client].share].end[candidates[i].decode ? kDecode : kPrefill]++] = i;
  }
}

// Cuts the rows that each share's decodes want to what it may have.
void BatchChooser::limit_greed(uint32_t free_rows) {
  std::sort(shares_.begin(), shares_.end(), [](const Share& a, const Share& b) {
    const uint64_t left = uint64_t{a.rows[kDecode]} * b.weight, right = uint64_t{b.rows[kDecode]} * a.weight;
    return std::tuple(left, a.client) < std::tuple(right, b.client);
  });
  uint64_t sum = 0, before = 0, before_weight = 1, heaviest = 0;
  double cut = 0, cut_weights = 0;
  for (Share& share : shares_) {
    share.may = share.rows[kDecode];
    if (share.may == 0) continue;
    if (heaviest > 0) {
      const uint64_t doubled = sum * std::min<uint64_t>(share.weight, heaviest) / heaviest;
      const uint64_t alike = before * share.weight / before_weight;
      const uint64_t most = std::max({uint64_t{1}, uint64_t{free_rows}, doubled, alike});
      share.may = static_cast<uint32_t>(std::min<uint64_t>(share.may, most));
    }
    before = share.may;
    before_weight = share.weight;
    sum += share.may;
    heaviest = std::max<uint64_t>(heaviest, share.weight);
    if (share.may == share.rows[kDecode]) continue;
    cut += share.may;
    cut_weights += share.weight;
  }
  for (Share& share : shares_) {
    uint32_t& wanted = share.rows[kDecode];
    if (share.may == wanted) continue;
    // Whoever wants less than its part leaves the rest to those behind it.
    const double part = std::min<double>(wanted, cut * share.weight / cut_weights);
    cut -= part;
    cut_weights -= share.weight;
    double& carry = accounts_[share.client].carry;
    const double rows = std::floor(part + carry);
    carry = part + carry - rows;
    wanted = std::min(wanted, std::max(1u, static_cast<uint32_t>(rows)));
  }
}

void BatchChooser::fill_decodes(uint32_t capacity, const BatchLimits& limits) {
  take_turns(kDecode);
  uint64_t wanted = 0;
  for (const Turn& turn : turns_) {
    Share& share = shares_[turn.share];
    share.granted[kDecode] = share.rows[kDecode];
    wanted += share.rows[kDecode];
  }
  if (wanted > capacity) grant_by_tag(capacity);
  for (const Turn& turn : turns_) serve_decodes(shares_[turn.share], limits);
  settle(kDecode);
}

// Prompt after prompt of the client with the lowest tag, each as much as goes in; who gets less than a whole one has had
// its turn. nullptr: there is room for all that are within the capacity.
void BatchChooser::fill_prompts(uint32_t capacity, PrefillRoom* room, const BatchLimits& limits) {
  take_turns(kPrefill);
  uint32_t largest = 0;  // packet
  bool cut = false;
  heap_.assign(turns_.begin(), turns_.end());
  while (!heap_.empty() && capacity > 0 && draws_left_ > 0 && (room == nullptr || !room->full())) {
    std::pop_heap(heap_.begin(), heap_.end(), Later{});
    Turn& turn = heap_.back();
    Share& share = shares_[turn.share];
    uint32_t left = 0;
    const uint32_t rows = serve_prompt(share, capacity, room, limits, left);
    largest = std::max(largest, rows);
    cut |= left > 0;
    if (rows > 0) share.latest_prompt = turn.tag;
    capacity -= rows;
    turn.tag += static_cast<double>(rows) / share.weight;
    turn.served = steps_;
    const bool goes_on = rows > 0 && share.taken[kPrefill] < share.candidates[kPrefill];
    if (goes_on) {
      std::push_heap(heap_.begin(), heap_.end(), Later{});
    } else {
      heap_.pop_back();
    }
  }
  if (largest > 0) part_rows_ = cut ? largest : limits.max_rows;
  settle(kPrefill);
}

// Leaves in turns_ who wants rows of the kind, in the order of their tags: a heap.
void BatchChooser::take_turns(Kind kind) {
  turns_.clear();
  for (uint32_t i = 0; i < shares_.size(); i++) {
    const Share& share = shares_[i];
    if (share.rows[kind] == 0) continue;
    const Lane& lane = accounts_[share.client].lanes[kind];
    turns_.push_back({std::max(lane.tag, now_[kind]), lane.served, i});
  }
  std::sort(turns_.begin(), turns_.end(), [](const Turn& a, const Turn& b) { return Later{}(b, a); });
}

// Decodes: row after row to the lowest tag; among equals to the longest wait.
void BatchChooser::grant_by_tag(uint32_t capacity) {
  heap_.assign(turns_.begin(), turns_.end());
  for (const Turn& turn : turns_) shares_[turn.share].granted[kDecode] = 0;
  while (capacity > 0) {
    if (heap_.size() == 1) {
      shares_[heap_[0].share].granted[kDecode] += capacity;  // less than it wants
      return;
    }
    std::pop_heap(heap_.begin(), heap_.end(), Later{});
    Turn& turn = heap_.back();
    Share& share = shares_[turn.share];
    share.granted[kDecode]++;
    capacity--;
    turn.tag += 1.0 / share.weight;
    turn.served = steps_;
    if (share.granted[kDecode] == share.rows[kDecode]) {
      heap_.pop_back();
    } else {
      std::push_heap(heap_.begin(), heap_.end(), Later{});
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
    served = std::max(served, kind == kDecode ? lane.tag - each : share.latest_prompt);
    ended = std::max(ended, lane.tag);
  }
  now_[kind] = lacking ? served : ended;
  if (now_[kind] < kRebase) return;
  for (Account& account : accounts_) account.lanes[kind].tag = std::max(0.0, account.lanes[kind].tag - now_[kind]);
  now_[kind] = 0;
}

// Takes what was granted: all, or the most urgent.
void BatchChooser::serve_decodes(Share& share, const BatchLimits& limits) {
  Lane& lane = accounts_[share.client].lanes[kDecode];
  const uint32_t granted = share.granted[kDecode], end = share.end[kDecode], candidates = share.candidates[kDecode];
  if (granted == candidates) {
    for (uint32_t i = end - candidates; i < end; i++) share.used[kDecode] += pick(candidates_[order_[i]], 1);
  }
  while (share.used[kDecode] < granted && rows_left_ > 0 && draws_left_ > 0 && share.taken[kDecode] < candidates) {
    share.used[kDecode] += pick(candidates_[next(share, kDecode, limits)], 1);
    lane.turns++;
  }
}

// Takes of the client's next prompt what goes in; returns how many rows, 0 if the client gets no more in this step, and how
// many of the prompt are left.
uint32_t BatchChooser::serve_prompt(Share& share, uint32_t capacity, PrefillRoom* room, const BatchLimits& limits,
                                    uint32_t& left) {
  const bool leaves_out = share.candidates[kPrefill] - share.taken[kPrefill] > 1;
  const Candidate& candidate = candidates_[next(share, kPrefill, limits)];
  Prompt prompt = prompt_of(candidate);
  prompt.rows = std::min(prompt.rows, capacity);
  const uint32_t rows = pick(candidate, room == nullptr ? prompt.rows : room->rows_of(prompt));
  if (rows == 0) return 0;
  if (room != nullptr) room->add(prompt, rows);
  share.used[kPrefill] += rows;
  if (leaves_out) accounts_[share.client].lanes[kPrefill].turns++;
  left = candidate.rows - rows;
  if (left > 0) share.taken[kPrefill] = share.candidates[kPrefill];
  return rows;
}

// The most urgent candidate that is left, but every kAgedTurns-th time the one that has waited longest.
uint32_t BatchChooser::next(Share& share, Kind kind, const BatchLimits& limits) {
  Heaps& heaps = share.heaps[kind];
  const auto first = static_cast<ptrdiff_t>(share.end[kind] - share.candidates[kind]);
  const auto begin = order_.begin() + first, oldest = oldest_.begin() + first;
  auto less_urgent = [&](uint32_t a, uint32_t b) {
    return urgency(candidates_[a], limits) > urgency(candidates_[b], limits);
  };
  auto waits_less = [&](uint32_t a, uint32_t b) { return wait(candidates_[a]) > wait(candidates_[b]); };
  if (!heaps.begun) {
    heaps = {true, false, share.candidates[kind], 0};
    std::make_heap(begin, begin + heaps.urgent, less_urgent);
  }
  share.taken[kind]++;
  const bool aged = accounts_[share.client].lanes[kind].turns % kAgedTurns == kAgedTurns - 1;
  if (aged && !heaps.oldest_begun) {
    heaps.oldest_begun = true;
    heaps.oldest = heaps.urgent;
    std::copy(begin, begin + heaps.urgent, oldest);
    std::make_heap(oldest, oldest + heaps.oldest, waits_less);
  }
  for (;;) {
    uint32_t candidate = 0;
    if (aged) {
      std::pop_heap(oldest, oldest + heaps.oldest, waits_less);
      candidate = oldest[--heaps.oldest];
    } else {
      std::pop_heap(begin, begin + heaps.urgent, less_urgent);
      candidate = begin[--heaps.urgent];
    }
    if (std::exchange(taken_[candidate], 1) == 0) return candidate;  // else by the other order
  }
}

// Takes up to `budget` rows; returns how many.
uint32_t BatchChooser::pick(const Candidate& candidate, uint32_t budget) {
  uint32_t rows = std::min({candidate.rows, budget, rows_left_});
  // A span that draws takes one row of logits, or with `each` as many as it has rows.
  if (candidate.each) rows = std::min(rows, draws_left_);
  if (rows == 0 || draws_left_ == 0) return 0;
  picks_.push_back({candidate.slot, rows});
  if (candidate.decode) decodes_ = with_prompt(decodes_, prompt_of(candidate), rows);
  rows_left_ -= rows;
  draws_left_ -= candidate.each ? rows : 1;
  return rows;
}

}  // namespace iokv
