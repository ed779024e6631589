// SPDX-License-Identifier: Apache-2.0
// The handshake, where a daemon is looked for, and what becomes of a handle in a forked child.
#include <sys/wait.h>

#include "tests/libiokv/fake_daemon.h"

namespace iokv {
namespace {

void facts_of_welcome_arrive(void**) {
  FakeDaemon daemon;
  daemon.welcome.layers = 7;
  daemon.welcome.daemon_instance = 0x1234567890;
  iokv_connect_options options{};
  options.name = "a client";
  options.arena_bytes = 8192;
  Connection client(daemon, options);
  assert_int_equal(client.code, 0);
  assert_string_equal(daemon.hello.name, "a client");
  assert_int_equal(daemon.hello.wanted.arena_bytes, 8192);
  assert_int_equal(daemon.hello.wanted.result_bytes, 0);
  iokv_info info{};
  info.struct_size = sizeof info;
  assert_int_equal(iokv_get_info(client, &info), 0);
  assert_int_equal(info.layers, 7);
  assert_int_equal(info.vocabulary, kVocabulary);
  assert_true(info.daemon_instance == 0x1234567890);
}

void refuses_a_welcome_that_could_harm(void**) {
  struct Case { const char* what; void (*spoil)(FakeDaemon&); };
  const Case cases[] = {
      {"geometry", [](FakeDaemon& d) { d.welcome.geometry.arena_bytes = 5000; }},
      {"size", [](FakeDaemon& d) { d.welcome.geometry.result_bytes = 1u << 24; }},
      {"seals", [](FakeDaemon& d) { d.seals = 0; }},
      {"version", [](FakeDaemon& d) { d.welcome.version = 2; }},
      {"operations", [](FakeDaemon& d) { d.welcome.max_operations = 17; }},
      {"end tokens", [](FakeDaemon& d) { d.welcome.end_token_count = 9; }},
      {"reserved", [](FakeDaemon& d) { d.welcome.reserved1 = 1; }}};
  for (const Case& one : cases) {
    FakeDaemon daemon;
    one.spoil(daemon);
    Connection client(daemon);
    if (client.code != IOKV_EPROTOCOL) print_error("%s: %s\n", one.what, client.detail.message);
    assert_int_equal(client.code, IOKV_EPROTOCOL);
    assert_null(client.client);
  }
}

void a_refusal_arrives_with_its_code_and_line(void**) {
  FakeDaemon daemon;
  iokv_connect_options options{};
  options.struct_size = sizeof options;
  options.socket_path = daemon.path().c_str();
  iokv_error_detail detail{};
  detail.struct_size = sizeof detail;
  iokv_client* client = nullptr;
  std::thread serving([&] { daemon.accept_hello(), daemon.say(wire::MessageType::refused, IOKV_ELIMIT, "64 clients"); });
  assert_int_equal(iokv_connect(&options, &client, &detail), IOKV_ELIMIT);
  serving.join();
  assert_non_null(std::strstr(detail.message, "64 clients"));
  assert_null(client);
}

void a_time_out_while_loading_says_how_far(void**) {
  FakeDaemon daemon;
  iokv_connect_options options{};
  options.struct_size = sizeof options;
  options.socket_path = daemon.path().c_str();
  options.timeout_ns = 100'000'000;
  iokv_error_detail detail{};
  detail.struct_size = sizeof detail;
  iokv_client* client = nullptr;
  std::thread serving([&] {
    daemon.accept_hello();
    daemon.send(wire::Loading{{wire::kMagic, wire::MessageType::loading, sizeof(wire::Loading)}, 42, 0});
  });
  assert_int_equal(iokv_connect(&options, &client, &detail), IOKV_ELOADING);
  serving.join();
  assert_non_null(std::strstr(detail.message, "42 %"));
}

void an_absent_socket_leads_to_the_next_candidate(void**) {
  FakeDaemon daemon;
  ::setenv("IOKV_SOCKET", (daemon.directory() + "/absent").c_str(), 1);
  ::setenv("XDG_RUNTIME_DIR", daemon.directory().c_str(), 1);
  iokv_client* client = nullptr;
  std::thread serving([&] { daemon.serve(); });
  assert_int_equal(iokv_connect(nullptr, &client, nullptr), 0);
  serving.join();
  iokv_disconnect(client);
  ::unsetenv("IOKV_SOCKET");
  ::unsetenv("XDG_RUNTIME_DIR");
}

void no_daemon_is_told_by_path(void**) {
  iokv_connect_options options{};
  options.struct_size = sizeof options;
  options.socket_path = "/nonexistent/iokv.sock";
  iokv_error_detail detail{};
  detail.struct_size = sizeof detail;
  iokv_client* client = nullptr;
  assert_int_equal(iokv_connect(&options, &client, &detail), IOKV_ENODAEMON);
  assert_int_equal(detail.code, IOKV_ENODAEMON);
  assert_non_null(std::strstr(detail.message, "/nonexistent/iokv.sock"));
}

void options_follow_the_struct_size_rules(void**) {
  struct { iokv_connect_options known; uint64_t newer; } options{};
  options.known.socket_path = "/nonexistent/iokv.sock";
  iokv_client* client = nullptr;
  options.known.struct_size = sizeof options;
  assert_int_equal(iokv_connect(&options.known, &client, nullptr), IOKV_ENODAEMON);
  options.newer = 1;
  assert_int_equal(iokv_connect(&options.known, &client, nullptr), IOKV_EINVAL);
  options.known.struct_size = 3;
  assert_int_equal(iokv_connect(&options.known, &client, nullptr), IOKV_EINVAL);
  // An older caller's: what lies behind its end is not read.
  options.known.arena_bytes = 3;
  options.known.struct_size = offsetof(iokv_connect_options, arena_bytes);
  assert_int_equal(iokv_connect(&options.known, &client, nullptr), IOKV_ENODAEMON);
}

void a_forked_child_is_told_so_and_disturbs_nobody(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  pid_t child = ::fork();
  if (child == 0) {
    iokv_completion completion;
    bool told = iokv_nop(client, 0, nullptr) == IOKV_EFORK && iokv_submit(client) == IOKV_EFORK &&
                iokv_reap(client, &completion, 1, 0) == IOKV_EFORK && iokv_fd(client) == IOKV_EFORK;
    iokv_disconnect(client);
    ::_exit(told ? 0 : 1);
  }
  int status = -1;
  assert_int_equal(::waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  assert_int_equal(iokv_nop(client, 5, nullptr), 0);
  assert_int_equal(iokv_submit(client), 1);
  assert_int_equal(daemon.serve_all(), 1);
  iokv_completion completion;
  assert_int_equal(iokv_reap(client, &completion, 1, 0), 1);
  assert_int_equal(completion.user_data, 5);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(facts_of_welcome_arrive),
      cmocka_unit_test(refuses_a_welcome_that_could_harm),
      cmocka_unit_test(a_refusal_arrives_with_its_code_and_line),
      cmocka_unit_test(a_time_out_while_loading_says_how_far),
      cmocka_unit_test(an_absent_socket_leads_to_the_next_candidate),
      cmocka_unit_test(no_daemon_is_told_by_path),
      cmocka_unit_test(options_follow_the_struct_size_rules),
      cmocka_unit_test(a_forked_child_is_told_so_and_disturbs_nobody)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
