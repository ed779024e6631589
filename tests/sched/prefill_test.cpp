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

// For nothing, and by the model's bound.
void assert_rows(StepModel model, const LayerWork& decodes, Prompt prompt, uint32_t free, uint32_t most) {
  prompt.rows = kLimit;
  assert_int_equal(PrefillRoom(model, decodes).rows_of(prompt), most);
  model.prefill_delay = 0;
  assert_int_equal(PrefillRoom(model, decodes).rows_of(prompt), free);
}

// The weights are read for 100 rows at the price of one: the rest rides along, and half as long again is 150.
void what_reads_the_weights_is_filled_up(void**) {
  LayerWork decodes;
  decodes.rows = 8;
  assert_rows(plain_model(), decodes, {}, 92, 142);
}

// Rows beyond the least cost in proportion: 200 of them take 2,000 ns, half as long again is 300. Without a bound there is
// a row at the least, and one for that.
void what_computes_already_gives_way_by_the_bound(void**) {
  LayerWork decodes;
  decodes.rows = 200;
  StepModel model = plain_model();
  assert_rows(model, decodes, {}, 2, 100);
  model.prefill_delay = 2;
  assert_rows(model, decodes, {}, 2, 400);
}

// 500 tokens on the host are 50,000 ns of link a layer, in which the device computes 5,000 rows: 8 decode. The bound adds
// nothing to what the link leaves.
void an_idle_device_is_filled_to_what_the_link_takes(void**) {
  LayerWork decodes;
  decodes.rows = 8;
  decodes.kv_host = 500;
  const StepModel model = plain_model();
  assert_rows(model, decodes, {}, 4992, 4992);
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
  assert_rows(plain_model(), decodes, {}, 112, 142);
}

// 100 decodes take 1,000 ns, half as long again leaves 500. 10 rows of a prompt with 30 tokens cached compute for 100 and
// attend to 30 ... 39 others and themselves, 355 in all, at 1 ns each; the eleventh is too many. The first takes 41: for as
// much again there is none.
void what_rows_attend_to_is_computed_for_each(void**) {
  StepModel model = plain_model();
  model.profile.attend_rows.each_ns = 1;
  LayerWork decodes;
  decodes.rows = 100;
  assert_rows(model, decodes, {.cached = 30}, 1, 10);
}

// Read at 1 ns each it is 30 once, and a token a row: 42 rows are 420 + 30 + 42. The first takes 41, and 82 are 4 rows.
void what_rows_attend_to_is_read_once(void**) {
  StepModel model = plain_model();
  model.profile.attend.each_ns = 1;
  LayerWork decodes;
  decodes.rows = 100;
  assert_rows(model, decodes, {.cached = 30}, 4, 42);
}

// A prompt's rows are written back, 100 ns of link each: beside 12 tokens that are read there is room for 12.
void what_is_written_back_takes_the_link(void**) {
  StepModel model = plain_model();
  model.profile.d2h.each_ns = 0.1;
  LayerWork decodes;
  decodes.rows = 8;
  decodes.kv_host = 12;
  assert_rows(model, decodes, {.new_kv = true}, 12, 15);
}

// 500 tokens of the decodes and 300 of the prompt are 80,000 ns of link, 30,000 more than without it. That is paid once,
// and for as much again the device computes to 110,000: 10,992 rows. Behind them other prompts have what is left.
void bringing_a_context_is_half_of_what_a_prompt_costs_at_most(void**) {
  LayerWork decodes;
  decodes.rows = 8;
  decodes.kv_host = 500;
  const Prompt brings{.rows = kLimit, .cached = 300, .kv_host = 300}, begins{.rows = kLimit};
  const StepModel model = plain_model();
  assert_rows(model, decodes, brings, 10'992, 10'992);
  PrefillRoom room(model, decodes);
  room.add(brings, 7000);
  assert_int_equal(room.rows_of(brings), 0);
  assert_int_equal(room.rows_of(begins), 992);  // to 80,000
  assert_false(room.full());
  room.add(begins, 992);
  assert_true(room.full());
  assert_int_equal(room.rows_of(begins), 0);
  assert_true(room.excess_ns() == 3 * 30'000);  // of three layers
  // After that no prompt may, until it has been made up for: by 25,000 a layer and step.
  const PrefillRoom later(model, decodes, false);
  assert_int_equal(later.rows_of(brings), 0);
  assert_int_equal(later.rows_of(begins), 4992);
  assert_true(later.excess_ns() == 0 && later.allowance_ns() == 3 * 25'000);
}

// Against every number of rows of one prompt behind another.
void no_number_of_rows_is_better(void**) {
  std::mt19937_64 random(test_seed());
  auto below = [&](uint32_t end) { return static_cast<uint32_t>(random() % end); };
  for (int round = 0; round < 500; round++) {
    StepModel model{random_profile(random), cache_shape(1 + below(40), 1024, 1024)};
    model.prefill_delay = 0.1 * below(20);
    LayerWork work;
    work.rows = 1 + below(64);
    work.attended = work.products = work.rows * below(5000);
    work.kv_host = below(3) == 0 ? work.attended : 0;
    work.x_host = below(3) == 0 ? below(5000) : 0;
    const StepCost alone = streaming_cost(model.profile, model.shape, work);
    double bound_ns = std::max({alone.h2d_ns, alone.d2h_ns, (1 + model.prefill_delay) * alone.device_ns});
    PrefillRoom room(model, work);
    for (int place = 0; place < 3; place++) {
      Prompt prompt{.rows = 1 + below(300), .cached = below(2) * below(5000), .new_x = below(2) == 0, .new_kv = below(2) == 0};
      prompt.kv_host = below(2) * prompt.cached;
      auto ns = [&](uint32_t rows) { return streaming_cost(model.profile, model.shape, with_prompt(work, prompt, rows)).total_ns; };
      const double now_ns = streaming_cost(model.profile, model.shape, work).total_ns;
      uint32_t most = 0;
      for (uint32_t rows = 1; rows <= prompt.rows; rows++) {
        const bool first = place == 0 && (rows == 1 || ns(rows) - ns(1) <= (ns(1) - now_ns) + 1e-9 * ns(rows));
        if (first || ns(rows) <= bound_ns * (1 + 1e-9)) most = rows;
      }
      assert_int_equal(room.rows_of(prompt), most);
      if (most == 0) break;
      room.add(prompt, most);
      bound_ns = std::max(bound_ns, ns(most));
      work = with_prompt(work, prompt, most);
    }
  }
}

// A layer's products of 203 rows take what reading the weights takes; a tenth longer are 223.
void rows_that_ride_along_follow_from_the_curve(void**) {
  StepModel model;
  model.profile.dense = {2030, 0, 10};
  assert_int_equal(model.free_rows(1000), 223);
  assert_int_equal(model.free_rows(100), 100);
  model.profile.dense = {0, 2000, 10};  // 1 row takes 2,010, a tenth longer is 2,211
  assert_int_equal(model.free_rows(1000), 21);
  model.profile.dense = {0, 0, 10};
  assert_int_equal(model.free_rows(1000), 1);
  model.profile.dense = {0, 2000, 0};
  assert_int_equal(model.free_rows(1000), 1000);
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
      cmocka_unit_test(what_computes_already_gives_way_by_the_bound),
      cmocka_unit_test(an_idle_device_is_filled_to_what_the_link_takes),
      cmocka_unit_test(a_link_that_hardly_binds_leaves_the_bound),
      cmocka_unit_test(what_rows_attend_to_is_computed_for_each),
      cmocka_unit_test(what_rows_attend_to_is_read_once),
      cmocka_unit_test(what_is_written_back_takes_the_link),
      cmocka_unit_test(bringing_a_context_is_half_of_what_a_prompt_costs_at_most),
      cmocka_unit_test(no_number_of_rows_is_better),
      cmocka_unit_test(rows_that_ride_along_follow_from_the_curve),
      cmocka_unit_test(nothing_measured_is_not_known),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
