// SPDX-License-Identifier: Apache-2.0
// Where cached tokens live and as what: one linear programme over a handful of classes. Pure.
//
// A step takes as long as the busiest of link, device and host CPU. Tokens differ only in how often a step reads them;
// a class is a bucket of tokens that are read alike. Per token of a layer, h the hidden size, k the width of K, p bytes
// an element:
//
//   place        stored on       crosses the link   the device        the host's CPU
//   kv_device    device, 2·k·p   -                  -                 -
//   x_device     device, h·p     -                  recomputes        -
//   kv_host      host, 2·k·p     2·k·p              -                 -
//   x_host       host, h·p       h·p                recomputes        -
//   kv_attended  host, 2·k·p     -                  -                 attends
//
// Weights of layers are one more thing that is on the device, or crosses the link in every step.
//
// Nothing here depends on the number of tokens: shares of classes are what is solved for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "daemon/sched/profile.h"

namespace iokv {

enum class Place : uint8_t { kv_device, x_device, kv_host, x_host, kv_attended };
inline constexpr size_t kPlaces = 5;
inline constexpr size_t kMaxClasses = 16;
const char* name_of(Place place);

struct TokenClass {
  double tokens = 0;  // of a layer
  // How many of them a step brings together, on average, each counted once: tokens x steps they are read in a step.
  // A block that several sequences share crosses the link once, so it counts once.
  double reads = 0;   // 0 <= reads; expected crossings of one token a step
  // Of its tokens those whose X is stored at all, now or when they are written: X may become K,V, never the other way.
  double most_x = 0;  // <= tokens
};

struct PlacementProblem {
  CacheShape shape;
  double h2d_ns_per_byte = 0;
  double recompute_ns = 0;      // of a token of a layer
  double contention = 0;        // of Profile
  double device_ns = 0;         // of a step, without recomputation: dense work and attention, all layers
  double host_attend_ns = 0;    // of a token of a layer, on the host's CPU; 0: the CPU does not attend
  double host_ns = 0;           // of a step, dense work that is done before its part or waits for it
  double host_contention = 0;   // of Profile
  double link_ns = 0;           // of a step, besides cached tokens and weight_bytes
  uint64_t weight_bytes = 0;    // of all layers, each on the device or over the link
  uint64_t device_bytes = 0;    // for cached tokens and weights
  uint64_t host_bytes = 0;
  std::span<const TokenClass> classes;  // <= kMaxClasses
};

struct Placement {
  bool feasible = false;  // false: not even the smallest forms fit
  // Tokens of each class in each place.
  std::array<std::array<double, kPlaces>, kMaxClasses> tokens{};
  double streamed_weight_bytes = 0;
  double step_ns = 0;
};

// The placement with the shortest step; among equals the one with the least work, so that what gains nothing is not
// done.
Placement best_placement(const PlacementProblem& problem);

// The step of a given placement by the same arithmetic.
double step_ns_of(const PlacementProblem& problem, const Placement& placement);

}  // namespace iokv
