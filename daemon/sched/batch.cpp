// SPDX-License-Identifier: Apache-2.0
#include "daemon/sched/batch.h"

#include <algorithm>
#include <tuple>

namespace iokv {

std::span<const Pick> BatchChooser::choose(std::vector<Candidate>& candidates, const BatchLimits& limits) {
  picks_.clear();
  rows_left_ = limits.max_rows;
  draws_left_ = limits.max_draws;
  bool decoding = std::any_of(candidates.begin(), candidates.end(), [](const Candidate& c) { return c.decode; });
  prefill_left_ = decoding ? limits.prefill_rows : limits.max_rows;

  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return std::tuple(a.client, !a.decode, -a.priority, a.order, a.slot) <
           std::tuple(b.client, !b.decode, -b.priority, b.order, b.slot);
  });
  divide(candidates, limits);

  // Decodes of every client first: they are what somebody is waiting for between two tokens.
  for (Share& share : shares_) {
    uint32_t for_prefill = std::min(share.prefill_rows, share.granted / 2);
    uint32_t for_decode = std::min(share.decode_rows, share.granted - for_prefill);
    for (uint32_t i = share.first; i < share.end && candidates[i].decode && for_decode > 0; i++, for_decode--) {
      pick(candidates[i], 1, share);
    }
  }
  for (Share& share : shares_) {
    for (uint32_t i = share.first; i < share.end; i++) {
      if (candidates[i].decode) continue;
      uint32_t rows = std::min({candidates[i].rows, share.granted, prefill_left_});
      if (rows > 0) pick(candidates[i], rows, share);
    }
  }
  return picks_;
}

void BatchChooser::divide(const std::vector<Candidate>& candidates, const BatchLimits& limits) {
  shares_.clear();
  for (uint32_t i = 0; i < candidates.size(); i++) {
    if (i == 0 || candidates[i].client != candidates[i - 1].client) shares_.push_back({i, i, 0, 0, 0});
    Share& share = shares_.back();
    share.end = i + 1;
    if (candidates[i].decode) {
      share.decode_rows++;
    } else {
      share.prefill_rows = std::min(share.prefill_rows + candidates[i].rows, prefill_left_);
    }
  }
  std::sort(shares_.begin(), shares_.end(), [&](const Share& a, const Share& b) {
    return std::tuple(a.wanted(), candidates[a.first].client) < std::tuple(b.wanted(), candidates[b.first].client);
  });
  uint32_t before = 0, sum = 0;
  for (Share& share : shares_) {
    bool first = &share == &shares_.front();
    share.granted = first ? share.wanted() : std::min(share.wanted(), std::max({limits.free_rows, sum, before}));
    before = share.granted;
    sum += share.granted;
  }
}

void BatchChooser::pick(const Candidate& candidate, uint32_t rows, Share& share) {
  rows = std::min(rows, rows_left_);
  // A span that draws takes one row of logits, or with `each` as many as it has rows.
  rows = candidate.each ? std::min(rows, draws_left_) : rows;
  if (rows == 0 || draws_left_ == 0) return;
  picks_.push_back({candidate.slot, rows});
  rows_left_ -= rows;
  draws_left_ -= candidate.each ? rows : 1;
  share.granted -= std::min(share.granted, rows);
  if (!candidate.decode) prefill_left_ -= rows;
}

}  // namespace iokv
