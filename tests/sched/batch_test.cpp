// SPDX-License-Identifier: Apache-2.0
// What the fairness rule of daemon/sched/batch.h promises, from its words.
#include "daemon/sched/batch.h"

#include <map>
#include <set>
#include <vector>

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

struct Wish {
  uint32_t client;
  uint32_t rows;
  bool decode = false;
};

std::vector<Candidate> candidates_of(const std::vector<Wish>& wishes) {
  std::vector<Candidate> candidates;
  for (const Wish& wish : wishes) {
    Candidate candidate;
    candidate.slot = static_cast<uint32_t>(candidates.size());
    candidate.client = wish.client;
    candidate.rows = wish.rows;
    candidate.decode = wish.decode;
    candidate.arrival = candidates.size();
    candidates.push_back(candidate);
  }
  return candidates;
}

// Rows a client gets.
std::map<uint32_t, uint32_t> rows_by_client(const std::vector<Wish>& wishes, const BatchLimits& limits) {
  std::vector<Candidate> candidates = candidates_of(wishes);
  BatchChooser chooser;
  std::map<uint32_t, uint32_t> rows;
  for (const Pick& pick : chooser.choose(candidates, limits)) rows[wishes[pick.slot].client] += pick.rows;
  return rows;
}

std::vector<Wish> decodes(uint32_t client, uint32_t count) { return std::vector<Wish>(count, Wish{client, 1, true}); }

std::vector<Wish> together(std::vector<Wish> a, const std::vector<Wish>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

void a_lone_client_has_everything(void**) {
  BatchLimits limits;
  assert_int_equal(rows_by_client(decodes(0, 40), limits)[0], 40);
}

void equal_clients_are_served_in_full(void**) {
  BatchLimits limits;
  limits.free_rows = 1;
  std::vector<Wish> wishes;
  for (uint32_t client = 0; client < 8; client++) wishes = together(wishes, decodes(client, 4));
  for (const auto& [client, rows] : rows_by_client(wishes, limits)) assert_int_equal(rows, 4);
}

void a_flooding_client_at_most_doubles_the_others_step(void**) {
  BatchLimits limits;
  limits.free_rows = 4;
  const auto rows = rows_by_client(together(together(decodes(0, 8), decodes(1, 8)), decodes(2, 64)), limits);
  assert_int_equal(rows.at(0), 8);
  assert_int_equal(rows.at(1), 8);
  assert_int_equal(rows.at(2), 16);
}

void rows_that_cost_nothing_may_be_taken_by_anybody(void**) {
  BatchLimits limits;
  limits.free_rows = 8;
  const auto rows = rows_by_client(together(decodes(0, 1), decodes(1, 64)), limits);
  assert_int_equal(rows.at(0), 1);
  assert_int_equal(rows.at(1), 8);
}

void a_decoding_client_keeps_half_of_its_share_for_its_prompts(void**) {
  BatchLimits limits;
  limits.prefill_rows = 100;
  std::vector<Candidate> candidates = candidates_of(together(decodes(0, 4), {{0, 1000, false}}));
  BatchChooser chooser;
  uint32_t prompt = 0, decoded = 0;
  for (const Pick& pick : chooser.choose(candidates, limits)) (pick.rows > 1 ? prompt : decoded) += pick.rows;
  assert_int_equal(decoded, 4);
  assert_true(prompt > 0 && prompt <= 100);
}

void no_limit_is_exceeded_and_nobody_is_left_out_for_ever(void**) {
  std::mt19937_64 random(test_seed());
  auto below = [&](uint32_t end) { return static_cast<uint32_t>(random() % end); };
  for (int round = 0; round < 200; round++) {
    BatchLimits limits;
    limits.max_rows = 2 + below(64);
    limits.max_draws = 2 + below(limits.max_rows);
    limits.prefill_rows = 1 + below(32);
    limits.free_rows = 1 + below(8);
    std::vector<Wish> wishes;
    for (uint32_t i = 1 + below(30); i > 0; i--) {
      const bool decode = below(2) == 0;
      wishes.push_back({below(5), decode ? 1 : 1 + below(200), decode});
    }
    std::vector<uint64_t> last(wishes.size());
    std::set<uint32_t> served;
    BatchChooser chooser;
    for (uint64_t step = 1; step <= 400; step++) {
      std::vector<Candidate> candidates = candidates_of(wishes);
      for (Candidate& candidate : candidates) candidate.last_plan = last[candidate.slot];
      uint32_t rows = 0, picks = 0;
      for (const Pick& pick : chooser.choose(candidates, limits)) {
        assert_true(pick.rows > 0 && pick.rows <= wishes[pick.slot].rows);
        rows += pick.rows;
        picks++;
        last[pick.slot] = step;
        served.insert(pick.slot);
        if (!wishes[pick.slot].decode) wishes[pick.slot].rows -= std::min(wishes[pick.slot].rows - 1, pick.rows);
      }
      assert_true(picks > 0 && rows <= limits.max_rows && picks <= limits.max_draws);
    }
    // A client's prompts are read one after the other, and these never end: the others wait for the first.
    std::set<uint32_t> clients_with_prompts, clients_reading;
    for (uint32_t slot = 0; slot < wishes.size(); slot++) {
      assert_true(!wishes[slot].decode || served.contains(slot));
      if (wishes[slot].decode) continue;
      clients_with_prompts.insert(wishes[slot].client);
      if (served.contains(slot)) clients_reading.insert(wishes[slot].client);
    }
    assert_true(clients_reading == clients_with_prompts);
  }
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_lone_client_has_everything),
      cmocka_unit_test(equal_clients_are_served_in_full),
      cmocka_unit_test(a_flooding_client_at_most_doubles_the_others_step),
      cmocka_unit_test(rows_that_cost_nothing_may_be_taken_by_anybody),
      cmocka_unit_test(a_decoding_client_keeps_half_of_its_share_for_its_prompts),
      cmocka_unit_test(no_limit_is_exceeded_and_nobody_is_left_out_for_ever),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
