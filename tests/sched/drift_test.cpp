// SPDX-License-Identifier: Apache-2.0
// A machine whose link, device and host have true rates that may change, predicted by a Drift that must follow. Its noise is
// synthetic and seeded.
#include "daemon/sched/drift.h"

#include <cmath>
#include <functional>
#include <random>

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

Profile profile() {
  Profile made;
  made.h2d = made.d2h = {0, 100, 1};
  made.recompute = made.attend = made.dense = made.head = {50, 10, 2};
  made.contention = 0.5;
  made.duplex = 1.1;
  return made;
}

// Steps of a link that takes link_ns and a device that takes device_ns by the profile as it was measured.
struct Machine {
  double link_ns = 10e6, device_ns = 6e6;
  double host_ns = 0;                                    // of it, 0: it does not attend
  double link_true = 1, device_true = 1, host_true = 1;  // how much longer they really take
  std::function<double()> noise = [] { return 1.0; };
  Drift drift{profile()};

  bool step() {
    const double link = link_ns * link_true * noise(), device = device_ns * device_true * noise();
    const double host = host_ns * host_true * noise(), expected_host = host_ns * drift.host_factor();
    const double expected_link = link_ns * drift.link_factor(), expected_device = device_ns * drift.device_factor();
    return drift.observe({expected_link, expected_device, expected_host, std::max({expected_link, expected_device, expected_host})},
                         {link, device, host, std::max({link, device, host})}, drift.fits());
  }
  // Until a re-fit: how many steps that took, at most so many.
  int steps_to_refit(int most) {
    for (int steps = 1; steps <= most; ++steps) {
      if (step()) return steps;
    }
    return most + 1;
  }
};

bool near(double value, double expected, double relative) { return std::abs(value / expected - 1) <= relative; }

std::function<double()> uniform(std::mt19937_64& random, double share) {
  return [&random, share] { return std::uniform_real_distribution<>(1 - share, 1 + share)(random); };
}

void ten_percent_of_noise_never_refits(void**) {
  std::mt19937_64 random(test_seed());
  for (double step_ns : {50e3, 10e6, 2e9}) {
    Machine machine;
    machine.link_ns = step_ns;
    machine.device_ns = 0.7 * step_ns;
    machine.noise = uniform(random, 0.10);
    assert_int_equal(machine.steps_to_refit(20000), 20001);
    assert_true(near(machine.drift.total_ratio(), 1, 0.1));
  }
}

// Deviations of 10 % one way for long, then the other: within the bound, whatever the order.
void slow_waves_within_the_bound_never_refit(void**) {
  Machine machine;
  int at = 0;
  machine.noise = [&] { return at++ / 4000 % 2 == 0 ? 1.14 : 0.88; };
  assert_int_equal(machine.steps_to_refit(20000), 20001);
}

// A link that another process begins to use takes twice as long. Steps of 10 to 20 ms: half a second of suspicion are 25
// of them, the average's way to the bound less than 20.
void a_shared_link_is_noticed_within_a_second(void**) {
  std::mt19937_64 random(test_seed());
  Machine machine;
  machine.noise = uniform(random, 0.10);
  for (int i = 0; i < 200; ++i) assert_false(machine.step());
  machine.link_true = 2;
  const int steps = machine.steps_to_refit(100);
  std::printf("noticed after %d steps of 20 ms as %.3f\n", steps, machine.drift.link_factor());
  assert_true(steps <= 50);
  assert_true(near(machine.drift.link_factor(), 2, 0.05));
  assert_true(machine.drift.device_factor() == 1);
  assert_true(near(machine.drift.profile().h2d.each_ns, 2, 0.05));
  assert_true(machine.drift.profile().dense.each_ns == profile().dense.each_ns);
  assert_true(machine.drift.profile().contention == 0.5);

  // One re-fit is enough, and the end of it is noticed as fast: the profile is the measured one again, exactly.
  for (int i = 0; i < 2000; ++i) assert_false(machine.step());
  machine.link_true = 1;
  assert_true(machine.steps_to_refit(100) <= 70);
  for (int i = 0; i < 2000; ++i) assert_false(machine.step());
  assert_true(machine.drift.link_factor() == 1);
  assert_true(machine.drift.profile().h2d.each_ns == profile().h2d.each_ns);
  assert_int_equal(machine.drift.fits(), 2);
}

// Steps of a second, as of a large batch: 8 of them.
void long_steps_need_few_of_them(void**) {
  Machine machine;
  machine.link_ns = 1e9;
  machine.device_ns = 0.5e9;
  for (int i = 0; i < 20; ++i) assert_false(machine.step());
  machine.link_true = 1.5;
  assert_true(machine.steps_to_refit(100) <= 8);
  assert_true(near(machine.drift.link_factor(), 1.5, 1e-9));
}

// Steps of 50 us, as of a small model: half a second of suspicion and 64 steps to get there.
void short_steps_take_half_a_second(void**) {
  Machine machine;
  machine.link_ns = 40e3;
  machine.device_ns = 50e3;
  machine.device_true = 1.3;
  const int steps = machine.steps_to_refit(100000);
  assert_true(steps * 65e3 < 0.6e9);
  assert_true(near(machine.drift.device_factor(), 1.3, 0.01));
  assert_true(machine.drift.link_factor() == 1);
}

// At the very bound, with noise, where a rule without hysteresis would begin again and again: a few re-fits that get it
// right, not one a second.
void a_drift_at_the_bound_does_not_flap(void**) {
  std::mt19937_64 random(test_seed());
  for (double drift : {1.13, 1.15, 1.17, 1 / 1.15}) {
    Machine machine;
    machine.noise = uniform(random, 0.10);
    machine.link_true = drift;
    for (int i = 0; i < 20000; ++i) machine.step();
    std::printf("%.2f: %u re-fits, factor %.3f\n", drift, machine.drift.fits(), machine.drift.link_factor());
    assert_true(machine.drift.fits() <= 2);
    assert_true(std::abs(std::log(machine.drift.link_factor() / drift)) < std::log(1.15));
  }
}

// Now and then a step takes ten times as long: somebody else's burst, no drift.
void single_long_steps_are_no_drift(void**) {
  Machine machine;
  int at = 0;
  machine.noise = [&] { return at++ % 200 == 0 ? 10.0 : 1.0; };
  for (int i = 0; i < 5000; ++i) assert_false(machine.step());
  assert_true(machine.drift.drifted_steps() > 0);
}

void a_prediction_of_an_earlier_fit_is_passed_over(void**) {
  Machine machine;
  machine.link_true = 3;
  assert_true(machine.steps_to_refit(100) <= 100);
  const double factor = machine.drift.link_factor();
  // Plans that were out: predicted three times too short.
  for (int i = 0; i < 1000; ++i) assert_false(machine.drift.observe({10e6, 6e6, 0, 10e6}, {30e6, 6e6, 0, 30e6}, 0));
  assert_true(machine.drift.link_factor() == factor);
}

void what_says_nothing_changes_nothing(void**) {
  Drift drift(profile());
  for (int i = 0; i < 1000; ++i) {
    assert_false(drift.observe({0, 10e6, 0, 10e6}, {50e6, 10e6, 0, 50e6}, 0));         // nothing to carry was predicted
    assert_false(drift.observe({1e4, 10e6, 1e3, 10e6}, {1e5, 10e6, 1e5, 10e6}, 0));     // nearly nothing
    assert_false(drift.observe({10e6, 10e6, 10e6, 10e6}, {NAN, INFINITY, NAN, 10e6}, 0));
    assert_false(drift.observe({0, 0, 0, 0}, {10e6, 10e6, 10e6, 10e6}, 0));
  }
  assert_int_equal(drift.fits(), 0);
  assert_int_equal(drift.steps(), 3000);
}

// The parts are right and wait for each other: counted, and no rate is blamed.
void a_step_longer_than_its_parts_is_no_rate_s_fault(void**) {
  Drift drift(profile());
  for (int i = 0; i < 1000; ++i) assert_false(drift.observe({10e6, 8e6, 0, 10e6}, {10e6, 8e6, 0, 18e6}, 0));
  assert_int_equal(drift.drifted_steps(), 1000);
  assert_true(near(drift.total_ratio(), 1.8, 0.01));
}

// Somebody else begins to compute on the host's cores.
void a_busy_host_is_believed_at_once_and_trusted_again_later(void**) {
  std::mt19937_64 random(test_seed());
  Machine machine;
  machine.link_ns = 80e6;
  machine.device_ns = 60e6;
  machine.host_ns = 80e6;
  machine.noise = uniform(random, 0.10);
  for (int i = 0; i < 200; ++i) assert_false(machine.step());
  machine.host_true = 2;
  assert_int_equal(machine.steps_to_refit(100), 1);
  assert_true(near(machine.drift.host_factor(), 2, 0.25));
  assert_true(machine.drift.link_factor() == 1 && machine.drift.device_factor() == 1);
  assert_true(machine.drift.profile().h2d.each_ns == profile().h2d.each_ns);
  for (int i = 0; i < 200; ++i) machine.step();
  assert_true(near(machine.drift.host_factor(), 2, 0.15) && machine.drift.fits() <= 3);

  // Free again: believed after half a second of steps, 80 ms each, and not at once.
  machine.host_true = 1;
  const int steps = machine.steps_to_refit(100);
  assert_true(steps >= 6 && steps <= 20);
  for (int i = 0; i < 200; ++i) machine.step();
  assert_true(machine.drift.host_factor() < 1.15);
}

void corrections_have_an_end(void**) {
  Machine machine;
  machine.link_true = 1e6;
  for (int i = 0; i < 1000; ++i) machine.step();
  assert_true(machine.drift.link_factor() == DriftLimits{}.most_factor);
}

void all_times_are_of_the_link_the_device_or_the_host(void**) {
  Profile profile;
  double Profile::*const shares[] = {&Profile::duplex,          &Profile::project_share,   &Profile::link_slowdown, &Profile::contention,
                                     &Profile::host_slows_link, &Profile::host_contention};
  Curve Profile::*const link[] = {&Profile::h2d, &Profile::d2h};
  Curve Profile::*const device[] = {&Profile::recompute, &Profile::attend, &Profile::attend_rows, &Profile::dense, &Profile::head,
                                    &Profile::keep_x, &Profile::exchange};
  // A Profile is these numbers and no other.
  static_assert(sizeof(Profile) == 10 * sizeof(Curve) + 8 * sizeof(double));
  for (auto curve : link) profile.*curve = {1, 2, 3};
  for (auto curve : device) profile.*curve = {1, 2, 3};
  profile.host_attend = {1, 2, 3};
  profile.piece_ns = profile.embed_ns = 1;
  const Profile result = scaled(profile, 2, 3, 5);
  auto assert_curve = [](const Curve& curve, double factor) {
    assert_true(curve.least_ns == factor && curve.fixed_ns == 2 * factor && curve.each_ns == 3 * factor);
  };
  for (auto curve : link) assert_curve(result.*curve, 2);
  for (auto curve : device) assert_curve(result.*curve, 3);
  assert_curve(result.host_attend, 5);
  assert_true(result.piece_ns == 2 && result.embed_ns == 3);
  for (auto share : shares) assert_true(result.*share == profile.*share);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(ten_percent_of_noise_never_refits),
      cmocka_unit_test(slow_waves_within_the_bound_never_refit),
      cmocka_unit_test(a_shared_link_is_noticed_within_a_second),
      cmocka_unit_test(long_steps_need_few_of_them),
      cmocka_unit_test(short_steps_take_half_a_second),
      cmocka_unit_test(a_drift_at_the_bound_does_not_flap),
      cmocka_unit_test(single_long_steps_are_no_drift),
      cmocka_unit_test(a_prediction_of_an_earlier_fit_is_passed_over),
      cmocka_unit_test(what_says_nothing_changes_nothing),
      cmocka_unit_test(a_step_longer_than_its_parts_is_no_rate_s_fault),
      cmocka_unit_test(a_busy_host_is_believed_at_once_and_trusted_again_later),
      cmocka_unit_test(corrections_have_an_end),
      cmocka_unit_test(all_times_are_of_the_link_the_device_or_the_host),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
