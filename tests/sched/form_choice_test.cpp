// SPDX-License-Identifier: Apache-2.0
// As what new blocks are stored: shares that are reached, in stretches, and moved only for a gain.
#include "daemon/sched/form_choice.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "daemon/base/units.h"
#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

constexpr CacheShape kShape{8, 1000, 2000};

// Recomputing a token takes `ratio` times as long as sending its K,V.
Profile profile_of(double ratio) {
  Profile profile;
  profile.h2d = {0, 0, 1};
  profile.recompute = {0, 0, 2000 * ratio};
  profile.dense = {1, 0, 1};
  return profile;
}

LayerWork work_of(uint64_t tokens) {
  LayerWork work;
  work.rows = 1;
  work.kv_host = tokens;
  return work;
}

// Blocks that a sequence gets one by one, from the first on.
std::vector<BlockForm> grow(FormChooser& chooser, uint32_t blocks) {
  std::vector<BlockForm> forms;
  for (uint32_t i = 0; i < blocks; ++i) {
    const auto last = forms.empty() ? std::nullopt : std::optional(forms.back());
    forms.push_back(chooser.x_of(1, last) == 1 ? BlockForm::x : BlockForm::kv);
    chooser.added(forms.back());
  }
  return forms;
}

uint32_t count_x(const std::vector<BlockForm>& forms) {
  return static_cast<uint32_t>(std::count(forms.begin(), forms.end(), BlockForm::x));
}

void nothing_and_everything_are_what_they_say(void**) {
  for (uint32_t share : {0u, 1u}) {
    FormChooser chooser(share);
    assert_int_equal(count_x(grow(chooser, 100)), 100 * share);
    assert_int_equal(chooser.x_of(7, BlockForm::kv), 7 * share);
  }
}

void a_fraction_is_reached_in_long_stretches(void**) {
  for (double fraction : {0.1, 0.25, 0.5, 0.7, 0.95}) {
    FormChooser chooser(fraction);
    const std::vector<BlockForm> forms = grow(chooser, 400);
    assert_true(std::abs(count_x(forms) - 400 * fraction) <= 5);
    uint32_t changes = 0;
    for (size_t i = 1; i < forms.size(); ++i) changes += forms[i] != forms[i - 1];
    // Between surpluses of four blocks of one form and four of the other a stretch of one form is at least eight long.
    assert_true(changes <= 400 / 8);
  }
}

void a_prompt_gets_its_share_as_x_first(void**) {
  FormChooser chooser(0.7);
  assert_int_equal(chooser.x_of(10, std::nullopt), 7);
  for (int i = 0; i < 20; ++i) chooser.added(BlockForm::kv);
  assert_int_equal(chooser.x_of(10, std::nullopt), 10);  // X is missing: 0.7 of 30 are 21
  for (int i = 0; i < 200; ++i) chooser.added(BlockForm::x);
  assert_int_equal(chooser.x_of(10, std::nullopt), 0);
  for (int i = 0; i < 200; ++i) chooser.removed(BlockForm::x);
  assert_int_equal(chooser.x_of(10, std::nullopt), 10);
}

// link(l) = K,V·(1 - l/2), device(l) = ratio·K,V·l: they meet at l = 1/(ratio + 1/2).
void shares_are_where_link_and_device_meet(void**) {
  for (double ratio : {0.25, 0.5, 1.0, 2.0}) {
    const XShares shares = best_shares(profile_of(ratio), kShape, work_of(100'000), 0, {});
    assert_true(std::abs(shares.host - std::min(1.0, 1 / (ratio + 0.5))) < 1e-3);
  }
}

// Grouped queries: X is twice K,V's size.
void x_that_does_not_pay_is_not_stored(void**) {
  const XShares shares = best_shares(profile_of(0.01), {8, 4000, 2000}, work_of(100'000), 50'000'000, {});
  assert_true(shares.host == 0 && shares.device == 0);
}

// Recomputing costs next to nothing, and X of all tokens fits: nothing has to cross the link.
void the_device_is_given_x_where_k_and_v_do_not_fit(void**) {
  const uint64_t tokens = 10'000, bytes = tokens * kShape.x_bytes * kShape.layers;
  assert_true(best_shares(profile_of(0.001), kShape, work_of(tokens), bytes, {}).device > 0.97);
  assert_true(best_shares(profile_of(0.001), kShape, work_of(tokens), 2 * bytes, {}).device < 0.01);
  // And where it costs more than sending, it is given K,V.
  assert_true(best_shares(profile_of(10), kShape, work_of(tokens), bytes, {}).device < 0.2);
}

void what_hardly_gains_moves_nothing(void**) {
  const XShares first = best_shares(profile_of(1), kShape, work_of(100'000), 0, {});
  // The best share is 0.6623 now, not 0.6667; a step at 0.6667 is 0.67 % longer.
  const XShares second = best_shares(profile_of(1.01), kShape, work_of(100'000), 0, first);
  assert_true(second.host == first.host);
  const XShares third = best_shares(profile_of(1.1), kShape, work_of(100'000), 0, second);
  assert_true(std::abs(third.host - 1 / 1.6) < 1e-3);
  assert_true(best_shares(profile_of(1.1), kShape, work_of(0), 0, third).host == third.host);  // nothing to say
}

// A sequence of so many blocks, at once; true: some are X and some K,V.
bool take(FormChooser& chooser, uint32_t blocks, uint32_t& x) {
  x = chooser.x_of(blocks, std::nullopt);
  for (uint32_t i = 0; i < blocks; ++i) chooser.added(i < x ? BlockForm::x : BlockForm::kv);
  return x > 0 && x < blocks;
}

// The host's part is the end of a sequence, and is K,V.
void with_a_host_kv_stays_kv(void**) {
  FormChooser chooser(0.9);
  chooser.keep_suffixes({});
  for (int i = 0; i < 100; ++i) chooser.added(BlockForm::kv);
  assert_int_equal(chooser.x_of(1, BlockForm::kv), 0);
  assert_int_equal(chooser.x_of(50, BlockForm::kv), 0);
  assert_int_equal(chooser.x_of(1, BlockForm::x), 1);
  assert_int_equal(chooser.x_of(50, std::nullopt), 50);  // what is missing comes with others
}

void with_a_host_short_sequences_are_whole_and_long_ones_are_cut(void**) {
  constexpr double kShare = 0.56;
  for (uint32_t sequences : {1u, 4u, 15u, 16u, 32u, 200u}) {
    FormChooser chooser(kShare);
    chooser.keep_suffixes({0, 0, sequences * 16});
    uint32_t all_x = 0, cut = 0, x = 0;
    for (uint32_t i = 0; i < sequences; ++i) {
      cut += take(chooser, 16, x);
      all_x += x;
    }
    assert_int_equal(cut, sequences < 16 ? sequences : 0);
    assert_true(std::abs(all_x - kShare * sequences * 16) <= (sequences < 16 ? 1 : 8));
    // They grow, X as X and K,V as K,V, and the share stays.
    if (sequences < 16) continue;
    const uint32_t of_x = all_x / 16;
    for (uint32_t block = 0; block < 16; ++block) {
      for (uint32_t i = 0; i < sequences; ++i) {
        const BlockForm last = i < of_x ? BlockForm::x : BlockForm::kv;
        assert_int_equal(chooser.x_of(1, last), last == BlockForm::x ? 1 : 0);
        chooser.added(last);
      }
    }
  }
}

// Whatever the sequence's length within its last block: X never reaches into the host's part, where the cut would then depend
// on how much X others have.
void fixed_parts_are_kept_free_of_x(void**) {
  for (double share : {0.1, 0.4, 0.43, 0.9}) {
    FormChooser chooser(1);
    chooser.keep_suffixes({}, share);
    for (uint32_t blocks = 1; blocks <= 1000; blocks += blocks < 50 ? 1 : 37) {
      const uint32_t x = chooser.x_of(blocks, std::nullopt), least_cached = (blocks - 1) * kBlockTokens + 1;
      assert_true(x <= static_cast<uint32_t>((1 - share) * least_cached) / kBlockTokens);
      assert_true(x + 1 > (1 - share) * (blocks - 1));
      for (uint32_t i = 0; i < blocks; ++i) chooser.added(BlockForm::kv);
    }
  }
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(nothing_and_everything_are_what_they_say),
      cmocka_unit_test(a_fraction_is_reached_in_long_stretches),
      cmocka_unit_test(a_prompt_gets_its_share_as_x_first),
      cmocka_unit_test(shares_are_where_link_and_device_meet),
      cmocka_unit_test(x_that_does_not_pay_is_not_stored),
      cmocka_unit_test(the_device_is_given_x_where_k_and_v_do_not_fit),
      cmocka_unit_test(what_hardly_gains_moves_nothing),
      cmocka_unit_test(with_a_host_kv_stays_kv),
      cmocka_unit_test(with_a_host_short_sequences_are_whole_and_long_ones_are_cut),
      cmocka_unit_test(fixed_parts_are_kept_free_of_x),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
