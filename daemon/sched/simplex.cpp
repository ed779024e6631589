// SPDX-License-Identifier: Apache-2.0
// G. B. Dantzig, Linear Programming and Extensions (1963); R. G. Bland, New finite pivoting rules (1977). Callers scale
// their programmes so that coefficients and bounds are about 1: tolerances are absolute.
#include "daemon/sched/simplex.h"

#include <algorithm>
#include <cmath>

#include "daemon/base/assert.h"

namespace iokv {
namespace {

constexpr double kTolerance = 1e-10;
// Pivots without gain after which Bland's rule takes over.
constexpr int kPatience = 64;

}  // namespace

void Simplex::reset(size_t variables) {
  IOKV_ASSERT(variables <= kMaxVariables);
  variables_ = variables;
  constraints_ = 0;
  cost_.fill(0);
}

size_t Simplex::add_constraint(Sense sense, double bound) {
  IOKV_ASSERT(constraints_ < kMaxConstraints);
  row(constraints_).fill(0);
  row(constraints_).back() = bound;
  senses_[constraints_] = sense;
  return constraints_++;
}

Simplex::Outcome Simplex::solve() {
  const size_t first_slack = variables_, first_artificial = variables_ + constraints_;
  std::array<double, kWidth> artificial_cost{};
  bool artificial = false;
  for (size_t i = 0; i < constraints_; ++i) {
    if (senses_[i] == Sense::at_most) row(i)[first_slack + i] = 1;
    if (row(i).back() < 0) {
      for (double& coefficient : row(i)) coefficient = -coefficient;
    }
    if (row(i)[first_slack + i] > 0) {
      basis_[i] = first_slack + i;
    } else {
      basis_[i] = first_artificial + i;
      row(i)[basis_[i]] = 1;
      artificial_cost[basis_[i]] = 1;
      artificial = true;
    }
  }
  if (artificial) {
    price(artificial_cost);
    run(first_artificial + constraints_);
    if (-reduced_.back() > 1e-8) return Outcome::infeasible;
    // An artificial variable that is left is 0; it leaves for any variable of its row, or its row says nothing.
    for (size_t i = 0; i < constraints_; ++i) {
      if (basis_[i] < first_artificial) continue;
      for (size_t j = 0; j < first_artificial; ++j) {
        if (std::abs(row(i)[j]) > 1e-8) {
          pivot(i, j);
          break;
        }
      }
    }
  }
  price(cost_);
  return run(first_artificial);
}

double Simplex::value(size_t variable) const {
  for (size_t i = 0; i < constraints_; ++i) {
    if (basis_[i] == variable) return std::max(0.0, rows_[i].back());
  }
  return 0;
}

void Simplex::price(const std::array<double, kWidth>& cost) {
  reduced_ = cost;
  for (size_t i = 0; i < constraints_; ++i) {
    const double of_basis = cost[basis_[i]];
    if (of_basis == 0) continue;
    for (size_t j = 0; j < kWidth; ++j) reduced_[j] -= of_basis * rows_[i][j];
  }
}

// Until no variable among the first `columns` would gain.
Simplex::Outcome Simplex::run(size_t columns) {
  int idle = 0;
  for (;;) {
    size_t entering = columns;
    double steepest = -kTolerance;
    for (size_t j = 0; j < columns; ++j) {
      if (reduced_[j] >= steepest) continue;
      entering = j;
      if (idle > kPatience) break;
      steepest = reduced_[j];
    }
    if (entering == columns) return Outcome::optimal;
    size_t leaving = constraints_;
    double shortest = 0;
    for (size_t i = 0; i < constraints_; ++i) {
      if (row(i)[entering] <= kTolerance) continue;
      const double ratio = row(i).back() / row(i)[entering];
      if (leaving == constraints_ || ratio < shortest || (ratio == shortest && basis_[i] < basis_[leaving])) {
        leaving = i;
        shortest = ratio;
      }
    }
    if (leaving == constraints_) return Outcome::unbounded;
    idle = shortest > kTolerance ? 0 : idle + 1;
    pivot(leaving, entering);
  }
}

void Simplex::pivot(size_t leaving, size_t entering) {
  Row& by = row(leaving);
  const double divisor = by[entering];
  for (double& coefficient : by) coefficient /= divisor;
  auto clear = [&](Row& other) {
    const double factor = other[entering];
    if (factor == 0) return;
    for (size_t j = 0; j < kWidth; ++j) other[j] -= factor * by[j];
    other[entering] = 0;
  };
  for (size_t i = 0; i < constraints_; ++i) {
    if (i != leaving) clear(row(i));
  }
  clear(reduced_);
  basis_[leaving] = entering;
}

}  // namespace iokv
