// SPDX-License-Identifier: Apache-2.0
// See attend.h. How an operation is cut decides who computes what and never a bit of the result: a query row's pieces
// are computed alike, and folded in position order by the same code, in one task or in many.
#include "daemon/backend/cpu/attend.h"

#include <algorithm>
#include <limits>

namespace iokv::cpu {
namespace {

// Query rows of a unit: transposing a piece of K costs about 10 of them, and 96 rows of state with d = 128 are 48 KiB.
constexpr uint32_t kUnitRows = 96;
// Tasks a thread that make the last one to finish late by a few per cent only.
constexpr uint32_t kTasksPerThread = 8;
// A run of pieces shorter than this is not worth a task (1-2 µs each of work).
constexpr uint32_t kLeastPieces = 4;
// Units of more query rows are prefill; there are many of them.
constexpr uint32_t kSplitRows = 32;
// Results that wait to be folded: 8 MiB.
constexpr size_t kMostResultFloats = size_t{2} << 20;

uint32_t query_rows(const AttendUnit& unit) { return unit.tokens * unit.group; }

// The host sees what the token before the row's own sees. false: it sees nothing.
bool see_as_the_host(AttendUnit& unit) {
  if (unit.first_position == 0 || unit.window == 1) return false;
  --unit.first_position;
  if (unit.window != 0) --unit.window;
  return true;
}

// The host has the pieces from `from` on, the device those before, and behind them the one with the row's own token.
void divide(AttendUnit& unit, uint32_t from, bool on_host) {
  if (on_host) {
    unit.first_seen = std::max(unit.first_seen, from);
    return;
  }
  unit.own_piece = from;
  unit.first_seen = std::min(unit.first_seen, from);
  unit.pieces = from + 1;
}

void clear_state(const AttendUnit& unit) {
  const size_t padded = attend_padded_dim(unit.head_dim), floats = attend_state_floats(unit.head_dim);
  for (uint32_t g = 0; g < unit.group; ++g) {
    float* state = unit.state + g * floats;
    std::fill_n(state, padded + 1, 0.0f);
    state[padded + 1] = -std::numeric_limits<float>::infinity();
  }
}

}  // namespace

void Attention::run(const AttendArgs& args, bool on_host, DType type, const Kernels& kernels, ThreadTeam& team) {
  list_units(args, on_host, type);
  split_long_units(team.threads());
  reserve_scratch(team.threads());
  float* scratch = static_cast<float*>(scratch_.get());
  float* results = static_cast<float*>(results_.get());
  team.run(static_cast<uint32_t>(tasks_.size()), [&](uint32_t index, uint32_t thread) {
    Task task = tasks_[index];
    task.unit.scratch = scratch + thread * scratch_floats_;
    if (task.results == kWhole) {
      kernels.attend(task.unit);
    } else {
      kernels.attend_pieces(task.unit, results + task.results);
    }
  });
  team.run(static_cast<uint32_t>(merges_.size()), [&](uint32_t index, uint32_t thread) {
    Task task = merges_[index];
    task.unit.scratch = scratch + thread * scratch_floats_;
    kernels.attend_merge(task.unit, results + task.results);
  });
}

void Attention::list_units(const AttendArgs& args, bool on_host, DType type) {
  const KvShape& shape = args.shape;
  size_t d = shape.head_dim, group = shape.heads / shape.kv_heads, element = size_of(type);
  uint32_t unit_tokens = std::max<uint32_t>(1, kUnitRows / static_cast<uint32_t>(group));
  units_.clear();
  for (const AttendSpan& span : args.spans) {
    for (uint32_t first = 0; first < span.rows; first += unit_tokens) {
      for (uint32_t head = 0; head < shape.kv_heads; ++head) {
        AttendUnit unit;
        size_t row = span.first_row + first, column = head * group * d;
        unit.q = static_cast<const char*>(args.q) + (row * args.q_stride + column) * element;
        unit.q_stride = args.q_stride;
        unit.out = static_cast<char*>(args.out) + (row * shape.heads * d + column) * element;
        unit.out_stride = shape.heads * d;
        unit.tokens = std::min(unit_tokens, span.rows - first);
        unit.group = static_cast<uint32_t>(group);
        unit.head_dim = shape.head_dim;
        unit.scale = args.scale;
        unit.window = args.window;
        unit.score_cap = args.score_cap;
        unit.first_position = span.first_position + first;
        unit.kv_blocks = span.kv_blocks.data();
        unit.k_offset = size_t{head} * 2 * kBlockTokens * d;
        unit.begin_piece = span.first_piece;
        if (args.state != nullptr) {
          unit.state = args.state + (row * shape.heads + head * group) * attend_state_floats(d);
          unit.state_stride = shape.heads * attend_state_floats(d);
        }
        if (on_host && !see_as_the_host(unit)) {
          clear_state(unit);
          continue;
        }
        unit.pieces = (unit.first_position + unit.tokens - 1) / kBlockTokens + 1;
        if (unit.window != 0 && unit.first_position + 1 > unit.window) {
          unit.first_seen = (unit.first_position + 1 - unit.window) / kBlockTokens;
        }
        if (span.is_divided()) divide(unit, span.host_from / kBlockTokens, on_host);
        unit.first_piece = std::max(span.first_piece, unit.first_seen);
        unit.end_piece = std::min(unit.pieces, span.first_piece + static_cast<uint32_t>(span.kv_blocks.size()));
        if (span.is_divided()) ++unit.pieces;  // `out` is left to merge
        if (on_host && unit.first_piece >= unit.end_piece) clear_state(unit);
        if (unit.first_piece >= unit.end_piece) continue;  // rows that see nothing of this run
        IOKV_ASSERT(args.state != nullptr || (unit.first_piece == unit.first_seen && unit.end_piece == unit.pieces));
        units_.push_back({unit});
      }
    }
  }
}

void Attention::split_long_units(uint32_t threads) {
  tasks_.clear();
  merges_.clear();
  size_t pieces = 0, results = 0;
  for (const Task& task : units_) pieces += task.unit.end_piece - task.unit.first_piece;
  auto run = static_cast<uint32_t>(std::max<size_t>(kLeastPieces, pieces / (size_t{threads} * kTasksPerThread)));
  for (const Task& task : units_) {
    const AttendUnit& unit = task.unit;
    const uint32_t unit_pieces = unit.end_piece - unit.first_piece;
    size_t floats = attend_result_floats(query_rows(unit), unit.head_dim), needed = unit_pieces * floats;
    if (threads == 1 || unit_pieces <= run || query_rows(unit) > kSplitRows ||
        results + needed > kMostResultFloats) {
      tasks_.push_back(task);
      continue;
    }
    merges_.push_back({unit, results});
    for (uint32_t first = unit.first_piece; first < unit.end_piece; first += run) {
      Task part{unit, results + (first - unit.first_piece) * floats};
      part.unit.first_piece = first;
      part.unit.end_piece = std::min(first + run, unit.end_piece);
      tasks_.push_back(part);
    }
    results += needed;
  }
  if (results > results_floats_) {
    results_ = allocate(results * sizeof(float));
    IOKV_ASSERT(results_ != nullptr);
    results_floats_ = results;
  }
}

void Attention::reserve_scratch(uint32_t threads) {
  size_t most = 0;
  for (const Task& task : units_) {
    most = std::max(most, attend_scratch_floats(query_rows(task.unit), task.unit.head_dim));
  }
  if (most <= scratch_floats_) return;
  scratch_floats_ = (most + 15) / 16 * 16;
  scratch_ = allocate(threads * scratch_floats_ * sizeof(float));
  IOKV_ASSERT(scratch_ != nullptr);
}

}  // namespace iokv::cpu
