// SPDX-License-Identifier: Apache-2.0
// Prints how far the scheduler's choices are from the best that brute force finds (bench/optimum.h).
#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "bench/optimum.h"

namespace {

using namespace iokv;

void print(const OptimumFigures& figures, uint64_t first_seed) {
  const OptimumInstance worst = random_optimum_instance(figures.worst_seed);
  const OptimumAnswer answer = search_optimum(worst);
  fmt::print("{} random steps from seed {}, {} executed candidates\n", figures.instances, first_seed, figures.executions);
  fmt::print("slowest of the planned ones, executed: {:.4f} x the fastest candidate; {} are over 1.005{}\n",
             figures.worst_over_optimum, figures.over_half_a_percent.size(),
             figures.over_half_a_percent.empty()
                 ? ""
                 : fmt::format(", of the seeds {}", fmt::join(figures.over_half_a_percent, ", ")));
  fmt::print("  {}\n  planned: {}: {:.3f} ms\n  fastest: {}: {:.3f} ms\n", describe(worst), describe(answer.planned),
             answer.planned_ns / 1e6, describe(answer.best), answer.best_ns / 1e6);
  auto row = [](const char* what, const Spread& spread, double scale, double from) {
    fmt::print("{:<44} median {:8.3f}   99 % {:8.3f}   worst {:8.3f}\n", what, (spread.median - from) * scale,
               (spread.p99 - from) * scale, (spread.worst - from) * scale);
  };
  row("executed against predicted, error in %:", figures.prediction_error, 100, 0);
  row("executed against the sum of work, in %:", figures.cost_error, 100, 0);
  row("chosen by the sum of work, slower in %:", figures.summed_over_optimum, 100, 1);
  fmt::print("planning: {:.0f} candidates and {:.1f} ms a step\n",
             static_cast<double>(figures.timed) / static_cast<double>(figures.instances),
             figures.planning_s / static_cast<double>(figures.instances) * 1e3);
}

bool write_json(const std::string& path, const OptimumFigures& figures, uint64_t first_seed) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) return false;
  fmt::print(file,
             "{{\"worst_over_optimum\": {:.6f}, \"over_half_a_percent\": {}, \"instances\": {}, \"executions\": {}, "
             "\"first_seed\": {}, \"worst_seed\": {}, \"prediction_error_median\": {:.6f}, \"prediction_error_p99\": "
             "{:.6f}, \"prediction_error_worst\": {:.6f}, \"planning_ms\": {:.3f}}}\n",
             figures.worst_over_optimum, figures.over_half_a_percent.size(), figures.instances, figures.executions, first_seed,
             figures.worst_seed, figures.prediction_error.median, figures.prediction_error.p99,
             figures.prediction_error.worst, figures.planning_s / static_cast<double>(figures.instances) * 1e3);
  return std::fclose(file) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t instances = 10'000, seed = 1;
  bool quick = false;
  std::string json;
  CLI::App app("How far the scheduler's choices are from the best split and placement.");
  app.add_option("--instances", instances)->check(CLI::PositiveNumber);
  app.add_option("--seed", seed, "of the first instance; the next ones count up");
  app.add_flag("--quick", quick, "200 instances");
  app.add_option("--json", json, "write the figures by name to this file");
  CLI11_PARSE(app, argc, argv);
  if (quick) instances = 200;
  const OptimumFigures figures = measure_optimum(seed, instances, std::thread::hardware_concurrency());
  print(figures, seed);
  if (!json.empty() && !write_json(json, figures, seed)) {
    fmt::print(stderr, "bench_optimum: cannot write {}\n", json);
    return 1;
  }
  return 0;
}
