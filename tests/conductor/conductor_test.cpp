// SPDX-License-Identifier: Apache-2.0
// One decision of the conductor a test. What it does under random load is tests/sim's.
#include "tests/conductor/harness.h"

#include "iokv/iokv.h"
#include "tests/cmocka_cpp.h"
#include "wire/times.h"

namespace iokv {
namespace {

constexpr uint64_t kA = 1 | uint64_t{1} << 32, kB = 2 | uint64_t{1} << 32, kC = 3 | uint64_t{1} << 32;

void a_step_streams_its_tokens_and_ends_once(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  const uint64_t step = harness.submit(client, Harness::step(kA, 3, 3));
  harness.run();
  const auto outcomes = harness.outcomes(step);
  assert_int_equal(outcomes.size(), 3);
  for (uint32_t i = 0; i < 3; i++) {
    assert_int_equal(outcomes[i].token, 1000 + i);
    assert_int_equal(outcomes[i].index, i);
    assert_int_equal(outcomes[i].length, 4 + i);
    assert_int_equal(outcomes[i].flags, IOKV_COMPLETION_TOKEN | (i < 2 ? IOKV_COMPLETION_MORE : 0));
  }
  assert_true(harness.conductor.quiet());
}

void the_next_plan_is_out_before_the_first_is_back(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 1, 8));
  harness.plan();
  assert_int_equal(harness.issued.size(), 2);
  assert_false(harness.issued[0]->spans[0].token_from_draw);
  assert_true(harness.issued[1]->spans[0].token_from_draw);
  assert_int_equal(harness.issued[1]->spans[0].first_position, 1);
}

void what_was_drawn_beyond_a_stop_token_is_dropped(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  Request request = Harness::step(kA, 1, 8);
  request.stop_tokens = {1001};
  const uint64_t step = harness.submit(client, request);
  harness.run();
  const auto outcomes = harness.outcomes(step);
  assert_int_equal(outcomes.size(), 2);
  assert_int_equal(outcomes[1].flags, IOKV_COMPLETION_TOKEN | IOKV_COMPLETION_STOPPED);
  assert_int_equal(outcomes[1].length, 3);
}

void a_long_prompt_is_cut_while_somebody_decodes(void**) {
  ConductorConfig config;
  config.batch.prefill_rows = 16;
  config.batch.max_rows = 128;
  Harness harness(config);
  const ClientId decoder = harness.join(0), reader = harness.join(1);
  harness.open(decoder, kA);
  harness.submit(decoder, Harness::step(kA, 1, 100));
  harness.plan();
  harness.retire();
  harness.open(reader, kA);
  harness.submit(reader, Harness::step(kA, 500, 1));
  for (int i = 0; i < 4; i++) {
    harness.plan();
    const PlanSpan* prompt = harness.span_of(1, 1);
    assert_non_null(prompt);
    assert_true(prompt->rows <= 16);
    assert_non_null(harness.span_of(1, 0));
    harness.retire();
  }
}

// Up to 40 rows cost the same, and 60 half as much again: a decode and 59 of the prompt.
void a_prompt_gets_what_the_profile_allows(void**) {
  ConductorConfig config;
  config.batch.prefill_rows = 16;
  config.step_model.shape = {1, 100, 100};
  config.staging.in_place = true;
  Harness harness(config);
  Profile profile;
  profile.dense = {4000, 0, 100};
  harness.conductor.know_device(profile);
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 1, 100));
  harness.open(client, kB);
  harness.submit(client, Harness::step(kB, 500, 1));
  harness.plan();
  assert_int_equal(harness.issued[0]->tokens.size(), 60);
}

// Copies of blocks on the device: for four blocks there is room.
void blocks_keep_their_copies_until_their_sequence_idles_and_another_wants_them(void**) {
  ConductorConfig config;
  config.device_units = 4;
  config.batch.max_rows = 1024;
  Harness harness(config);
  const ClientId client = harness.join(0);
  auto resident = [&](size_t span_index) {
    const Plan& plan = *harness.issued.back();
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < plan.spans[span_index].runs; i++) {
      const BlockRun& run = plan.runs[plan.spans[span_index].first_run + i];
      blocks += run.resident() ? run.blocks : 0;
    }
    return blocks;
  };
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 6 * kBlockTokens - 10, 1));
  harness.plan();
  assert_int_equal(resident(0), 4);  // the first four of six
  assert_int_equal(harness.counter(wire::Counter::device_units_free), 0);
  harness.retire();

  // A runs: nothing is taken from it.
  harness.submit(client, Harness::step(kA, 1, 5));
  harness.plan();
  harness.open(client, kB);
  harness.submit(client, Harness::step(kB, 2 * kBlockTokens, 1));
  harness.run();
  assert_int_equal(harness.counter(wire::Counter::copies_dropped), 0);

  // It idles: C has them, and A is read from the host's pool.
  harness.open(client, kC);
  harness.submit(client, Harness::step(kC, 3 * kBlockTokens, 1));
  harness.plan();
  assert_int_equal(resident(0), 3);
  assert_int_equal(harness.counter(wire::Counter::copies_dropped), 4);
  harness.retire();
  harness.submit(client, Harness::step(kA, 1, 1));
  harness.plan();
  assert_int_equal(resident(0), 0);
  harness.retire();
  harness.submit(client, Harness::other(RequestKind::close, kC));
  harness.plan();
  assert_int_equal(harness.counter(wire::Counter::device_units_free), 4);
}

void a_lone_prompt_has_the_whole_step(void**) {
  ConductorConfig config;
  config.batch.prefill_rows = 16;
  config.batch.max_rows = 128;
  Harness harness(config);
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 500, 1));
  harness.plan();
  assert_int_equal(harness.issued[0]->tokens.size(), 128);
}

void prompts_of_clients_are_read_by_weight(void**) {
  ConductorConfig config;
  config.batch.prefill_rows = 12;
  Harness harness(config);
  constexpr wire::Geometry kRoomy{16, 1024, 4096, 4096};
  const ClientId decoder = harness.join(0, kRoomy), light = harness.join(1), heavy = harness.join(2, kRoomy, 3);
  harness.open(decoder, kA);
  harness.submit(decoder, Harness::step(kA, 1, 200));
  harness.plan();
  harness.retire();
  for (ClientId client : {light, heavy}) {
    harness.open(client, kA);
    harness.submit(client, Harness::step(kA, 900, 1));
  }
  uint32_t rows[3] = {};
  for (int i = 0; i < 40; i++) {
    harness.plan();
    for (const PlanSpan& span : harness.issued.front()->spans) rows[span.client_slot] += span.rows;
    harness.retire();
  }
  // The first Plan was out already.
  assert_int_equal(rows[1] + rows[2], 39 * 12);
  // Step by step one of them has all 12 rows: what they got for their weight differs by 12 and a third of it at most.
  assert_true(rows[2] + 48 >= 3 * rows[1] && rows[2] <= 3 * rows[1] + 48);
}

// Three that are more urgent by priority could take both rows of all 29 steps that there is time for.
void a_deadline_in_danger_is_kept_against_priorities(void**) {
  ConductorConfig config;
  config.batch.max_draws = 2;
  config.plans_in_flight = 1;
  Harness harness(config);
  const ClientId client = harness.join(0, {16, 1024, 4096, 4096});
  for (uint64_t id : {kA, kB, kC}) {
    harness.open(client, id, 50);
    harness.submit(client, Harness::step(id, 1, 100));
  }
  const uint64_t id = 4 | uint64_t{1} << 32;
  harness.open(client, id);
  Request request = Harness::step(id, 1, 20);
  request.deadline_ns = 29'500;
  const uint64_t urgent = harness.submit(client, request);
  for (int i = 0; i < 29; i++) {
    harness.plan();
    harness.issued.front()->started_ns = harness.now_ns;
    harness.now_ns += 1000;
    harness.issued.front()->ended_ns = harness.now_ns;
    harness.retire();
  }
  assert_int_equal(harness.outcomes(urgent).size(), 20);
  assert_int_equal(harness.outcomes(urgent).back().result, 0);
}

void the_less_urgent_lose_blocks_and_keep_tokens(void**) {
  Harness harness({}, 4);
  const ClientId client = harness.join(0);
  harness.open(client, kA, 0);
  const uint64_t low = harness.submit(client, Harness::step(kA, 130, 20));
  harness.plan();
  harness.retire();
  harness.open(client, kB, 50);
  const uint64_t high = harness.submit(client, Harness::step(kB, 130, 2));
  harness.run();
  assert_int_equal(harness.counter(wire::Counter::preemptions), 1);
  assert_int_equal(harness.outcomes(high).back().length, 132);
  const auto outcomes = harness.outcomes(low);
  assert_int_equal(outcomes.size(), 20);
  assert_int_equal(outcomes.back().length, 150);
}

// Each of the first client's operations fills the pool, has the highest priority, and is followed by another.
void priority_does_not_keep_blocks_from_other_clients(void**) {
  Harness harness({}, 4);
  constexpr wire::Geometry kRoomy{16, 4096, 4096, 4096};
  const ClientId flood = harness.join(0, kRoomy), other = harness.join(1);
  for (uint64_t id : {kA, kB}) harness.open(flood, id, 100);
  uint64_t last[2] = {};
  for (int i = 0; i < 2; i++) last[i] = harness.submit(flood, Harness::step(i == 0 ? kA : kB, 130, 2));
  harness.plan();
  harness.open(other, kA, -100);
  const uint64_t waits = harness.submit(other, Harness::step(kA, 130, 2));
  for (int round = 0; round < 40 && harness.outcomes(waits).size() < 2; round++) {
    harness.plan();
    if (!harness.issued.empty()) harness.retire();
    for (int i = 0; i < 2; i++) {
      if (harness.outcomes(last[i]).size() < 2) continue;
      const uint64_t id = i == 0 ? kA : kB;
      harness.submit(flood, Harness::other(RequestKind::truncate, id, 0));
      last[i] = harness.submit(flood, Harness::step(id, 130, 2));
    }
  }
  assert_int_equal(harness.outcomes(waits).size(), 2);
}

void an_operation_that_many_have_overtaken_gets_blocks(void**) {
  Harness harness({}, 4, false);
  const ClientId client = harness.join(0, {16, 65536, 4096, 4096});
  harness.open(client, kA, 100);
  harness.open(client, kB, 100);
  harness.open(client, kC, 0);
  const uint64_t waits = harness.submit(client, Harness::step(kC, 130, 1));
  uint64_t last[2] = {};
  uint32_t others = 0;
  while (harness.outcomes(waits).empty()) {
    for (int i = 0; i < 2; i++) {
      if (last[i] != 0 && harness.outcomes(last[i]).empty()) continue;
      const uint64_t id = i == 0 ? kA : kB;
      if (last[i] != 0) harness.submit(client, Harness::other(RequestKind::truncate, id, 0));
      last[i] = harness.submit(client, Harness::step(id, 130, 1));
      others++;
    }
    harness.plan();
    if (!harness.issued.empty()) harness.retire();
    assert_true(others < 1100);
  }
  assert_true(others > 1000);
}

void idle_sequences_give_way_before_running_ones(void**) {
  Harness harness({}, 6);
  const ClientId client = harness.join(0);
  harness.open(client, kA, 100);
  harness.submit(client, Harness::step(kA, 130, 0));  // 3 blocks, then idle, and more urgent than anything
  harness.run();
  harness.open(client, kB, 0);
  harness.submit(client, Harness::step(kB, 150, 1));
  harness.open(client, kC, 0);
  harness.submit(client, Harness::step(kC, 150, 1));
  harness.run();
  assert_int_equal(harness.counter(wire::Counter::preemptions), 0);
  assert_true(harness.conductor.quiet());
  // Its tokens are still there: one row is drawn at, all are computed again.
  const uint64_t again = harness.submit(client, Harness::step(kA, 0, 1));
  harness.run();
  assert_int_equal(harness.outcomes(again).back().length, 131);
}

void a_sequence_that_could_never_fit_is_refused_at_once(void**) {
  Harness harness({}, 4);
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  const uint64_t pool = harness.submit(client, Harness::step(kA, 250, 10));
  const uint64_t context = harness.submit(client, Harness::step(kA, 1000, 100));
  assert_int_equal(harness.outcomes(pool).at(0).result, IOKV_EPOOL);
  assert_int_equal(harness.outcomes(context).at(0).result, IOKV_ECONTEXT);
  assert_int_equal(harness.outcomes(context).at(0).length, 0);
}

void a_fork_shares_full_blocks_and_its_child_may_be_stepped_at_once(void**) {
  Harness harness({}, 8);
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 130, 4));
  Request fork = Harness::other(RequestKind::fork, kB, UINT32_MAX);
  fork.parent = kA;
  const uint64_t forked = harness.submit(client, fork);
  const uint64_t child = harness.submit(client, Harness::step(kB, 1, 1));
  assert_true(harness.outcomes(forked).empty());
  harness.run();
  assert_int_equal(harness.outcomes(forked).at(0).length, 134);
  assert_int_equal(harness.outcomes(child).at(0).length, 136);
  // 3 blocks of the parent, and of the child only the last: two are shared.
  assert_int_equal(harness.pool.total_units().value - harness.pool.free_units().value, 4);
}

void a_failed_fork_takes_what_waited_for_its_child_with_it(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 4, 1));
  Request fork = Harness::other(RequestKind::fork, kB, 100);
  fork.parent = kA;
  const uint64_t forked = harness.submit(client, fork);
  const uint64_t child = harness.submit(client, Harness::step(kB, 1, 1));
  harness.run();
  assert_int_equal(harness.outcomes(forked).at(0).result, IOKV_EINVAL);
  assert_int_equal(harness.outcomes(child).at(0).result, IOKV_ESEQUENCE);
}

void cancel_ends_what_runs_and_leaves_the_sequence_usable(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  const uint64_t running = harness.submit(client, Harness::step(kA, 2, 50));
  const uint64_t queued = harness.submit(client, Harness::step(kA, 2, 1));
  harness.plan();
  harness.retire();
  Request cancel = Harness::other(RequestKind::cancel, kA);
  cancel.target = running;
  const uint64_t cancelled = harness.submit(client, cancel);
  assert_int_equal(harness.outcomes(cancelled).at(0).result, 1);
  assert_int_equal(harness.outcomes(running).back().result, IOKV_ECANCELED);
  assert_int_equal(harness.outcomes(running).back().length, 3);
  harness.run();
  assert_int_equal(harness.outcomes(queued).back().result, 0);
  assert_int_equal(harness.outcomes(queued).back().length, 6);
}

void blocks_are_not_given_on_while_a_plan_may_still_write_them(void**) {
  Harness harness({}, 2);
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 100, 10));
  harness.plan();
  harness.submit(client, Harness::other(RequestKind::close, kA));
  assert_int_equal(harness.pool.free_units().value, 0);
  harness.open(client, kB);
  harness.submit(client, Harness::step(kB, 100, 1));
  harness.plan();
  while (harness.issued.size() > 1) harness.retire();
  assert_int_equal(harness.pool.free_units().value, 0);
  harness.retire();
  assert_int_equal(harness.pool.free_units().value, 2);
  harness.run();
  assert_true(harness.conductor.quiet());
}

void a_client_that_does_not_reap_parks_and_loses_its_blocks_after_the_lease(void**) {
  ConductorConfig config;
  config.tuning.stall_lease_ns = 1000;
  Harness harness(config);
  const ClientId client = harness.join(0, {16, 16, 4096, 4096});
  harness.open(client, kA);
  const uint64_t step = harness.submit(client, Harness::step(kA, 1, 40));
  harness.run();
  const size_t delivered = harness.outcomes(step).size();
  assert_true(delivered < 16);
  assert_true(harness.conductor.wants_reap(client));
  assert_int_equal(harness.conductor.next_timer_ns(), harness.now_ns + 1000);
  harness.now_ns += 1000;
  harness.plan();
  assert_int_equal(harness.counter(wire::Counter::stall_releases), 1);
  assert_int_equal(harness.pool.free_units().value, harness.pool.total_units().value);
  while (!harness.conductor.quiet()) {
    harness.reaped(client);
    harness.run();
  }
  const auto outcomes = harness.outcomes(step);
  assert_int_equal(outcomes.size(), 40);
  assert_int_equal(outcomes.back().length, 41);
}

// The first token 3 ms after the step could begin, then 700 us, then exactly a bound's 2 ms.
void tokens_are_counted_by_how_long_they_took(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 3, 3));
  for (uint64_t ns : {3'000'000, 700'000, 2'000'000}) {
    harness.plan();
    harness.now_ns += ns;
    harness.retire();
  }
  assert_int_equal(harness.counter(wire::Counter::first_token_to_5ms), 1);
  assert_int_equal(harness.counter(wire::Counter::first_token_ns), 3'000'000);
  assert_int_equal(harness.counter(wire::Counter::token_gap_to_1ms), 1);
  assert_int_equal(harness.counter(wire::Counter::token_gap_to_2ms), 1);
  assert_int_equal(harness.counter(wire::Counter::token_gap_ns), 2'700'000);
  uint64_t counted = 0;
  for (const wire::TokenTimes& times : {wire::kFirstToken, wire::kTokenGap}) {
    for (uint32_t i = 0; i <= wire::kTokenTimeBounds; i++) counted += harness.counter(times.slot(i));
  }
  assert_int_equal(counted, 3);
}

// A second between two tokens in which the client had no room is not the daemon's.
void how_long_a_client_does_not_reap_is_not_counted(void**) {
  Harness harness;
  const ClientId client = harness.join(0, {16, 16, 4096, 4096});
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 1, 40));
  harness.run();
  assert_true(harness.conductor.wants_reap(client));
  harness.now_ns += 1'000'000'000;
  while (!harness.conductor.quiet()) {
    harness.reaped(client);
    harness.run();
  }
  assert_int_equal(harness.counter(wire::Counter::token_gap_to_500us), 39);
  assert_int_equal(harness.counter(wire::Counter::token_gap_ns), 0);
}

ConductorConfig with_limits(UserLimits everybody, std::map<uint32_t, UserException> exceptions = {}) {
  ConductorConfig config;
  config.recompute.mode = Recompute::never;
  config.tuning.access = {everybody, std::move(exceptions)};
  return config;
}

// Eight blocks, of which a user may have a quarter: whatever he starts first, the other finds his six.
void nobody_takes_what_is_anothers_share_of_the_pool(void**) {
  Harness harness(with_limits({0, 0, 75, 0}, {{1, {{}, {}, 25, {}}}}), 8);
  const ClientId one = harness.join(0, {16, 64, 4096, 4096}, 1, 1), same = harness.join(1, {16, 64, 4096, 4096}, 1, 1);
  const ClientId other = harness.join(2, {16, 64, 4096, 4096}, 1, 2);
  for (ClientId client : {one, same}) {
    for (uint64_t sequence : {kA, kB, kC}) {
      harness.open(client, sequence);
      harness.submit(client, Harness::step(sequence, 60, 1));
    }
  }
  harness.plan();
  assert_int_equal(harness.pool.total_units().value - harness.pool.free_units().value, 2);
  harness.open(other, kA);
  const uint64_t large = harness.submit(other, Harness::step(kA, 6 * 64 - 1, 1));
  harness.plan();
  assert_int_equal(harness.pool.free_units().value, 0);
  harness.run();
  assert_int_equal(harness.outcomes(large).back().result, 0);
  assert_true(harness.conductor.quiet());
  // All six have run, two at a time.
  assert_int_equal(harness.counter(wire::Counter::sampled_tokens), 7);
}

void what_exceeds_a_share_is_refused_and_what_a_new_share_cannot_hold_ends(void**) {
  Harness harness(with_limits({0, 0, 50, 0}), 8);
  const ClientId client = harness.join(0, {16, 64, 4096, 4096}, 1, 7);
  harness.open(client, kA);
  const uint64_t five = harness.submit(client, Harness::step(kA, 4 * 64, 1));
  assert_int_equal(harness.outcomes(five).at(0).result, IOKV_EPOOL);
  const uint64_t four = harness.submit(client, Harness::step(kA, 4 * 64 - 20, 20));
  harness.plan();
  ConductorTuning tuning;
  tuning.access.everybody.pool_percent = 25;
  harness.handle(Retuned{tuning});
  assert_int_equal(harness.outcomes(four).back().result, IOKV_EPOOL);
  harness.run();
  assert_true(harness.conductor.quiet());
  assert_int_equal(harness.pool.free_units().value, 4);  // what it had is kept, as long as nobody wants it
  harness.submit(client, Harness::other(RequestKind::close, kA));
  harness.run();
  assert_int_equal(harness.pool.free_units().value, 8);
}

void a_limit_of_a_user_counts_all_of_his_clients_and_is_named(void**) {
  Harness harness(with_limits({0, 3, 100, 100}));
  const ClientId one = harness.join(0, {16, 64, 4096, 4096}, 1, 7), same = harness.join(1, {16, 64, 4096, 4096}, 1, 7);
  const ClientId other = harness.join(2, {16, 64, 4096, 4096}, 1, 8);
  harness.open(one, kA);
  harness.open(one, kB);
  harness.open(same, kA);
  const Outcome fourth = harness.outcomes(harness.open(same, kB)).at(0);
  assert_int_equal(fourth.result, IOKV_ELIMIT);
  assert_int_equal(fourth.index, IOKV_LIMIT_USER_SEQUENCES);
  assert_int_equal(harness.outcomes(harness.open(other, kB)).at(0).result, 0);
  // Queued behind a step that runs: 60 and 41 tokens, of two clients, are more than 100.
  harness.submit(one, Harness::step(kA, 10, 5));
  harness.submit(one, Harness::step(kA, 60, 0));
  harness.submit(same, Harness::step(kA, 10, 5));
  const uint64_t beyond = harness.submit(same, Harness::step(kA, 41, 0));
  harness.run();
  assert_int_equal(harness.outcomes(beyond).at(0).result, IOKV_ELIMIT);
  assert_int_equal(harness.outcomes(beyond).at(0).index, IOKV_LIMIT_USER_QUEUED_TOKENS);
  // A client that leaves makes room.
  harness.handle(ClientGone{one});
  assert_int_equal(harness.outcomes(harness.open(same, kB)).at(0).result, 0);
}

void a_deadline_ends_the_operation_and_what_is_queued_behind_it(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  const uint64_t running = harness.submit(client, Harness::step(kA, 1, 500));
  Request late = Harness::step(kA, 1, 1);
  late.deadline_ns = 5000;
  const uint64_t expired = harness.submit(client, late);
  const uint64_t behind = harness.submit(client, Harness::step(kA, 1, 1));
  assert_int_equal(harness.conductor.next_timer_ns(), 5000);
  harness.now_ns = 5000;
  harness.plan();
  assert_int_equal(harness.outcomes(expired).at(0).result, IOKV_EDEADLINE);
  assert_int_equal(harness.outcomes(behind).at(0).result, IOKV_ECANCELED);
  assert_true(harness.outcomes(running).empty());
}

wire::SpentTimes times_of(const Outcome& outcome) { return wire::unpack_times(outcome.times); }

void completions_say_what_their_steps_time_went_to(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.now_ns = 1000;
  harness.open(client, kA);
  const uint64_t step = harness.submit(client, Harness::step(kA, 3, 3));
  const uint64_t append = harness.submit(client, Harness::step(kA, 2, 0));
  // Each Plan takes 50 ns; the second begins 30 ns after the first has ended.
  uint64_t starts[] = {1100, 1180, 1230, 1300}, plans = 0;
  for (harness.plan(); !harness.issued.empty(); harness.plan()) {
    Plan& plan = *harness.issued.front();
    plan.started_ns = starts[plans++];
    plan.ended_ns = plan.started_ns + 50;
    plan.measured.busy_ns = {40 + plans, 20, 31, 30};
    harness.now_ns = plan.ended_ns;
    harness.retire();
  }
  const std::vector<Outcome> tokens = harness.outcomes(step);
  assert_int_equal(tokens.size(), 3);
  assert_int_equal(times_of(tokens[0]).queued_ns, 100);
  assert_int_equal(times_of(tokens[1]).queued_ns, 30);
  assert_int_equal(times_of(tokens[2]).queued_ns, 0);
  assert_int_equal(times_of(tokens[0]).link_ns, 31);
  assert_int_equal(times_of(tokens[0]).recompute_ns, 20);
  assert_int_equal(times_of(tokens[2]).dense_ns, 43);
  // The operation behind it was ready when the one before it had ended.
  assert_int_equal(times_of(harness.outcomes(append).at(0)).queued_ns, 20);
  assert_int_equal(harness.outcomes(1).at(0).times, 0);
}

void a_client_beyond_its_operations_is_ended(void**) {
  Harness harness;
  const ClientId client = harness.join(0, {16, 16, 4096, 4096});
  harness.open(client, kA);
  for (int i = 0; i < 8; i++) harness.submit(client, Harness::step(kA, 1, 1));
  assert_true(harness.ended.empty());
  harness.submit(client, Harness::step(kA, 1, 1));
  assert_int_equal(harness.ended.size(), 1);
  assert_int_equal(harness.ended[0].second, IOKV_EPROTOCOL);
}

void shutting_down_answers_everybody(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  const uint64_t running = harness.submit(client, Harness::step(kA, 1, 500));
  const uint64_t queued = harness.submit(client, Harness::step(kA, 1, 1));
  harness.plan();
  harness.handle(ShutdownRequested{});
  const uint64_t late = harness.submit(client, Harness::step(kA, 1, 1));
  assert_int_equal(harness.outcomes(running).back().result, IOKV_ESHUTDOWN);
  assert_int_equal(harness.outcomes(queued).back().result, IOKV_ECANCELED);
  assert_int_equal(harness.outcomes(late).back().result, IOKV_ESHUTDOWN);
  assert_false(harness.conductor.quiet());
  while (!harness.issued.empty()) harness.retire();
  assert_true(harness.conductor.quiet());
}

void a_lost_device_fails_what_runs_and_forgets_every_cache(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 100, 0));
  harness.run();
  harness.open(client, kB);
  const uint64_t running = harness.submit(client, Harness::step(kB, 10, 5));
  harness.plan();
  while (!harness.issued.empty()) harness.retire("gone");
  assert_int_equal(harness.outcomes(running).back().result, IOKV_EDEVICE);
  harness.submit(client, Harness::step(kA, 0, 1));
  harness.plan();
  assert_int_equal(harness.issued[0]->spans[0].first_position, 0);
  assert_int_equal(harness.issued[0]->spans[0].rows, 100);
}

void a_client_that_leaves_takes_all_its_sequences(void**) {
  Harness harness;
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 100, 100));
  harness.plan();
  harness.handle(ClientGone{client});
  while (!harness.issued.empty()) harness.retire();
  assert_int_equal(harness.pool.free_units().value, harness.pool.total_units().value);
  assert_true(harness.conductor.quiet());
}

void thousands_of_queued_operations_do_not_deepen_the_stack(void**) {
  Harness harness({}, 64, false);  // verifying each time would look at all of them each time
  const ClientId client = harness.join(0, {16, 65536, 4096, 4096});
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 1, 4));
  uint64_t last = 0;
  for (int i = 0; i < 30000; i++) last = harness.submit(client, Harness::other(RequestKind::truncate, kA, 1));
  harness.run();
  harness.conductor.verify();
  assert_int_equal(harness.outcomes(last).at(0).result, 0);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_step_streams_its_tokens_and_ends_once),
      cmocka_unit_test(the_next_plan_is_out_before_the_first_is_back),
      cmocka_unit_test(what_was_drawn_beyond_a_stop_token_is_dropped),
      cmocka_unit_test(a_long_prompt_is_cut_while_somebody_decodes),
      cmocka_unit_test(a_prompt_gets_what_the_profile_allows),
      cmocka_unit_test(blocks_keep_their_copies_until_their_sequence_idles_and_another_wants_them),
      cmocka_unit_test(a_lone_prompt_has_the_whole_step),
      cmocka_unit_test(prompts_of_clients_are_read_by_weight),
      cmocka_unit_test(a_deadline_in_danger_is_kept_against_priorities),
      cmocka_unit_test(the_less_urgent_lose_blocks_and_keep_tokens),
      cmocka_unit_test(priority_does_not_keep_blocks_from_other_clients),
      cmocka_unit_test(an_operation_that_many_have_overtaken_gets_blocks),
      cmocka_unit_test(idle_sequences_give_way_before_running_ones),
      cmocka_unit_test(a_sequence_that_could_never_fit_is_refused_at_once),
      cmocka_unit_test(a_fork_shares_full_blocks_and_its_child_may_be_stepped_at_once),
      cmocka_unit_test(a_failed_fork_takes_what_waited_for_its_child_with_it),
      cmocka_unit_test(cancel_ends_what_runs_and_leaves_the_sequence_usable),
      cmocka_unit_test(blocks_are_not_given_on_while_a_plan_may_still_write_them),
      cmocka_unit_test(a_client_that_does_not_reap_parks_and_loses_its_blocks_after_the_lease),
      cmocka_unit_test(tokens_are_counted_by_how_long_they_took),
      cmocka_unit_test(how_long_a_client_does_not_reap_is_not_counted),
      cmocka_unit_test(nobody_takes_what_is_anothers_share_of_the_pool),
      cmocka_unit_test(what_exceeds_a_share_is_refused_and_what_a_new_share_cannot_hold_ends),
      cmocka_unit_test(a_limit_of_a_user_counts_all_of_his_clients_and_is_named),
      cmocka_unit_test(a_deadline_ends_the_operation_and_what_is_queued_behind_it),
      cmocka_unit_test(completions_say_what_their_steps_time_went_to),
      cmocka_unit_test(a_client_beyond_its_operations_is_ended),
      cmocka_unit_test(shutting_down_answers_everybody),
      cmocka_unit_test(a_lost_device_fails_what_runs_and_forgets_every_cache),
      cmocka_unit_test(a_client_that_leaves_takes_all_its_sequences),
      cmocka_unit_test(thousands_of_queued_operations_do_not_deepen_the_stack),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
