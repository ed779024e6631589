// SPDX-License-Identifier: Apache-2.0
// Curves from synthetic samples: exact ones give the curve that made them, noise and outliers one that is near it.
#include "daemon/sched/fit.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/sched/profiles.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

std::vector<double> powers_of_two(double first, double last) {
  std::vector<double> sizes;
  for (double size = first; size <= last; size *= 2) sizes.push_back(size);
  return sizes;
}

std::vector<Sample> samples_of(const Curve& curve, const std::vector<double>& sizes) {
  std::vector<Sample> samples;
  for (double size : sizes) samples.push_back({size, curve.at(size)});
  return samples;
}

void assert_near(double value, double expected, double relative) {
  if (std::abs(value - expected) <= relative * std::abs(expected)) return;
  print_error("%.9g is not %.9g within %g\n", value, expected, relative);
  fail();
}

// Largest relative deviation from what the samples were made of.
double worst(const Curve& curve, const Curve& truth, const std::vector<double>& sizes) {
  double most = 0;
  for (double size : sizes) most = std::max(most, std::abs(curve.at(size) / truth.at(size) - 1));
  return most;
}

void exact_samples_give_their_curve(void**) {
  const Curve curves[] = {{0, 8000, 0.018}, {0, 0, 2}, {70000, 5000, 800}, {300, 0, 10}};
  for (const Curve& truth : curves) {
    const std::vector<double> sizes = truth.each_ns < 1 ? powers_of_two(16384, 1 << 26) : powers_of_two(1, 4096);
    const Curve found = fit(samples_of(truth, sizes));
    assert_near(found.each_ns, truth.each_ns, 1e-6);
    assert_true(worst(found, truth, sizes) < 1e-6);
  }
}

// A link of 55.5 GB/s with 2.4 us a copy, as measured between 64 KiB and 64 MiB with 3 % of noise: the rate within 3 %,
// the fixed part within 15 %. A product with a floor: both within 5 %.
void noise_moves_the_curve_little(void**) {
  std::mt19937_64 random(test_seed());
  std::normal_distribution<> noise(0, 0.03);
  std::vector<double> rates, fixed, floors, slopes;
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<Sample> copies = samples_of({0, 2400, 1 / 55.5}, powers_of_two(1 << 14, 1 << 26));
    for (Sample& sample : copies) sample.ns *= std::exp(noise(random));
    const Curve link = fit(copies);
    rates.push_back(std::abs(link.each_ns * 55.5 - 1));
    fixed.push_back(std::abs(link.fixed_ns / 2400 - 1));
    std::vector<Sample> products = samples_of({90000, 3000, 1500}, powers_of_two(1, 1024));
    for (Sample& sample : products) sample.ns *= std::exp(noise(random));
    const Curve product = fit(products);
    floors.push_back(std::abs(product.at(1) / 90000 - 1));
    slopes.push_back(std::abs(product.each_ns / 1500 - 1));
  }
  auto nearly_all = [](std::vector<double> deviations) {
    std::sort(deviations.begin(), deviations.end());
    return deviations[deviations.size() * 95 / 100];
  };
  std::printf("95 %% within: rate %.3f, fixed %.3f, floor %.3f, slope %.3f\n", nearly_all(rates), nearly_all(fixed),
              nearly_all(floors), nearly_all(slopes));
  assert_true(nearly_all(rates) < 0.05);
  assert_true(nearly_all(fixed) < 0.20);
  assert_true(nearly_all(floors) < 0.05);
  assert_true(nearly_all(slopes) < 0.08);
}

// Of any curve that could be a device's, a quarter of the samples takes 2 to 10 times as long: 98 % of the curves found
// are within 10 % of the true one everywhere. (Not all: of the four samples beyond a late floor one may be wrong.)
void outliers_do_not_count(void**) {
  std::mt19937_64 random(test_seed());
  const std::vector<double> sizes = powers_of_two(1, 32768);  // 16
  int far = 0;
  for (int trial = 0; trial < 200; ++trial) {
    const Profile profile = random_profile(random);
    std::vector<Sample> samples = samples_of(profile.dense, sizes);
    for (Sample& sample : samples) sample.ns *= std::uniform_real_distribution<>(0.99, 1.01)(random);
    // Not at the end, where nothing else would say what is right.
    for (size_t i : {2, 5, 9, 12}) samples[i].ns *= std::uniform_real_distribution<>(2, 10)(random);
    if (worst(fit(samples), profile.dense, sizes) > 0.10) ++far;
  }
  assert_true(far <= 4);
}

void little_is_taken_as_it_is(void**) {
  assert_true(fit({}).at(100) == 0);
  const Sample useless[] = {{0, 5}, {5, 0}, {-1, 1}, {NAN, 1}, {1, INFINITY}};
  assert_true(fit(useless).at(100) == 0);
  const Sample one[] = {{10, 50}};
  assert_near(fit(one).at(20), 100, 1e-9);
  const Sample same[] = {{10, 50}, {10, 52}, {10, 51}};
  assert_near(fit(same).at(20), 102, 0.03);
  const Sample falling[] = {{1, 100}, {2, 90}, {4, 80}};  // never a negative slope
  const Curve curve = fit(falling);
  assert_true(curve.each_ns >= 0 && curve.fixed_ns >= 0 && curve.least_ns >= 0);
  assert_true(misfit(curve, falling) < 0.13);
}

void as_many_samples_as_there_may_be(void**) {
  const Curve truth{5000, 100, 20};
  std::vector<double> sizes;
  for (size_t i = 0; i < kMostSamples; ++i) sizes.push_back(std::pow(1.2, static_cast<double>(i)));
  assert_true(worst(fit(samples_of(truth, sizes)), truth, sizes) < 1e-6);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(exact_samples_give_their_curve), cmocka_unit_test(noise_moves_the_curve_little),
      cmocka_unit_test(outliers_do_not_count),          cmocka_unit_test(little_is_taken_as_it_is),
      cmocka_unit_test(as_many_samples_as_there_may_be),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
