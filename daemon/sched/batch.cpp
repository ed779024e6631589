// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/batch.h"

#include <algorithm>
#include <tuple>

namespace iokv {

std::span<const Pick> BatchChooser::choose(std::vector<Candidate>& candidates, const BatchLimits& limits) {
  picks_.clear();
  rows_left_ = limits.max_rows;
  draws_left_ = limits.max_draws;
  const bool decoding = std::any_of(candidates.begin(), candidates.end(), [](const Candidate& c) { return c.decode; });
  const bool reading = std::any_of(candidates.begin(), candidates.end(), [](const Candidate& c) { return !c.decode; });
  const uint32_t prefill_rows = decoding ? std::min(limits.prefill_rows, limits.max_rows) : limits.max_rows;

  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    auto order = [](const Candidate& c) { return c.decode ? c.last_plan : c.arrival; };
    return std::tuple(a.client, !a.decode, -a.priority, order(a), a.slot) <
           std::tuple(b.client, !b.decode, -b.priority, order(b), b.slot);
  });
  collect(candidates, prefill_rows);
  limit_greed(limits.free_rows);

  // A prompt's last rows need a draw: some are kept for them.
  const uint32_t kept_draws = reading ? std::max(1u, limits.max_draws / 8) : 0;
  const uint32_t kept_rows = reading ? std::max(1u, limits.max_rows / 8) : 0;
  share_out(&Share::decode_rows, &Share::decode_served, std::min(draws_left_ - kept_draws, rows_left_ - kept_rows));
  for (Share& share : shares_) {
    for (uint32_t i = share.first; i < share.prompts && share.decode_rows > 0; i++) pick(candidates[i], share.decode_rows);
  }
  share_out(&Share::prefill_rows, &Share::prefill_served, std::min(prefill_rows, rows_left_));
  for (Share& share : shares_) {
    for (uint32_t i = share.prompts; i < share.end && share.prefill_rows > 0; i++) pick(candidates[i], share.prefill_rows);
  }
  return picks_;
}

// One share a client, with what it wants.
void BatchChooser::collect(const std::vector<Candidate>& candidates, uint32_t prefill_rows) {
  shares_.clear();
  for (uint32_t i = 0; i < candidates.size(); i++) {
    const Candidate& candidate = candidates[i];
    if (i == 0 || candidate.client != candidates[i - 1].client) shares_.push_back(Share{i, i, i});
    Share& share = shares_.back();
    share.end = i + 1;
    uint64_t& served = candidate.decode ? share.decode_served : share.prefill_served;
    served = std::max(served, candidate.last_plan);
    if (candidate.decode) {
      share.prompts = i + 1;
      share.decode_rows++;
    } else {
      share.prefill_rows = std::min(share.prefill_rows + candidate.rows, prefill_rows);
    }
  }
}

void BatchChooser::limit_greed(uint32_t free_rows) {
  std::sort(shares_.begin(), shares_.end(), [](const Share& a, const Share& b) { return a.wanted() < b.wanted(); });
  uint32_t before = 0, sum = 0;
  for (Share& share : shares_) {
    const bool first = &share == &shares_.front();
    const uint32_t most = first ? share.wanted() : std::max({2u, free_rows, sum, before});  // 2: a decode and a prompt
    before = std::min(share.wanted(), most);
    sum += before;
    share.prefill_rows = std::min(share.prefill_rows, std::max(before / 2, before - std::min(before, share.decode_rows)));
    share.decode_rows = std::min(share.decode_rows, before - share.prefill_rows);
  }
}

// Cuts what the shares want to what there is: an even part each, longest wait first, then the rest in the same order.
void BatchChooser::share_out(uint32_t Share::*rows, uint64_t Share::*served, uint32_t capacity) {
  std::sort(shares_.begin(), shares_.end(), [=](const Share& a, const Share& b) {
    return std::tuple(a.*served, a.first) < std::tuple(b.*served, b.first);
  });
  uint32_t takers = static_cast<uint32_t>(
      std::count_if(shares_.begin(), shares_.end(), [=](const Share& share) { return share.*rows > 0; }));
  wanted_.clear();
  for (Share& share : shares_) {
    wanted_.push_back(share.*rows);
    if (share.*rows == 0) continue;
    share.*rows = std::min({share.*rows, std::max(1u, capacity / takers--), capacity});
    capacity -= share.*rows;
  }
  for (size_t i = 0; i < shares_.size() && capacity > 0; i++) {
    const uint32_t more = std::min(wanted_[i] - shares_[i].*rows, capacity);
    shares_[i].*rows += more;
    capacity -= more;
  }
}

void BatchChooser::pick(const Candidate& candidate, uint32_t& budget) {
  uint32_t rows = std::min({candidate.rows, budget, rows_left_});
  // A span that draws takes one row of logits, or with `each` as many as it has rows.
  if (candidate.each) rows = std::min(rows, draws_left_);
  if (rows == 0 || draws_left_ == 0) return;
  picks_.push_back({candidate.slot, rows});
  budget -= rows;
  rows_left_ -= rows;
  draws_left_ -= candidate.each ? rows : 1;
}

}  // namespace iokv
