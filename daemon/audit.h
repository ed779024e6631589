// SPDX-License-Identifier: Apache-2.0
// The audit: of a share of the steps one drawn row each is computed again, from the sequence's token ids alone, all of
// it as K,V in blocks of its own (the paper's l = 0, nothing that was cached before), and its logits are compared with
// those that were drawn from. So what cannot be seen from outside shows: a block that was overwritten, recomputation that
// differs from what was stored, a copy that came too early. A part of the conductor (conductor_audit.cpp), and as
// deterministic: what is audited follows from Plan ids.
//
// Invariants
//  1. One audit at a time; it comes after everybody else in rows and in blocks. A step that should be audited and cannot
//     (another audit runs, its context is too long, the pool is full, somebody needs the blocks) is counted as skipped.
//  2. Its blocks are K,V, referred to by nobody else, and held until the last Plan that names them has retired.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "daemon/sched/block_table.h"
#include "daemon/sched/request.h"

namespace iokv {

struct AuditSetting {
  double share = 0;            // of the steps, 0 to 1
  double tolerance = 0;        // of largest_difference (daemon/base/difference.h); 0: every bit the same
  uint32_t max_tokens = 2048;  // of a context; the blocks and the rows of an audit are bounded by it
};

// What did not match.
struct AuditFinding {
  ClientId client;
  uint64_t sequence = 0;       // the client's id
  uint32_t position = 0;       // of the row: its logits are for the token behind it
  uint64_t plan = 0;           // that was audited
  double difference = 0;       // largest_difference
};

class Audit {
 public:
  explicit Audit(const AuditSetting& setting) : setting_(setting) {}

  const AuditSetting& setting() const { return setting_; }
  // Whether a row of the Plan with this id is to be audited: every time that id·share passes a whole number.
  bool due(uint64_t plan_id) const;

  enum class Stage : uint8_t {
    idle,
    waiting,   // the audited Plan is out
    running,   // the row's tokens are being computed again
    given_up,  // but a Plan that names its blocks is still out
  };
  Stage stage() const { return stage_; }

  // idle -> waiting
  void await(uint64_t plan_id);
  // waiting -> running: a row was drawn from `logits`, behind `tokens`.
  void begin(const AuditFinding& row, std::span<const int32_t> tokens, std::vector<float>&& logits, BlockTable&& blocks);
  // running -> running: `rows` further tokens are in the Plan.
  void issued(uint32_t rows, uint64_t plan_id);
  // any -> given_up; the caller makes it idle once no Plan names its blocks.
  void give_up() { stage_ = Stage::given_up; }
  // any -> idle. The blocks have been released.
  void end();

  // While running.
  std::span<const int32_t> tokens() const { return tokens_; }
  uint32_t cached() const { return cached_; }
  uint32_t rows_left() const { return static_cast<uint32_t>(tokens_.size()) - cached_; }
  BlockTable& blocks() { return blocks_; }
  const BlockTable& blocks() const { return blocks_; }
  uint64_t last_plan() const { return last_plan_; }  // that names its blocks, or is audited

  // What is wrong, if anything, with the logits that came of the last row.
  std::optional<AuditFinding> compare(std::span<const float> logits) const;

 private:
  AuditSetting setting_;
  Stage stage_ = Stage::idle;
  AuditFinding row_;
  std::vector<int32_t> tokens_;
  std::vector<float> logits_;
  BlockTable blocks_;
  uint32_t cached_ = 0;
  uint64_t last_plan_ = 0;
};

}  // namespace iokv
