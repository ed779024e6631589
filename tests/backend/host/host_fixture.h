// SPDX-License-Identifier: Apache-2.0
// What the tests of attention on the host share: sequences whose blocks are NaNs but for the tokens that may be seen, the
// states that a lane leaves, and the same in double.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "daemon/backend/host/host_lane.h"
#include "tests/backend/cpu_fixture.h"

namespace iokv::test {

inline constexpr CpuIsa kIsas[] = {CpuIsa::portable, CpuIsa::avx2, CpuIsa::avx512, CpuIsa::avx512_bf16,
                                   CpuIsa::amx_bf16};

inline constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};

// The ISAs that the machine has and that have kernels of their own for the type.
inline std::vector<CpuIsa> isas_for(DType type) {
  std::vector<CpuIsa> isas;
  for (CpuIsa isa : kIsas) {
    if (!cpu_supports(isa)) {
      std::printf("%s: not on this machine\n", name_of(isa));
    } else if ((isa != CpuIsa::avx512_bf16 && isa != CpuIsa::amx_bf16) || type == DType::bf16) {
      isas.push_back(isa);
    }
  }
  return isas;
}

inline std::unique_ptr<HostLane> lane_of(HostLaneOptions options) {
  auto made = HostLane::make(options);
  if (!made) std::printf("%s\n", made.failure().message.c_str());
  assert_true(static_cast<bool>(made));
  return *std::move(made);
}

// What of its tokens a row sees, and how large a score becomes; as in AttendArgs.
struct Limits {
  uint32_t window = 0;
  float score_cap = 0;
};

// A row at `position` of a sequence of which the host attends to the tokens from host_from on.
struct Place {
  uint32_t position, host_from;
  uint32_t begin(Limits limits) const {
    const bool cut = limits.window != 0 && position + 1 > limits.window;
    return cut ? std::max(host_from, position + 1 - limits.window) : host_from;
  }
};

// One row of one sequence: its queries, and blocks from host_from's on, scattered, with numbers only where the row sees.
struct Row {
  KvShape shape;
  Place place;
  Limits limits;
  float scale;
  Tensor q, blocks;
  std::vector<const void*> addresses;
  uint32_t begin, end;  // tokens that it sees

  Row(KvShape kv_shape, DType type, Place where, Limits limited, float score_deviation, Numbers& numbers)
      : shape(kv_shape), place(where), limits(limited),
        scale(score_deviation / std::sqrt(static_cast<float>(shape.head_dim))),
        q(Tensor::random(type, size_t{shape.heads} * shape.head_dim, numbers)),
        blocks(type, block_count() * shape.block_elements()), begin(place.begin(limits)), end(place.position) {
    for (uint32_t b = 0; b < block_count(); ++b) addresses.push_back(blocks.at(start(b)));
    for (uint32_t t = begin; t < end; ++t) {
      for (uint32_t head = 0; head < shape.kv_heads; ++head) {
        for (uint32_t i = 0; i < shape.head_dim; ++i) {
          blocks.set(k_at(t, head) + i, numbers.normal());
          blocks.set(k_at(t, head) + size_t{kBlockTokens} * shape.head_dim + i, numbers.normal());
        }
      }
    }
  }

  uint32_t first_piece() const { return place.host_from / kBlockTokens; }
  // Up to its own token's.
  uint32_t block_count() const {
    return std::max(place.position / kBlockTokens, first_piece()) - first_piece() + 1;
  }
  size_t start(uint32_t block) const { return (block_count() - 1 - block) * shape.block_elements(); }
  size_t k_at(uint32_t token, uint32_t head) const {
    const size_t row = size_t{head} * 2 * kBlockTokens + token % kBlockTokens;
    return start(token / kBlockTokens - first_piece()) + row * shape.head_dim;
  }
  size_t v_at(uint32_t token, uint32_t head) const { return k_at(token, head) + size_t{kBlockTokens} * shape.head_dim; }

  AttendSpan span(uint32_t row) const {
    return {.first_row = row,
            .rows = 1,
            .first_position = place.position,
            .first_piece = first_piece(),
            .kv_blocks = addresses,
            .host_from = place.host_from};
  }
};

// Rows of one operation, of one shape, type and limits; q and states of all.
struct Batch {
  KvShape shape;
  DType type;
  Limits limits;
  float scale = 0;
  uint32_t q_stride;
  Tensor q;
  std::vector<float> states;
  std::vector<AttendSpan> spans;

  explicit Batch(const std::vector<const Row*>& rows)
      : shape(rows[0]->shape), type(rows[0]->q.type()), limits(rows[0]->limits), scale(rows[0]->scale),
        q_stride(shape.heads * shape.head_dim + 24), q(type, rows.size() * q_stride),
        states(rows.size() * row_floats(), -7.0f) {
    for (uint32_t r = 0; r < rows.size(); ++r) {
      std::memcpy(q.at(size_t{r} * q_stride), rows[r]->q.at(), rows[r]->q.size() * size_of(type));
      spans.push_back(rows[r]->span(r));
    }
  }
  size_t row_floats() const { return shape.heads * attend_state_floats(shape.head_dim); }
  AttendArgs args() {
    return {.shape = shape,
            .scale = scale,
            .q = q.at(),
            .q_stride = q_stride,
            .state = states.data(),
            .spans = spans,
            .window = limits.window,
            .score_cap = limits.score_cap};
  }
  const float* state(uint32_t row, uint32_t head) const {
    return states.data() + row * row_floats() + head * attend_state_floats(shape.head_dim);
  }
  // Sums, sum and largest score of the row, without the padding.
  std::vector<float> results(uint32_t row) const {
    std::vector<float> numbers;
    const size_t padded = attend_state_floats(shape.head_dim) - 16;
    for (uint32_t head = 0; head < shape.heads; ++head) {
      const float* at = state(row, head);
      numbers.insert(numbers.end(), at, at + shape.head_dim);
      numbers.insert(numbers.end(), at + padded, at + padded + 2);
    }
    return numbers;
  }
};

// A head's state in double.
struct Expected {
  double top = -INFINITY, largest = 0, sum = 0;  // largest: of all scores, without their sign
  std::vector<double> sums;

  Expected(const Row& row, uint32_t head) : sums(row.shape.head_dim, 0.0) {
    const uint32_t d = row.shape.head_dim, kv_head = head / (row.shape.heads / row.shape.kv_heads);
    std::vector<double> scores;
    for (uint32_t t = row.begin; t < row.end; ++t) {
      double score = 0;
      for (uint32_t i = 0; i < d; ++i) score += row.q[head * d + i] * row.blocks[row.k_at(t, kv_head) + i];
      score *= double{row.scale};
      if (row.limits.score_cap > 0) score = row.limits.score_cap * std::tanh(score / row.limits.score_cap);
      scores.push_back(score);
      top = std::max(top, score);
      largest = std::max(largest, std::fabs(score));
    }
    for (uint32_t t = row.begin; t < row.end; ++t) {
      const double weight = std::exp(scores[t - row.begin] - top);
      sum += weight;
      for (uint32_t i = 0; i < d; ++i) sums[i] += weight * row.blocks[row.v_at(t, kv_head) + i];
    }
  }
};

inline void expect_state(const Expected& expected, const float* state) {
  const size_t d = expected.sums.size(), padded = attend_state_floats(d) - 16;
  if (expected.top == -INFINITY) {
    assert_true(state[padded] == 0 && state[padded + 1] == -INFINITY);
    for (size_t i = 0; i < d; ++i) assert_true(state[i] == 0);
    return;
  }
  // A score is rounded by parts of itself, and a weight by as much of itself as its score absolutely. Weights are relative to
  // the largest score, as the state has it.
  const double score_bound = 1e-5 + 2e-6 * expected.largest, bound = 2 * score_bound * expected.sum;
  assert_near(state[padded + 1], expected.top, score_bound);
  const double factor = std::exp(double{state[padded + 1]} - expected.top);
  assert_near(state[padded] * factor, expected.sum, bound);
  for (size_t i = 0; i < d; ++i) assert_near(state[i] * factor, expected.sums[i], bound);
}

inline void expect_state(const Row& row, uint32_t head, const float* state) { expect_state(Expected(row, head), state); }

}  // namespace iokv::test
