// SPDX-License-Identifier: Apache-2.0
// A client that goes on writing to an entry and its payload while the daemon takes them: what arrives has one value
// throughout, and the value that was checked is the value that is used.
#include <atomic>
#include <thread>

#include "daemon/session/session.h"
#include "include/iokv/iokv.h"
#include "tests/session/raw_client.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

constexpr wire::Geometry kGeometry{16, 16, 4096, 4096};
constexpr uint32_t kVocabulary = 1000, kTokens = 64, kMaxStopTokens = 4;

class Liar {
 public:
  Liar(std::byte* up, uint64_t seed) : thread_([this, up, seed] { lie(up, seed); }) {}
  ~Liar() {
    stop_.store(true, std::memory_order_relaxed);
    thread_.join();
  }

 private:
  // Mostly tokens, in and out of the vocabulary; now and then any bit of the entry or of the payload's struct.
  void lie(std::byte* up, uint64_t seed) {
    std::mt19937_64 random(seed);
    auto* entry = reinterpret_cast<uint64_t*>(up + wire::kUpEntries);
    auto* payload = reinterpret_cast<uint64_t*>(up + wire::arena_offset(kGeometry));
    constexpr size_t struct_words = sizeof(wire::StepPayload) / 8, token_words = kTokens / 2;
    while (!stop_.load(std::memory_order_relaxed)) {
      const uint64_t draw = random();
      if (draw % 64 != 0) {
        uint64_t& word = payload[struct_words + (draw >> 32) % token_words];
        std::atomic_ref<uint64_t>(word).store((draw & 64) != 0 ? 5 : UINT64_MAX, std::memory_order_relaxed);
      } else {
        uint64_t& word = (draw & 64) != 0 ? entry[(draw >> 32) % 8] : payload[(draw >> 32) % struct_words];
        std::atomic_ref<uint64_t>(word).fetch_xor(uint64_t{1} << (draw >> 58), std::memory_order_relaxed);
      }
    }
  }

  std::atomic<bool> stop_{false};
  std::thread thread_;
};

void assert_whole(const Request& request) {
  if (request.refuse != 0) {
    assert_true(request.tokens.empty() && request.stop_tokens.empty());
    return;
  }
  if (request.kind == RequestKind::step) assert_int_equal(request.tokens.size(), request.n);
  assert_true(request.stop_tokens.size() <= kMaxStopTokens);
  for (int32_t token : request.tokens) assert_true(token >= 0 && static_cast<uint32_t>(token) < kVocabulary);
  for (int32_t token : request.stop_tokens) assert_true(token >= 0 && static_cast<uint32_t>(token) < kVocabulary);
}

void what_is_used_is_what_was_checked(void**) {
  RawMemory up(wire::up_bytes(kGeometry)), down(wire::down_bytes(kGeometry));
  const auto payload = step_payload(std::vector<int32_t>(kTokens, 7), {});
  Liar liar(up.data(), test_seed());
  // Until each way out was taken often: how long that lasts is the kernel's scheduler's choice.
  for (uint32_t accepted = 0, refused = 0, ended = 0; accepted < 1000 || refused < 1000 || ended < 10;) {
    RawClient client(kGeometry, up.data(), down.data());
    Session session(kGeometry, up.data(), down.data(), {kVocabulary, kTokens, kMaxStopTokens, 1 << 16});
    client.place(step_of(1, kTokens), payload);
    client.announce();
    std::vector<Request> requests;
    if (session.drain(requests) == Session::Pass::broken) {
      assert_true(requests.empty() && !session.broken_reason().empty());
      ended++;
      continue;
    }
    assert_int_equal(requests.size(), 1);
    assert_whole(requests[0]);
    requests[0].refuse == 0 ? accepted++ : refused++;
  }
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {cmocka_unit_test(what_is_used_is_what_was_checked)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
