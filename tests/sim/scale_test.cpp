// SPDX-License-Identifier: Apache-2.0
// scale_test SEED CLIENTS DAYS [REQUESTS_PER_S [RUNS]]: lives through so many days of virtual time with so many clients,
// prints what was measured, and ends non-zero when a bound is exceeded; several runs must agree in every outcome.
// The same from every seed, but for real times and memory.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "tests/sim/scale_world.h"

namespace {

using iokv::sim::ScaleOptions;
using iokv::sim::ScaleReport;

using std::printf;

void print(const ScaleReport& r) {
  const auto& crowd = r.crowd;
  auto seconds = [](auto ns) { return static_cast<double>(ns) / 1e9; };
  auto mib = [](const std::vector<uint64_t>& bytes) {
    for (uint64_t each : bytes) printf(" %" PRIu64, each >> 20);
    printf("\n");
  };
  const double virtual_s = seconds(r.virtual_ns);
  printf("%.2f days in %.1f s, %.0f times as fast; ", virtual_s / 86400, r.real_s, virtual_s / r.real_s);
  printf("%" PRIu64 " passes of %.0f ns in the conductor\n", r.passes, r.conductor_s * 1e9 / static_cast<double>(r.passes));
  printf("%" PRIu64 " requests, %" PRIu64 " tokens drawn, %" PRIu64 " appended; ", crowd.requests, crowd.tokens, crowd.appended);
  printf("%" PRIu64 " rows of prompts computed in %" PRIu64 " Plans\n", r.prefill_tokens, r.plans);
  printf("ended: %" PRIu64 " by a token, %" PRIu64 " by their limit, ", crowd.ended_by_token, crowd.ended_by_limit);
  printf("%" PRIu64 " cancelled; %" PRIu64 " forks; ", crowd.cancelled, crowd.forks);
  printf("%" PRIu64 " clients vanished, %" PRIu64 " stopped reaping\n", crowd.vanished, crowd.stalls);
  printf("contexts of %u to %u tokens; at most %u clients at once with work; ", crowd.shortest, crowd.longest,
         crowd.most_running);
  printf("%" PRIu64 " preemptions, %" PRIu64 " leases ended\n", r.preemptions, r.stall_releases);
  printf("the device was busy for %.1f %% of the time\n", 100 * seconds(r.busy_ns) / virtual_s);
  printf("first step after %.3f s on the average, %.3f s at most; ", r.mean_first_ns / 1e9, seconds(r.longest_first_ns));
  printf("between two steps %.3f s, and of a decode %" PRIu64 " Plans, at most\n", seconds(r.longest_between_ns), r.longest_between_plans);
  printf("first token after %.2f s on the average, %.1f s at most\n",
         crowd.first_token_ns / 1e9 / static_cast<double>(std::max<uint64_t>(1, crowd.first_tokens)),
         seconds(crowd.longest_first_token_ns));
  printf("copies ran at %.4f of a fresh pool's rate in the first tenth, %.4f in the last\n", r.first_run_rate,
         r.last_run_rate);
  printf("%u Plans executed on the modelled backend took %.3f ... %.3f of the time counted, %.3f on the average\n",
         r.executed, r.least_executed, r.most_executed, r.mean_executed);
  printf("Jain's index of equal clients in a rush: %.6f\n", r.jain);
  printf("memory after each tenth, MiB:");
  mib(r.memory_bytes);
  printf("of open sequences' tokens:   ");
  mib(r.token_bytes);
  printf("digest %016" PRIx64 "\n", crowd.digest);
}

// Whether all that has to hold holds; says what does not. The longest wait that the batcher allows (sched/batch.h): a
// client gets a row in every 2 + sum/C steps, sum = 2 for every other one of equal weight, C = 56 draws that a step of 64
// leaves to decodes; and the last of its two sequences (a fork's) is taken within 8 such turns each.
bool holds(const ScaleReport& r) {
  const double others = r.crowd.most_running > 0 ? r.crowd.most_running - 1 : 0;
  const double most_plans = (2 + 2 * others / 56) * 8 * 2;
  printf("the batcher's bound on Plans between two steps: %.0f\n", most_plans);
  bool all = true;
  auto expect = [&all](bool what, const char* name) {
    if (!what) printf("DOES NOT HOLD: %s\n", name);
    all &= what;
  };
  expect(static_cast<double>(r.longest_between_plans) <= most_plans, "no sequence waits longer than the bound");
  expect(static_cast<double>(r.longest_first_ns) < 60e9, "every operation has its first step within a minute");
  // Prompts wait for decodes to be made up to, which is a matter of time.
  expect(static_cast<double>(r.longest_between_ns) < 60e9, "and each further one");
  expect(r.first_run_rate >= 0.95 && r.last_run_rate >= 0.95, "copies run at 95 % of a fresh pool's rate");
  // One Plan may be shorter, when the link has run ahead while the one before kept the device busy.
  expect(r.executed < 20 || (r.mean_executed > 0.97 && r.mean_executed < 1.03), "Plans take what was predicted");
  // Of 10,000 Plans executed the longest took 1.22 of the sum of its work: prompts had filled what the link left of the
  // device, both were as long, and waited for each other where a layer's work is more than the ring holds.
  expect(r.executed == 0 || r.most_executed < 1.25, "no Plan takes longer than predicted");
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
    printf("seed %" PRIu64 ", %u clients\n", options.seed, options.clients);
    const ScaleReport report = iokv::sim::ScaleWorld(options).run();
    print(report);
    if (run > 0 && report.crowd.digest != digest) {
      printf("two runs differ\n");
      return 1;
    }
    digest = report.crowd.digest;
    if (!holds(report)) return 1;
  }
  return 0;
}
