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

// By every ISA.
void expect_row(const Row& row) {
  std::vector<Expected> expected;
  for (uint32_t head = 0; head < row.shape.heads; ++head) expected.emplace_back(row, head);
  for (CpuIsa isa : isas_for(row.q.type())) {
    auto lane = lane_of({.threads = 1, .type = row.q.type(), .isa = isa});
    Batch batch({&row});
    attend(*lane, batch);
    for (uint32_t head = 0; head < row.shape.heads; ++head) expect_state(expected[head], batch.state(0, head));
  }
}

// At the ends of blocks, of chunks and of their doubling; nothing, one token, the last token of a block, whole blocks.
constexpr Place kPlaces[] = {{0, 0},     {1, 0},     {63, 0},    {64, 0},   {65, 0},    {64, 64},   {65, 64},
                             {100, 64},  {100, 128}, {100, 512}, {255, 0},  {256, 0},   {257, 0},   {300, 64},
                             {640, 128}, {641, 128}, {703, 0},   {704, 64}, {1100, 0}};

// Groups that make register blocks of 4, 2 and 1 query rows, tiles of 16 and parts of them, and all sizes of heads: whole
// vectors, parts and odd ones.
constexpr KvShape kShapes[] = {{2, 2, 128}, {8, 2, 128},  {7, 1, 64},  {6, 2, 80}, {3, 1, 96},  {2, 1, 256},
                               {5, 1, 40},  {16, 1, 64},  {3, 3, 8},   {2, 2, 20}, {33, 1, 24}, {1, 1, 7},
                               {12, 1, 112}, {20, 1, 136}};

// Scores of a deviation of 0.5: no token's weight is lost beside the others'.
constexpr float kFlat = 0.5f, kPointed = 4.0f;

void every_row_sees_its_cached_tokens_from_the_given_one_on(void**) {
  Numbers numbers(31);
  for (DType type : kTypes) {
    for (size_t shape = 0; shape < std::size(kShapes); ++shape) {
      for (size_t place = 0; place < std::size(kPlaces); ++place) {
        // All places with the first shape, a third of them with each other one.
        if (shape > 0 && (shape + place) % 3 != 0) continue;
        const float deviation = (shape + place) % 2 == 0 ? kFlat : kPointed;
        expect_row(Row(kShapes[shape], type, kPlaces[place], {}, deviation, numbers));
      }
    }
  }
}

constexpr Limits kLimits[] = {{1, 0},  {2, 0},  {40, 0},   {64, 0},   {65, 3},   {66, 0},
                              {129, 0}, {150, 2}, {300, 0}, {1000, 0}, {0, 0.5f}, {0, 4}};

void a_window_counts_the_rows_own_token_and_a_cap_bends_scores(void**) {
  Numbers numbers(32);
  for (DType type : kTypes) {
    for (Limits limits : kLimits) {
      for (Place place : {Place{1, 0}, {64, 0}, {65, 0}, {66, 64}, {130, 64}, {300, 0}, {420, 384}}) {
        expect_row(Row({8, 2, 64}, type, place, limits, kFlat, numbers));
      }
    }
  }
}

// Weights of tokens whose scores are 60 apart, rising and falling from block to block: what has been summed is rescaled.
void later_blocks_may_hold_much_larger_scores(void**) {
  Numbers numbers(33);
  for (DType type : kTypes) {
    for (float deviation : {20.0f, 60.0f}) expect_row(Row({4, 1, 32}, type, {700, 0}, {}, deviation, numbers));
  }
}

void threads_and_neighbours_change_no_bit(void**) {
  Numbers numbers(34);
  for (DType type : kTypes) {
    const KvShape shape = type == DType::f32 ? KvShape{2, 2, 64} : KvShape{8, 2, 32};
    std::vector<std::unique_ptr<Row>> rows;
    std::vector<const Row*> together;
    for (Place place : {Place{1900, 0}, {1, 0}, {64, 64}, {5000, 64}, {257, 0}, {256, 128}, {2000, 1024}, {63, 0}}) {
      rows.push_back(std::make_unique<Row>(shape, type, place, Limits{}, kPointed, numbers));
      together.push_back(rows.back().get());
    }
    for (CpuIsa isa : isas_for(type)) {
      std::vector<std::vector<float>> alone;
      auto single = lane_of({.threads = 1, .type = type, .isa = isa});
      for (const Row* row : together) {
        Batch batch({row});
        attend(*single, batch);
        alone.push_back(batch.results(0));
      }
      for (uint32_t threads : {1u, 2u, 5u}) {
        auto lane = lane_of({.threads = threads, .type = type, .isa = isa});
        for (int order = 0; order < 2; ++order) {
          Batch batch(together);
          attend(*lane, batch);
          for (uint32_t r = 0; r < rows.size(); ++r) assert_true(batch.results(r) == alone[r]);
          std::reverse(together.begin(), together.end());
          std::reverse(alone.begin(), alone.end());
        }
      }
    }
  }
}

uint32_t items_of(KvShape shape, DType type, Place place, Limits limits = {}) {
  std::vector<const void*> addresses(place.position / kBlockTokens + 1);
  float state = 0;
  const AttendSpan span{.rows = 1, .first_position = place.position, .kv_blocks = addresses, .host_from = place.host_from};
  host::HostJob job;
  job.prepare({.shape = shape, .state = &state, .spans = std::span(&span, 1), .window = limits.window}, type);
  return job.items();
}

// 128 KiB of K and V of a head, and so much more that there are 64 at most. 65,536 tokens keep many threads busy.
void a_span_is_cut_by_what_its_row_sees(void**) {
  constexpr KvShape shape{8, 2, 128};  // 32 KiB a block and head in f16
  assert_int_equal(items_of(shape, DType::f16, {0, 0}), 2);
  assert_int_equal(items_of(shape, DType::f16, {256, 0}), 2);
  assert_int_equal(items_of(shape, DType::f16, {257, 0}), 2 * 2);
  assert_int_equal(items_of(shape, DType::f32, {257, 0}), 2 * 3);
  assert_int_equal(items_of(shape, DType::f16, {1024, 0}), 2 * 4);
  assert_int_equal(items_of(shape, DType::f16, {1024, 512}), 2 * 2);
  assert_int_equal(items_of(shape, DType::f16, {10'000, 0}, {257, 0}), 2 * 2);  // 256 tokens, of five blocks
  assert_int_equal(items_of(shape, DType::f16, {16'384, 0}), 2 * 64);
  assert_int_equal(items_of(shape, DType::f16, {16'385, 0}), 2 * 33);
  assert_int_equal(items_of(shape, DType::f16, {65'536, 0}), 2 * 64);
  assert_int_equal(items_of({2, 1, 8}, DType::f16, {4096, 0}), 1);
}

// Chunks of 8 blocks and of 4: threads take the long sequence's first, wherever it is among the spans.
void large_items_come_first(void**) {
  constexpr KvShape shape{1, 1, 128};
  std::vector<char> blocks(257);  // nothing is read: a byte stands for each
  std::vector<const void*> addresses;
  for (char& block : blocks) addresses.push_back(&block);
  std::vector<AttendSpan> spans;
  for (uint32_t position : {256u, 64u * 257, 0u, 256u}) {
    spans.push_back({.rows = 1, .first_position = position, .kv_blocks = addresses, .host_from = 0});
    spans.back().first_row = static_cast<uint32_t>(spans.size() - 1);
  }
  float state = 0;
  host::HostJob job;
  job.prepare({.shape = shape, .state = &state, .spans = spans}, DType::f16);
  assert_int_equal(job.items(), 1 + 33 + 1 + 1);
  for (uint32_t chunk = 0; chunk < 33; ++chunk) assert_ptr_equal(job.first_read(chunk), addresses[chunk * 8]);
  for (uint32_t item : {33u, 34u}) assert_ptr_equal(job.first_read(item), addresses[0]);
  assert_null(job.first_read(35));
}

// Of more chunks than a hand can count, each is folded where it belongs.
void a_very_long_sequence_is_the_sum_of_its_chunks(void**) {
  Numbers numbers(35);
  expect_row(Row({2, 1, 8}, DType::f16, {300'000, 128}, {}, kFlat, numbers));
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
      cmocka_unit_test(a_span_is_cut_by_what_its_row_sees),
      cmocka_unit_test(large_items_come_first),
      cmocka_unit_test(a_very_long_sequence_is_the_sum_of_its_chunks),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
