// SPDX-License-Identifier: Apache-2.0
// Attention on the host by products of tiles, which are emulated here, against softmax in double, where everything that a row
// does not see is a NaN. Machines with AMX run host_attend_test on real ones as well.
#include "daemon/backend/host/isa.h"
#include "tests/backend/host/emulated_tiles.h"
#include "tests/backend/host/host_fixture.h"

namespace iokv::test {
namespace {

void attend(Batch& batch, const host::Kernels& kernels) {
  host::HostJob job;
  host::Floats scratch;
  job.prepare(batch.args(), batch.type);
  for (uint32_t item = 0; item < job.items(); ++item) {
    job.run(item, kernels, scratch, [&] { return item + 1 < job.items() ? job.first_read(item + 1) : nullptr; });
  }
  assert_false(tiles_are_in_use());
}

void expect_row(const Row& row) {
  Batch batch({&row});
  attend(batch, emulated_tile_kernels());
  for (uint32_t head = 0; head < row.shape.heads; ++head) expect_state(row, head, batch.state(0, head));
}

constexpr Place kPlaces[] = {{1, 0},    {15, 0},    {16, 0},   {17, 0},    {32, 0},    {33, 0},     {63, 0},   {64, 0},
                             {65, 0},   {100, 64},  {127, 64}, {300, 128}, {400, 384}, {1100, 0}};

// Of 5 to 16 queries, more, and fewer; heads of one part and of several, with and without overlap, odd ones too.
constexpr KvShape kShapes[] = {{8, 1, 128}, {6, 1, 128}, {16, 1, 128}, {5, 1, 64},   {12, 2, 32},  {7, 1, 33},   {9, 1, 40},
                               {15, 1, 47}, {12, 1, 80}, {17, 1, 96},  {33, 1, 112}, {5, 1, 136}, {14, 2, 144}, {8, 1, 256}};

void every_query_of_a_group_sees_its_tokens(void**) {
  Numbers numbers(51);
  const uint64_t before = tile_products();
  for (size_t shape = 0; shape < std::size(kShapes); ++shape) {
    for (size_t place = 0; place < std::size(kPlaces); ++place) {
      if (shape > 0 && (shape + place) % 3 != 0) continue;
      expect_row(Row(kShapes[shape], DType::bf16, kPlaces[place], {}, (shape + place) % 2 == 0 ? 0.5f : 4.0f, numbers));
    }
  }
  assert_true(tile_products() > before);
}

// A window's first token lies anywhere in its block.
void windows_and_caps_are_those_of_the_other_kernels(void**) {
  Numbers numbers(52);
  for (Limits limits : {Limits{2, 0}, {17, 0}, {33, 0}, {40, 0}, {64, 0}, {65, 3}, {130, 0}, {0, 0.5f}, {0, 4}}) {
    for (Place place : {Place{64, 0}, {66, 64}, {130, 64}, {300, 0}}) {
      expect_row(Row({8, 1, 64}, DType::bf16, place, limits, 0.5f, numbers));
    }
  }
}

void later_blocks_may_hold_much_larger_scores(void**) {
  Numbers numbers(53);
  for (float deviation : {20.0f, 60.0f}) expect_row(Row({8, 1, 64}, DType::bf16, {700, 0}, {}, deviation, numbers));
}

// The other query heads of a KV head, and the other rows, leave every bit of a head's as it is.
void a_query_does_not_depend_on_its_neighbours(void**) {
  Numbers numbers(54);
  const Row first({8, 1, 64}, DType::bf16, {200, 64}, {}, 4.0f, numbers);
  const Row other({8, 1, 64}, DType::bf16, {700, 0}, {}, 4.0f, numbers);
  Batch alone({&first}), together({&other, &first}), changed({&first});
  for (uint32_t i = 0; i < 7 * 64; ++i) changed.q.set(i, numbers.normal());
  for (Batch* batch : {&alone, &together, &changed}) attend(*batch, emulated_tile_kernels());
  assert_true(alone.results(0) == together.results(1));
  const size_t bytes = (64 + 2) * sizeof(float);
  assert_memory_equal(alone.state(0, 7), changed.state(0, 7), bytes);
  assert_memory_not_equal(alone.state(0, 0), changed.state(0, 0), bytes);
}

// Fewer than 5 queries, or heads shorter than a tile's row.
void what_does_not_fit_tiles_has_the_bits_of_avx512_bf16(void**) {
  Numbers numbers(55);
  const uint64_t before = tile_configurations();
  for (KvShape shape : {KvShape{4, 1, 128}, {1, 1, 64}, {16, 1, 24}, {8, 2, 31}}) {
    const Row row(shape, DType::bf16, {200, 64}, {}, 4.0f, numbers);
    Batch by_tiles({&row}), by_pairs({&row});
    attend(by_tiles, emulated_tile_kernels());
    attend(by_pairs, host::kernels_for(CpuIsa::avx512_bf16, DType::bf16));
    assert_true(by_tiles.results(0) == by_pairs.results(0));
  }
  assert_int_equal(tile_configurations(), before);
}

// Each of its items, and not each block.
void tiles_are_configured_once_an_item(void**) {
  Numbers numbers(56);
  const Row row({16, 2, 128}, DType::bf16, {640, 0}, {}, 0.5f, numbers);  // 10 blocks of 32 KiB a head, 4 to an item
  Batch batch({&row});
  const uint64_t before = tile_configurations();
  attend(batch, emulated_tile_kernels());
  assert_int_equal(tile_configurations() - before, 2 * 3);
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  if (!iokv::cpu_supports(iokv::CpuIsa::avx512_bf16)) {
    std::printf("skipped: this CPU has no avx512_bf16, which the tiles' other half needs\n");
    return 77;
  }
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_query_of_a_group_sees_its_tokens),
      cmocka_unit_test(windows_and_caps_are_those_of_the_other_kernels),
      cmocka_unit_test(later_blocks_may_hold_much_larger_scores),
      cmocka_unit_test(a_query_does_not_depend_on_its_neighbours),
      cmocka_unit_test(what_does_not_fit_tiles_has_the_bits_of_avx512_bf16),
      cmocka_unit_test(tiles_are_configured_once_an_item),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
