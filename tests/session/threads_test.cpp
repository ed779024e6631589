// SPDX-License-Identifier: Apache-2.0
// Both ends of the rings in one process and one mapping, each a thread that sleeps whenever it finds nothing: made for the
// thread sanitizer, which knows addresses and not mappings, and for lost wake-ups, which would hang it. The doorbells are
// semaphores.
#include <semaphore>
#include <string>
#include <thread>

#include "daemon/session/session.h"
#include "include/iokv/iokv.h"
#include "tests/session/raw_client.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;
using wire::Opcode;

namespace {

constexpr wire::Geometry kGeometry{16, 32, 4096, 4096};
constexpr uint64_t kOperations = 100'000;
constexpr uint32_t kOutstanding = 16;

struct World {
  RawMemory up{wire::up_bytes(kGeometry)}, down{wire::down_bytes(kGeometry)};
  std::counting_semaphore<> daemon_bell{0}, client_bell{0};
  std::atomic<uint64_t> daemon_sleeps{0}, client_sleeps{0};
};

void serve(World& world) {
  Session session(kGeometry, world.up.data(), world.down.data(), {1000, 64, 4, 1 << 16});
  uint64_t served = 0;
  while (served < kOperations) {
    std::vector<Request> requests;
    assert_true(session.drain(requests) == Session::Pass::drained && session.observe_heads());
    for (const Request& request : requests) {
      Outcome outcome;
      outcome.operation = request.operation;
      outcome.user_data = request.user_data;
      outcome.token = request.tokens.empty() ? -1 : request.tokens.back();
      session.post(outcome);
      served++;
    }
    if (session.publish()) world.client_bell.release();
    if (!requests.empty()) continue;
    if (!session.arm(false)) {
      world.daemon_sleeps++;
      world.daemon_bell.acquire();
    }
    session.disarm();
  }
}

void ask(World& world) {
  RawClient client(kGeometry, world.up.data(), world.down.data());
  uint64_t placed = 0, done = 0;
  while (done < kOperations) {
    bool busy = false;
    while (placed < kOperations && placed - done < kOutstanding && client.placed() - client.taken_by_daemon() < 16) {
      const uint64_t id = ++placed;
      const auto payload = step_payload({static_cast<int32_t>(id % 1000)}, {});
      client.place(step_of(id, 1), payload);
      client.announce();
      full_fence_of_test();
      const uint32_t flags = client.down_word(wire::kDownFlags).load(std::memory_order_relaxed);
      if ((flags & wire::kDownNeedWakeup) != 0) world.daemon_bell.release();
      busy = true;
    }
    while (client.ready() > 0) {
      const wire::Completion completion = client.take();
      done++;
      assert_int_equal(completion.operation, done);
      assert_int_equal(completion.user_data, done * 1000);
      assert_int_equal(completion.token, done % 1000);
      client.give_back_completions();
      busy = true;
    }
    if (busy) continue;
    client.up_word(wire::kUpFlags).store(wire::kUpNeedWakeup, std::memory_order_relaxed);
    full_fence_of_test();
    if (client.ready() == 0) {
      world.client_sleeps++;
      world.client_bell.acquire();
    }
    client.up_word(wire::kUpFlags).store(0, std::memory_order_relaxed);
  }
}

void every_operation_comes_back_in_order_and_nobody_sleeps_for_ever(void**) {
  World world;
  std::thread daemon([&] { serve(world); });
  ask(world);
  daemon.join();
  std::printf("slept: daemon %llu, client %llu times\n", static_cast<unsigned long long>(world.daemon_sleeps.load()),
              static_cast<unsigned long long>(world.client_sleeps.load()));
  assert_true(world.daemon_sleeps.load() > 0 && world.client_sleeps.load() > 0);
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {cmocka_unit_test(every_operation_comes_back_in_order_and_nobody_sleeps_for_ever)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
