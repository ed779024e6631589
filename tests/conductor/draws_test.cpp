// SPDX-License-Identifier: Apache-2.0
// What a draw needs beyond its row travels in the Plan: history, biases, masks; and what ends a step. The device's answers are
// tokens 1000, 1001 and so on.
#include "tests/conductor/harness.h"

#include "iokv/iokv.h"
#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

constexpr uint64_t kA = 1 | uint64_t{1} << 32, kB = 2 | uint64_t{1} << 32;

std::vector<int32_t> slice_of(const Plan& plan, PlanSlice slice) {
  return {plan.history.begin() + slice.first, plan.history.begin() + slice.first + slice.count};
}

Request penalised(uint32_t tokens, uint32_t max_tokens, uint32_t repetition_from, uint32_t frequency_from) {
  Request step = Harness::step(kA, tokens, max_tokens);
  for (uint32_t i = 0; i < tokens; ++i) step.tokens[i] = static_cast<int32_t>(i + 1);
  step.sampling = SampleParams{};
  step.sampling->repetition_penalty = 2;
  step.sampling->presence_penalty = 1;
  step.sampling->repetition_from = repetition_from;
  step.sampling->frequency_from = frequency_from;
  return step;
}

void a_draws_history_is_what_precedes_it_with_room_for_the_token_being_drawn(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, penalised(3, 3, 1, 3));
  harness.plan();  // two Plans: the prompt's, and the one behind it, whose token is being drawn
  assert_int_equal(harness.issued.size(), 2);
  const Plan& first = *harness.issued[0];
  assert_true(slice_of(first, first.draws[0].repeated) == std::vector<int32_t>({2, 3}));
  assert_int_equal(first.draws[0].counted.count, 0);
  const Plan& second = *harness.issued[1];
  assert_true(second.spans[0].token_from_draw);
  // The last one is for the executor to fill in.
  assert_true(slice_of(second, second.draws[0].repeated) == std::vector<int32_t>({2, 3, 0}));
  assert_int_equal(second.draws[0].counted.count, 1);
  assert_int_equal(second.draws[0].counted.first, second.spans[0].history.first + second.spans[0].history.count - 1);
  harness.retire();
  harness.plan();
  const Plan& third = *harness.issued[1];
  assert_true(slice_of(third, third.draws[0].repeated) == std::vector<int32_t>({2, 3, 1000, 0}));
  assert_true(slice_of(third, third.draws[0].counted) == std::vector<int32_t>({1000, 0}));
}

void predictions_have_histories_that_grow_by_a_token(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  Request step = penalised(4, 1, 0, 2);
  step.each = true;
  harness.submit(client, step);
  harness.plan();
  const Plan& plan = *harness.issued[0];
  assert_int_equal(plan.draws.size(), 4);
  for (uint32_t i = 0; i < 4; ++i) {
    assert_int_equal(plan.draws[i].repeated.count, i + 1);
    assert_int_equal(plan.draws[i].counted.count, i < 2 ? 0 : i - 1);
  }
}

void each_draw_has_its_mask_and_all_have_the_biases(void**) {
  ConductorConfig config;
  config.vocabulary = 40;  // two words
  Harness harness(config);
  const ClientId client = harness.join(0);
  Request open;
  open.kind = RequestKind::open;
  open.sequence = kA;
  open.sampling = SampleParams{};
  open.biases = {{7, 1.5f}};
  harness.submit(client, open);
  Request step = Harness::step(kA, 2, 2);
  step.masks = {10, 11, 20, 21};
  harness.submit(client, step);
  harness.plan();
  for (uint32_t i = 0; i < 2; ++i) {
    const Plan& plan = *harness.issued[i];
    const PlanDraw& draw = plan.draws[0];
    assert_int_equal(plan.masks[draw.mask], 10 * (i + 1));
    assert_int_equal(plan.masks[draw.mask + 1], 10 * (i + 1) + 1);
    assert_int_equal(draw.biases.count, 1);
    assert_int_equal(plan.biases[draw.biases.first].token, 7);
  }
  harness.run();
  // A child has its parent's, unless its step says how to sample.
  Request fork = Harness::other(RequestKind::fork, kB, UINT32_MAX);
  fork.parent = kA;
  harness.submit(client, fork);
  Request own = Harness::step(kB, 1, 1);
  harness.submit(client, own);
  harness.plan();
  assert_int_equal(harness.issued[0]->draws[0].biases.count, 1);
  harness.run();
  own.sampling = SampleParams{};
  harness.submit(client, own);
  harness.plan();
  assert_int_equal(harness.issued[0]->draws[0].biases.count, 0);
}

void a_stop_sequence_ends_the_step_and_what_runs_ahead_is_dropped(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  Request step = Harness::step(kA, 3, 100);
  step.stop_sequences = {7, 1000, 5, 1001, 1002};  // the first would need the prompt's last token
  step.stop_sequence_lengths = {2, 1, 2};
  const uint64_t stepped = harness.submit(client, step);
  harness.run();
  const auto outcomes = harness.outcomes(stepped);
  assert_int_equal(outcomes.size(), 3);
  assert_int_equal(outcomes[2].token, 1002);
  assert_int_equal(outcomes[2].flags, IOKV_COMPLETION_TOKEN | IOKV_COMPLETION_STOPPED);
  assert_int_equal(outcomes[2].length, 6);
}

// The harness verifies the conductor after each event, the counts of queued tokens included.
void masks_count_as_queued_tokens_until_their_operation_has_ended(void**) {
  ConductorConfig config;
  config.vocabulary = 320;  // ten words
  config.max_queued_tokens = 45;
  Harness harness(config);
  const ClientId client = harness.join(0);
  harness.open(client, kA), harness.open(client, kB);
  Request step = Harness::step(kA, 5, 3);
  step.masks.assign(30, 1);
  const uint64_t first = harness.submit(client, step);  // 35 of 45; its tokens no longer wait: 30
  harness.plan();
  step.sequence = kB;
  assert_int_equal(harness.outcomes(harness.submit(client, step)).back().result, IOKV_ELIMIT);
  harness.run();
  assert_int_equal(harness.outcomes(first).back().result, 0);
  const uint64_t again = harness.submit(client, step);
  harness.run();
  assert_int_equal(harness.outcomes(again).back().result, 0);
  harness.submit(client, step);
  harness.plan();
  harness.submit(client, Harness::other(RequestKind::close, kB));
  while (!harness.issued.empty()) harness.retire();
  harness.submit(client, Harness::step(kA, 40, 0));
  harness.handle(ClientGone{client});
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_draws_history_is_what_precedes_it_with_room_for_the_token_being_drawn),
      cmocka_unit_test(predictions_have_histories_that_grow_by_a_token),
      cmocka_unit_test(each_draw_has_its_mask_and_all_have_the_biases),
      cmocka_unit_test(a_stop_sequence_ends_the_step_and_what_runs_ahead_is_dropped),
      cmocka_unit_test(masks_count_as_queued_tokens_until_their_operation_has_ended),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
