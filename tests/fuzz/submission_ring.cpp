// SPDX-License-Identifier: Apache-2.0
// A client's whole region as the fuzzer writes it, while a second thread goes on writing to it: a session must take
// requests that keep their promises, or end the client; never read outside of the region, never believe it twice.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "daemon/base/assert.h"
#include "daemon/session/session.h"

using namespace iokv;

namespace {

constexpr wire::Geometry kGeometry{16, 16, 4096, 4096};
constexpr SessionLimits kLimits{100, 200, 8, 2048};

class Memory {
 public:
  explicit Memory(size_t bytes) : words_(bytes / 8) {}
  std::byte* data() { return reinterpret_cast<std::byte*>(words_.data()); }
  size_t size() const { return words_.size(); }
  std::atomic_ref<uint64_t> word(size_t index) { return std::atomic_ref<uint64_t>(words_[index % words_.size()]); }

 private:
  std::vector<uint64_t> words_;
};

// Rewrites words that the daemon reads, as fast as it can, from a stream of numbers that the input decides.
class Mutator {
 public:
  Mutator(Memory& memory, uint64_t seed) : thread_([this, &memory, seed]() mutable {
    while (!stop_.load(std::memory_order_relaxed)) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      const size_t in_entries = wire::kUpEntries / 8 + (seed >> 33) % (kGeometry.submission_entries * 8);
      const size_t in_arena = wire::arena_offset(kGeometry) / 8 + (seed >> 33) % 64;
      const size_t index = (seed & 4) != 0 ? in_entries : in_arena;
      const uint64_t before = memory.word(index).load(std::memory_order_relaxed);
      memory.word(index).store((seed & 3) == 0 ? 0 : before ^ (uint64_t{1} << (seed >> 58)), std::memory_order_relaxed);
    }
  }) {}
  ~Mutator() {
    stop_.store(true, std::memory_order_relaxed);
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

void check(const Request& request) {
  IOKV_ASSERT(request.operation != 0 && request.refuse <= 0);
  if (request.refuse != 0) return;
  for (int32_t token : request.tokens) IOKV_ASSERT(token >= 0 && static_cast<uint32_t>(token) < kLimits.vocabulary);
  IOKV_ASSERT(request.tokens.size() <= kLimits.max_step_tokens);
  IOKV_ASSERT(request.stop_tokens.size() <= kLimits.max_stop_tokens);
  if (request.sampling) {
    IOKV_ASSERT(request.sampling->temperature >= 0 && request.sampling->top_p > 0 && request.sampling->top_p <= 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 16) return 0;
  Memory up(wire::up_bytes(kGeometry)), down(wire::down_bytes(kGeometry));
  uint64_t seed;
  std::memcpy(&seed, data, sizeof seed);
  // Tails, one after the other; then entries and arena.
  uint32_t tails[2];
  std::memcpy(tails, data + 8, sizeof tails);
  data += 16, size -= 16;
  const size_t entries = std::min<size_t>(size, kGeometry.submission_entries * wire::kEntryBytes);
  std::memcpy(up.data() + wire::kUpEntries, data, entries);
  std::memcpy(up.data() + wire::arena_offset(kGeometry), data + entries, std::min<size_t>(size - entries, 4096));

  Session session(kGeometry, up.data(), down.data(), kLimits);
  std::vector<Request> requests;
  Mutator mutator(up, seed);
  for (uint32_t tail : tails) {
    std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(up.data() + wire::kUpSubmissionTail)).store(tail % 20);
    for (int pass = 0; pass < 20; pass++) {
      requests.clear();
      const Session::Pass passed = session.drain(requests);
      for (const Request& request : requests) check(request);
      IOKV_ASSERT((passed == Session::Pass::broken) == !session.broken_reason().empty());
      if (passed == Session::Pass::broken || !session.observe_heads()) return 0;
      session.publish();
      if (passed == Session::Pass::drained) break;
    }
  }
  return 0;
}
