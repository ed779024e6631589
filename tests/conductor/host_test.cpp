// SPDX-License-Identifier: Apache-2.0
// What the host attends to: how blocks are stored for it, how much it gets, and how that follows a host that becomes busy
// and free again.
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>

#include "tests/conductor/harness.h"
#include "tests/sched/profiles.h"
#include "wire/times.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

constexpr uint32_t kContext = 1024, kSequences = 32;

// OPT-6.7B on an H200 with 14 host threads; a batch-invariant one besides.
ConductorConfig config(bool batch_invariant = false) {
  ConductorConfig config;
  config.max_context = 32 * kContext;
  config.recompute.mode = Recompute::automatic;
  config.batch.max_rows = 2048;
  config.batch.max_draws = 2048;
  config.plans_in_flight = 1;
  config.staging.slot_blocks = 64;
  config.staging.kv_slots = config.staging.x_slots = 4;
  config.staging.tile_tokens = 64 * kBlockTokens;
  config.batch_invariant = batch_invariant;
  Profile& profile = config.step_model.profile;
  profile = paper_profile(4096, 4096, 55.5e9, 736e12);
  profile.dense = {110'000, 0, 600};
  profile.attend = {3000, 0, 16384 / 3400.0};
  profile.exchange = {0, 20'000, 300};
  profile.host_attend = {0, 15'000, 16384 / 84.0};
  profile.host_slows_link = 1.024;
  config.step_model.shape = {32, 8192, 16384, 64};
  return config;
}

// Sequences that decode, on a host that takes `host` times as long as the profile says.
class Decoding {
 public:
  explicit Decoding(uint32_t sequences = kSequences, bool batch_invariant = false, uint32_t context = kContext, bool one_by_one = false)
      : sequences_(sequences), harness_(config(batch_invariant), 4096, false), client_(harness_.join(0, {256, 4096, 1 << 20, 4096})) {
    for (uint32_t i = 0; i < sequences; ++i) {
      harness_.open(client_, i + 1);
      harness_.submit(client_, Harness::step(i + 1, context, 2 * kContext));
      if (one_by_one) step(), step();
    }
    for (int prompts = 0; prompts < 1000 && !decodes(); ++prompts) step();
    assert_true(decodes());
  }

  // One more sequence, as soon as it decodes beside the others.
  void begin_another() {
    harness_.open(client_, ++sequences_);
    harness_.submit(client_, Harness::step(sequences_, kContext, 2 * kContext));
    for (int prompts = 0; prompts < 100 && !decodes(); ++prompts) step();
    assert_true(decodes());
  }

  bool decodes() {
    harness_.plan();
    const Plan& plan = *harness_.issued.front();
    return plan.spans.size() == sequences_ && plan.tokens.size() == sequences_;
  }
  Plan& next() {
    harness_.plan();
    return *harness_.issued.front();
  }
  // Runs it; returns how long it takes.
  double step() {
    Plan& plan = next();
    const StepCost& cost = plan.predicted;
    const auto as_predicted = [&](double ns, double corrected) { return static_cast<uint64_t>(ns / corrected); };
    const double host_ns = cost.host_ns / harness_.conductor.drift()->host_factor() * host * (noise ? noise() : 1);
    const double step_ns = std::max({cost.h2d_ns, cost.device_ns, host_ns + cost.chain_ns - cost.host_ns});
    plan.measured.busy_ns[static_cast<size_t>(Queue::h2d)] = as_predicted(cost.h2d_ns, 1);
    plan.measured.busy_ns[static_cast<size_t>(Queue::d2h)] = as_predicted(cost.d2h_ns, 1);
    plan.measured.busy_ns[static_cast<size_t>(Queue::host)] = static_cast<uint64_t>(host_ns);
    plan.measured.device_busy_ns = as_predicted(cost.device_ns, 1);
    plan.measured.step_ns = static_cast<uint64_t>(step_ns);
    plan.started_ns = harness_.now_ns;
    harness_.now_ns += plan.measured.step_ns;
    plan.ended_ns = harness_.now_ns;
    harness_.retire();
    harness_.reaped(client_);
    return step_ns;
  }
  uint64_t given() { return next().work.kv_attended; }
  double seconds() const { return static_cast<double>(harness_.now_ns) / 1e9; }
  const Harness& harness() const { return harness_; }

  double host = 1;
  std::function<double()> noise;

 private:
  uint32_t sequences_;
  Harness harness_;
  ClientId client_;
};

void thirty_two_contexts_are_shared_as_measured(void**) {
  Decoding decoding;
  const Plan& plan = decoding.next();
  std::printf("%lu as X, %lu as K,V over the link, %lu of %lu rows by the host: %.1f ms\n", plan.work.x_host, plan.work.kv_host,
              plan.work.kv_attended, plan.work.divided, plan.predicted.total_ns / 1e6);
  // About 18 sequences as X and 14 as K,V; 89 ms by the prototype.
  assert_in_range(plan.work.divided, 13, 15);
  assert_true(plan.work.x_host + plan.work.kv_attended > 31 * kContext);
  const auto ms_of = [](const Plan& one, double ms) {  // per 32 x 1,024 tokens
    return ms * static_cast<double>(one.work.x_host + one.work.kv_host + one.work.kv_attended) / (kSequences * kContext);
  };
  assert_true(plan.predicted.total_ns / 1e6 < ms_of(plan, 94));
  // K,V are the ends of what is X as well.
  for (const PlanSpan& span : plan.spans) {
    for (uint32_t r = span.first_run; r + 1 < span.first_run + span.runs; ++r) {
      assert_true(plan.runs[r].form == BlockForm::x || plan.runs[r + 1].form == BlockForm::kv);
    }
  }
  // Whoever asks what bound a sequence is told of the host's part, as counters are.
  const uint64_t attended = plan.work.kv_attended, before = decoding.harness().counter(wire::Counter::host_attended_tokens);
  decoding.step();
  assert_int_equal(decoding.harness().counter(wire::Counter::host_attended_tokens) - before, attended);
  for (const wire::SequenceRow& row : decoding.harness().conductor.rows()) {
    const double ms = static_cast<double>(wire::unpack_duration(row.host_times[row.steps - 1])) / 1e6;
    assert_true(ms > 80 && ms < 100);
  }
  // A thousand tokens later it is still so: both kinds grow.
  for (int i = 0; i < 900; ++i) decoding.step();
  const Plan& later = decoding.next();
  std::printf("later %lu, %lu and %lu: %.1f ms\n", later.work.x_host, later.work.kv_host, later.work.kv_attended, later.predicted.total_ns / 1e6);
  assert_true(later.predicted.total_ns / 1e6 < ms_of(later, 97));
  assert_in_range(later.work.divided, 13, 16);
}

void one_long_context_is_divided_by_position(void**) {
  constexpr uint32_t kLong = 16 * kContext;
  Decoding decoding(1, false, kLong);
  const Plan& plan = decoding.next();
  assert_int_equal(plan.work.divided, 1);
  const double share = static_cast<double>(plan.work.kv_attended) / kLong;
  std::printf("%.2f of it by the host\n", share);
  assert_true(share > 0.2 && share < 0.5);
}

// Prompts that are read one after the other, each while the one before it is being read in parts.
void prompts_that_come_one_by_one_leave_the_host_its_part(void**) {
  Decoding decoding(4, false, 8 * kContext, true);
  const Plan& plan = decoding.next();
  std::printf("%lu as X, %lu as K,V over the link, %lu by the host\n", plan.work.x_host, plan.work.kv_host, plan.work.kv_attended);
  assert_true(plan.work.kv_attended > 10 * kContext && plan.work.kv_host < 2 * kContext);
}

void a_busy_host_gets_less_at_once_and_more_later(void**) {
  Decoding decoding;
  for (int i = 0; i < 20; ++i) decoding.step();
  const uint64_t before = decoding.given();
  const double began = decoding.seconds();
  decoding.host = 2;
  decoding.step();
  assert_true(decoding.given() < before * 4 / 5);
  while (decoding.seconds() < began + 1) decoding.step();
  // As a host of half the rate would have it: 84 -> 42 GB/s beside 54. What cannot be recomputed is K,V and crosses as such.
  const double busy_ns = decoding.step();
  std::printf("%lu tokens, then %lu: %.1f ms\n", before, decoding.given(), busy_ns / 1e6);
  assert_true(busy_ns < 155e6);

  decoding.host = 1;
  decoding.step();
  assert_true(decoding.given() < before * 4 / 5);  // one step is not enough to come back
  const double freed = decoding.seconds();
  while (decoding.given() < before * 9 / 10 && decoding.seconds() < freed + 10) decoding.step();
  std::printf("back after %.1f s\n", decoding.seconds() - freed);
  assert_true(decoding.seconds() < freed + 3);
}

// A host that is of no use any more gets next to nothing, is looked at now and then, and has its part again when it is free.
void a_host_that_stands_still_is_looked_at_now_and_then(void**) {
  Decoding decoding;
  const uint64_t before = decoding.given();
  decoding.host = 100;
  double began = decoding.seconds();
  while (decoding.seconds() < began + 1) decoding.step();
  uint64_t steps = 0, with_part = 0;
  for (began = decoding.seconds(); decoding.seconds() < began + 20; ++steps) {
    with_part += decoding.given() > 0;
    decoding.step();
  }
  std::printf("%lu of %lu steps with a part for the host\n", with_part, steps);
  assert_true(with_part <= 21 && with_part >= 10 && steps > 3 * with_part);
  decoding.host = 1;
  const double freed = decoding.seconds();
  while (decoding.given() < before * 9 / 10 && decoding.seconds() < freed + 60) decoding.step();
  std::printf("back after %.1f s\n", decoding.seconds() - freed);
  assert_true(decoding.seconds() < freed + 60);
}

// Noise of a tenth changes nothing.
void noise_moves_nothing(void**) {
  std::mt19937_64 random(test_seed());
  Decoding decoding;
  decoding.noise = [&] { return std::uniform_real_distribution<>(0.9, 1.1)(random); };
  for (int i = 0; i < 300; ++i) decoding.step();
  assert_int_equal(decoding.harness().conductor.drift()->fits(), 0);
}

// A batch-invariant device: the same division alone and among others.
void a_fixed_part_is_everybody_s(void**) {
  Decoding alone(1, true), among(20, true);
  for (int i = 0; i < 100; ++i) {
    const Plan &one = alone.next(), &all = among.next();
    assert_true(one.spans[0].host_tokens() > 0);
    for (const PlanSpan& span : all.spans) {
      if (span.first_position == one.spans[0].first_position) assert_int_equal(span.host_from, one.spans[0].host_from);
      assert_int_equal(span.host_from, fixed_host_from(config().step_model.profile, config().step_model.shape, fixed_host_share(config().step_model.profile, config().step_model.shape), span.first_position));
    }
    alone.host = among.host = i < 50 ? 1 : 3;
    alone.step(), among.step();
  }
}

// What begins while the host is busy is planned for that, and what was there before keeps its part.
void a_part_is_fixed_when_its_sequence_begins(void**) {
  Decoding decoding(4, true);
  decoding.host = 3;
  for (int i = 0; i < 300; ++i) decoding.step();
  assert_true(decoding.harness().conductor.drift()->host_factor() > 2);
  decoding.begin_another();
  const Plan& plan = decoding.next();
  const double before = plan.spans[0].host_share, now = plan.spans[4].host_share;
  assert_true(before > 0.35 && now < before / 2);
  for (uint32_t i = 0; i < 4; ++i) assert_true(plan.spans[i].host_share == before);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(thirty_two_contexts_are_shared_as_measured),
      cmocka_unit_test(one_long_context_is_divided_by_position),
      cmocka_unit_test(prompts_that_come_one_by_one_leave_the_host_its_part),
      cmocka_unit_test(a_busy_host_gets_less_at_once_and_more_later),
      cmocka_unit_test(a_host_that_stands_still_is_looked_at_now_and_then),
      cmocka_unit_test(noise_moves_nothing),
      cmocka_unit_test(a_fixed_part_is_everybody_s),
      cmocka_unit_test(a_part_is_fixed_when_its_sequence_begins),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
