// SPDX-License-Identifier: Apache-2.0
// The programme's corners from their reasons, and its optimum against a grid of placements.
#include "daemon/sched/placement.h"

#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "daemon/sched/split.h"
#include "tests/sched/profiles.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

double tokens_in(const Placement& placement, Place place) {
  double sum = 0;
  for (const auto& one : placement.tokens) sum += one[static_cast<size_t>(place)];
  return sum;
}

void assert_near(double value, double expected, double slack) {
  if (std::abs(value - expected) <= slack) return;
  print_error("%.12g is not %.12g\n", value, expected);
  fail();
}

// One class that every step reads; MHA of h = 4096, one layer, the paper's constants.
struct OneClass {
  TokenClass tokens{10'000, 1, 10'000};
  PlacementProblem problem;
  OneClass(uint32_t h = 4096, uint32_t k = 4096) {
    const Profile profile = paper_profile(h, k);
    problem.shape = cache_shape(1, h, k);
    problem.h2d_ns_per_byte = profile.h2d.each_ns;
    problem.recompute_ns = profile.recompute.each_ns;
    problem.host_bytes = uint64_t{1} << 40;
    problem.classes = std::span(&tokens, 1);
  }
};

void without_device_memory_it_is_the_best_split(void**) {
  const OneClass one;
  const Placement placement = best_placement(one.problem);
  assert_true(placement.feasible);
  LayerWork work;
  work.kv_host = 10'000;
  const uint64_t split = best_split(paper_profile(4096, 4096), one.problem.shape, work, 0, 10'000);
  assert_near(tokens_in(placement, Place::x_host), static_cast<double>(split), 1);
  assert_near(tokens_in(placement, Place::kv_host), 10'000 - static_cast<double>(split), 1);
}

void what_fits_the_device_stays_there(void**) {
  OneClass one;
  one.problem.device_bytes = uint64_t{10'000} * 4 * 4096;
  const Placement placement = best_placement(one.problem);
  assert_near(tokens_in(placement, Place::kv_device), 10'000, 1e-3);
  assert_near(placement.step_ns, 0, 1e-3);
}

// On the link X of h = 2k is as large as K,V; on the device too.
void grouped_queries_keep_kv(void**) {
  OneClass one(4096, 1024);
  one.problem.device_bytes = 5'000 * 4 * 1024;
  const Placement placement = best_placement(one.problem);
  assert_near(tokens_in(placement, Place::kv_device), 5'000, 1e-3);
  assert_near(tokens_in(placement, Place::kv_host), 5'000, 1e-3);
}

// A pool that holds the tokens only as X, and one that does not hold them at all.
void a_small_pool_forces_x(void**) {
  OneClass one;
  one.problem.recompute_ns *= 100;  // so that nobody would choose it
  one.problem.host_bytes = uint64_t{10'000} * 2 * 4096;
  const Placement placement = best_placement(one.problem);
  assert_true(placement.feasible);
  assert_near(tokens_in(placement, Place::x_host), 10'000, 1e-3);
  one.problem.host_bytes -= 8192;
  assert_false(best_placement(one.problem).feasible);
}

void what_is_stored_as_kv_never_becomes_x(void**) {
  OneClass one;
  one.tokens.most_x = 100;
  const Placement placement = best_placement(one.problem);
  assert_near(tokens_in(placement, Place::x_host), 100, 1e-3);
}

void who_is_read_most_gets_the_best_place(void**) {
  OneClass one;
  const std::vector<TokenClass> classes{{1000, 0.01, 1000}, {1000, 1, 1000}, {1000, 0.3, 1000}};
  one.problem.classes = classes;
  one.problem.device_bytes = 1000 * 4 * 4096;
  one.problem.recompute_ns = 1e6;
  const Placement placement = best_placement(one.problem);
  assert_near(placement.tokens[1][static_cast<size_t>(Place::kv_device)], 1000, 1e-3);
}

// The CPU attends only when it has a rate, and then as much as ends when the link does.
void the_cpu_takes_its_share(void**) {
  OneClass one(4096, 1024);
  assert_near(tokens_in(best_placement(one.problem), Place::kv_attended), 0, 0);
  one.problem.host_attend_ns = one.problem.h2d_ns_per_byte * 4 * 1024 / 2;  // twice the link
  const Placement placement = best_placement(one.problem);
  assert_near(tokens_in(placement, Place::kv_attended), 10'000 * 2 / 3.0, 1e-2);
  assert_near(placement.step_ns, 10'000 / 3.0 * 4096 / 32, 1e-2);  // 32 bytes a nanosecond
}

void nothing_is_recomputed_for_nothing(void**) {
  OneClass one;
  one.problem.device_ns = 1e9;  // dense work hides any transfer
  const Placement placement = best_placement(one.problem);
  assert_near(tokens_in(placement, Place::x_host) + tokens_in(placement, Place::x_device), 0, 1e-3);
  assert_near(placement.step_ns, 1e9, 1);
}

// A byte of weights saves a byte of the link; one of K,V saves half, since X would cross in its place.
void weights_stay_before_kv_where_x_crosses(void**) {
  OneClass one;
  one.problem.recompute_ns = 0.01;
  one.problem.weight_bytes = one.problem.device_bytes = 1'000'000;
  const Placement placement = best_placement(one.problem);
  assert_near(placement.streamed_weight_bytes, 0, 1);
  assert_near(tokens_in(placement, Place::x_host), 10'000, 1e-3);
  // What is left goes to tokens, as X: it saves as much.
  one.problem.device_bytes += 100 * 2 * 4096;
  assert_near(tokens_in(best_placement(one.problem), Place::x_device), 100, 1e-3);
}

// And tokens that hardly any step reads stay on the host, whatever is left there for weights.
void weights_stay_before_tokens_that_are_seldom_read(void**) {
  OneClass one(4096, 1024);
  one.tokens.reads = 0.1;
  one.problem.weight_bytes = 8'000'000;
  one.problem.device_bytes = 5'000'000;
  const Placement placement = best_placement(one.problem);
  assert_near(placement.streamed_weight_bytes, 3'000'000, 1);
  assert_near(tokens_in(placement, Place::kv_device), 0, 1e-3);
  assert_near(placement.step_ns, (3'000'000 + 0.1 * 10'000 * 4 * 1024) / 32, 1e-1);
}

// For every share of the weights on the device, in hundredths, tokens in the best places of what is left.
void no_share_of_the_weights_is_faster(void**) {
  std::mt19937_64 random(3);
  auto between = [&](double low, double high) { return std::uniform_real_distribution<>(low, high)(random); };
  for (int round = 0; round < 60; ++round) {
    OneClass one(4096, random() % 2 == 0 ? 4096 : 1024);
    one.problem.recompute_ns *= between(0.1, 3);
    one.problem.device_ns = between(0, 3e6);
    one.problem.contention = between(0, 1);
    one.problem.weight_bytes = random() % 100'000'000;
    one.problem.device_bytes = random() % 150'000'000;
    one.tokens.reads = between(0, 1);
    const double best_ns = best_placement(one.problem).step_ns;
    for (int hundredth = 0; hundredth <= 100; ++hundredth) {
      PlacementProblem fixed = one.problem;
      const uint64_t stay = one.problem.weight_bytes * static_cast<uint64_t>(hundredth) / 100;
      if (stay > one.problem.device_bytes) break;
      fixed.weight_bytes = 0;
      fixed.device_bytes -= stay;
      fixed.link_ns += static_cast<double>(one.problem.weight_bytes - stay) * fixed.h2d_ns_per_byte;
      assert_true(best_ns <= best_placement(fixed).step_ns * (1 + 1e-6) + 1e-3);
    }
  }
}

void no_tokens_are_no_work(void**) {
  OneClass one;
  one.problem.classes = {};
  assert_true(best_placement(one.problem).feasible);
}

// Every way to cut one class into eighths over the places.
std::vector<std::array<double, kPlaces>> shares() {
  std::vector<std::array<double, kPlaces>> all;
  constexpr int kParts = 8;
  for (int a = 0; a <= kParts; ++a) {
    for (int b = 0; a + b <= kParts; ++b) {
      for (int c = 0; a + b + c <= kParts; ++c) {
        for (int d = 0; a + b + c + d <= kParts; ++d) {
          all.push_back({a / 8.0, b / 8.0, c / 8.0, d / 8.0, (kParts - a - b - c - d) / 8.0});
        }
      }
    }
  }
  return all;
}

// Nothing on the grid is faster, or fits where the programme says that nothing does.
void no_placement_of_the_grid_is_faster(void**) {
  std::mt19937_64 random(test_seed());
  const auto grid = shares();
  auto between = [&](double low, double high) { return std::uniform_real_distribution<>(low, high)(random); };
  uint64_t feasible = 0, candidates = 0;
  for (int round = 0; round < 120; ++round) {
    const uint32_t h = 512, k = h >> random() % 4;
    std::vector<TokenClass> classes(2);
    double bytes = 0;
    for (TokenClass& one : classes) {
      one.tokens = between(10, 1000);
      one.reads = between(0, 1);
      one.most_x = random() % 2 ? one.tokens : between(0, one.tokens);
      bytes += one.tokens * 4 * k;
    }
    PlacementProblem problem;
    problem.shape = cache_shape(1, h, k);
    problem.h2d_ns_per_byte = between(0.01, 1);
    problem.recompute_ns = between(1, 2000);
    problem.contention = between(0, 1);
    problem.device_ns = between(0, 1e5);
    problem.host_attend_ns = random() % 2 ? between(10, 2000) : 0;
    problem.link_ns = random() % 2 ? between(0, 1e5) : 0;
    problem.device_bytes = static_cast<uint64_t>(bytes * between(0, 1));
    problem.host_bytes = static_cast<uint64_t>(bytes * between(0.3, 2));
    problem.classes = classes;
    const Placement best = best_placement(problem);
    feasible += best.feasible;

    const std::array<double, kPlaces> on_device{4.0 * k, 2.0 * h, 0, 0, 0}, on_host{0, 0, 4.0 * k, 2.0 * h, 4.0 * k};
    auto fits = [&](const Placement& placement, double slack) {
      double device = 0, host = 0;
      for (size_t c = 0; c < classes.size(); ++c) {
        const auto& t = placement.tokens[c];
        if (t[1] + t[3] > classes[c].most_x + slack) return false;
        if (t[4] > 0 && problem.host_attend_ns == 0) return false;
        device += std::inner_product(t.begin(), t.end(), on_device.begin(), 0.0);
        host += std::inner_product(t.begin(), t.end(), on_host.begin(), 0.0);
      }
      return device <= static_cast<double>(problem.device_bytes) + slack &&
             host <= static_cast<double>(problem.host_bytes) + slack;
    };
    if (best.feasible) {
      assert_true(fits(best, 1e-3 * bytes / 1000));
      for (size_t c = 0; c < classes.size(); ++c) {
        assert_near(std::accumulate(best.tokens[c].begin(), best.tokens[c].end(), 0.0), classes[c].tokens, 1e-6 * bytes);
      }
    }
    for (const auto& first : grid) {
      for (const auto& second : grid) {
        Placement other;
        for (size_t place = 0; place < kPlaces; ++place) {
          other.tokens[0][place] = first[place] * classes[0].tokens;
          other.tokens[1][place] = second[place] * classes[1].tokens;
        }
        if (!fits(other, 0)) continue;
        candidates++;
        assert_true(best.feasible);
        assert_true(best.step_ns <= step_ns_of(problem, other) * (1 + 1e-6) + 1e-3);
      }
    }
  }
  assert_true(feasible > 40 && candidates > 10'000);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(without_device_memory_it_is_the_best_split),
      cmocka_unit_test(what_fits_the_device_stays_there),
      cmocka_unit_test(grouped_queries_keep_kv),
      cmocka_unit_test(a_small_pool_forces_x),
      cmocka_unit_test(what_is_stored_as_kv_never_becomes_x),
      cmocka_unit_test(who_is_read_most_gets_the_best_place),
      cmocka_unit_test(the_cpu_takes_its_share),
      cmocka_unit_test(nothing_is_recomputed_for_nothing),
      cmocka_unit_test(weights_stay_before_kv_where_x_crosses),
      cmocka_unit_test(weights_stay_before_tokens_that_are_seldom_read),
      cmocka_unit_test(no_share_of_the_weights_is_faster),
      cmocka_unit_test(no_tokens_are_no_work),
      cmocka_unit_test(no_placement_of_the_grid_is_faster),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
