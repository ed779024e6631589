// SPDX-License-Identifier: Apache-2.0
// Doorbells both ways, sleeping and waking, two threads on one handle, and the daemon's death. Where a thread must be
// asleep first, the test looks for the flag that says so.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstddef>

#include "tests/libiokv/fake_daemon.h"

namespace iokv {
namespace {

constexpr uint32_t kNeedWakeup = 1, kNeedReap = 2;

bool readable(iokv_client* client) {
  pollfd entry{iokv_fd(client), POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1;
}

void submit_rings_only_for_a_daemon_that_sleeps(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  iokv_nop(client, 0, nullptr);
  iokv_submit(client);
  assert_int_equal(daemon.doorbells(), 0);
  daemon.set_flags(kNeedWakeup);
  iokv_nop(client, 0, nullptr);
  assert_int_equal(daemon.doorbells(), 0);
  iokv_submit(client);
  assert_int_equal(daemon.doorbells(), 1);
  assert_int_equal(iokv_submit(client), 0);
  assert_int_equal(daemon.doorbells(), 0);
}

void reap_rings_only_for_a_daemon_that_waits_for_room(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  iokv_completion completion;
  for (uint32_t flags : {0u, kNeedWakeup, kNeedReap}) {
    iokv_nop(client, 0, nullptr);
    iokv_submit(client);
    daemon.serve_all();
    daemon.doorbells();
    daemon.set_flags(flags);
    assert_int_equal(iokv_reap(client, &completion, 1, 0), 1);
    assert_int_equal(daemon.doorbells(), flags == kNeedReap ? 1 : 0);
    daemon.set_flags(0);
  }
}

void a_short_reap_leaves_the_descriptor_armed(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  iokv_completion completions[4];
  assert_int_equal(iokv_reap(client, completions, 4, 0), 0);
  assert_int_equal(daemon.client_flags() & kNeedWakeup, kNeedWakeup);
  assert_false(readable(client));
  iokv_nop(client, 0, nullptr);
  iokv_submit(client);
  daemon.serve_all();
  daemon.ring();
  assert_true(readable(client));
  assert_int_equal(iokv_reap(client, completions, 4, 0), 1);
  assert_int_equal(daemon.client_flags() & kNeedWakeup, kNeedWakeup);
  assert_int_equal(iokv_reap(client, completions, 4, 0), 0);
  assert_false(readable(client));
}

void a_sleeping_reap_wakes_for_a_doorbell(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  for (int round = 0; round < 200; round++) {
    iokv_nop(client, 1, nullptr);
    iokv_submit(client);
    std::thread reaper([&] {
      iokv_completion completion;
      assert_int_equal(iokv_reap(client, &completion, 1, -1), 1);
    });
    while ((daemon.client_flags() & kNeedWakeup) == 0) std::this_thread::yield();
    daemon.serve_all();
    if ((daemon.client_flags() & kNeedWakeup) != 0) daemon.ring();
    reaper.join();
  }
}

void wake_and_time_out_end_a_wait(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  iokv_completion completion;
  assert_int_equal(iokv_reap(client, &completion, 1, 1'000'000), IOKV_ETIMEDOUT);
  assert_int_equal(iokv_wake(client), 0);
  assert_int_equal(iokv_reap(client, &completion, 1, -1), IOKV_EWOKEN);
  assert_int_equal(iokv_reap(client, &completion, 1, 1'000'000), IOKV_ETIMEDOUT);
  std::thread waker([&] { iokv_wake(client); });
  assert_int_equal(iokv_reap(client, &completion, 1, -1), IOKV_EWOKEN);
  waker.join();
}

// The third thread is the daemon. Every operation comes back once and in order, whoever is faster.
void one_thread_submits_while_another_reaps(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  constexpr uint64_t kOperations = 20'000;
  std::atomic<bool> done = false;
  std::thread serving([&] {
    while (!done.load()) {
      if (daemon.serve_all() == 0) {
        std::this_thread::yield();
        continue;
      }
      if ((daemon.client_flags() & 3) != 0) daemon.ring();
    }
  });
  std::thread submitter([&] {
    for (uint64_t i = 0; i < kOperations;) {
      // Every hundredth is longer than the arena, so that both threads feed it.
      const std::vector<int32_t> tokens(i % 100 == 0 ? 5000 : 3, 1);
      iokv_step_options options = step_of(tokens);
      options.user_data = i;
      const int code = iokv_step(client, kSequence, &options, nullptr);
      iokv_submit(client);
      if (code == 0) i++;
      else std::this_thread::yield();
    }
  });
  uint64_t next = 0;
  bool in_order = true;
  while (next < kOperations) {
    iokv_completion completions[7];
    const int got = iokv_reap(client, completions, 7, -1);
    if (got < 0) {
      in_order = false;
      break;
    }
    for (int i = 0; i < got; i++) in_order &= completions[i].user_data == next++;
  }
  submitter.join();
  done.store(true);
  serving.join();
  assert_true(in_order);
  assert_int_equal(iokv_outstanding(client), 0);
}

void what_a_dead_daemon_completed_is_still_reaped(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  iokv_nop(client, 1, nullptr);
  iokv_nop(client, 2, nullptr);
  iokv_submit(client);
  daemon.complete(daemon.take());
  daemon.announce();
  daemon.die();
  iokv_completion completions[4];
  assert_int_equal(iokv_reap(client, completions, 4, -1), 1);
  assert_int_equal(completions[0].user_data, 1);
  assert_int_equal(iokv_reap(client, completions, 4, -1), IOKV_ECLOSED);
  assert_int_equal(iokv_nop(client, 3, nullptr), IOKV_ECLOSED);
  assert_int_equal(iokv_submit(client), IOKV_ECLOSED);
}

void the_reason_of_an_end_is_told(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  daemon.say(wire::MessageType::ended, IOKV_ESHUTDOWN, "the daemon is stopping, says the test");
  daemon.die();
  iokv_completion completion;
  assert_int_equal(iokv_reap(client, &completion, 1, -1), IOKV_ECLOSED);
  iokv_error_detail detail{};
  detail.struct_size = sizeof detail;
  assert_int_equal(iokv_end_reason(client, &detail), 0);
  assert_int_equal(detail.code, IOKV_ESHUTDOWN);
  assert_string_equal(detail.message, "the daemon is stopping, says the test");
}

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
// From here on this thread may do nothing but end: any other system call kills the process.
void forbid_system_calls() {
  constexpr uint32_t kAllowed[] = {SYS_exit, SYS_exit_group, SYS_futex, SYS_munmap, SYS_madvise, SYS_rt_sigprocmask};
  std::vector<sock_filter> filter{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (uint32_t number : kAllowed) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) std::abort();
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) std::abort();
}

void submit_and_reap_make_no_system_call_while_the_daemon_is_awake(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  uint32_t reaped = 0;
  std::thread thread([&] {
    const std::vector<int32_t> tokens(100, 1);
    const iokv_step_options options = step_of(tokens, 1);
    forbid_system_calls();
    for (int round = 0; round < 1000; round++) {
      for (int i = 0; i < 3; i++) iokv_step(client, kSequence, &options, nullptr);
      iokv_submit(client);
      daemon.serve_all();
      iokv_completion completions[8];
      reaped += static_cast<uint32_t>(iokv_reap(client, completions, 8, -1));
    }
  });
  thread.join();
  assert_int_equal(reaped, 3000);
}
#endif

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
      cmocka_unit_test(submit_and_reap_make_no_system_call_while_the_daemon_is_awake),
#endif
      cmocka_unit_test(submit_rings_only_for_a_daemon_that_sleeps),
      cmocka_unit_test(reap_rings_only_for_a_daemon_that_waits_for_room),
      cmocka_unit_test(a_short_reap_leaves_the_descriptor_armed),
      cmocka_unit_test(a_sleeping_reap_wakes_for_a_doorbell),
      cmocka_unit_test(wake_and_time_out_end_a_wait),
      cmocka_unit_test(one_thread_submits_while_another_reaps),
      cmocka_unit_test(what_a_dead_daemon_completed_is_still_reaped),
      cmocka_unit_test(the_reason_of_an_end_is_told)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
