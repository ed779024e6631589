// SPDX-License-Identifier: Apache-2.0
// The slow link of the CPU backend: what it copies, how long that takes by the host's clock, and that its two directions
// and the operations of other queues run beside each other, ordered by tickets alone.
#include <algorithm>
#include <chrono>
#include <thread>

#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

constexpr double kRate = 500e6;  // far below what one core copies, with other tests beside it

std::unique_ptr<Backend> linked(double bytes_per_s = kRate) {
  auto made = make_cpu_backend({DType::f32, 1, CpuIsa::automatic, bytes_per_s});
  assert_true(static_cast<bool>(made));
  return *std::move(made);
}

std::vector<uint8_t> noise(size_t bytes, uint64_t stream) {
  Numbers numbers(stream);
  std::vector<uint8_t> values(bytes);
  for (uint8_t& value : values) value = static_cast<uint8_t>(numbers.below(256));
  return values;
}

// The time of `copies` copies of so many bytes each, one after the other, in multiples of what the rate says; the least
// of some tries, since a busy machine only ever adds to it.
double least_ratio(size_t bytes, int copies, double rate) {
  auto backend = linked(rate);
  std::vector<uint8_t> from = noise(bytes, 1), to(bytes);
  double least = 1e9;
  for (int attempt = 0; attempt < 40 && least > 1.05; ++attempt) {
    const Ticket begin = backend->record(Queue::h2d);
    for (int i = 0; i < copies; ++i) backend->copy(Queue::h2d, to.data(), from.data(), bytes);
    const Ticket end = backend->record(Queue::h2d);
    assert_true(*backend->poll(end, true));
    const double took = static_cast<double>(backend->reached_ns(end) - backend->reached_ns(begin));
    least = std::min(least, took / (static_cast<double>(bytes) * copies / rate * 1e9));
    assert_true(to == from);
  }
  return least;
}

void copies_take_as_long_as_the_rate_says(void**) {
  for (auto [bytes, copies] : {std::pair{size_t{16} << 20, 1}, {size_t{1} << 20, 16}, {size_t{64} << 10, 64}}) {
    const double ratio = least_ratio(bytes, copies, kRate);
    std::printf("%d copies of %zu KiB: %.3f of the time expected\n", copies, bytes >> 10, ratio);
    assert_true(ratio > 0.98 && ratio < 1.05);
  }
}

void a_run_of_pieces_goes_where_its_pitches_say(void**) {
  auto backend = linked(8e9);
  std::vector<uint8_t> from = noise(64 * 100, 2), to(48 * 100, 0xee);
  const CopyRun runs[] = {{to.data() + 3, from.data() + 7, 20, 90, 48, 64}, {to.data() + 30, from.data(), 5, 1, 0, 0}};
  backend->copy(Queue::h2d, runs);
  assert_true(*backend->poll(backend->record(Queue::h2d), true));
  for (size_t row = 0; row < 100; ++row) {
    for (size_t i = 0; i < 48; ++i) {
      uint8_t expected = 0xee;
      if (row < 90 && i >= 3 && i < 23) expected = from[row * 64 + 7 + i - 3];
      if (row == 0 && i >= 30 && i < 35) expected = from[i - 30];
      assert_int_equal(to[row * 48 + i], expected);
    }
  }
}

void both_directions_run_at_once_and_beside_the_caller(void**) {
  double least = 1e9;
  for (int attempt = 0; attempt < 40 && least > 1.2; ++attempt) {
    auto backend = linked();
    const size_t bytes = size_t{8} << 20;
    std::vector<uint8_t> a = noise(bytes, 3), b(bytes), c(bytes);
    const auto begun = std::chrono::steady_clock::now();
    backend->copy(Queue::h2d, b.data(), a.data(), bytes);
    backend->copy(Queue::d2h, c.data(), a.data(), bytes);
    const Ticket up = backend->record(Queue::h2d), down = backend->record(Queue::d2h);
    assert_false(*backend->poll(up, false));  // 17 ms have not passed
    assert_true(*backend->poll(up, true) && *backend->poll(down, true));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    least = std::min(least, took.count() / (static_cast<double>(bytes) / kRate));
    assert_true(b == a && c == a);
  }
  assert_true(least < 1.2);  // one after the other they take 2
}

// h2d reads what d2h writes: it must wait for the ticket, however late that is.
void a_queue_waits_for_the_ticket_of_another(void**) {
  auto backend = linked();
  const size_t bytes = size_t{4} << 20;
  std::vector<uint8_t> from = noise(bytes, 4), host(bytes), to(bytes);
  backend->copy(Queue::d2h, host.data(), from.data(), bytes);
  backend->wait(Queue::h2d, backend->record(Queue::d2h));
  backend->copy(Queue::h2d, to.data(), host.data(), bytes);
  backend->wait(Queue::dense, backend->record(Queue::h2d));  // dense operations run in this thread: it waits here
  assert_true(to == from);
}

void without_a_link_host_memory_is_the_devices(void**) {
  auto backend = linked(0);
  assert_true(backend->info().host_addressable);
  assert_false(linked()->info().host_addressable);
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(copies_take_as_long_as_the_rate_says),
      cmocka_unit_test(a_run_of_pieces_goes_where_its_pitches_say),
      cmocka_unit_test(both_directions_run_at_once_and_beside_the_caller),
      cmocka_unit_test(a_queue_waits_for_the_ticket_of_another),
      cmocka_unit_test(without_a_link_host_memory_is_the_devices),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
