// SPDX-License-Identifier: Apache-2.0
#include "daemon/audit.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "daemon/base/assert.h"
#include "daemon/base/difference.h"

namespace iokv {

bool Audit::due(uint64_t plan_id) const {
  if (setting_.share <= 0) return false;
  return std::floor(static_cast<double>(plan_id) * setting_.share) >
         std::floor(static_cast<double>(plan_id - 1) * setting_.share);
}

void Audit::await(uint64_t plan_id) {
  IOKV_ASSERT(stage_ == Stage::idle);
  stage_ = Stage::waiting;
  last_plan_ = plan_id;
}

void Audit::begin(const AuditFinding& row, std::span<const int32_t> tokens, std::vector<float>&& logits,
                  BlockTable&& blocks) {
  IOKV_ASSERT(stage_ == Stage::waiting && !tokens.empty() && tokens.size() <= setting_.max_tokens);
  stage_ = Stage::running;
  row_ = row;
  tokens_.assign(tokens.begin(), tokens.end());
  logits_ = std::move(logits);
  blocks_ = std::move(blocks);
  cached_ = 0;
}

void Audit::issued(uint32_t rows, uint64_t plan_id) {
  IOKV_ASSERT(stage_ == Stage::running && rows > 0 && rows <= rows_left());
  cached_ += rows;
  last_plan_ = plan_id;
}

void Audit::end() {
  stage_ = Stage::idle;
  blocks_.clear();
  tokens_.clear();
}

std::optional<AuditFinding> Audit::compare(std::span<const float> logits) const {
  const bool same = logits.size() == logits_.size() && std::memcmp(logits.data(), logits_.data(), logits.size_bytes()) == 0;
  AuditFinding finding = row_;
  finding.difference = largest_difference(logits_, logits);
  if (same || (setting_.tolerance > 0 && finding.difference <= setting_.tolerance)) return std::nullopt;
  return finding;
}

}  // namespace iokv
