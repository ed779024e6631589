// SPDX-License-Identifier: Apache-2.0
// Predicted times against sums made by hand.
#include "daemon/sched/cost.h"

#include <cmath>

#include "tests/sched/profiles.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

void assert_near(double value, double expected, double relative = 1e-9) {
  if (std::abs(value - expected) <= relative * std::abs(expected)) return;
  print_error("%.12g is not %.12g\n", value, expected);
  fail();
}

constexpr uint64_t kTokens = 32 * 1024;  // 32 sequences of 1,024

// OPT-6.7B: 32 layers, h = k = 4096: 512 KiB of K,V a token, 17.18 GB in all. At 55.5 GB/s that is 309.5 ms, and X half.
void opt_67b_takes_what_the_link_needs(void**) {
  const CacheShape shape = cache_shape(32, 4096, 4096);
  const Profile profile = paper_profile(4096, 4096, 55.5e9, 736e12);
  LayerWork work;
  work.kv_host = kTokens;
  StepCost cost = streaming_cost(profile, shape, work);
  assert_near(cost.total_ns, 17.179869184e9 / 55.5e9 * 1e9);
  assert_true(cost.bound == Bound::link);

  work = {};
  work.x_host = kTokens;
  cost = streaming_cost(profile, shape, work);
  assert_near(cost.total_ns, 17.179869184e9 / 2 / 55.5e9 * 1e9);
  assert_near(cost.recompute_ns, 4.0 * 4096 * 4096 * kTokens * 32 / 736e12 * 1e9);
  assert_true(cost.bound == Bound::link);
}

void the_serial_model_is_the_papers(void**) {
  const CacheShape shape = cache_shape(2, 1000, 1000);  // X 2,000 bytes, K,V 4,000 a token
  Profile profile;
  profile.h2d.each_ns = 0.1;      // X 200 ns, K,V 400 ns a token
  profile.recompute.each_ns = 300;
  profile.dense.each_ns = 50;
  profile.head.each_ns = 7;
  LayerWork work;
  work.x_host = 10;   // 2,000 ns of X, 3,000 ns of recomputation
  work.kv_host = 5;   // 2,000 ns of K,V
  work.rows = 1;
  assert_near(serial_cost(profile, shape, work, PaperSchedule::column_by_column).total_ns, 2 * (2000 + 3000 + 50) + 7);
  assert_near(serial_cost(profile, shape, work, PaperSchedule::row_by_row).total_ns, 2 * (3000 + 50) + 7);
  work.kv_host = 10;  // now K,V of 4,000 ns is longer than the recomputation
  work.weight_bytes = 500;
  assert_near(serial_cost(profile, shape, work, PaperSchedule::column_by_column).total_ns,
              2 * (50 + 2000 + 4000 + 50) + 7);
  assert_near(streaming_cost(profile, shape, work).total_ns, 2 * (2000 + 4000 + 50));
}

void small_operations_take_their_least(void**) {
  const Curve curve{100, 10, 2};
  assert_near(curve.at(1), 100);
  assert_near(curve.at(45), 100);
  assert_near(curve.at(50), 110);
  assert_true(curve.at(0) == 0);
}

void copies_count(void**) {
  const CacheShape shape = cache_shape(1, 500, 500);  // K,V 2,000 bytes a token
  Profile profile;
  profile.h2d = {0, 30, 0.01};
  LayerWork work;
  work.kv_host = 5;
  assert_near(streaming_cost(profile, shape, work).total_ns, 30 + 100);
  work.copy_bytes = 4000;  // 4,000, 4,000 and 2,000 bytes
  assert_near(streaming_cost(profile, shape, work).total_ns, 3 * 30 + 100);
}

void both_directions_slow_each_other(void**) {
  const CacheShape shape = cache_shape(1, 500, 500);
  Profile profile;
  profile.h2d.each_ns = profile.d2h.each_ns = 1;
  profile.duplex = 1.25;
  LayerWork work;
  work.kv_host = 10;  // 20,000 ns
  work.new_kv = 4;    // 8,000 ns, beside which 8,000 of the others take 2,000 more
  const StepCost cost = streaming_cost(profile, shape, work);
  assert_near(cost.h2d_ns, 22000);
  assert_near(cost.d2h_ns, 10000);
}

// 3 rows of a prompt behind 100 tokens: 103 are read, 101 + 102 + 103 are computed with.
void attention_reads_or_computes(void**) {
  const CacheShape shape = cache_shape(2, 1, 1);
  Profile profile;
  profile.attend.each_ns = 10;
  LayerWork work;
  work.attended = 103;
  work.products = 306;
  assert_near(streaming_cost(profile, shape, work).total_ns, 2 * 1030);
  profile.attend_rows.each_ns = 3;
  assert_near(streaming_cost(profile, shape, work).total_ns, 2 * 1030);
  profile.attend_rows.each_ns = 4;
  assert_near(streaming_cost(profile, shape, work).total_ns, 2 * 1224);
}

void contention_lies_between_beside_and_in_turns(void**) {
  const CacheShape shape = cache_shape(1, 1, 1);
  Profile profile;
  profile.recompute.each_ns = 100;
  profile.dense.each_ns = 60;
  LayerWork work;
  work.x_device = 1;
  work.rows = 1;
  assert_near(streaming_cost(profile, shape, work).device_ns, 100);
  assert_true(streaming_cost(profile, shape, work).bound == Bound::recompute);
  profile.contention = 1;
  assert_near(streaming_cost(profile, shape, work).device_ns, 160);
  profile.dense.each_ns = 120;
  assert_true(streaming_cost(profile, shape, work).bound == Bound::dense);
}

// Two layers: 100 tokens over the link, 30 that the host attends to, in 3 rows.
void the_host_s_part_is_a_chain_with_dense_work(void**) {
  const CacheShape shape = cache_shape(2, 500, 500);  // K,V 2,000 bytes a token
  Profile profile;
  profile.h2d.each_ns = 0.1;                 // 200 ns a token
  profile.dense = {0, 0, 1000};              // 5 rows
  profile.attend.each_ns = 10;
  profile.exchange = {0, 400, 20};
  profile.host_attend = {0, 1000, 500};      // 16,000 ns
  profile.head.each_ns = 3;
  LayerWork work;
  work.rows = 5;
  work.attended = work.products = 100;
  work.kv_host = 100;
  work.kv_attended = 30;
  work.divided = 3;
  StepCost cost = streaming_cost(profile, shape, work);
  assert_near(cost.h2d_ns, 2 * 20000);
  assert_near(cost.host_ns, 2 * 16000);
  assert_near(cost.dense_ns, 2 * (5000 + 1000 + 460) + 15);
  assert_near(cost.chain_ns, 2 * (16000 + 5000 + 460) + 15);  // the device attends beside it
  assert_near(cost.total_ns, cost.chain_ns);
  assert_true(cost.bound == Bound::host);

  // The link is slower while the host attends: of 32,000 ns a fifth is lost, which the link makes up for afterwards.
  profile.host_slows_link = 1.25;
  cost = streaming_cost(profile, shape, work);
  assert_near(cost.h2d_ns, 40000 + 32000 / 5.0);
  assert_near(cost.total_ns, 40000 + 32000 / 5.0);
  assert_true(cost.bound == Bound::link);

  // One processor for both: they take turns.
  profile.host_contention = 1;
  profile.dense.each_ns = 4000;
  cost = streaming_cost(profile, shape, work);
  assert_near(cost.total_ns, 2 * (20000 + 1000 + 460) + 15 + 32000);
  assert_true(cost.bound == Bound::dense);

  work.kv_attended = work.divided = 0;
  cost = streaming_cost(profile, shape, work);
  assert_true(cost.chain_ns == 0 && cost.host_ns == 0);
  assert_near(cost.total_ns, 2 * 21000 + 15);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(opt_67b_takes_what_the_link_needs), cmocka_unit_test(the_serial_model_is_the_papers),
      cmocka_unit_test(small_operations_take_their_least), cmocka_unit_test(copies_count),
      cmocka_unit_test(both_directions_slow_each_other),   cmocka_unit_test(attention_reads_or_computes),
      cmocka_unit_test(contention_lies_between_beside_and_in_turns),
      cmocka_unit_test(the_host_s_part_is_a_chain_with_dense_work),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
