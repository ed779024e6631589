// SPDX-License-Identifier: Apache-2.0
// Which sequences go into the next step, and with how many rows. Pure: no clock, no threads, no device.
//
// Fairness between clients. Let clients be sorted by the rows that they want, fewest first. The first may have what it
// wants; each further one at most max(2, free_rows, the sum of what those before it may have, what the one before it may
// have). So equal clients are served in full, a lone client has everything, and no single greedy client makes the step of
// the others more than about twice as long, whatever it submits: rows beyond free_rows, the number that rides along while
// the weights are read once, cost in proportion.
//
// What a step can take (rows, draws, rows of prompts) is then shared out evenly, longest wait first, so nobody starves
// however many there are. Within a client half of what it may have goes to prompts while it decodes; decodes are taken in
// the order of longest wait, prompts in the order of arrival.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace iokv {

struct Candidate {
  uint32_t slot = 0;       // of the sequence
  uint32_t client = 0;     // slot of the client
  uint32_t rows = 0;       // tokens that could be computed now, >= 1
  bool decode = false;     // one row, which draws
  bool each = false;       // draws at every row
  int16_t priority = 0;    // higher first
  uint64_t last_plan = 0;  // that it was in
  uint64_t arrival = 0;    // of its operation
};

struct BatchLimits {
  uint32_t max_rows = 256;     // of a step, >= 2
  uint32_t max_draws = 64;     // rows of logits of a step, >= 2
  uint32_t prefill_rows = 64;  // of prompts in a step, while anybody decodes
  uint32_t free_rows = 8;
};

struct Pick {
  uint32_t slot = 0;
  uint32_t rows = 0;
};

class BatchChooser {
 public:
  // Reorders `candidates`; the result is valid until the next call. Not empty unless `candidates` is.
  std::span<const Pick> choose(std::vector<Candidate>& candidates, const BatchLimits& limits);

 private:
  struct Share {
    uint32_t first = 0, prompts = 0, end = 0;  // in candidates: decodes, then from `prompts` on prompts
    uint32_t decode_rows = 0, prefill_rows = 0;    // wanted, then granted
    uint64_t decode_served = 0, prefill_served = 0;  // the latest Plan with any of these
    uint32_t wanted() const { return decode_rows + prefill_rows; }
  };
  void collect(const std::vector<Candidate>& candidates, uint32_t prefill_rows);
  void limit_greed(uint32_t free_rows);
  void share_out(uint32_t Share::*rows, uint64_t Share::*served, uint32_t capacity);
  void pick(const Candidate& candidate, uint32_t& budget);

  std::vector<Share> shares_;
  std::vector<uint32_t> wanted_;  // for share_out
  std::vector<Pick> picks_;
  uint32_t rows_left_ = 0, draws_left_ = 0;
};

}  // namespace iokv
