// SPDX-License-Identifier: Apache-2.0
// Scaled so that the simplex sees numbers about 1: a variable is the share of a class in a place, memory counts in the
// bytes of all tokens as K,V, time in the step that keeps everything on the host as K,V.
#include "daemon/sched/placement.h"

#include <algorithm>

#include "daemon/base/assert.h"
#include "daemon/sched/simplex.h"

namespace iokv {
namespace {

// What a unit of work of any kind adds to the objective, beside the step's time: it decides between placements that
// are equally fast, and moves the optimum by no more than this share of the scale.
constexpr double kWorkPrice = 1e-8;

// Of a token that every step reads, over all layers.
struct PlaceCost {
  double device_bytes = 0, host_bytes = 0;
  double link_ns = 0, recompute_ns = 0, host_ns = 0;
};

std::array<PlaceCost, kPlaces> costs_of(const PlacementProblem& problem) {
  const double layers = problem.shape.layers;
  const double x = layers * problem.shape.x_bytes, kv = layers * problem.shape.kv_bytes;
  const double recompute = layers * problem.recompute_ns, attend = layers * problem.host_attend_ns;
  const double link = problem.h2d_ns_per_byte;
  std::array<PlaceCost, kPlaces> costs;
  costs[static_cast<size_t>(Place::kv_device)] = {kv, 0, 0, 0, 0};
  costs[static_cast<size_t>(Place::x_device)] = {x, 0, 0, recompute, 0};
  costs[static_cast<size_t>(Place::kv_host)] = {0, kv, link * kv, 0, 0};
  costs[static_cast<size_t>(Place::x_host)] = {0, x, link * x, recompute, 0};
  costs[static_cast<size_t>(Place::kv_attended)] = {0, kv, 0, 0, attend};
  return costs;
}

bool is_x(size_t place) {
  return place == static_cast<size_t>(Place::x_device) || place == static_cast<size_t>(Place::x_host);
}

bool may_use(const PlacementProblem& problem, size_t place) {
  return place != static_cast<size_t>(Place::kv_attended) || problem.host_attend_ns > 0;
}

struct Loads {
  double link_ns = 0, recompute_ns = 0, host_ns = 0;
};

// max(a, b) + contention·min(a, b) is the larger of two lines.
double step_of(const PlacementProblem& problem, const Loads& loads) {
  const double recompute = loads.recompute_ns, dense = problem.device_ns, both = problem.contention;
  const double beside_host = problem.host_contention * loads.host_ns;
  const double chain = loads.host_ns > 0 ? problem.host_ns + loads.host_ns : 0;
  return std::max({loads.link_ns + problem.link_ns, recompute + both * dense + beside_host,
                   dense + both * recompute + beside_host, chain});
}

}  // namespace

const char* name_of(Place place) {
  switch (place) {
    case Place::kv_device: return "K,V on the device";
    case Place::x_device: return "X on the device";
    case Place::kv_host: return "K,V on the host";
    case Place::x_host: return "X on the host";
    case Place::kv_attended: return "K,V attended on the host";
  }
  return "";
}

double step_ns_of(const PlacementProblem& problem, const Placement& placement) {
  const auto costs = costs_of(problem);
  Loads loads;
  loads.link_ns = placement.streamed_weight_bytes * problem.h2d_ns_per_byte;
  for (size_t c = 0; c < problem.classes.size(); ++c) {
    for (size_t place = 0; place < kPlaces; ++place) {
      const double read = placement.tokens[c][place] * problem.classes[c].reads;
      loads.link_ns += read * costs[place].link_ns;
      loads.recompute_ns += read * costs[place].recompute_ns;
      loads.host_ns += read * costs[place].host_ns;
    }
  }
  return step_of(problem, loads);
}

Placement best_placement(const PlacementProblem& problem) {
  const std::span<const TokenClass> classes = problem.classes;
  IOKV_ASSERT(classes.size() <= kMaxClasses && problem.contention >= 0 && problem.contention <= 1);
  const auto costs = costs_of(problem);
  Placement result;
  double total_tokens = 0;
  const double weight_bytes = static_cast<double>(problem.weight_bytes);
  const double weights_ns = weight_bytes * problem.h2d_ns_per_byte;
  Loads all_kv;
  all_kv.link_ns = weights_ns;
  for (const TokenClass& one : classes) {
    IOKV_ASSERT(one.tokens >= 0 && one.reads >= 0 && one.most_x >= 0 && one.most_x <= one.tokens);
    total_tokens += one.tokens;
    all_kv.link_ns += one.tokens * one.reads * costs[static_cast<size_t>(Place::kv_host)].link_ns;
  }
  const double time_scale = step_of(problem, all_kv);
  const double byte_scale = total_tokens * costs[static_cast<size_t>(Place::kv_device)].device_bytes + weight_bytes;
  if (byte_scale == 0) {
    result.feasible = true;
    result.step_ns = time_scale;
    return result;
  }
  const double per_time = time_scale > 0 ? 1 / time_scale : 0;

  Simplex simplex;
  auto variable = [](size_t c, size_t place) { return c * kPlaces + place; };
  const size_t step = classes.size() * kPlaces;
  const size_t streamed = step + 1;  // the share of the weights that crosses the link
  simplex.reset(streamed + 1);
  simplex.set_cost(step, 1);
  using enum Simplex::Sense;
  const double fixed_link = problem.link_ns * per_time, fixed_dense = problem.device_ns * per_time;
  const size_t device = simplex.add_constraint(at_most, (static_cast<double>(problem.device_bytes) - weight_bytes) / byte_scale);
  const size_t host = simplex.add_constraint(at_most, static_cast<double>(problem.host_bytes) / byte_scale);
  const size_t link = simplex.add_constraint(at_most, -fixed_link);
  const size_t recompute = simplex.add_constraint(at_most, -problem.contention * fixed_dense);
  const size_t dense = simplex.add_constraint(at_most, -fixed_dense);
  const size_t cpu = simplex.add_constraint(at_most, problem.host_attend_ns > 0 ? -problem.host_ns * per_time : 0);
  for (size_t row : {link, recompute, dense, cpu}) simplex.set(row, step, -1);
  simplex.set(simplex.add_constraint(at_most, 1), streamed, 1);
  simplex.set(device, streamed, -weight_bytes / byte_scale);
  simplex.set(link, streamed, weights_ns * per_time);
  simplex.set_cost(streamed, kWorkPrice * weights_ns * per_time);

  for (size_t c = 0; c < classes.size(); ++c) {
    const double tokens = classes[c].tokens, read = tokens * classes[c].reads * per_time;
    const size_t whole = simplex.add_constraint(equal, 1);
    const size_t x_stored =
        classes[c].most_x < tokens ? simplex.add_constraint(at_most, classes[c].most_x / tokens) : SIZE_MAX;
    for (size_t place = 0; place < kPlaces; ++place) {
      if (!may_use(problem, place)) continue;
      const size_t v = variable(c, place);
      const PlaceCost& cost = costs[place];
      simplex.set(whole, v, 1);
      if (x_stored != SIZE_MAX && is_x(place)) simplex.set(x_stored, v, 1);
      simplex.set(device, v, tokens * cost.device_bytes / byte_scale);
      simplex.set(host, v, tokens * cost.host_bytes / byte_scale);
      simplex.set(link, v, read * cost.link_ns);
      const double beside_host = problem.host_contention * cost.host_ns;
      simplex.set(recompute, v, read * (cost.recompute_ns + beside_host));
      simplex.set(dense, v, read * (cost.recompute_ns * problem.contention + beside_host));
      simplex.set(cpu, v, read * cost.host_ns);
      simplex.set_cost(v, kWorkPrice * read * (cost.link_ns + cost.recompute_ns + cost.host_ns));
    }
  }
  if (simplex.solve() != Simplex::Outcome::optimal) return result;
  result.feasible = true;
  for (size_t c = 0; c < classes.size(); ++c) {
    for (size_t place = 0; place < kPlaces; ++place) {
      if (may_use(problem, place)) result.tokens[c][place] = simplex.value(variable(c, place)) * classes[c].tokens;
    }
  }
  result.streamed_weight_bytes = simplex.value(streamed) * weight_bytes;
  result.step_ns = step_ns_of(problem, result);
  return result;
}

}  // namespace iokv
