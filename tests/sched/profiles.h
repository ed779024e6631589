// SPDX-License-Identifier: Apache-2.0
// Profiles to test the scheduler's arithmetic with: the paper's two constants, an H200 as measured, and random ones.
#pragma once

#include <cmath>
#include <random>

#include "daemon/sched/profile.h"

namespace iokv {

// h hidden, k width of K, two bytes an element.
inline CacheShape cache_shape(uint32_t layers, uint32_t h, uint32_t k) { return {layers, 2 * h, 4 * k}; }

// A link and a product of constant speed, and nothing else: KVPR's model of a machine (A100, PCIe 4).
inline Profile paper_profile(uint32_t h, uint32_t k, double link_bytes_per_s = 32e9, double flops_per_s = 312e12) {
  Profile profile;
  profile.h2d.each_ns = profile.d2h.each_ns = 1e9 / link_bytes_per_s;
  profile.recompute.each_ns = 4.0 * h * k / flops_per_s * 1e9;
  return profile;
}

// Anything that could be a device: curves with floors and fixed parts, over some decades.
inline Profile random_profile(std::mt19937_64& random) {
  auto between = [&](double low, double high) {
    return low * std::exp(std::uniform_real_distribution<>(0, std::log(high / low))(random));
  };
  Profile profile;
  profile.h2d = {0, between(10, 1e4), between(0.001, 1)};
  profile.d2h = {0, between(10, 1e4), between(0.001, 1)};
  profile.duplex = between(1, 1.5);
  profile.recompute = {between(1, 1e5), between(10, 1e4), between(1, 1e4)};
  profile.attend = {between(1, 1e4), between(10, 1e4), between(0.1, 100)};
  profile.attend_rows = {0, between(1, profile.attend.fixed_ns), between(0.01, profile.attend.each_ns)};
  profile.dense = {between(1e3, 1e6), between(10, 1e4), between(10, 1e5)};
  profile.head = profile.dense;
  profile.embed_ns = between(0.01, 1) * profile.head.least_ns;
  profile.piece_ns = between(10, 500);
  profile.project_share = std::uniform_real_distribution<>(0, 1)(random);
  profile.keep_x = {between(1, 1e4), between(10, 1e4), between(0.0001, 0.01)};
  profile.contention = std::uniform_real_distribution<>(0, 1)(random);
  return profile;
}

}  // namespace iokv
