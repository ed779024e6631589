// SPDX-License-Identifier: Apache-2.0
// A linear programme of some dozen variables, solved exactly (to rounding) in a dense tableau of fixed size: minimise
// cost·x subject to rows·x <= or = bound, x >= 0. A library's solver allocates and takes longer to set up than this
// takes to solve, and a step cannot wait for it.
//
// Two phases; Dantzig's rule, and Bland's once a pivot has gained nothing for a while, so that it ends always.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace iokv {

class Simplex {
 public:
  static constexpr size_t kMaxVariables = 88;    // 5 places x 16 classes, and the step's time
  static constexpr size_t kMaxConstraints = 40;

  enum class Sense : uint8_t { at_most, equal };
  enum class Outcome : uint8_t { optimal, infeasible, unbounded };

  // Starts a new programme.
  void reset(size_t variables);
  void set_cost(size_t variable, double cost) { cost_[variable] = cost; }
  // A row of zeros; its coefficients follow.
  size_t add_constraint(Sense sense, double bound);
  void set(size_t constraint, size_t variable, double coefficient) { row(constraint)[variable] = coefficient; }

  Outcome solve();
  double value(size_t variable) const;

 private:
  // Variables, then a slack and an artificial variable a constraint, then the right-hand side.
  static constexpr size_t kWidth = kMaxVariables + 2 * kMaxConstraints + 1;
  using Row = std::array<double, kWidth>;

  Row& row(size_t constraint) { return rows_[constraint]; }
  void price(const std::array<double, kWidth>& cost);
  Outcome run(size_t columns);
  void pivot(size_t leaving, size_t entering);

  size_t variables_ = 0, constraints_ = 0;
  std::array<Row, kMaxConstraints> rows_;
  std::array<Sense, kMaxConstraints> senses_;
  std::array<size_t, kMaxConstraints> basis_;  // variable of each row
  std::array<double, kWidth> cost_;
  Row reduced_;                                // cost of a unit of each variable, beyond what it replaces
};

}  // namespace iokv
