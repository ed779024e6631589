// SPDX-License-Identifier: Apache-2.0
// sim_test FIRST COUNT: simulates COUNT lives of the daemon, seeds FIRST, FIRST + 1, ... A broken invariant ends the
// program at once; the last line printed names the seed, and `sim_test SEED 1` repeats it exactly.
#include <cstdio>
#include <cstdlib>

#include "daemon/base/assert.h"
#include "tests/sim/world.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s FIRST_SEED COUNT\n", argv[0]);
    return 2;
  }
  const unsigned long long first = std::strtoull(argv[1], nullptr, 10), count = std::strtoull(argv[2], nullptr, 10);
  iokv::sim::Report total;
  for (unsigned long long seed = first; seed < first + count; seed++) {
    std::printf("seed %llu", seed);
    std::fflush(stdout);
    const iokv::sim::Report report = iokv::sim::World(seed).run();
    std::printf(": %llu turns, %llu tokens checked, %llu plans, %llu preemptions, %llu stall releases, %llu ended\n",
                static_cast<unsigned long long>(report.turns), static_cast<unsigned long long>(report.tokens_checked),
                static_cast<unsigned long long>(report.plans), static_cast<unsigned long long>(report.preemptions),
                static_cast<unsigned long long>(report.stall_releases), static_cast<unsigned long long>(report.ended));
    total.tokens_checked += report.tokens_checked;
    total.preemptions += report.preemptions;
    total.audits += report.audits;
    total.stall_releases += report.stall_releases;
    total.ended += report.ended;
  }
  // A campaign that never got into trouble has shown nothing.
  if (count >= 100) {
    IOKV_ASSERT(total.tokens_checked > 100 * count && total.preemptions > 0 && total.stall_releases > 0);
    IOKV_ASSERT(total.audits > count);
    IOKV_ASSERT(total.ended > 0);
  }
  return 0;
}
