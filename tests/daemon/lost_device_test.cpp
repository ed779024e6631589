// SPDX-License-Identifier: Apache-2.0
// A device that is lost under a client: what is under way ends with a code, and the daemon ends with the reason. One that
// cannot be loaded ends it as well, with nobody there to wake it up.
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "iokv/iokv.h"
#include "tests/daemon/service_fixture.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;
using namespace iokv::test;

namespace {

struct Seen {
  int connected = 0;
  uint32_t tokens = 0;
  int first = 0, ended = 0;  // results of the operation, and of the connection after it
  std::string reason;
};

// Decodes, and takes the device away once tokens come.
Seen decode_and_lose(const std::string& socket, SteeredBackend& backend) {
  Seen seen;
  iokv_client* client = nullptr;
  iokv_connect_options options{};
  options.struct_size = sizeof options;
  options.socket_path = socket.c_str();
  seen.connected = iokv_connect(&options, &client, nullptr);
  if (seen.connected != 0) return seen;
  iokv_sequence sequence = 0;
  static const int32_t prompt[] = {1, 2, 3};
  iokv_step_options step{};
  step.struct_size = sizeof step;
  step.tokens = prompt;
  step.token_count = 3;
  step.max_tokens = 100;
  iokv_open(client, nullptr, &sequence, nullptr);
  iokv_step(client, sequence, &step, nullptr);
  iokv_submit(client);
  while (iokv_outstanding(client) > 0) {
    iokv_completion completions[16];
    const int got = iokv_reap(client, completions, 16, 20'000'000'000);
    if (got <= 0) {
      seen.ended = got;
      break;
    }
    for (int i = 0; i < got; ++i) {
      if (completions[i].flags & IOKV_COMPLETION_TOKEN) ++seen.tokens;
      if (completions[i].result < 0 && seen.first == 0) seen.first = completions[i].result;
    }
    if (seen.tokens > 0) backend.lose();
  }
  iokv_error_detail why{};
  why.struct_size = sizeof why;
  iokv_end_reason(client, &why);
  seen.reason = why.message;
  iokv_disconnect(client);
  return seen;
}

void operations_end_with_a_code_and_the_daemon_with_the_reason(void**) {
  ServiceFixture fixture;
  auto service = fixture.start(Supervisor());

  Seen seen;
  std::thread client([&] { seen = decode_and_lose(fixture.socket(), fixture.backend()); });
  Status ended = service->run();
  service.reset();  // ends connections
  client.join();
  assert_int_equal(seen.connected, 0);
  assert_true(seen.tokens > 0 && seen.tokens < 100);
  assert_int_equal(seen.first, IOKV_EDEVICE);
  assert_int_equal(seen.ended, 0);
  assert_false(static_cast<bool>(ended));
  assert_non_null(std::strstr(ended.failure().message.c_str(), "it was unplugged"));
}

// Long after the loop has begun to wait.
void a_late_failure_to_load_ends_the_daemon(void**) {
  ServiceFixture fixture;
  fixture.before_loading = [](const LoadProgress&) -> Status {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    return error("the device has no kernel for this");
  };
  auto service = fixture.start(Supervisor());
  ::alarm(20);  // a loop that sleeps on would do so forever; the signal ends the test
  Status ended = service->run();
  ::alarm(0);
  assert_false(static_cast<bool>(ended));
  assert_string_equal(ended.failure().message.c_str(), "the device has no kernel for this");
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(operations_end_with_a_code_and_the_daemon_with_the_reason),
      cmocka_unit_test(a_late_failure_to_load_ends_the_daemon),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
