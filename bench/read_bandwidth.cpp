// SPDX-License-Identifier: Apache-2.0
// The rate at which all cores together read memory: each sums its own part of a buffer much larger than the caches,
// again and again; the best pass counts. What a step that reads every weight once could reach at best.
//
// usage: bench_read_bandwidth; prints bytes per second
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <thread>
#include <vector>

namespace {

constexpr size_t kBytes = size_t{512} << 20;  // 16 times a 32 MiB cache
constexpr int kPasses = 24;
constexpr size_t kLanes = 16;  // independent sums in eight 16-byte registers, so that adding does not bound the rate

double seconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

uint64_t sum(const uint64_t* data, size_t words) {
  uint64_t lanes[kLanes] = {};
  for (size_t i = 0; i + kLanes <= words; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += data[i + lane];
  }
  uint64_t total = 0;
  for (uint64_t lane : lanes) total += lane;
  return total;
}

}  // namespace

int main() {
  const size_t threads = std::thread::hardware_concurrency();
  const size_t words = kBytes / sizeof(uint64_t) / threads;
  std::vector<uint64_t> data(words * threads, 1);
  std::vector<uint64_t> sums(threads);
  double best_s = 1e9;
  for (int pass = 0; pass < kPasses; ++pass) {
    std::vector<std::thread> team;
    const double start_s = seconds();
    for (size_t t = 0; t < threads; ++t) team.emplace_back([&, t] { sums[t] = sum(data.data() + t * words, words); });
    for (std::thread& thread : team) thread.join();
    const double took_s = seconds() - start_s;
    if (took_s < best_s) best_s = took_s;
  }
  uint64_t total = 0;
  for (uint64_t part : sums) total += part;
  if (total != words / kLanes * kLanes * threads) return 1;
  std::printf("%.0f\n", static_cast<double>(words * threads * sizeof(uint64_t)) / best_s);
  return 0;
}
