// SPDX-License-Identifier: Apache-2.0
// Blocks against a set of units kept by the test, over random lives; and the memory behind them.
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "daemon/pool/block_pool.h"
#include "daemon/pool/host_pool.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

struct Held {
  BlockForm form;
  uint32_t references;
};

uint32_t units_of(const PoolShape& shape, BlockForm form) { return form == BlockForm::kv ? shape.kv_units : shape.x_units; }

void no_unit_has_two_owners_and_none_is_lost(void**) {
  std::mt19937_64 random(test_seed());
  auto below = [&](uint32_t end) { return static_cast<uint32_t>(random() % end); };
  for (int life = 0; life < 200; life++) {
    const PoolShape shape{below(200), 1 + below(4), 1 + below(4)};
    BlockPool pool(shape);
    std::map<uint32_t, Held> held;
    std::set<uint32_t> used;
    for (int step = 0; step < 300; step++) {
      if (held.empty() || below(100) < 55) {
        const BlockForm form = below(2) == 0 ? BlockForm::kv : BlockForm::x;
        const uint32_t hint = held.empty() || below(2) == 0 ? UINT32_MAX : held.rbegin()->first;
        const auto id = pool.acquire(form, hint, Blocks(below(6)));
        if (!id) continue;
        for (uint32_t unit = *id; unit < *id + units_of(shape, form); unit++) {
          assert_true(unit < pool.total_units().value);
          assert_true(used.insert(unit).second);
        }
        held[*id] = {form, 1};
      } else {
        auto one = std::next(held.begin(), below(static_cast<uint32_t>(held.size())));
        if (below(3) == 0) {
          pool.retain(one->first);
          one->second.references++;
          continue;
        }
        pool.release(one->first);
        if (--one->second.references > 0) continue;
        for (uint32_t i = 0; i < units_of(shape, one->second.form); i++) used.erase(one->first + i);
        held.erase(one);
      }
      pool.verify();
      assert_int_equal(pool.total_units().value - pool.free_units().value, used.size());
      for (const auto& [id, block] : held) {
        assert_int_equal(pool.references(id), block.references);
        assert_true(pool.form(id) == block.form);
      }
    }
  }
}

void with_one_form_every_unit_can_be_had_after_any_life(void**) {
  std::mt19937_64 random(test_seed());
  for (uint32_t kv = 1; kv <= 4; kv++) {
    BlockPool pool({96, kv, 3});
    std::vector<uint32_t> held;
    for (int step = 0; step < 10'000; step++) {
      if (random() % 2 == 0) {
        const Blocks to_come(static_cast<uint32_t>(random() % 20));
        if (auto id = pool.acquire(BlockForm::kv, UINT32_MAX, to_come)) held.push_back(*id);
      } else if (!held.empty()) {
        std::swap(held[random() % held.size()], held.back());
        pool.release(held.back());
        held.pop_back();
      }
    }
    while (pool.acquire(BlockForm::kv, UINT32_MAX)) continue;
    assert_int_equal(pool.free_units().value, 0);
  }
}

void a_sequences_blocks_lie_one_behind_the_other_while_that_can_be(void**) {
  BlockPool pool({60, 2, 3});
  uint32_t last = *pool.acquire(BlockForm::kv, UINT32_MAX);
  for (int i = 0; i < 20; i++) {
    const uint32_t next = *pool.acquire(BlockForm::kv, last);
    assert_int_equal(next, last + 2);
    last = next;
  }
}

void sequences_that_grow_side_by_side_stay_apart_as_long_as_they_said(void**) {
  BlockPool pool({72, 2, 3});
  std::vector<uint32_t> last(4);
  for (uint32_t& id : last) id = *pool.acquire(BlockForm::kv, UINT32_MAX, Blocks(7));
  for (uint32_t left = 6; left > 0; left--) {
    for (uint32_t& id : last) {
      const uint32_t next = *pool.acquire(BlockForm::kv, id, Blocks(left));
      assert_int_equal(next, id + 2);
      id = next;
    }
  }
  pool.verify();
}

void what_is_claimed_can_be_had_when_nothing_else_is_left(void**) {
  BlockPool pool({32, 2, 1});
  const uint32_t greedy = *pool.acquire(BlockForm::kv, UINT32_MAX, Blocks(1000));
  assert_int_equal(greedy, 0);
  // Half of the 15 frames behind it, but for the middle one.
  const uint32_t other = *pool.acquire(BlockForm::x, UINT32_MAX, Blocks(1));
  assert_int_equal(other, 2 * 8);
  assert_int_equal(*pool.acquire(BlockForm::kv, greedy, Blocks(999)), 2);
  while (pool.acquire(BlockForm::x, UINT32_MAX)) pool.verify();
  assert_int_equal(pool.free_units().value, 0);
}

void a_claim_falls_with_what_it_lies_behind(void**) {
  BlockPool pool({32, 2, 1});
  pool.release(*pool.acquire(BlockForm::kv, UINT32_MAX, Blocks(10)));
  pool.verify();
  assert_int_equal(*pool.acquire(BlockForm::kv, UINT32_MAX, Blocks(16)), 0);
  assert_int_equal(*pool.acquire(BlockForm::kv, 0, Blocks(15)), 2);
}

void a_short_one_goes_where_it_just_fits(void**) {
  BlockPool pool({32, 2, 2});
  std::vector<uint32_t> ids;
  for (int i = 0; i < 16; i++) ids.push_back(*pool.acquire(BlockForm::kv, UINT32_MAX));
  for (int i : {2, 3, 4, 5, 8, 9, 12, 13, 14}) pool.release(ids[i]);  // four, two and three
  assert_int_equal(*pool.acquire(BlockForm::kv, UINT32_MAX, Blocks(3)), ids[12]);
  assert_int_equal(*pool.acquire(BlockForm::kv, UINT32_MAX, Blocks(2)), ids[8]);
  assert_int_equal(*pool.acquire(BlockForm::kv, UINT32_MAX, Blocks(1)), ids[2]);
}

void a_full_pool_says_so_and_stays_as_it_is(void**) {
  BlockPool pool({4, 2, 1});
  const uint32_t a = *pool.acquire(BlockForm::kv, UINT32_MAX);
  assert_true(pool.acquire(BlockForm::kv, UINT32_MAX).has_value());
  assert_false(pool.acquire(BlockForm::kv, UINT32_MAX).has_value());
  assert_false(pool.acquire(BlockForm::x, UINT32_MAX).has_value());
  pool.release(a);
  assert_true(pool.acquire(BlockForm::x, UINT32_MAX).has_value());
}

void x_alone_takes_half_of_a_multi_head_models_pool(void**) {
  auto pool = HostPool::create({2, 2 * 65536, 65536}, 64 * 65536);
  assert_int_equal(pool->shape().kv_units, 2 * pool->shape().x_units);
  assert_int_equal(pool->bytes(), 64 * 65536);
}

void grouped_query_shapes_waste_nothing(void**) {
  auto pool = HostPool::create({30, 49152, 73728}, uint64_t{512} << 20);
  assert_int_equal(pool->unit_bytes() * pool->shape().kv_units, 49152);
  assert_int_equal(pool->unit_bytes() * pool->shape().x_units, 73728);
  assert_true(pool->bytes() <= uint64_t{512} << 20);
}

void a_pool_too_small_for_the_model_says_what_it_needs(void**) {
  auto pool = HostPool::create({30, 49152, 73728}, 1 << 20);
  assert_false(static_cast<bool>(pool));
  assert_non_null(std::strstr(pool.failure().message.c_str(), "at least 4423680"));
}

void every_block_of_every_layer_has_bytes_of_its_own(void**) {
  const PoolLayout layout{3, 8192, 4096};
  auto memory = HostPool::create(layout, 3 * 16 * 4096);
  BlockPool blocks(memory->shape());
  std::vector<uint32_t> ids;
  while (auto id = blocks.acquire(BlockForm::kv, UINT32_MAX)) ids.push_back(*id);
  for (uint32_t layer = 0; layer < 3; layer++) {
    for (uint32_t id : ids) {
      std::memset(memory->base() + layer * memory->layer_stride_bytes() + id * memory->unit_bytes(),
                  static_cast<int>(layer * 64 + id), 8192);
    }
  }
  for (uint32_t layer = 0; layer < 3; layer++) {
    for (uint32_t id : ids) {
      const std::byte* block = memory->base() + layer * memory->layer_stride_bytes() + id * memory->unit_bytes();
      assert_true(block[0] == static_cast<std::byte>(layer * 64 + id) && block[8191] == block[0]);
    }
  }
}

void a_discarded_block_is_filled_in_every_layer_and_its_neighbours_are_not(void**) {
#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__)
  skip();
#endif
  const size_t kv_bytes = 8192;
  auto memory = HostPool::create({3, kv_bytes, 4096}, 3 * 16 * 4096);
  std::memset(memory->base(), 1, memory->bytes());
  memory->discard(4, BlockForm::kv);
  memory->discard(9, BlockForm::x);
  for (size_t at = 0; at < memory->bytes(); at++) {
    const size_t unit = at % memory->layer_stride_bytes() / 4096;
    const bool discarded = unit == 4 || unit == 5 || unit == 9;
    assert_true(memory->base()[at] == (discarded ? std::byte{0xff} : std::byte{1}));
  }
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(no_unit_has_two_owners_and_none_is_lost),
      cmocka_unit_test(with_one_form_every_unit_can_be_had_after_any_life),
      cmocka_unit_test(a_sequences_blocks_lie_one_behind_the_other_while_that_can_be),
      cmocka_unit_test(sequences_that_grow_side_by_side_stay_apart_as_long_as_they_said),
      cmocka_unit_test(what_is_claimed_can_be_had_when_nothing_else_is_left),
      cmocka_unit_test(a_claim_falls_with_what_it_lies_behind),
      cmocka_unit_test(a_short_one_goes_where_it_just_fits),
      cmocka_unit_test(a_full_pool_says_so_and_stays_as_it_is),
      cmocka_unit_test(x_alone_takes_half_of_a_multi_head_models_pool),
      cmocka_unit_test(grouped_query_shapes_waste_nothing),
      cmocka_unit_test(a_pool_too_small_for_the_model_says_what_it_needs),
      cmocka_unit_test(every_block_of_every_layer_has_bytes_of_its_own),
      cmocka_unit_test(a_discarded_block_is_filled_in_every_layer_and_its_neighbours_are_not),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
