// SPDX-License-Identifier: Apache-2.0
// A device that fails: polls return the Error, and nothing hangs. Its own program, since the failure stays with the
// process.
#include "tests/backend/cuda_fixture.h"

namespace iokv::test {
namespace {

void a_device_error_is_an_error_of_every_poll(void**) {
  auto opened = open_gpu(DType::f16);
  assert_true(static_cast<bool>(opened));
  Backend& backend = **opened;
  const int cpus[] = {0};
  assert_true(static_cast<bool>(backend.attend_on_host(cpus)));
  Array y(backend, DType::f16, 64);
  const Ticket before = backend.record(Queue::dense);
  // A norm of memory that is not there.
  NormArgs args;
  args.x = reinterpret_cast<const float*>(uintptr_t{4096});
  args.weight = args.x;
  args.y = y.at();
  args.rows = 1;
  args.columns = 64;
  backend.norm(Queue::dense, args);
  const Ticket behind = backend.record(Queue::dense);
  // The host waits for what the device will never do, and the device for the host.
  backend.wait(Queue::host, behind);
  const Ticket of_host = backend.record(Queue::host);
  backend.wait(Queue::recompute, of_host);
  auto reached = backend.poll(behind, true);
  assert_false(static_cast<bool>(reached));
  std::printf("%s\n", reached.failure().message.c_str());
  // From now on everything is refused, and returns.
  backend.norm(Queue::dense, args);
  backend.wait(Queue::h2d, behind);
  assert_false(static_cast<bool>(backend.poll(of_host, true)));
  for (Queue queue : {Queue::dense, Queue::recompute, Queue::h2d, Queue::d2h, Queue::host}) {
    for (int i = 0; i < 5000; ++i) (void)backend.record(queue);
    assert_false(static_cast<bool>(backend.poll(backend.record(queue), true)));
    assert_false(static_cast<bool>(backend.poll(backend.record(queue), false)));
  }
  assert_false(static_cast<bool>(backend.poll(before, false)));
  assert_false(static_cast<bool>(backend.alloc(1000)));
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  if (!has_gpu()) return kSkipped;
  const CMUnitTest tests[] = {cmocka_unit_test(a_device_error_is_an_error_of_every_poll)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
