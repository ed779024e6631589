// SPDX-License-Identifier: Apache-2.0
// BlockTable beside a plain vector of blocks.
#include "daemon/sched/block_table.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

struct Known {
  SequenceBlock block;
  bool shared = false;
};

void expect_same(const BlockTable& table, const std::vector<Known>& known, BlockUnits units, bool in_place) {
  assert_int_equal(table.size(), known.size());
  assert_int_equal(table.empty(), known.empty());
  if (!known.empty()) assert_true(table.back() == known.back().block);
  size_t at = 0;
  table.each([&](SequenceBlock block) { assert_true(at < known.size() && block == known[at++].block); });
  assert_int_equal(at, known.size());
  assert_int_equal(table.copies(), std::count_if(known.begin(), known.end(), [](const Known& one) {
    return one.block.device_id != kNoBlock;
  }));
  RingLoad load;
  for (const Known& one : known) {
    const bool copied = one.block.device_id != kNoBlock;
    if (in_place || (copied && one.block.device_form == BlockForm::kv)) continue;
    ++load.areas;
    if (!copied) load.link_units += units.of(one.block.form);
  }
  assert_true(table.load() == load);
  at = 0;
  for (const BlockRun& run : table.runs()) {
    assert_true(run.blocks > 0);
    assert_int_equal(run.kv_id, kNoBlock);
    if (in_place) assert_true(run.device_form == run.form);
    if (in_place) assert_int_equal(run.device_id, run.id);
    for (uint32_t i = 0; i < run.blocks; ++i, ++at) {
      if (!in_place) {
        const uint32_t step = units.of(run.device_form);
        assert_int_equal(run.resident() ? run.device_id + i * step : kNoBlock, known[at].block.device_id);
        if (run.resident()) assert_true(run.device_form == known[at].block.device_form);
      }
      assert_true(at < known.size());
      assert_true(table[static_cast<uint32_t>(at)] == known[at].block);
      assert_int_equal(run.id + i * units.of(run.form), known[at].block.id);
      assert_true(run.form == known[at].block.form);
      assert_int_equal(run.shared, known[at].shared);
    }
  }
  assert_int_equal(at, known.size());
}

// The fewest there can be: a run ends only where ids, form or sharing say so.
size_t fewest_runs(const std::vector<Known>& known, BlockUnits units) {
  size_t runs = 0;
  for (size_t i = 0; i < known.size(); ++i) {
    auto copy = [&](size_t index) { return known[index].block.device_id; };
    const bool copies_join = i > 0 && (copy(i) == kNoBlock ? copy(i - 1) == kNoBlock
                                                           : copy(i - 1) != kNoBlock &&
                                                                 known[i].block.device_form == known[i - 1].block.device_form &&
                                                                 copy(i) == copy(i - 1) + units.of(known[i].block.device_form));
    const bool joins = copies_join && known[i].shared == known[i - 1].shared && known[i].block.form == known[i - 1].block.form &&
                       known[i].block.id == known[i - 1].block.id + units.of(known[i].block.form);
    runs += !joins;
  }
  return runs;
}

void a_table_is_its_blocks_whatever_is_done_to_it(void**) {
  std::mt19937_64 random(test_seed());
  uint64_t forks = 0;
  for (int table_index = 0; table_index < 200; ++table_index) {
    const bool in_place = random() % 2;
    const BlockUnits units = random() % 2 ? BlockUnits{1, 1} : BlockUnits{2, 1};
    BlockTable table(units, in_place);
    std::vector<Known> known;
    for (int i = 0; i < 300; ++i) {
      switch (random() % 10) {
        case 0:
          if (known.empty()) break;
          table.pop_back();
          known.pop_back();
          break;
        case 1: {
          // A child of this one takes over the shared blocks, as the conductor forks.
          const auto blocks = static_cast<uint32_t>(random() % (known.size() + 1));
          table.share(blocks);
          for (uint32_t b = 0; b < blocks; ++b) known[b].shared = true;
          if (random() % 4 != 0) break;
          BlockTable child(units, in_place);
          for (uint32_t b = 0; b < blocks; ++b) child.push_back(known[b].block);
          child.share(blocks);
          const std::vector<Known> expected(known.begin(), known.begin() + blocks);
          expect_same(child, expected, units, in_place);
          assert_int_equal(child.runs().size(), fewest_runs(expected, units));
          ++forks;
          break;
        }
        case 2: {
          if (random() % 50 != 0) break;
          // Idle for a while: what nobody else refers to loses its copies, in position order.
          std::vector<uint32_t> lost, expected;
          table.drop_copies([&](SequenceBlock block) { lost.push_back(block.device_id); });
          for (Known& one : known) {
            if (one.shared || one.block.device_id == kNoBlock) continue;
            expected.push_back(std::exchange(one.block.device_id, kNoBlock));
            one.block.device_form = BlockForm::kv;
          }
          assert_true(lost == expected);
          break;
        }
        case 3:
          if (random() % 50 != 0) break;
          table.clear();
          known.clear();
          break;
        default: {
          const BlockForm form = random() % 8 ? BlockForm::kv : BlockForm::x;
          uint32_t id = static_cast<uint32_t>(random() % 1000) * 2;
          if (!known.empty() && random() % 4) id = known.back().block.id + units.of(known.back().block.form);
          uint32_t device_id = kNoBlock;
          BlockForm device_form = BlockForm::kv;
          if (!in_place && random() % 3 != 0) {
            device_id = static_cast<uint32_t>(random() % 1000) * 2;
            device_form = random() % 4 ? BlockForm::kv : form;
            if (!known.empty() && known.back().block.device_id != kNoBlock && random() % 4) {
              device_id = known.back().block.device_id + units.of(known.back().block.device_form);
            }
          }
          table.push_back({id, form, device_id, device_form});
          known.push_back({{id, form, device_id, device_form}, false});
        }
      }
      expect_same(table, known, units, in_place);
    }
  }
  assert_true(forks > 100);
}

void blocks_that_are_pushed_in_order_are_one_run(void**) {
  for (uint32_t units : {1u, 3u}) {
    BlockTable table({units, 1}, false);
    for (uint32_t i = 0; i < 1000; ++i) table.push_back({5 + i * units, BlockForm::kv});
    assert_int_equal(table.runs().size(), 1);
    table.share(400);
    assert_int_equal(table.runs().size(), 2);
    // Nobody else has what comes behind a shared block.
    while (table.size() > 400) table.pop_back();
    table.push_back({5 + 400 * units, BlockForm::kv});
    assert_int_equal(table.runs().size(), 2);
    assert_false(table.runs().back().shared);
  }
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {cmocka_unit_test(a_table_is_its_blocks_whatever_is_done_to_it),
                              cmocka_unit_test(blocks_that_are_pushed_in_order_are_one_run)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
