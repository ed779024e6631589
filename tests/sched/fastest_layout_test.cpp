// SPDX-License-Identifier: Apache-2.0
// The search against every candidate, for times that have a shape like a step's; executed steps are in
// tests/sim/optimum_test.cpp.
#include "daemon/sched/fastest_layout.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/sched/profiles.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

// A link that X takes half of and products that it takes more of, with a tooth for each block begun.
double valley_ns(const CacheLayout& layout, double all, double share) {
  const double x = static_cast<double>(layout.x_host_tokens);
  const double tooth = layout.x_host_tokens % 64 == 0 ? 0 : 3;
  return std::max(2 * all - x, 2 * all - share * all + 2 * (x - share * all)) + tooth;
}

void a_valley_is_found_to_the_token(void**) {
  std::mt19937_64 random(test_seed());
  for (int round = 0; round < 300; ++round) {
    std::vector<uint32_t> contexts(1 + random() % 40);
    uint64_t all = 0;
    for (uint32_t& context : contexts) all += context = static_cast<uint32_t>(1 + random() % 600);
    const LayoutProblem problem{cache_shape(4, 64, 64), contexts, 0, static_cast<uint32_t>(1 + random() % 16)};
    const double share = std::uniform_real_distribution<>(-0.2, 1.2)(random);
    uint64_t timed = 0;
    auto time = [&](const CacheLayout& layout) {
      ++timed;
      return valley_ns(layout, static_cast<double>(all), share);
    };
    const CacheLayout found = fastest_split(problem, {}, time);
    assert_true(timed <= 150);
    double least = INFINITY;
    for (uint64_t x = 0; x <= all; ++x) least = std::min(least, time({0, 0, x}));
    assert_true(time(found) <= least + 3);  // a tooth at most
  }
}

void what_fits_is_what_the_bytes_say(void**) {
  const std::vector<uint32_t> contexts{64, 63, 200};  // 2, 1 and 4 blocks
  const CacheShape shape = cache_shape(2, 32, 32);    // 64 bytes of X, 128 of K,V; a block 4 KiB and 8
  const LayoutProblem problem{shape, contexts, 2 * (3 * 4096 + 8192 + 100), 2};
  assert_int_equal(problem.blocks(), 7);
  assert_int_equal(problem.most_x_device(), 5);
  assert_int_equal(problem.most_kv_device(0), 2);
  assert_int_equal(problem.most_kv_device(3), 1);
  const std::vector<uint64_t> blocks = problem.splits_at_blocks({});
  assert_true((blocks == std::vector<uint64_t>{0, 64, 127, 191, 255, 319, 327}));
  // Without the first block and the last two: 63 tokens of the second sequence, 128 of the third.
  assert_true((problem.splits_at_blocks({1, 2, 0}) == std::vector<uint64_t>{0, 63, 127, 191}));
}

// Every layout that fits, of few blocks.
void no_layout_is_faster(void**) {
  std::mt19937_64 random(test_seed());
  for (int round = 0; round < 60; ++round) {
    const std::vector<uint32_t> contexts{static_cast<uint32_t>(64 + random() % 300),
                                         static_cast<uint32_t>(64 + random() % 300)};
    const CacheShape shape = cache_shape(2, 32, 32);
    const LayoutProblem problem{shape, contexts, 2 * (random() % 9) * 8192, 4};
    auto between = [&](double low, double high) { return std::uniform_real_distribution<>(low, high)(random); };
    const double recompute = between(0.1, 3), dense = between(0, 300);
    auto time = [&](const CacheLayout& layout) {
      const double x_device = 64.0 * static_cast<double>(layout.x_device_blocks);
      const double x = static_cast<double>(layout.x_host_tokens);
      const double host = static_cast<double>(problem.splits_at_blocks(layout).back());
      return std::max(2 * host - x, recompute * (x + x_device) + dense);
    };
    const CacheLayout found = fastest_layout(problem, time);
    assert_in_range(found.x_device_blocks, 0, problem.most_x_device());
    assert_in_range(found.kv_device_blocks, 0, problem.most_kv_device(found.x_device_blocks));
    double least = INFINITY;
    for (uint64_t x = 0; x <= problem.most_x_device(); ++x) {
      for (uint64_t kv = 0; kv <= problem.most_kv_device(x); ++kv) {
        for (uint64_t split : problem.splits_at_blocks({x, kv, 0})) least = std::min(least, time({x, kv, split}));
      }
    }
    assert_true(time(found) <= least * (1 + 1e-9));
  }
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_valley_is_found_to_the_token),
      cmocka_unit_test(what_fits_is_what_the_bytes_say),
      cmocka_unit_test(no_layout_is_faster),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
