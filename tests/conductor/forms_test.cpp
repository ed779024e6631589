// SPDX-License-Identifier: Apache-2.0
// As what blocks, and their copies on the device, are stored, beside what is best for the step in which everybody decodes.
#include <cstdio>

#include "daemon/sched/whole_placement.h"
#include "tests/conductor/harness.h"
#include "tests/sched/profiles.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

constexpr uint32_t kContext = 1024, kSequences = 32, kBlocks = kSequences * (kContext / kBlockTokens + 2);

// OPT-6.7B on an H200, with device memory for so many blocks of K,V.
ConductorConfig config(uint32_t device_blocks) {
  ConductorConfig config;
  config.max_context = 2 * kContext;
  config.recompute.mode = Recompute::automatic;
  config.batch.max_rows = kSequences * kContext;
  config.batch.max_draws = kSequences;
  config.plans_in_flight = 1;
  config.staging.kv_units = 2;
  config.staging.slot_blocks = 64;
  config.staging.kv_slots = config.staging.x_slots = 4;
  config.staging.tile_tokens = 64 * kBlockTokens;
  config.device_units = device_blocks * config.staging.kv_units;
  Profile& profile = config.step_model.profile;
  profile = paper_profile(4096, 4096, 55.5e9, 736e12);
  profile.dense = {110'000, 0, 600};
  profile.attend = {3000, 0, 16384 / 3400.0};
  config.step_model.shape = {32, 8192, 16384, 64};
  return config;
}

// The Plan in which all decode, of prompts that came so many at once. Of prompts that come one after another the first ones
// fill the device with K,V, and the best is that of the others.
void expect_near_best(uint32_t device_blocks, uint32_t at_once) {
  const ConductorConfig setup = config(device_blocks);
  Harness harness(setup, 2 * kBlocks, false);
  const ClientId client = harness.join(0, {256, 4096, 1 << 20, 4096});
  const Plan* plan = nullptr;
  for (uint32_t begun = 0, steps = 0; steps < 200; ++steps) {
    for (uint32_t i = 0; i < at_once && begun < kSequences; ++i) {
      harness.open(client, ++begun);
      harness.submit(client, Harness::step(begun, kContext, 128));
    }
    harness.plan();
    plan = harness.issued.front();
    if (plan->spans.size() == kSequences && plan->tokens.size() == kSequences) break;
    harness.now_ns += 1'000'000;
    harness.retire();
    harness.reaped(client);
  }
  assert_int_equal(plan->tokens.size(), kSequences);
  const Profile& profile = setup.step_model.profile;
  const CacheShape& shape = setup.step_model.shape;
  LayerWork all = plan->work;
  all.x_host = all.x_device = 0;
  all.kv_host = 0;
  for (const PlanSpan& span : plan->spans) all.kv_host += span.first_position;
  const bool filled = at_once < kSequences;
  if (filled) all.kv_host -= std::min<uint64_t>(all.kv_host, device_blocks * kBlockTokens);
  const uint64_t device_bytes = filled ? 0 : uint64_t{device_blocks} * kBlockTokens * shape.kv_bytes * shape.layers;
  const double best_ns = streaming_cost(profile, shape, best_whole_placement(profile, shape, all, device_bytes)).total_ns;
  const double planned_ns = streaming_cost(profile, shape, plan->work).total_ns;
  std::printf("%u blocks on the device, %u prompts at once: X of %lu tokens there and %lu on the host, K,V of %lu: %.1f ms, %.1f at best\n",
              device_blocks, at_once, plan->work.x_device, plan->work.x_host, plan->work.kv_host, planned_ns / 1e6, best_ns / 1e6);
  assert_true(planned_ns < 1.1 * best_ns);
}

void steps_take_little_longer_than_they_must(void**) {
  for (uint32_t device_blocks : {0u, kBlocks / 8, kBlocks / 4, kBlocks / 2, kBlocks * 3 / 4, kBlocks}) {
    expect_near_best(device_blocks, kSequences);
  }
}

// What has a copy as K,V keeps it: what comes later is planned for the device as it is then.
void who_comes_later_makes_the_best_of_it(void**) {
  for (uint32_t device_blocks : {0u, kBlocks / 8, kBlocks / 4, kBlocks / 2, kBlocks * 3 / 4, kBlocks}) {
    expect_near_best(device_blocks, 1);
  }
}

}  // namespace
}  // namespace iokv

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(iokv::steps_take_little_longer_than_they_must),
      cmocka_unit_test(iokv::who_comes_later_makes_the_best_of_it),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
