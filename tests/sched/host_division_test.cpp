// SPDX-License-Identifier: Apache-2.0
// Rows divided between device and host: against every number of tokens that the host could get, and against what has been
// measured of such steps.
#include "daemon/sched/host_division.h"

#include <cmath>
#include <cstdio>

#include "daemon/sched/cost.h"
#include "daemon/sched/plan_check.h"
#include "daemon/sched/split.h"
#include "daemon/sched/step_time.h"
#include "daemon/sched/whole_placement.h"
#include "tests/sched/plan_world.h"
#include "tests/sched/profiles.h"

#include "tests/cmocka_cpp.h"

namespace iokv::test {
namespace {

// OPT-6.7B on an H200 as measured: 55.5 GB/s, 736 TFLOP/s, 14 host threads that attend at 84 GB/s while the link has 54.2.
constexpr CacheShape kOpt{32, 8192, 16384, 64};
Profile h200() {
  Profile profile = paper_profile(4096, 4096, 55.5e9, 736e12);
  profile.dense = {110'000, 0, 600};
  profile.attend = {3000, 0, 16384 / 3400.0};
  profile.exchange = {0, 20'000, 300};
  profile.host_attend = {0, 15'000, 16384 / 84.0};
  profile.host_slows_link = 1.024;
  profile.contention = 0.9;
  return profile;
}

StepModel model_of(const Profile& profile, const CacheShape& shape) {
  StepModel model;
  model.profile = profile;
  model.shape = shape;
  return model;
}

StagingShape ring() {
  StagingShape shape;
  shape.slot_blocks = 64;
  shape.kv_slots = shape.x_slots = 4;
  shape.tile_tokens = 64 * kBlockTokens;
  shape.kv_units = 2;
  return shape;
}

// A step of a token each of sequences with `context` cached tokens, the first `as_x` of them X as a whole.
Plan decode(World& world, uint32_t sequences, uint32_t as_x, uint32_t context) {
  Plan before, plan;
  for (uint32_t i = 0; i < sequences; ++i) world.add(before, world.open(), context, i < as_x);
  for (uint32_t i = 0; i < sequences; ++i) world.add(plan, world.sequences[i], 1, i < as_x);
  for (PlanSpan& span : plan.spans) span.decode = true;
  return plan;
}

uint64_t given(const Plan& plan) {
  uint64_t tokens = 0;
  for (const PlanSpan& span : plan.spans) tokens += span.host_tokens();
  return tokens;
}

// 18 sequences of 32 as X over the link, 14 attended to by the host: 89.2 ms by the prototype, 155 over the link alone.
void opt_67b_takes_as_long_as_measured(void**) {
  World world(1, ring());
  Plan plan = decode(world, 32, 18, 1024);
  const StepModel model = model_of(h200(), kOpt);
  HostDivision(ring()).divide(plan, model);
  PlanBuilder builder(ring());
  builder.build(plan);
  assert_true(given(plan) > 13 * 1024);
  const double ms = std::max(streaming_cost(model.profile, kOpt, plan.work).total_ns, StepTimer(model.profile, kOpt, ring()).step_ns(plan)) / 1e6;
  std::printf("%lu tokens of %lu rows by the host: %.1f ms\n", plan.work.kv_attended, plan.work.divided, ms);
  assert_true(ms > 80 && ms < 95);
}

// And that is how the tokens of such a step would be stored.
void the_placement_is_that_of_the_measured_optimum(void**) {
  LayerWork work;
  work.rows = 32;
  work.attended = work.products = work.kv_host = 32 * 1024;
  const LayerWork best = best_whole_placement(h200(), kOpt, work, 0);
  std::printf("%lu as X, %lu as K,V over the link, %lu by the host\n", best.x_host, best.kv_host, best.kv_attended);
  assert_true(best.x_host > 17 * 1024 && best.x_host < 19 * 1024);
  assert_true(best.kv_attended > 13 * 1024 && best.kv_host < 512);
  // Of grouped queries nothing is X: what divides link and host are their rates.
  const CacheShape grouped{32, 8192, 4096, 16};
  Profile profile = h200();
  profile.h2d.each_ns = 1 / 55.5, profile.host_attend.each_ns = 4096 / 84.0;
  work.attended = work.products = work.kv_host = 32 * 4096;
  const LayerWork divided = best_whole_placement(profile, grouped, work, 0);
  assert_true(divided.x_host == 0);
  assert_true(std::abs(static_cast<double>(divided.kv_attended) / (32 * 4096) - 84 / (84 + 54.2)) < 0.02);
}

Profile random_host(std::mt19937_64& random) {
  Profile profile = random_profile(random);
  const auto between = [&](double low, double high) { return std::uniform_real_distribution<>(low, high)(random); };
  profile.host_attend = {0, between(0, 5e4), between(1, 500)};
  profile.exchange = {0, between(0, 2e4), between(0, 500)};
  profile.host_slows_link = between(1, 1.3);
  profile.host_contention = random() % 2 == 0 ? 0 : between(0, 1);
  return profile;
}

// X, K,V over the link and K,V by the host in all ways, some hundred tokens apart.
void placements_are_as_short_as_any(void**) {
  std::mt19937_64 random(test_seed());
  int with_host_part = 0;
  for (int i = 0; i < 200; ++i) {
    const Profile profile = random_host(random);
    const CacheShape shape = cache_shape(2, 1 << (8 + random() % 5), 1 << (7 + random() % 5));
    LayerWork work;
    work.rows = 1 + random() % 64;
    work.kv_host = 2000 + random() % 30'000;
    work.attended = work.products = work.kv_host + work.rows;
    const LayerWork best = best_whole_placement(profile, shape, work, 0);
    const double best_ns = streaming_cost(profile, shape, best).total_ns;
    assert_int_equal(best.x_host + best.kv_host + best.kv_attended, work.kv_host);
    double least_ns = INFINITY;
    constexpr uint64_t kParts = 40;
    for (uint64_t x = 0; x <= kParts; ++x) {
      for (uint64_t attended = 0; x + attended <= kParts; ++attended) {
        LayerWork one = work;
        one.x_host = x * work.kv_host / kParts;
        one.kv_host -= one.x_host;
        const uint64_t tokens = std::min(one.kv_host, attended * work.kv_host / kParts);
        one = with_host(one, tokens, tokens == 0 ? 0 : work.rows);
        least_ns = std::min(least_ns, streaming_cost(profile, shape, one).total_ns);
      }
    }
    with_host_part += best.kv_attended > 0;
    if (best_ns > least_ns * 1.003) std::printf("%d: %g, and %g there is\n", i, best_ns, least_ns);
    assert_true(best_ns <= least_ns * 1.003);
  }
  std::printf("%d of 200 with a part for the host\n", with_host_part);
  assert_true(with_host_part > 50);
}

// Of random steps, which then are what check_plans demands: the host's part makes none longer, none could be shorter by more
// than a percent or a block, and where nothing gains nothing is divided.
void random_steps_are_divided_as_well_as_any(void**) {
  std::mt19937_64 random(test_seed());
  int divided = 0, checked = 0;
  for (int i = 0; i < 300; ++i) {
    StagingShape shape = random_shape(random);
    shape.in_place = false;
    const StepModel model = model_of(random_host(random), cache_shape(3, 512, 1 << (6 + random() % 5)));
    World world(random(), shape);
    if (world.chance(30)) world.residents_percent = 20;
    world.loads = true;
    Plan before, plan;
    before.id = 1, plan.id = 2;
    const uint32_t sequences = 1 + world.below(12);
    for (uint32_t s = 0; s < sequences; ++s) {
      WorldSequence& sequence = world.open();
      for (uint32_t part = 0; part < 2; ++part) world.add(part == 0 ? before : plan, sequence, part == 0 ? 1 + world.below(600) : 1, world.chance(40));
    }
    if (world.chance(30)) world.add(plan, world.open(), 1 + world.below(60), false);
    PlanBuilder builder(shape);
    Plan whole = plan;
    builder.build(before), builder.build(whole);
    HostDivision(shape).divide(plan, model);
    builder.build(plan);
    const Plan* const pointers[] = {&before, &plan};
    const std::string violation = check_plans(pointers, shape, 3);
    if (!violation.empty()) std::printf("%d: %s\n", i, violation.c_str());
    assert_true(violation.empty());
    const auto ns_of = [&](const LayerWork& work) { return streaming_cost(model.profile, model.shape, work).total_ns; };
    const double ns = ns_of(plan.work), whole_ns = ns_of(whole.work);
    divided += plan.work.divided > 0;
    ++checked;
    assert_true(ns <= whole_ns * (1 + 1e-9));
    // A block of all ends is as near as parts can come.
    uint64_t most = 0;
    for (const PlanSpan& span : whole.spans) {
      const uint32_t from = first_of_end(whole, span);
      if (span.rows == 1 && from != kAllOnDevice) most += span.first_position - from;
    }
    double least_ns = whole_ns, block_ns = 0;
    for (uint64_t tokens = kBlockTokens; tokens <= most; tokens += kBlockTokens) {
      least_ns = std::min(least_ns, ns_of(with_host(whole.work, tokens, sequences)));
      block_ns = std::max(block_ns, std::abs(ns_of(with_host(whole.work, tokens, sequences)) -
                                             ns_of(with_host(whole.work, tokens - kBlockTokens, tokens == kBlockTokens ? 0 : sequences))));
    }
    if (ns > least_ns * 1.01 + 2 * block_ns) std::printf("%d: %g, and %g there is\n", i, ns, least_ns);
    assert_true(ns <= least_ns * 1.01 + 2 * block_ns);
  }
  std::printf("%d of %d divided\n", divided, checked);
  assert_true(divided > 30 && divided < checked);
}

// Contexts of 1, 2, 4 ... thousand tokens of which the host gets a third: of the longest.
void the_longest_contexts_are_divided_first(void**) {
  World world(1, ring());
  Plan before, plan;
  for (uint32_t i = 0; i < 5; ++i) world.add(before, world.open(), 1000u << i, false);
  for (uint32_t i = 0; i < 5; ++i) world.add(plan, world.sequences[i], 1, false);
  Profile profile = h200();
  profile.host_attend = {0, 100, 2 * 16384 / 55.5};
  profile.exchange = {};
  HostDivision(ring()).divide(plan, model_of(profile, kOpt));
  assert_true(std::abs(static_cast<double>(given(plan)) / 31'000 - 1.0 / 3) < 0.01);
  for (uint32_t i = 0; i < 4; ++i) assert_int_equal(plan.spans[i].host_tokens(), 0);
  assert_true(plan.spans[4].host_from % kBlockTokens == 0);
}

void what_the_host_has_is_not_in_the_ring_s_load(void**) {
  for (uint32_t context : {1024u, 1000u}) {
    World world(1, ring());
    Plan plan = decode(world, 1, 0, context);
    PlanSpan& span = plan.spans[0];
    span.load = world.sequences[0].blocks.load();
    Profile profile = h200();
    profile.host_attend = {0, 0, 1e-3};
    profile.h2d.each_ns *= 100;  // of all of it
    profile.exchange = {};
    HostDivision(ring()).divide(plan, model_of(profile, kOpt));
    assert_int_equal(span.host_from, 0);
    assert_int_equal(span.load.areas, 1);  // with the row's own token
    assert_int_equal(span.load.link_units, context == 1024 ? ring().kv_units : 0);
  }
}

// Nobody's parts but their own: whoever else is there.
void fixed_shares_depend_on_the_context_alone(void**) {
  const double share = fixed_host_share(h200(), kOpt);
  std::printf("%.1f %% of a context\n", 100 * share);
  assert_true(share > 0.35 && share < 0.5);
  for (uint32_t others : {0u, 1u, 20u}) {
    World world(others, ring());
    Plan plan = decode(world, others + 1, 0, 2000);
    plan.spans[others].decode = others != 1;
    for (PlanSpan& span : plan.spans) span.host_share = share;
    HostDivision(ring()).divide_by_share(plan, h200(), kOpt);
    const uint32_t expected = fixed_host_from(h200(), kOpt, share, 2000);
    assert_int_equal(plan.spans[0].host_from, expected);
    if (others == 1) assert_int_equal(plan.spans[1].host_from, kAllOnDevice);
  }
  uint32_t before = 0;
  for (uint32_t cached = 1; cached < 20'000; ++cached) {
    const uint32_t from = fixed_host_from(h200(), kOpt, share, cached);
    if (from == kAllOnDevice) {
      assert_true(cached < 1000);
      continue;
    }
    assert_true(from % kBlockTokens == 0 && from < cached && from >= before);
    before = from;
  }
}

void no_host_no_part(void**) {
  World world(1, ring());
  Plan plan = decode(world, 4, 0, 1024);
  Profile profile = h200();
  profile.host_attend = {};
  HostDivision(ring()).divide(plan, model_of(profile, kOpt), 0.1);
  assert_int_equal(given(plan), 0);
  profile = h200();
  profile.host_attend.each_ns = 5e4;  // a token takes as long as 170 over the link
  HostDivision(ring()).divide(plan, model_of(profile, kOpt));
  assert_int_equal(given(plan), 0);
  // ... but is looked at where that is asked for.
  HostDivision(ring()).divide(plan, model_of(profile, kOpt), 1e-3);
  assert_int_equal(given(plan), 64);
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(opt_67b_takes_as_long_as_measured),
      cmocka_unit_test(the_placement_is_that_of_the_measured_optimum),
      cmocka_unit_test(placements_are_as_short_as_any),
      cmocka_unit_test(random_steps_are_divided_as_well_as_any),
      cmocka_unit_test(the_longest_contexts_are_divided_first),
      cmocka_unit_test(what_the_host_has_is_not_in_the_ring_s_load),
      cmocka_unit_test(fixed_shares_depend_on_the_context_alone),
      cmocka_unit_test(no_host_no_part),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
