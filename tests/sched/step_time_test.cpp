// SPDX-License-Identifier: Apache-2.0
// Steps whose time follows from one queue that never waits, or from what waits for what; tests/sim/optimum_test.cpp
// compares random ones with their execution.
#include "daemon/sched/step_time.h"

#include <algorithm>
#include <cmath>

#include "daemon/base/units.h"
#include "tests/sched/profiles.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

void assert_near(double value, double expected, double relative = 1e-9) {
  if (std::abs(value - expected) <= relative * std::abs(expected)) return;
  print_error("%.12g is not %.12g\n", value, expected);
  fail();
}

constexpr uint32_t kLayers = 4;

// X 200 bytes, K,V 400 bytes a token, 8 heads' K and V; a slot holds 4 blocks.
struct Step {
  CacheShape shape{kLayers, 200, 400, 16};
  StagingShape staging;
  Profile profile;
  Plan plan;

  Step() {
    staging = {4, 3, 6, 256, 2, 1, false};
    profile.h2d.each_ns = profile.d2h.each_ns = 1;
    profile.recompute.each_ns = 1;
    profile.attend.each_ns = profile.dense.each_ns = profile.head.each_ns = 1e-6;  // none to speak of
  }

  void add(uint32_t context, BlockForm form, bool resident = false) {
    PlanSpan span;
    span.first_row = span.slot = static_cast<uint32_t>(plan.spans.size());
    span.rows = span.runs = 1;
    span.first_run = static_cast<uint32_t>(plan.runs.size());
    span.first_position = context;
    BlockRun run;
    run.id = 1000 * span.slot;
    if (resident) run.device_id = run.id;
    run.blocks = blocks_for(Tokens(context + 1)).value;
    run.form = run.device_form = form;
    plan.spans.push_back(span);
    plan.runs.push_back(run);
  }

  double ns() {
    PlanBuilder(staging).build(plan);
    return StepTimer(profile, shape, staging).step_ns(plan);
  }
};

void a_link_that_binds_never_waits(void**) {
  Step step;
  step.add(256, BlockForm::kv);
  step.add(512, BlockForm::kv);
  assert_near(step.ns(), kLayers * 768 * 400.0, 1e-4);
  step.profile.h2d.fixed_ns = 1000;  // 3 rounds and, of the second sequence, the last block alone
  const auto fetches = std::count_if(step.plan.ops.begin(), step.plan.ops.end(),
                                     [](const PlanOp& op) { return op.queue == Queue::h2d; });
  assert_near(step.ns(), kLayers * (768 * 400.0 + 1000.0 * static_cast<double>(fetches)), 1e-4);
}

void x_is_half_and_recomputed_beside_the_link(void**) {
  Step step;
  step.add(768, BlockForm::x);
  step.profile.recompute.each_ns = 100;  // half of what X takes on the link
  assert_near(step.ns(), kLayers * 768 * 200.0, 1e-4);
}

// A few tokens of K,V of a block lie in a piece for each head's K and V, whole blocks of a sequence in one.
void pieces_take_their_time(void**) {
  Step step;
  step.add(200, BlockForm::kv);  // 3 blocks and 8 tokens
  step.profile.piece_ns = 1000;
  step.profile.d2h = {};
  assert_near(step.ns(), kLayers * (200 * 400.0 + 16 * 1000), 1e-4);
}

// Recomputation of a step begins when the step ahead has ended, and a layer's attention behind its recomputation.
void recomputation_waits_for_the_step_ahead(void**) {
  Step step;
  step.profile.h2d.each_ns = 1e-3;
  step.profile.recompute.each_ns = 100;
  step.profile.head = {0, 5000, 0};
  step.add(256, BlockForm::x);
  assert_near(step.ns(), kLayers * 256 * 100.0 + 5000, 1e-4);
}

// X on the device is recomputed block by block.
void x_on_the_device_makes_one_product_of_a_tile(void**) {
  Step step;
  step.profile.recompute = {5000, 0, 1};
  step.add(255, BlockForm::x, true);
  assert_near(step.ns(), kLayers * 5000.0, 1e-4);
}

void x_in_several_places_on_the_device_is_gathered(void**) {
  Step step;
  step.profile.recompute = {5000, 0, 1};
  step.profile.keep_x = {0, 1, 1};
  step.add(120, BlockForm::x, true);
  step.add(120, BlockForm::x, true);
  assert_near(step.ns(), kLayers * (5000.0 + 240 * 200.0), 0.01);  // and each layer keeps the two new rows' X
}

void dense_work_and_recomputation_contend(void**) {
  Step step;
  step.profile.h2d.each_ns = 1e-3;
  step.profile.recompute.each_ns = 100;
  step.profile.dense = {0, 10'000, 0};
  step.profile.project_share = 0;
  step.profile.contention = 0.5;
  step.add(256, BlockForm::x);
  // Of each layer but the last the rest runs beside the next one's recomputation.
  assert_near(step.ns(), kLayers * 256 * 100.0 + (kLayers - 1) * 0.5 * 10'000 + 10'000, 1e-4);
}

void both_directions_slow_each_other(void**) {
  Step step;
  step.profile.duplex = 1.25;
  step.profile.d2h = {0, 1000, 0};
  step.add(256, BlockForm::kv);
  // 1,000 ns of each layer's write-back take 1,250, in which the link does what takes 1,000.
  assert_near(step.ns(), kLayers * (256 * 400.0 + 0.25 * 1000), 1e-4);
}

// New rows of X on the device are copied there before attention.
void x_that_stays_is_copied(void**) {
  Step step;
  step.add(255, BlockForm::x, true);
  step.profile.recompute = step.profile.d2h = {};
  const double before_ns = step.ns();
  step.profile.keep_x = {0, 500, 1};
  assert_near(step.ns() - before_ns, kLayers * (500 + 200.0), 1e-3);
}

// The embedding runs beside the first layer's recomputation, logits and draws behind the last layer.
void the_embedding_comes_first(void**) {
  Step step;
  step.profile.h2d.each_ns = 1e-3;
  step.profile.recompute.each_ns = 100;
  step.profile.head = {0, 5000, 0};
  step.profile.embed_ns = 2000;
  step.add(256, BlockForm::x);
  assert_near(step.ns(), kLayers * 256 * 100.0 + 3000, 1e-4);
}

// Of every layer, or of some of many: their bytes are carried beside all others, and nothing else waits.
void weights_take_their_time_on_the_link(void**) {
  for (const auto& [layers, streamed] : {std::pair(3u, 3u), {6u, 4u}, {200u, 200u}, {200u, 70u}}) {
    Step step;
    step.shape.layers = layers;
    step.staging.weights = {{layers, streamed}, 2, 100'000, 900'000};
    step.add(768, BlockForm::kv);
    assert_near(step.ns(), layers * 768 * 400.0 + streamed * 1e6, 1e-3);
  }
}

// Through one slot the next layer's weights come when the layer has finished; through two while it is computed.
void one_slot_of_weights_waits_for_the_layer(void**) {
  Step step;
  step.profile.h2d = {0, 0, 1};
  step.profile.dense = {0, 50'000, 0};
  step.profile.project_share = 0;
  step.staging.weights = {{kLayers, kLayers}, 2, 10'000, 90'000};
  step.add(64, BlockForm::kv);
  step.profile.attend = step.profile.attend_rows = {};
  const double carried_ns = 64.0 * step.shape.kv_bytes + 100'000;
  assert_near(step.ns(), kLayers * carried_ns, 1e-3);
  step.staging.weights.slots = 1;
  assert_near(step.ns(), kLayers * (carried_ns + 50'000), 1e-3);
}

// Of many layers some are run, and the others take what these add.
void many_layers_take_as_long_each(void**) {
  Step step;
  step.profile.h2d.each_ns = 0.01;
  step.profile.recompute.each_ns = 100;
  step.profile.dense = {0, 10'000, 0};
  step.profile.head = {0, 5000, 0};
  step.add(700, BlockForm::x);
  step.add(300, BlockForm::kv);
  step.ns();
  const uint32_t run = std::max(StepTimer::kLeastLayers, StepTimer::kRunOps / static_cast<uint32_t>(step.plan.ops.size()));
  step.shape.layers = run - 1;
  const double fewer = step.ns();
  step.shape.layers = run;
  const double some = step.ns();
  step.shape.layers = 5 * run;
  assert_near(step.ns(), some + 4 * run * (some - fewer), 1e-3);
}

// While logits are computed the link fills a ring of several layers, and layers take their dense work until they have
// used it up; then they take what the link does.
void a_full_ring_lasts_for_some_layers(void**) {
  Step step;
  step.profile.dense = {0, 95'000, 0};  // 255 tokens' K,V take 102,000
  step.profile.head = {0, 200'000, 0};
  step.add(255, BlockForm::kv);
  step.shape.layers = 4;
  assert_near(step.ns(), 4 * 95'000 + 200'000, 1e-2);
  step.shape.layers = 48;
  assert_near(step.ns(), 48 * 255 * 400.0, 1e-2);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_link_that_binds_never_waits),
      cmocka_unit_test(x_is_half_and_recomputed_beside_the_link),
      cmocka_unit_test(pieces_take_their_time),
      cmocka_unit_test(recomputation_waits_for_the_step_ahead),
      cmocka_unit_test(x_on_the_device_makes_one_product_of_a_tile),
      cmocka_unit_test(x_in_several_places_on_the_device_is_gathered),
      cmocka_unit_test(dense_work_and_recomputation_contend),
      cmocka_unit_test(both_directions_slow_each_other),
      cmocka_unit_test(x_that_stays_is_copied),
      cmocka_unit_test(the_embedding_comes_first),
      cmocka_unit_test(weights_take_their_time_on_the_link),
      cmocka_unit_test(one_slot_of_weights_waits_for_the_layer),
      cmocka_unit_test(many_layers_take_as_long_each),
      cmocka_unit_test(a_full_ring_lasts_for_some_layers),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
