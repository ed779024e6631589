// SPDX-License-Identifier: Apache-2.0
// Random linear programmes, degenerate and impossible ones among them, against GLPK.
#include "daemon/sched/simplex.h"

#include <glpk.h>

#include <cmath>
#include <random>
#include <vector>

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

struct Programme {
  std::vector<double> cost;
  std::vector<std::vector<double>> rows;
  std::vector<double> bounds;
  std::vector<bool> equal;
};

struct Answer {
  Simplex::Outcome outcome;
  double cost = 0;
};

Answer by_glpk(const Programme& programme) {
  const int variables = static_cast<int>(programme.cost.size()), rows = static_cast<int>(programme.rows.size());
  glp_prob* problem = glp_create_prob();
  glp_set_obj_dir(problem, GLP_MIN);
  glp_add_cols(problem, variables);
  glp_add_rows(problem, rows);
  for (int j = 0; j < variables; ++j) {
    glp_set_col_bnds(problem, j + 1, GLP_LO, 0, 0);
    glp_set_obj_coef(problem, j + 1, programme.cost[j]);
  }
  for (int i = 0; i < rows; ++i) {
    glp_set_row_bnds(problem, i + 1, programme.equal[i] ? GLP_FX : GLP_UP, programme.bounds[i], programme.bounds[i]);
    std::vector<int> index(1);
    std::vector<double> value(1);
    for (int j = 0; j < variables; ++j) {
      index.push_back(j + 1);
      value.push_back(programme.rows[i][j]);
    }
    glp_set_mat_row(problem, i + 1, variables, index.data(), value.data());
  }
  glp_smcp options;
  glp_init_smcp(&options);
  options.msg_lev = GLP_MSG_OFF;
  assert_int_equal(glp_simplex(problem, &options), 0);
  const int status = glp_get_status(problem);
  Answer answer{status == GLP_OPT     ? Simplex::Outcome::optimal
                : status == GLP_UNBND ? Simplex::Outcome::unbounded
                                      : Simplex::Outcome::infeasible,
                glp_get_obj_val(problem)};
  glp_delete_prob(problem);
  return answer;
}

Answer by_simplex(const Programme& programme) {
  static Simplex simplex;  // used again: nothing of one programme may reach the next
  simplex.reset(programme.cost.size());
  for (size_t j = 0; j < programme.cost.size(); ++j) simplex.set_cost(j, programme.cost[j]);
  for (size_t i = 0; i < programme.rows.size(); ++i) {
    const size_t row = simplex.add_constraint(
        programme.equal[i] ? Simplex::Sense::equal : Simplex::Sense::at_most, programme.bounds[i]);
    for (size_t j = 0; j < programme.cost.size(); ++j) simplex.set(row, j, programme.rows[i][j]);
  }
  Answer answer{simplex.solve()};
  if (answer.outcome != Simplex::Outcome::optimal) return answer;
  for (size_t j = 0; j < programme.cost.size(); ++j) answer.cost += programme.cost[j] * simplex.value(j);
  // What it says is a solution must be one.
  for (size_t i = 0; i < programme.rows.size(); ++i) {
    double sum = 0;
    for (size_t j = 0; j < programme.cost.size(); ++j) sum += programme.rows[i][j] * simplex.value(j);
    assert_true(sum <= programme.bounds[i] + 1e-6);
    if (programme.equal[i]) assert_true(sum >= programme.bounds[i] - 1e-6);
  }
  return answer;
}

void random_programmes_end_as_glpk_says(void**) {
  std::mt19937_64 random(test_seed());
  size_t outcomes[3] = {};
  for (int round = 0; round < 5000; ++round) {
    const size_t variables = 1 + random() % 20, rows = 1 + random() % 12;
    const uint64_t coarse = random() % 3;  // few values: many ties, degenerate corners, repeated rows
    auto number = [&](double low, double high) {
      const double value = std::uniform_real_distribution<>(low, high)(random);
      return coarse == 0 ? value : std::round(value * static_cast<double>(coarse)) / static_cast<double>(coarse);
    };
    Programme programme;
    for (size_t j = 0; j < variables; ++j) programme.cost.push_back(number(-0.3, 2));
    for (size_t i = 0; i < rows; ++i) {
      programme.rows.emplace_back();
      for (size_t j = 0; j < variables; ++j) programme.rows.back().push_back(random() % 3 ? number(-1, 2) : 0);
      programme.bounds.push_back(number(-1, 3));
      programme.equal.push_back(random() % 4 == 0);
    }
    const Answer expected = by_glpk(programme), answer = by_simplex(programme);
    assert_int_equal(static_cast<int>(answer.outcome), static_cast<int>(expected.outcome));
    outcomes[static_cast<size_t>(answer.outcome)]++;
    if (answer.outcome == Simplex::Outcome::optimal) {
      assert_true(std::abs(answer.cost - expected.cost) <= 1e-6 * (1 + std::abs(expected.cost)));
    }
  }
  for (size_t count : outcomes) assert_true(count > 100);
}

// E. M. L. Beale's example, on which the steepest-descent rule alone goes round for ever.
void beales_example_ends(void**) {
  const Programme programme{{-0.75, 150, -0.02, 6},
                            {{0.25, -60, -0.04, 9}, {0.5, -90, -0.02, 3}, {0, 0, 1, 0}},
                            {0, 0, 1},
                            {false, false, false}};
  const Answer answer = by_simplex(programme);
  assert_true(answer.outcome == Simplex::Outcome::optimal);
  assert_true(std::abs(answer.cost + 0.05) < 1e-9);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(random_programmes_end_as_glpk_says),
      cmocka_unit_test(beales_example_ends),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
