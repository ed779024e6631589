// SPDX-License-Identifier: Apache-2.0
// How fast the host attends to K,V in its memory, as a share of the rate at which as many threads read it; and how long a
// layer takes from the device's word to the host's beside that. Layers are attended to in turn, so that nothing is in a cache.
//
// usage: bench_host_attend [--type f16|bf16|f32] [--head-dim 128] [--heads 32] [--kv-heads 32] [--sequences 16]
//                          [--context 1024] [--threads 1] [--isa automatic] [--least-mib 1024]
// Prints JSON; rates are of the fastest pass over all layers (in turn with reading) and of the median one, shares of the
// fastest passes and the median of each pass and the reading before it.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>

#include "daemon/backend/host/host_lane.h"
#include "daemon/base/monotonic.h"

namespace {

using namespace iokv;

constexpr size_t kPassBytes = size_t{1} << 30;
constexpr int kPasses = 15;
constexpr int kRoundTrips = 2000, kWakes = 100;
constexpr uint32_t kIssues = 64;  // about the layers of a model

struct Setup {
  DType type = DType::f16;
  CpuIsa isa = CpuIsa::automatic;
  KvShape shape{32, 32, 128};
  uint32_t sequences = 16, context = 1024, threads = 1;
  uint32_t least_mib = 1024;  // 32 times a large cache; few: how fast it computes
};

// Huge pages where the system has them, as the daemon's pool.
class Pages {
 public:
  explicit Pages(size_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) {
      std::perror("mmap");
      std::exit(1);
    }
    (void)madvise(data_, bytes, MADV_HUGEPAGE);
  }
  ~Pages() { munmap(data_, bytes_); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  char* at(size_t offset = 0) const { return static_cast<char*>(data_) + offset; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

// Numbers between -1 and 1 of the type, the same ones again and again: what they are does not change the time.
void fill(const Pages& pages, DType type) {
  std::vector<char> pattern(size_t{1} << 16);
  uint32_t state = 1;
  for (size_t i = 0; i < pattern.size(); i += size_of(type)) {
    state = state * 1664525u + 1013904223u;
    const float value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    const uint16_t half = type == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
    if (type == DType::f32) {
      std::memcpy(&pattern[i], &value, 4);
    } else {
      std::memcpy(&pattern[i], &half, 2);
    }
  }
  for (size_t at = 0; at < pages.bytes(); at += pattern.size()) {
    std::memcpy(pages.at(at), pattern.data(), std::min(pattern.size(), pages.bytes() - at));
  }
}

uint64_t sum(const char* data, size_t bytes) {
  constexpr size_t kLanes = 32;  // independent sums, so that adding does not bound the rate
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  uint64_t lanes[kLanes] = {}, total = 0;
  for (size_t i = 0; i + kLanes <= bytes / 8; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] ^= words[i + lane];
  }
  for (uint64_t lane : lanes) total += lane;
  return total;
}

// Nanoseconds that the threads take to read it all, a part each.
uint64_t read_ns(const Pages& pages, uint32_t threads) {
  std::vector<std::thread> team;
  std::vector<uint64_t> sums(threads);
  const size_t part = pages.bytes() / threads / 4096 * 4096;
  const uint64_t start_ns = monotonic_ns();
  for (uint32_t t = 0; t < threads; ++t) team.emplace_back([&, t] { sums[t] = sum(pages.at(t * part), part); });
  for (std::thread& thread : team) thread.join();
  return monotonic_ns() - start_ns;
}

template <typename T>
T median(std::vector<T> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// From the word being written to the host's word being seen, of a layer of almost nothing, with the lane awake.
uint64_t round_trip_ns(HostLane& lane, const AttendArgs& args, volatile uint32_t* word, const volatile uint32_t* reached) {
  std::vector<uint64_t> times;
  const uint32_t begin = __atomic_load_n(word, __ATOMIC_RELAXED);
  for (uint32_t trip = begin + 1; trip <= begin + kRoundTrips; ++trip) {
    lane.wait(word, trip);
    lane.attend(args);
    const auto ticket = static_cast<uint32_t>(lane.record());
    const uint64_t start_ns = monotonic_ns();
    while (monotonic_ns() - start_ns < 20'000) {
    }
    const uint64_t written_ns = monotonic_ns();
    __atomic_store_n(word, trip, __ATOMIC_RELEASE);
    while (static_cast<int32_t>(__atomic_load_n(reached, __ATOMIC_ACQUIRE) - ticket) < 0) {
    }
    times.push_back(monotonic_ns() - written_ns);
  }
  return median(times);
}

// From issue to the host's word, of the same, with the lane asleep.
uint64_t wake_ns(HostLane& lane, const AttendArgs& args) {
  std::vector<uint64_t> times;
  for (int wake = 0; wake < kWakes; ++wake) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(10 * HostLane::kIdleNanoseconds));
    const uint64_t issued_ns = monotonic_ns();
    lane.attend(args);
    const uint64_t ticket = lane.record();
    lane.wait_reached(ticket);
    times.push_back(lane.reached_ns(ticket) - issued_ns);
  }
  return median(times);
}

// What the issuing thread takes for a layer of all sequences, in the second of two steps: the first one takes memory.
uint64_t issue_ns(HostLane& lane, const AttendArgs& args, volatile uint32_t* word) {
  std::vector<uint64_t> times;
  for (int step = 0; step < 2; ++step) {
    times.clear();
    const uint32_t begin = __atomic_load_n(word, __ATOMIC_RELAXED) + 1;
    for (uint32_t layer = 0; layer < kIssues; ++layer) {
      const uint64_t start_ns = monotonic_ns();
      lane.wait(word, begin);
      lane.attend(args);
      lane.record();
      times.push_back(monotonic_ns() - start_ns);
    }
    __atomic_store_n(word, begin, __ATOMIC_RELEASE);
    lane.wait_reached(lane.record());
  }
  return median(times);
}

int run(const Setup& setup) {
  const KvShape& shape = setup.shape;
  const size_t block_bytes = shape.block_elements() * size_of(setup.type);
  const uint32_t blocks = (setup.context + kBlockTokens - 1) / kBlockTokens;
  const size_t layer_bytes = setup.sequences * blocks * block_bytes;
  const size_t layers = std::max<size_t>(1, ((size_t{setup.least_mib} << 20) + layer_bytes - 1) / layer_bytes);
  const Pages pages(layers * layer_bytes);
  fill(pages, setup.type);

  struct alignas(128) Word {
    uint32_t value = 0;
  };
  Word device, host;
  HostLaneOptions options;
  options.threads = setup.threads;
  options.type = setup.type;
  options.isa = setup.isa;
  options.reached_word = &host.value;
  auto lane = HostLane::make(options);
  if (!lane) {
    std::fprintf(stderr, "%s\n", lane.failure().message.c_str());
    return 1;
  }

  const size_t width = shape.heads * shape.head_dim;
  std::vector<char> q(setup.sequences * width * size_of(setup.type));
  std::memcpy(q.data(), pages.at(), std::min(q.size(), pages.bytes()));
  std::vector<float> state(setup.sequences * shape.heads * attend_state_floats(shape.head_dim));
  std::vector<const void*> addresses(layers * setup.sequences * blocks);
  for (size_t i = 0; i < addresses.size(); ++i) addresses[i] = pages.at(i * block_bytes);
  AttendArgs args{.shape = shape,
                  .scale = 0.1f,
                  .q = q.data(),
                  .q_stride = static_cast<uint32_t>(width),
                  .state = state.data()};
  std::vector<AttendSpan> spans(setup.sequences);

  const size_t rounds = std::max<size_t>(1, kPassBytes / pages.bytes());  // a pass wakes the lane, and takes its time
  std::vector<double> rates, read_rates, shares;
  for (int pass = 0; pass < kPasses; ++pass) {
    read_rates.push_back(static_cast<double>(pages.bytes()) / static_cast<double>(read_ns(pages, setup.threads)));
    const uint64_t start_ns = monotonic_ns();
    for (size_t i = 0; i < layers * rounds; ++i) {
      const size_t layer = i % layers;
      for (uint32_t s = 0; s < setup.sequences; ++s) {
        spans[s] = {.first_row = s, .rows = 1, .first_position = setup.context, .first_piece = 0, .host_from = 0};
        spans[s].kv_blocks = std::span(addresses).subspan((layer * setup.sequences + s) * blocks, blocks);
      }
      args.spans = spans;
      (*lane)->attend(args);
    }
    const uint64_t ticket = (*lane)->record();
    (*lane)->wait_reached(ticket);
    const double seen = static_cast<double>(setup.context) / (blocks * kBlockTokens);
    rates.push_back(static_cast<double>(pages.bytes() * rounds) * seen /
                    static_cast<double>((*lane)->reached_ns(ticket) - start_ns));
    shares.push_back(rates.back() / read_rates.back());
  }
  const uint64_t issued_ns = issue_ns(**lane, args, &device.value);
  spans.resize(1);
  spans[0].first_position = 1;
  args.spans = spans;
  const uint64_t trip_ns = round_trip_ns(**lane, args, &device.value, &host.value);
  const uint64_t woken_ns = wake_ns(**lane, args);

  const double best = *std::max_element(rates.begin(), rates.end());
  const double read = *std::max_element(read_rates.begin(), read_rates.end());
  std::printf("{\"type\": \"%s\", \"isa\": \"%s\", \"head_dim\": %u, \"heads\": %u, \"kv_heads\": %u, \"sequences\": %u, "
              "\"context\": %u, \"threads\": %u, \"layers\": %zu, \"attend_gb_per_s\": %.2f, \"attend_median_gb_per_s\": %.2f, "
              "\"read_gb_per_s\": %.2f, \"read_median_gb_per_s\": %.2f, \"share\": %.3f, \"median_share\": %.3f, "
              "\"round_trip_us\": %.2f, \"wake_us\": %.2f, \"issue_us\": %.2f}\n",
              name_of(setup.type), name_of((*lane)->isa()), shape.head_dim, shape.heads, shape.kv_heads, setup.sequences,
              setup.context, setup.threads, layers, best, median(rates), read, median(read_rates), best / read,
              median(shares), static_cast<double>(trip_ns) * 1e-3,
              static_cast<double>(woken_ns) * 1e-3, static_cast<double>(issued_ns) * 1e-3);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Setup setup;
  CLI::App app("how fast the host attends to K,V in its memory");
  const std::map<std::string, DType> types = {{"f16", DType::f16}, {"bf16", DType::bf16}, {"f32", DType::f32}};
  const std::map<std::string, CpuIsa> isas = {{"automatic", CpuIsa::automatic}, {"portable", CpuIsa::portable},
                                              {"avx2", CpuIsa::avx2}, {"avx512", CpuIsa::avx512},
                                              {"avx512_bf16", CpuIsa::avx512_bf16}, {"amx_bf16", CpuIsa::amx_bf16}};
  app.add_option("--type", setup.type)->transform(CLI::CheckedTransformer(types));
  app.add_option("--isa", setup.isa)->transform(CLI::CheckedTransformer(isas));
  app.add_option("--head-dim", setup.shape.head_dim)->check(CLI::Range(1, 1024));
  app.add_option("--heads", setup.shape.heads)->check(CLI::Range(1, 1024));
  app.add_option("--kv-heads", setup.shape.kv_heads)->check(CLI::Range(1, 1024));
  app.add_option("--sequences", setup.sequences)->check(CLI::Range(1, 4096));
  app.add_option("--context", setup.context)->check(CLI::Range(1, 1 << 24));
  app.add_option("--least-mib", setup.least_mib)->check(CLI::Range(0, 1 << 20));
  app.add_option("--threads", setup.threads)->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  if (setup.shape.heads % setup.shape.kv_heads != 0) {
    std::fprintf(stderr, "--heads must be a multiple of --kv-heads\n");
    return 2;
  }
  return run(setup);
}
