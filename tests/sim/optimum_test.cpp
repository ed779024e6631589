// SPDX-License-Identifier: Apache-2.0
// The first of the instances that bench/optimum.h makes; scripts/bench optimum runs ten thousand. Seeds are fixed, so
// that a run is the same everywhere; IOKV_SEED gives another first one.
#include "bench/optimum.h"

#include <cmath>
#include <thread>

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

constexpr uint64_t kInstances = 120;

uint64_t first_seed() { return std::getenv("IOKV_SEED") != nullptr ? test_seed() : 1; }

void nothing_executed_is_half_a_percent_faster_than_what_is_planned(void**) {
  const OptimumFigures figures = measure_optimum(first_seed(), kInstances, std::thread::hardware_concurrency());
  const OptimumInstance worst = random_optimum_instance(figures.worst_seed);
  std::printf("%llu executions; %.4f x the fastest at worst: %s\n", static_cast<unsigned long long>(figures.executions),
              figures.worst_over_optimum, describe(worst).c_str());
  std::printf("executed against predicted: %.3f %% at worst\n", figures.prediction_error.worst * 100);
  assert_int_equal(figures.instances, kInstances);
  assert_true(figures.executions > 100 * kInstances);
  assert_true(figures.worst_over_optimum <= 1.005);
  assert_true(figures.prediction_error.worst < 0.0075);  // of 600 instances 99 % are within 0.25 %
  // What is predicted is not what is executed by another name: the sums of work miss what is fastest.
  assert_true(figures.summed_over_optimum.worst > 1.05);
}

// A choice that does not matter would be the best one, too.
void instances_have_something_to_choose(void**) {
  uint64_t recomputed = 0, sent = 0, mixed = 0, resident = 0;
  for (uint64_t i = 0; i < kInstances; ++i) {
    const OptimumInstance instance = random_optimum_instance(first_seed() + i);
    OptimumDevice device(instance);
    const LayoutProblem problem = instance.problem();
    const CacheLayout chosen =
        fastest_split(problem, {}, [&](const CacheLayout& layout) { return device.predicted_ns(layout); });
    const uint64_t all = problem.splits_at_blocks({}).back();
    sent += chosen.x_host_tokens == 0;
    recomputed += chosen.x_host_tokens == all;
    mixed += chosen.x_host_tokens > 0 && chosen.x_host_tokens < all;
    resident += problem.most_kv_device(0) > 0;
  }
  std::printf("of %llu: K,V only %llu, X only %llu, both %llu; %llu with room on the device\n",
              static_cast<unsigned long long>(kInstances), static_cast<unsigned long long>(sent),
              static_cast<unsigned long long>(recomputed), static_cast<unsigned long long>(mixed),
              static_cast<unsigned long long>(resident));
  for (uint64_t count : {sent, recomputed, mixed, resident}) assert_true(count >= kInstances / 10);
}

void an_instance_can_be_repeated(void**) {
  const OptimumInstance instance = random_optimum_instance(3), again = random_optimum_instance(3);
  assert_string_equal(describe(instance).c_str(), describe(again).c_str());
  OptimumDevice device(instance), other(again);
  const CacheLayout layout{1, 2, 300};
  const double ns = device.executed_ns(layout);
  device.executed_ns({});
  assert_true(std::abs(device.executed_ns(layout) - ns) <= 2);  // ends are whole nanoseconds
  assert_true(std::abs(other.executed_ns(layout) - ns) <= 2);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(nothing_executed_is_half_a_percent_faster_than_what_is_planned),
      cmocka_unit_test(instances_have_something_to_choose),
      cmocka_unit_test(an_instance_can_be_repeated),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
