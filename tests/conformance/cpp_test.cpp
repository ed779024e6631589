// SPDX-License-Identifier: Apache-2.0
// iokv.hpp as its users see it, beside the daemon that $IOKV_SOCKET names (with_daemon.py).
#include <iokv/iokv.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "tests/cmocka_cpp.h"

namespace {

const std::vector<int32_t> kPrompt{5, 6, 7, 8};

// The code of the iokv::Error that the call throws; none when it throws none.
template <typename Call>
std::optional<iokv::Errc> thrown_by(const Call& call) {
  try {
    call();
  } catch (const iokv::Error& error) {
    return static_cast<iokv::Errc>(error.code().value());
  }
  return std::nullopt;
}

void a_sequence_streams_what_it_generates(void**) {
  iokv::Client client;
  iokv::Sequence streamed = client.open(), generated = client.open();
  std::vector<int32_t> tokens;
  std::string text;
  for (const iokv::Token& token : streamed.step(kPrompt, 8)) {
    tokens.push_back(token.token);
    text += client.token_bytes(token.token);
  }
  assert_true(tokens == generated.generate(kPrompt, 8));
  std::string wanted;
  for (const int32_t token : tokens) wanted += "<" + std::to_string(token) + "> ";
  assert_string_equal(text.c_str(), wanted.c_str());
}

void operations_may_be_awaited_in_any_order(void**) {
  iokv::Client client;
  std::vector<iokv::Sequence> sequences;
  std::vector<iokv::Operation> operations;
  for (int32_t i = 0; i < 8; i++) {
    sequences.push_back(client.open());
    operations.push_back(sequences.back().step(std::vector<int32_t>{i, 2, 3}, 10));
  }
  for (size_t i = operations.size(); i-- > 0;) {
    iokv::Sequence alone = client.open();
    assert_true(operations[i].tokens() == alone.generate(std::vector<int32_t>{static_cast<int32_t>(i), 2, 3}, 10));
  }
}

void a_full_ring_is_waited_out(void**) {
  iokv::ConnectOptions options;
  options.submission_entries = 4;
  options.completion_entries = 8;
  iokv::Client client(options);
  iokv::Sequence sequence = client.open();
  std::vector<iokv::Operation> operations;
  for (int i = 0; i < 40; i++) operations.push_back(sequence.step(std::vector<int32_t>{1, 2}, 0));
  assert_int_equal(operations.back().result().length, 80);
}

void logits_are_copied_out_so_that_untaken_ones_hold_up_nobody(void**) {
  iokv::ConnectOptions options;
  options.result_bytes = 4096;  // 8 rows of the model's 128 logits
  iokv::Client client(options);
  iokv::Sequence first = client.open(), second = client.open();
  iokv::StepOptions step;
  step.tokens = kPrompt;
  step.max_tokens = 20;
  step.logits = true;
  iokv::Operation lying = first.step(step), read = second.step(step);
  size_t rows = 0;
  for (const iokv::Token& token : read) {
    assert_int_equal(token.logits.size(), client.info().vocabulary);
    const auto largest = std::max_element(token.logits.begin(), token.logits.end());
    assert_int_equal(largest - token.logits.begin(), token.token);
    rows++;
  }
  assert_int_equal(rows, 20);
  assert_int_equal(lying.tokens().size(), 20);
}

void a_failure_is_thrown_with_its_code_and_the_sequence_goes_on(void**) {
  iokv::Client client;
  iokv::Sequence sequence = client.open();
  const auto generate = [&](std::vector<int32_t> tokens, uint32_t most) { return sequence.generate(tokens, most); };
  assert_true(thrown_by([&] { generate({-1}, 1); }) == iokv::Errc::bad_token);
  assert_true(thrown_by([&] { generate({1}, client.info().max_context); }) == iokv::Errc::context_full);
  sequence.truncate(0);
  assert_int_equal(generate({1}, 3).size(), 3);
  iokv::Sequence child = sequence.fork(2);
  assert_int_equal(child.step({}, 1).result().length, 3);
  iokv::Operation endless = child.step({}, client.info().max_context - 3);
  assert_int_equal(child.cancel(endless), 1);
  assert_true(thrown_by([&] { endless.result(); }) == iokv::Errc::canceled);
}

void a_poll_never_waits_and_finds_every_token(void**) {
  iokv::Client client;
  iokv::Sequence sequence = client.open();
  iokv::Operation operation = sequence.step(kPrompt, 6);
  std::vector<int32_t> tokens;
  while (!operation.ended()) {
    while (const std::optional<iokv::Token> token = operation.try_next()) tokens.push_back(token->token);
  }
  while (const std::optional<iokv::Token> token = operation.try_next()) tokens.push_back(token->token);
  assert_int_equal(tokens.size(), 6);
}

void an_operation_that_nobody_wants_any_more_ends_by_itself(void**) {
  iokv::Client client;
  iokv::Sequence sequence = client.open();
  { iokv::Operation unwanted = sequence.step(kPrompt, 6); }
  assert_int_equal(sequence.step({}, 1).result().length, 11);
}

void whatever_was_closed_or_moved_from_says_closed(void**) {
  iokv::Client client;
  iokv::Sequence sequence = client.open();
  iokv::Operation operation = sequence.step(kPrompt, 500);
  sequence.close();
  sequence.close();
  assert_true(thrown_by([&] { sequence.step(kPrompt, 1); }) == iokv::Errc::closed);
  assert_true(thrown_by([&] { operation.result(); }) == iokv::Errc::canceled);
  iokv::Sequence open = client.open();
  iokv::Sequence taken = std::move(open);
  assert_true(thrown_by([&] { open.generate(kPrompt, 1); }) == iokv::Errc::closed);
  client.close();
  client.close();
  assert_true(thrown_by([&] { client.nop(); }) == iokv::Errc::closed);
  assert_true(thrown_by([&] { taken.generate(kPrompt, 1); }) == iokv::Errc::closed);
  iokv::Client moved = std::move(client);
  assert_true(thrown_by([&] { client.nop(); }) == iokv::Errc::closed);
}

void a_second_thread_in_a_role_is_refused_and_wakes_are_not(void**) {
  iokv::Connection connection;
  std::vector<iokv::Completion> buffer(1);
  std::optional<iokv::Errc> first, second;
  std::thread reaper([&] {
    do {
      first = thrown_by([&] { connection.reap(buffer); });
    } while (first == iokv::Errc::busy);
  });
  // Either may be the one that is refused, until the reaper sleeps in its call.
  while (second != iokv::Errc::busy) {
    std::vector<iokv::Completion> own(1);
    second = thrown_by([&] { connection.reap(own, std::chrono::nanoseconds(1)); });
  }
  connection.nop();  // the other role is free
  connection.wake();
  reaper.join();
  assert_true(first == iokv::Errc::woken || first == std::nullopt);
}

void a_forked_child_is_refused_and_its_parent_goes_on(void**) {
  iokv::Client client;
  iokv::Sequence sequence = client.open();
  const pid_t child = ::fork();
  if (child == 0) ::_exit(thrown_by([&] { client.nop(); }) == iokv::Errc::forked ? 11 : 12);
  int status = 0;
  ::waitpid(child, &status, 0);
  assert_int_equal(WEXITSTATUS(status), 11);
  assert_int_equal(sequence.generate(kPrompt, 3).size(), 3);
}

void an_error_is_a_system_error_of_its_category(void**) {
  iokv::ConnectOptions options;
  options.socket_path = "/nonexistent/iokv.sock";
  try {
    iokv::Client client(options);
    fail();
  } catch (const std::system_error& error) {
    assert_true(error.code() == iokv::Errc::no_daemon);
    assert_string_equal(error.code().category().name(), "iokv");
    assert_non_null(std::strstr(error.what(), "/nonexistent/iokv.sock"));
  }
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_sequence_streams_what_it_generates),
      cmocka_unit_test(operations_may_be_awaited_in_any_order),
      cmocka_unit_test(a_full_ring_is_waited_out),
      cmocka_unit_test(logits_are_copied_out_so_that_untaken_ones_hold_up_nobody),
      cmocka_unit_test(a_failure_is_thrown_with_its_code_and_the_sequence_goes_on),
      cmocka_unit_test(a_poll_never_waits_and_finds_every_token),
      cmocka_unit_test(an_operation_that_nobody_wants_any_more_ends_by_itself),
      cmocka_unit_test(whatever_was_closed_or_moved_from_says_closed),
      cmocka_unit_test(a_second_thread_in_a_role_is_refused_and_wakes_are_not),
      cmocka_unit_test(a_forked_child_is_refused_and_its_parent_goes_on),
      cmocka_unit_test(an_error_is_a_system_error_of_its_category),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
