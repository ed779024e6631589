// SPDX-License-Identifier: Apache-2.0
// The paper's l from its closed form, and both splits against every l there is.
#include "daemon/sched/split.h"

#include <algorithm>
#include <cmath>

#include "tests/sched/profiles.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

// l*/s' = p·v_gpu / (2·h·v_com + p·v_gpu), with the constants of the paper's code.
void the_papers_split_is_its_closed_form(void**) {
  const struct {
    uint32_t h;
    double share;
  } rows[] = {{4096, 0.704}, {5120, 0.656}, {7168, 0.576}};
  for (const auto& row : rows) {
    const CacheShape shape = cache_shape(1, row.h, row.h);
    const Profile profile = paper_profile(row.h, row.h);
    for (uint64_t sequences : {1, 64}) {
      for (PaperSchedule schedule : {PaperSchedule::row_by_row, PaperSchedule::column_by_column}) {
        const uint64_t tokens = 100'000;
        const uint64_t l = paper_split(profile, shape, tokens, sequences, schedule);
        const double exact = 2 * 312e12 / (2.0 * row.h * 32e9 + 2 * 312e12) * static_cast<double>(tokens);
        assert_true(std::abs(static_cast<double>(l) - exact) <= 1);
        assert_true(std::abs(exact / static_cast<double>(tokens) - row.share) < 0.0006);
      }
    }
  }
}

void the_papers_split_beats_every_other(void**) {
  std::mt19937_64 random(test_seed());
  for (int round = 0; round < 300; ++round) {
    const uint32_t h = 64 << random() % 4, k = h >> random() % 4;
    const CacheShape shape = cache_shape(1 + random() % 4, h, k);
    const Profile profile = random_profile(random);
    const uint64_t tokens = random() % 300, sequences = 1 + random() % 8;
    const PaperSchedule schedule = random() % 2 ? PaperSchedule::row_by_row : PaperSchedule::column_by_column;
    auto cost = [&](uint64_t l) {
      LayerWork work;
      work.x_host = l * sequences;
      work.kv_host = (tokens - l) * sequences;
      return serial_cost(profile, shape, work, schedule).total_ns;
    };
    const uint64_t chosen = paper_split(profile, shape, tokens, sequences, schedule);
    for (uint64_t l = 0; l <= tokens; ++l) assert_true(cost(chosen) <= cost(l) * (1 + 1e-9));
  }
}

void the_best_split_beats_every_other(void**) {
  std::mt19937_64 random(test_seed());
  uint64_t inside = 0;
  for (int round = 0; round < 1000; ++round) {
    const uint32_t h = 64 << random() % 4, k = h >> (random() % 2 ? 0 : random() % 4);
    const CacheShape shape = cache_shape(1 + random() % 4, h, k);
    Profile profile = random_profile(random);
    // Often a link and a device that are about as fast as each other, so that the optimum is not at an end.
    const bool level = random() % 2;
    if (level) {
      const double share = std::uniform_real_distribution<>(0.1, 3)(random);
      profile.recompute = {0, profile.recompute.fixed_ns / 100, profile.h2d.each_ns * shape.kv_bytes * share};
      profile.dense = profile.head = profile.attend = {0, 10, 1};
      profile.d2h = profile.h2d;
    }
    const uint64_t tokens = 1 + random() % 300;
    const uint64_t most = random() % 2 ? tokens : random() % (tokens + 1);
    const uint64_t least = random() % 2 ? 0 : random() % (most + 1);
    LayerWork work;
    work.rows = random() % 8;
    work.attended = work.products = tokens * work.rows;
    work.x_device = random() % 100;
    work.new_kv = random() % (level ? 2 : 100);
    work.weight_bytes = level ? 0 : random() % 3 * 100'000;
    work.kv_host = tokens;
    auto cost = [&](uint64_t l) {
      work.x_host = l;
      work.kv_host = tokens - l;
      return streaming_cost(profile, shape, work).total_ns;
    };
    cost(0);
    const uint64_t chosen = best_split(profile, shape, work, least, most);
    assert_in_range(chosen, least, most);
    inside += chosen != least && chosen != most;
    for (uint64_t l = least; l <= most; ++l) {
      assert_true(cost(chosen) <= cost(l) * (1 + 1e-9));
      if (l < chosen) assert_true(cost(l) > cost(chosen) * (1 - 1e-9));
    }
  }
  assert_true(inside > 20);  // the search had something to find
}

// Where every copy has the same size, at worst one copy and one product's fixed part are missed.
void copies_of_one_size_cost_a_copy_at_most(void**) {
  std::mt19937_64 random(test_seed());
  for (int round = 0; round < 300; ++round) {
    const CacheShape shape = cache_shape(1, 256, 256);
    Profile profile = random_profile(random);
    LayerWork work;
    work.copy_bytes = 32 * 1024.0;
    const uint64_t tokens = 500;
    auto cost = [&](uint64_t l) {
      work.x_host = l;
      work.kv_host = tokens - l;
      return streaming_cost(profile, shape, work).total_ns;
    };
    cost(0);
    const uint64_t chosen = best_split(profile, shape, work, 0, tokens);
    const double copy = profile.h2d.at(work.copy_bytes);
    for (uint64_t l = 0; l <= tokens; ++l) assert_true(cost(chosen) <= cost(l) + 2 * copy);
  }
}

// X is no smaller than K,V of grouped queries once h >= 2k: nothing is sent as X, whatever the speeds.
void grouped_queries_are_never_recomputed(void**) {
  std::mt19937_64 random(test_seed());
  for (int round = 0; round < 200; ++round) {
    const CacheShape shape = cache_shape(4, 1024, 1024 >> (1 + random() % 3));
    const Profile profile = random_profile(random);
    LayerWork work;
    work.kv_host = 1 + random() % 10'000;
    assert_int_equal(best_split(profile, shape, work, 0, work.kv_host), 0);
    assert_int_equal(paper_split(profile, shape, 1000, 4, PaperSchedule::column_by_column), 0);
  }
}

// An H200 recomputes all of OPT-6.7B's cache under the transfer of X.
void a_fast_device_recomputes_everything(void**) {
  const CacheShape shape = cache_shape(32, 4096, 4096);
  LayerWork work;
  work.kv_host = 32 * 1024;
  assert_int_equal(best_split(paper_profile(4096, 4096, 55.5e9, 736e12), shape, work, 0, work.kv_host), work.kv_host);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(the_papers_split_is_its_closed_form),  cmocka_unit_test(the_papers_split_beats_every_other),
      cmocka_unit_test(the_best_split_beats_every_other),     cmocka_unit_test(copies_of_one_size_cost_a_copy_at_most),
      cmocka_unit_test(grouped_queries_are_never_recomputed), cmocka_unit_test(a_fast_device_recomputes_everything),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
