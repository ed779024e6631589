// SPDX-License-Identifier: Apache-2.0
// Which sequences go into the next step, and with how many rows. Pure: no clock, no threads, no device.
//
// Fairness between clients. Let clients be sorted by the rows that they want, fewest first. The first gets what it wants;
// each further one gets at most max(free_rows, the sum of what those before it got, what the one before it got). So
// equal clients are served in full, a lone client has everything, and no single greedy client makes the step of the
// others more than about twice as long, whatever it submits: rows beyond free_rows, the number that rides along while
// the weights are read once, cost in proportion.
//
// Within a client half of its share may go to prefill while it decodes; decodes are taken in the order of longest wait,
// prefill in the order of arrival. Nobody starves: the order moves on at every step.
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
  uint64_t order = 0;      // decode: Plan it was last in; prefill: arrival. Lower first
};

struct BatchLimits {
  uint32_t max_rows = 256;     // of a step
  uint32_t max_draws = 64;     // rows of logits of a step
  uint32_t prefill_rows = 64;  // of prefill in a step, while anybody decodes
  uint32_t free_rows = 8;
};

struct Pick {
  uint32_t slot = 0;
  uint32_t rows = 0;
};

class BatchChooser {
 public:
  // Reorders `candidates`; the result is valid until the next call.
  std::span<const Pick> choose(std::vector<Candidate>& candidates, const BatchLimits& limits);

 private:
  struct Share {
    uint32_t first = 0, end = 0;  // in candidates
    uint32_t decode_rows = 0, prefill_rows = 0;
    uint32_t granted = 0;
    uint32_t wanted() const { return decode_rows + prefill_rows; }
  };
  void divide(const std::vector<Candidate>& candidates, const BatchLimits& limits);
  void pick(const Candidate& candidate, uint32_t rows, Share& share);

  std::vector<Share> shares_;
  std::vector<Pick> picks_;
  uint32_t rows_left_ = 0, draws_left_ = 0, prefill_left_ = 0;
};

}  // namespace iokv
