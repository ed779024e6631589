// SPDX-License-Identifier: Apache-2.0
// How far two ways to compute the same logits may be apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include "daemon/base/dtype.h"

namespace iokv {

// Of a device whose kernels are not batch-invariant: what another order of sums may change, relative to the largest logit.
// f32: 160 roundings of 2^-24. bf16 and f16: 16 of 2^-9 and of 2^-12, of activations, where sums are in f32.
constexpr double rounding_tolerance(DType compute) {
  return compute == DType::f32 ? 1e-5 : compute == DType::f16 ? 4e-3 : 3e-2;
}

// Of the values, relative to the reference's largest; infinite where one is no number or the sizes differ.
inline double largest_difference(std::span<const float> values, std::span<const float> reference) {
  if (values.size() != reference.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, largest = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i]) || !std::isfinite(reference[i])) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(static_cast<double>(values[i]) - reference[i]));
    largest = std::max(largest, std::abs(static_cast<double>(reference[i])));
  }
  return difference > 0 ? difference / largest : 0;
}

}  // namespace iokv
