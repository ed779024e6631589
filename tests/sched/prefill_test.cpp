// SPDX-License-Identifier: Apache-2.0
// How many rows of prompts fit, against closed forms and against trying every number.
#include "daemon/sched/prefill.h"

#include "tests/sched/profiles.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

constexpr uint32_t kLimit = 100'000;

// A row costs 10 ns a layer and any number of them 1,000 at the least; a token's K,V 100 ns on the link.
StepModel plain_model() {
  StepModel model;
  model.shape = cache_shape(3, 250, 250);  // K,V 1,000 bytes
  model.profile.dense = {1000, 0, 10};
  model.profile.h2d.each_ns = 0.1;
  return model;
}

void assert_rows(const PrefillRows& rows, uint32_t free, uint32_t most) {
  assert_int_equal(rows.free, free);
  assert_int_equal(rows.most, most);
}

// The weights are read for 100 rows at the price of one: the rest rides along, and half as long again is 150.
void what_reads_the_weights_is_filled_up(void**) {
  LayerWork decodes;
  decodes.rows = 8;
  assert_rows(prefill_beside(plain_model(), decodes, {}, kLimit), 92, 142);
}

// Rows beyond the least cost in proportion: 200 of them take 2,000 ns, half as long again is 300.
void what_computes_already_gives_way_by_the_bound_only(void**) {
  LayerWork decodes;
  decodes.rows = 200;
  StepModel model = plain_model();
  assert_rows(prefill_beside(model, decodes, {}, kLimit), 0, 100);
  model.prefill_delay = 0;
  assert_rows(prefill_beside(model, decodes, {}, kLimit), 0, 0);
  model.prefill_delay = 2;
  assert_rows(prefill_beside(model, decodes, {}, kLimit), 0, 400);
}

// 500 tokens on the host are 50,000 ns of link a layer, in which the device computes 5,000 rows: 8 decode. The bound adds
// nothing to what the link leaves.
void an_idle_device_is_filled_to_what_the_link_takes(void**) {
  LayerWork decodes;
  decodes.rows = 8;
  decodes.kv_host = 500;
  const StepModel model = plain_model();
  assert_rows(prefill_beside(model, decodes, {}, kLimit), 4992, 4992);
  LayerWork filled = decodes;
  filled.rows += 4992;
  assert_true(streaming_cost(model.profile, model.shape, filled).total_ns <=
              streaming_cost(model.profile, model.shape, decodes).total_ns);
}

// Link 1,200 ns against 1,000 of the device: to 120 rows for nothing, to 150 by the bound.
void a_link_that_hardly_binds_leaves_the_bound(void**) {
  LayerWork decodes;
  decodes.rows = 8;
  decodes.kv_host = 12;
  assert_rows(prefill_beside(plain_model(), decodes, {}, kLimit), 112, 142);
}

// Attention of a row over 30 tokens costs as much again as 3 rows do: 4 times 10 ns for each row of a prompt.
void contexts_of_prompts_count(void**) {
  StepModel model = plain_model();
  model.profile.attend.each_ns = 1;
  LayerWork decodes;
  decodes.rows = 100;  // 1,000 ns
  assert_rows(prefill_beside(model, decodes, {30}, kLimit), 0, 12);
}

// A prompt's rows are written back, 100 ns of link each: beside 12 tokens that are read there is room for 12.
void what_is_written_back_takes_the_link(void**) {
  StepModel model = plain_model();
  model.profile.d2h.each_ns = 0.1;
  LayerWork decodes;
  decodes.rows = 8;
  decodes.kv_host = 12;
  PromptRow row;
  row.new_kv = true;
  assert_rows(prefill_beside(model, decodes, row, kLimit), 12, 15);
}

void no_number_of_rows_is_better(void**) {
  std::mt19937_64 random(test_seed());
  for (int round = 0; round < 500; round++) {
    StepModel model{random_profile(random), cache_shape(1 + random() % 40, 1024, 1024)};
    model.prefill_delay = 0.1 * static_cast<double>(random() % 20);
    LayerWork decodes;
    decodes.rows = 1 + random() % 64;
    decodes.attended = decodes.rows * (random() % 5000);
    decodes.kv_host = random() % 3 == 0 ? decodes.attended : 0;
    decodes.x_host = random() % 3 == 0 ? random() % 5000 : 0;
    PromptRow row{static_cast<double>(random() % 5000), random() % 2 == 0, random() % 2 == 0};
    const PrefillRows rows = prefill_beside(model, decodes, row, 300);
    const StepCost alone = streaming_cost(model.profile, model.shape, decodes);
    const double longest =
        std::max({alone.h2d_ns, alone.d2h_ns, (1 + model.prefill_delay) * alone.device_ns});
    PrefillRows best;
    for (uint32_t more = 1; more <= 300; more++) {
      LayerWork work = decodes;
      work.rows += more;
      work.attended += static_cast<uint64_t>(std::llround(row.attended * more));
      work.new_x += row.new_x ? more : 0;
      work.new_kv += row.new_kv ? more : 0;
      const double total_ns = streaming_cost(model.profile, model.shape, work).total_ns;
      if (total_ns <= alone.total_ns * (1 + 1e-9)) best.free = more;
      if (total_ns <= longest * (1 + 1e-9)) best.most = more;
    }
    assert_rows(rows, best.free, best.most);
  }
}

void nothing_measured_is_not_known(void**) {
  assert_false(StepModel{}.known());
  assert_true(plain_model().known());
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(what_reads_the_weights_is_filled_up),
      cmocka_unit_test(what_computes_already_gives_way_by_the_bound_only),
      cmocka_unit_test(an_idle_device_is_filled_to_what_the_link_takes),
      cmocka_unit_test(a_link_that_hardly_binds_leaves_the_bound),
      cmocka_unit_test(contexts_of_prompts_count),
      cmocka_unit_test(what_is_written_back_takes_the_link),
      cmocka_unit_test(no_number_of_rows_is_better),
      cmocka_unit_test(nothing_measured_is_not_known),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
