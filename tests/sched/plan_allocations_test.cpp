// SPDX-License-Identifier: Apache-2.0
// Building Plans takes no memory once the largest has been built.
#include <utility>

#include "tests/counted_allocations.h"
#include "tests/sched/plan_world.h"

#include "tests/cmocka_cpp.h"

namespace iokv::test {
namespace {

uint64_t allocations_of(PlanBuilder& builder, Plan& plan) {
  const uint64_t before = allocations;
  builder.build(plan);
  return allocations - before;
}

void a_plan_that_is_built_again_takes_no_memory(void**) {
  std::mt19937_64 random(test_seed());
  uint64_t first = 0;
  for (int world = 0; world < 200; ++world) {
    const StagingShape shape = random_shape(random);
    std::vector<Plan> plans = random_plans(random(), shape, 4);
    PlanBuilder builder(shape);
    for (Plan& plan : plans) first += allocations_of(builder, plan);
    for (Plan& plan : plans) assert_int_equal(allocations_of(builder, plan), 0);
  }
  assert_true(first > 0);  // they are counted
}

// As the conductor uses its Plans: cleared and filled in again, for many spans and for few.
void one_plan_for_all_batches_takes_no_memory(void**) {
  std::mt19937_64 random(test_seed());
  const StagingShape shape = random_shape(random);
  const std::vector<Plan> batches = random_plans(random(), shape, 40);
  PlanBuilder builder(shape);
  Plan plan;
  auto build_all = [&] {
    const uint64_t before = allocations;
    for (const Plan& batch : batches) {
      plan.clear();
      plan.spans.insert(plan.spans.end(), batch.spans.begin(), batch.spans.end());
      plan.runs.insert(plan.runs.end(), batch.runs.begin(), batch.runs.end());
      builder.build(plan);
    }
    return allocations - before;
  };
  assert_true(build_all() > 0);
  assert_int_equal(build_all(), 0);
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {cmocka_unit_test(a_plan_that_is_built_again_takes_no_memory),
                              cmocka_unit_test(one_plan_for_all_batches_takes_no_memory)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
