// SPDX-License-Identifier: Apache-2.0
// scale_test SEED CLIENTS DAYS [REQUESTS_PER_S [RUNS]]: lives through so many days of virtual time with so many clients,
// prints what was measured, and ends non-zero when a bound is exceeded; several runs must agree in every outcome.
// The same from every seed, but for real times and memory.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>

#include "tests/sim/scale_world.h"

namespace {

using iokv::sim::ScaleOptions;
using iokv::sim::ScaleReport;

void print(const ScaleReport& r) {
  const auto virtual_s = static_cast<double>(r.virtual_ns) / 1e9;
  std::printf("%.2f days in %.1f s: %.0f times as fast; %" PRIu64 " passes, %.0f ns of the conductor each\n", virtual_s / 86400,
              r.real_s, virtual_s / r.real_s, r.passes, r.conductor_s * 1e9 / static_cast<double>(r.passes));
  std::printf("%" PRIu64 " requests, %" PRIu64 " tokens drawn, %" PRIu64 " appended, %" PRIu64 " rows of prompts computed, %" PRIu64 " Plans\n",
              r.crowd.requests, r.crowd.tokens, r.crowd.appended, r.prefill_tokens, r.plans);
  std::printf("ended: %" PRIu64 " by a token, %" PRIu64 " by their limit, %" PRIu64 " cancelled; %" PRIu64 " forks, %" PRIu64
              " clients vanished, %" PRIu64 " stopped reaping\n",
              r.crowd.ended_by_token, r.crowd.ended_by_limit, r.crowd.cancelled, r.crowd.forks, r.crowd.vanished, r.crowd.stalls);
  std::printf("contexts of %u to %u tokens; at most %u clients at once with work; %" PRIu64 " preemptions, %" PRIu64 " leases ended\n",
              r.crowd.shortest, r.crowd.longest, r.crowd.most_running, r.preemptions, r.stall_releases);
  std::printf("the device was busy for %.1f %% of the time\n", 100 * static_cast<double>(r.busy_ns) / static_cast<double>(r.virtual_ns));
  std::printf("first step after %.3f s on the average, %.3f s at most; between two steps %.3f s and %" PRIu64 " Plans at most\n",
              r.mean_first_ns / 1e9, static_cast<double>(r.longest_first_ns) / 1e9,
              static_cast<double>(r.longest_between_ns) / 1e9, r.longest_between_plans);
  std::printf("first token after %.2f s on the average, %.1f s at most\n",
              r.crowd.first_token_ns / 1e9 / static_cast<double>(std::max<uint64_t>(1, r.crowd.first_tokens)),
              static_cast<double>(r.crowd.longest_first_token_ns) / 1e9);
  std::printf("copies ran at %.4f of a fresh pool's rate in the first tenth, %.4f in the last\n", r.first_run_rate, r.last_run_rate);
  std::printf("%u Plans executed on the modelled backend took %.3f ... %.3f of the predicted time, %.3f on the average\n",
              r.executed, r.least_executed, r.most_executed, r.mean_executed);
  std::printf("Jain's index of equal clients in a rush: %.6f\n", r.jain);
  std::printf("memory at each tenth, MiB:");
  for (uint64_t bytes : r.memory_bytes) std::printf(" %" PRIu64, bytes >> 20);
  std::printf("\nof open sequences' tokens:  ");
  for (uint64_t bytes : r.token_bytes) std::printf(" %" PRIu64, bytes >> 20);
  std::printf("\ndigest %016" PRIx64 "\n", r.crowd.digest);
}

// Whether all that has to hold holds; says what does not. The longest wait that the batcher allows (sched/batch.h): a
// client gets a row in every 2 + sum/C steps, sum = 2 for every other one of equal weight, C = 56 draws that a step of 64
// leaves to decodes; and the last of its two sequences (a fork's) is taken within 8 such turns each.
bool holds(const ScaleReport& r) {
  const double others = r.crowd.most_running > 0 ? r.crowd.most_running - 1 : 0;
  const double most_plans = (2 + 2 * others / 56) * 8 * 2;
  std::printf("the batcher's bound on Plans between two steps: %.0f\n", most_plans);
  bool all = true;
  auto expect = [&all](bool what, const char* name) {
    if (!what) std::printf("DOES NOT HOLD: %s\n", name);
    all &= what;
  };
  expect(static_cast<double>(r.longest_between_plans) <= most_plans, "no sequence waits longer than the bound");
  expect(static_cast<double>(r.longest_first_ns) < 60e9, "every operation has its first step within a minute");
  expect(r.first_run_rate >= 0.95 && r.last_run_rate >= 0.95, "copies run at 95 % of a fresh pool's rate");
  // One Plan may be shorter, when the link has run ahead while the one before kept the device busy.
  expect(r.executed < 20 || (r.mean_executed > 0.97 && r.mean_executed < 1.03), "Plans take what was predicted");
  expect(r.executed == 0 || r.most_executed < 1.1, "no Plan takes longer than predicted");
  expect(r.jain > 0.999, "equal clients get the same");
  // Token ids in vectors that may have grown to twice their length, and what does not grow.
  expect(r.memory_bytes.back() < 2 * r.token_bytes.back() + (uint64_t{64} << 20), "memory is that of open sequences");
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4 || argc > 6) {
    std::fprintf(stderr, "usage: %s SEED CLIENTS DAYS [REQUESTS_PER_S [RUNS]]\n", argv[0]);
    return 2;
  }
  ScaleOptions options;
  options.seed = std::strtoull(argv[1], nullptr, 10);
  options.clients = static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10));
  options.days = std::strtod(argv[3], nullptr);
  if (argc > 4) options.requests_per_s = std::strtod(argv[4], nullptr);
  const int runs = argc > 5 ? std::atoi(argv[5]) : 1;
  uint64_t digest = 0;
  for (int run = 0; run < runs; run++) {
    std::printf("seed %" PRIu64 ", %u clients\n", options.seed, options.clients);
    const ScaleReport report = iokv::sim::ScaleWorld(options).run();
    print(report);
    if (run > 0 && report.crowd.digest != digest) {
      std::printf("two runs differ\n");
      return 1;
    }
    digest = report.crowd.digest;
    if (!holds(report)) return 1;
  }
  return 0;
}
