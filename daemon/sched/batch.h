// SPDX-License-Identifier: Apache-2.0
// Which sequences go into the next step, and with how many rows. No clock, no threads, no device: what it remembers is
// what it has given.
//
// Between clients, weights decide and nothing else: priorities and deadlines are said by the client itself, so they only
// order what is its own. Two things are divided, each by itself.
//  1. How long the step gets. Clients are sorted by the decodes that they want for each unit of weight, fewest first. The
//     first may have what it wants; each further one at most max(free_rows, what those before it may have together, less
//     in proportion if a heavier one is among them, what the one before it may have for its weight). Those whom that cuts
//     divide what they may have max-min fairly by weight. So clients that want alike for their weight are served in full,
//     a lone client has everything, and no single greedy client makes the step of others of its weight more than about
//     twice as long, whatever it submits: rows beyond free_rows, the number that rides along while the weights are read
//     once, cost in proportion. Prompts, all together, may lengthen the step by a bound that is a time (prefill.h).
//  2. Who goes first when a step cannot take what is left (draws, rows of prompts): start-time fair queueing (Goyal, Vin
//     and Cheng, SIGCOMM 1996), each kind of row a link of its own. A packet is a row that decodes; of a prompt it is all
//     that the step takes of it, since each part of a prompt has all that is before it brought over the link again: a
//     step takes few prompts and as much of each as it can. A client's packets are tagged rows/weight apart, from where
//     its last one ended or from the tag now served, whichever is later, and the lowest tag goes first. Over any time in
//     which clients a and b both lack rows of a kind, what they got for their weight differs by at most
//     packet/weight_a + packet/weight_b, for the largest packets of theirs.
//
// Within a client operations whose deadline is in danger come first, then higher priority, then the earlier deadline; then
// decodes by longest wait and prompts by arrival. Of the client's turns that leave somebody out every kAgedTurns-th goes
// to the longest wait, whatever else it has: seven eighths honour priorities.
//
// How many rows of prompts there are while anybody decodes follows from the decodes that go in and from how long the
// device takes for what (prefill.h); where that is not known it is a constant.
//
// Starvation is impossible: while client c lacks rows of a kind it gets some in every 2 + L·sum/C steps, where sum is
// weight_g/weight_c + 1 of every other client g, L the rows of the largest packet, and C >= 1 the rows of the kind that a
// step takes (1 where EACH uses up the draws); and the last of its n candidates of that kind is taken within kAgedTurns·n
// such turns. Steps do not count in which decodes are made up to for a prompt that has exceeded its bound (prefill.h): they
// last excess/delay together.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <tuple>
#include <vector>

#include "daemon/sched/prefill.h"

namespace iokv {

struct Candidate {
  uint32_t slot = 0;         // of the sequence
  uint32_t client = 0;       // slot of the client
  uint32_t weight = 1;       // of the client, >= 1: the same in all of its candidates
  uint32_t rows = 0;         // tokens that could be computed now, >= 1
  uint32_t cached = 0;       // tokens before them
  uint32_t x_host = 0, kv_host = 0;    // of those: tokens that cross the link, as X and as K,V
  bool new_x = false, new_kv = false;  // its rows are written back to the host as
  uint32_t draws_left = 0;   // that the operation asks for, at the most
  bool decode = false;       // one row, which draws
  bool each = false;         // draws at every row
  int16_t priority = 0;      // higher first
  uint64_t deadline_ns = 0;  // of the operation; 0: none
  uint64_t waits_since = 0;  // the Plan that it was in last, or after which it began: none later
  uint64_t arrival = 0;      // of its operation
};

struct BatchLimits {
  uint32_t max_rows = 256;         // of a step, >= 2
  uint32_t max_draws = 64;         // rows of logits of a step, >= 2
  uint32_t prefill_rows = 64;      // of prompts in a step while anybody decodes, where no StepModel is known; >= 1
  uint32_t free_rows = 8;          // likewise: that a step takes for the price of one
  uint64_t now_ns = 0, step_ns = 0;  // for deadlines: the time, and that of a step; 0: not known, none is in danger
};

struct Pick {
  uint32_t slot = 0;
  uint32_t rows = 0;
};

class BatchChooser {
 public:
  static constexpr uint32_t kAgedTurns = 8;

  // The result is valid until the next call; not empty unless `candidates` is. O(candidates + clients log clients + draws
  // log clients), but the few turns that leave somebody out cost a logarithm of the client's candidates each, and each
  // prompt a few dozen predicted times. Allocates only for more candidates, clients or rows than ever before.
  std::span<const Pick> choose(std::span<const Candidate> candidates, const BatchLimits& limits,
                               const StepModel& model = {});

  // The slot of a client has a new owner. It begins like one who has just had a row, so that nobody gains by leaving and
  // coming back.
  void join(uint32_t client, uint32_t weight);

 private:
  enum Kind : uint8_t { kDecode, kPrefill };
  template <typename T>
  using ByKind = std::array<T, 2>;

  // What is remembered of a client for one kind of row.
  struct Lane {
    double tag = 0;        // where its last packet ended: rows / weight
    uint64_t served = 0;   // the latest step with any
    uint32_t turns = 0;    // that left somebody out
  };
  struct Account {
    ByKind<Lane> lanes;
    double carry = 0;      // the fraction of a row that its part of a step has lacked
    uint64_t step = 0;     // with candidates of it ...
    uint32_t share = 0;    // ... then its place in shares_
  };
  // What is left of a client's candidates of one kind, in two heaps: at the beginning of their places in order_ the most
  // urgent first, and in oldest_ the one that has waited longest.
  struct Heaps {
    bool begun = false, oldest_begun = false;
    uint32_t urgent = 0, oldest = 0;       // how many are in them
  };
  // What a client wants of this step, and gets.
  struct Share {
    uint32_t client = 0, weight = 1;
    ByKind<uint32_t> candidates{}, end{};  // how many, and the end of their places in order_
    ByKind<uint32_t> rows{};               // wanted; of decodes, then what it gets of what may be had
    uint32_t may = 0;                      // of them, of decodes
    ByKind<uint32_t> granted{}, used{}, taken{};  // rows, rows, candidates
    double latest_prompt = 0;              // its tag
    ByKind<Heaps> heaps{};
  };
  struct Turn {
    double tag = 0;
    uint64_t served = 0;
    uint32_t share = 0;
  };
  // Whose turn comes later; among equals, who has been served later.
  struct Later {
    bool operator()(const Turn& a, const Turn& b) const {
      return std::tuple(a.tag, a.served, a.share) > std::tuple(b.tag, b.served, b.share);
    }
  };

  void collect(std::span<const Candidate> candidates, uint32_t prefill_rows);
  void limit_greed(uint32_t free_rows);
  void fill_decodes(uint32_t capacity, const BatchLimits& limits);
  void fill_prompts(uint32_t capacity, PrefillRoom* room, const BatchLimits& limits);
  void take_turns(Kind kind);
  void grant_by_tag(uint32_t capacity);
  void settle(Kind kind);
  void serve_decodes(Share& share, const BatchLimits& limits);
  uint32_t serve_prompt(Share& share, uint32_t capacity, PrefillRoom* room, const BatchLimits& limits, uint32_t& left);
  uint32_t next(Share& share, Kind kind, const BatchLimits& limits);
  uint32_t pick(const Candidate& candidate, uint32_t budget);

  std::vector<Account> accounts_;  // by client
  ByKind<double> now_{};           // the tag that is served
  uint64_t steps_ = 0;
  double owed_ns_ = 0;             // that prompts have taken beyond the bound
  uint32_t part_rows_ = UINT32_MAX;  // that a step has lately taken of a prompt, at the most

  // Of this step only; kept for their memory.
  std::span<const Candidate> candidates_;
  std::vector<Share> shares_;
  std::vector<uint32_t> order_;    // candidates by client and kind
  std::vector<uint32_t> oldest_;   // likewise, where that order is asked for
  std::vector<uint8_t> taken_;     // by candidate
  std::vector<Turn> turns_, heap_;
  std::vector<Pick> picks_;
  LayerWork decodes_;              // picked
  uint32_t rows_left_ = 0, draws_left_ = 0;
};

}  // namespace iokv
