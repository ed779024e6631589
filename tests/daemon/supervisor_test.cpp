// SPDX-License-Identifier: Apache-2.0
// The supervisor's side of the daemon, with a device that loads and hangs as long as the test wants: READY comes after
// the load and not before, and a daemon whose device hangs is not said to be alive. (A real process, its passed socket
// and its signals: tests/e2e/supervisor_test.py.)
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <thread>

#include "iokv/iokv.h"
#include "tests/daemon/service_fixture.h"

using namespace iokv;
using namespace iokv::test;

namespace {

constexpr int kPatienceMs = 20'000;

class NotifySocket {
 public:
  explicit NotifySocket(const std::string& path) : path_(path), socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    assert_int_equal(::bind(socket_.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }

  Supervisor supervisor(const char* watchdog_us) const {
    ::setenv("NOTIFY_SOCKET", path_.c_str(), 1);
    ::setenv("WATCHDOG_USEC", watchdog_us, 1);
    auto supervisor = Supervisor::from_environment();
    assert_true(static_cast<bool>(supervisor));
    assert_null(std::getenv("NOTIFY_SOCKET"));
    assert_null(std::getenv("WATCHDOG_USEC"));
    return *std::move(supervisor);
  }

  std::optional<std::string> next(int wait_ms) const {
    pollfd ready{socket_.number(), POLLIN, 0};
    if (::poll(&ready, 1, wait_ms) <= 0) return std::nullopt;
    char text[4096];
    const ssize_t size = ::recv(socket_.number(), text, sizeof text, 0);
    return std::string(text, static_cast<size_t>(size));
  }

  // The next that contains `wanted`; nothing that contains `unwanted` may come before it.
  void expect(const char* wanted, const char* unwanted) const {
    while (true) {
      const auto message = next(kPatienceMs);
      if (!message) fail_msg("no %s", wanted);
      if (message->find(wanted) != std::string::npos) return;
      if (message->find(unwanted) != std::string::npos) fail_msg("%s before %s", unwanted, wanted);
    }
  }

 private:
  std::string path_;
  Descriptor socket_;
};

void ready_is_said_after_the_load_which_may_take_its_time(void**) {
  ServiceFixture fixture;
  NotifySocket notify(fixture.directory() + "/notify");
  std::atomic<bool> go_on{false};
  fixture.before_loading = [&](const LoadProgress& progress) {
    progress(7);
    go_on.wait(false);
    return Status();
  };
  auto service = fixture.start(notify.supervisor("0"));
  std::thread serving([&] { assert_true(static_cast<bool>(service->run())); });
  notify.expect("EXTEND_TIMEOUT_USEC=", "READY=1");
  // Reported again as it goes on, which is looked at every five seconds.
  notify.expect("STATUS=Loading the model: 7 %\nEXTEND_TIMEOUT_USEC=", "READY=1");
  go_on = true;
  go_on.notify_all();
  notify.expect("READY=1", "STOPPING=1");
  ::kill(::getpid(), SIGTERM);
  notify.expect("STOPPING=1", "READY=1");
  serving.join();
}

// Drains what was sent before, then hears nothing for five periods while a step hangs.
void a_daemon_whose_device_hangs_is_not_alive(void**) {
  ServiceFixture fixture;
  NotifySocket notify(fixture.directory() + "/notify");
  auto service = fixture.start(notify.supervisor("200000"));
  std::thread serving([&] { assert_true(static_cast<bool>(service->run())); });
  notify.expect("READY=1", "STOPPING=1");
  notify.expect("WATCHDOG=1", "STOPPING=1");
  notify.expect("WATCHDOG=1", "STOPPING=1");  // and again, though nothing happens

  fixture.backend().hang();
  iokv_client* client = nullptr;
  iokv_connect_options where{};
  where.struct_size = sizeof where;
  const std::string path = fixture.socket();
  where.socket_path = path.c_str();
  assert_int_equal(iokv_connect(&where, &client, nullptr), 0);
  iokv_sequence sequence = 0;
  static const int32_t prompt[] = {1, 2, 3};
  iokv_step_options step{};
  step.struct_size = sizeof step;
  step.tokens = prompt;
  step.token_count = 3;
  step.max_tokens = 2;
  iokv_open(client, nullptr, &sequence, nullptr);
  iokv_step(client, sequence, &step, nullptr);
  iokv_submit(client);
  fixture.backend().await_hanging();
  while (notify.next(100)) {  // one period: what was sent when nothing was known to hang
  }
  const auto message = notify.next(500);
  if (message) fail_msg("a hanging device, and the supervisor hears %s", message->c_str());

  fixture.backend().go_on();
  notify.expect("WATCHDOG=1", "STOPPING=1");
  iokv_disconnect(client);
  ::kill(::getpid(), SIGTERM);
  notify.expect("STOPPING=1", "READY=1");
  serving.join();
}

void a_supervisor_that_cannot_be_spoken_to_is_named(void**) {
  for (const char* path : {"relative", "/nonexistent/notify"}) {
    ::setenv("NOTIFY_SOCKET", path, 1);
    auto supervisor = Supervisor::from_environment();
    assert_false(static_cast<bool>(supervisor));
    assert_non_null(std::strstr(supervisor.failure().message.c_str(), path));
  }
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(ready_is_said_after_the_load_which_may_take_its_time),
      cmocka_unit_test(a_daemon_whose_device_hangs_is_not_alive),
      cmocka_unit_test(a_supervisor_that_cannot_be_spoken_to_is_named),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
