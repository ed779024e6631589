// SPDX-License-Identifier: Apache-2.0
// Attention on the host against softmax in double, where everything that a row does not see is a NaN, for every ISA of this
// machine; and against itself in other company and by other numbers of threads, where every bit must agree.
#include "tests/backend/host/host_fixture.h"

namespace iokv::test {
namespace {

void attend(HostLane& lane, Batch& batch) {
  lane.attend(batch.args());
  lane.wait_reached(lane.record());
}

// At the ends of blocks, of chunks and of their doubling; nothing, one token, the last token of a block, whole blocks.
constexpr Place kPlaces[] = {{0, 0},     {1, 0},     {63, 0},    {64, 0},   {65, 0},    {64, 64},   {65, 64},
                             {100, 64},  {100, 128}, {100, 512}, {255, 0},  {256, 0},   {257, 0},   {300, 64},
                             {640, 128}, {641, 128}, {703, 0},   {704, 64}, {1100, 0}};

// Groups that make register blocks of 4, 2 and 1 query rows, and all sizes of heads: whole vectors, parts and odd ones.
constexpr KvShape kShapes[] = {{2, 2, 128}, {8, 2, 128},  {7, 1, 64},  {6, 2, 80}, {3, 1, 96},  {2, 1, 256},
                               {5, 1, 40},  {16, 1, 64},  {3, 3, 8},   {2, 2, 20}, {33, 1, 24}, {1, 1, 7},
                               {12, 1, 112}, {2, 1, 136}};

// Scores of a deviation of 0.5: no token's weight is lost beside the others'.
constexpr float kFlat = 0.5f, kPointed = 4.0f;

void every_row_sees_its_cached_tokens_from_the_given_one_on(void**) {
  each_kernel([](CpuIsa isa, DType type) {
    auto lane = lane_of({.threads = 1, .type = type, .isa = isa});
    Numbers numbers(31);
    for (KvShape shape : kShapes) {
      for (Place place : kPlaces) {
        if (place.position > 320 && shape.head_dim != 128 && shape.head_dim != 80) continue;
        const Row row(shape, type, place, {}, place.position % 2 == 0 ? kFlat : kPointed, numbers);
        Batch batch({&row});
        attend(*lane, batch);
        for (uint32_t head = 0; head < shape.heads; ++head) expect_state(row, head, batch.state(0, head));
      }
    }
  });
}

constexpr Limits kLimits[] = {{1, 0},  {2, 0},  {40, 0},   {64, 0},   {65, 3},   {66, 0},
                              {129, 0}, {150, 2}, {300, 0}, {1000, 0}, {0, 0.5f}, {0, 4}};

void a_window_counts_the_rows_own_token_and_a_cap_bends_scores(void**) {
  each_kernel([](CpuIsa isa, DType type) {
    auto lane = lane_of({.threads = 1, .type = type, .isa = isa});
    Numbers numbers(32);
    for (Limits limits : kLimits) {
      for (Place place : {Place{1, 0}, {64, 0}, {65, 0}, {66, 64}, {130, 64}, {300, 0}, {420, 384}}) {
        const Row row({4, 2, 64}, type, place, limits, kFlat, numbers);
        Batch batch({&row});
        attend(*lane, batch);
        for (uint32_t head = 0; head < 4; ++head) expect_state(row, head, batch.state(0, head));
      }
    }
  });
}

// Weights of tokens whose scores are 60 apart, rising and falling from block to block: what has been summed is rescaled.
void later_blocks_may_hold_much_larger_scores(void**) {
  each_kernel([](CpuIsa isa, DType type) {
    auto lane = lane_of({.threads = 1, .type = type, .isa = isa});
    Numbers numbers(33);
    for (float deviation : {20.0f, 60.0f}) {
      const Row row({4, 1, 32}, type, {700, 0}, {}, deviation, numbers);
      Batch batch({&row});
      attend(*lane, batch);
      for (uint32_t head = 0; head < 4; ++head) expect_state(row, head, batch.state(0, head));
    }
  });
}

void threads_and_neighbours_change_no_bit(void**) {
  each_kernel([](CpuIsa isa, DType type) {
    Numbers numbers(34);
    for (KvShape shape : {KvShape{2, 2, 64}, {8, 2, 32}}) {
      std::vector<std::unique_ptr<Row>> rows;
      for (Place place : {Place{900, 0}, {1, 0}, {64, 64}, {5000, 64}, {257, 0}, {256, 128}, {2000, 1024}, {63, 0}}) {
        rows.push_back(std::make_unique<Row>(shape, type, place, Limits{}, kPointed, numbers));
      }
      std::vector<std::vector<float>> alone;
      auto single = lane_of({.threads = 1, .type = type, .isa = isa});
      for (const auto& row : rows) {
        Batch batch({row.get()});
        attend(*single, batch);
        alone.push_back(batch.results(0));
      }
      for (uint32_t threads : {1u, 2u, 5u}) {
        auto lane = lane_of({.threads = threads, .type = type, .isa = isa});
        for (int order = 0; order < 2; ++order) {
          std::vector<const Row*> together;
          for (const auto& row : rows) together.push_back(row.get());
          if (order == 1) std::reverse(together.begin(), together.end());
          Batch batch(together);
          attend(*lane, batch);
          for (uint32_t r = 0; r < rows.size(); ++r) {
            assert_true(batch.results(r) == alone[order == 1 ? rows.size() - 1 - r : r]);
          }
        }
      }
    }
  });
}

// Of 64 chunks at most, the tokens of one grow with the span: 4,097 blocks make chunks of 128.
void a_very_long_sequence_is_cut_into_few_chunks(void**) {
  const KvShape shape{2, 1, 8};
  Numbers numbers(35);
  const Row row(shape, DType::f16, {64 * 4096 + 1, 0}, {}, kFlat, numbers);
  auto lane = lane_of({.threads = 2, .type = DType::f16});
  Batch batch({&row});
  attend(*lane, batch);
  for (uint32_t head = 0; head < shape.heads; ++head) expect_state(row, head, batch.state(0, head));
  host::HostJob job;
  job.prepare(batch.args(), DType::f16);
  assert_int_equal(job.items(), (4097 + 127) / 128);
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_row_sees_its_cached_tokens_from_the_given_one_on),
      cmocka_unit_test(a_window_counts_the_rows_own_token_and_a_cap_bends_scores),
      cmocka_unit_test(later_blocks_may_hold_much_larger_scores),
      cmocka_unit_test(threads_and_neighbours_change_no_bit),
      cmocka_unit_test(a_very_long_sequence_is_cut_into_few_chunks),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
