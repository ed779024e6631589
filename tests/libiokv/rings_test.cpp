// SPDX-License-Identifier: Apache-2.0
// What the library writes into `up` and believes of `down`. One thread plays both sides, so every order is the test's.
#include <algorithm>
#include <numeric>

#include "tests/libiokv/fake_daemon.h"
#include "wire/times.h"

namespace iokv {
namespace {

void a_step_is_written_as_the_protocol_says(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  const std::vector<int32_t> tokens{3, 1, 4}, stops{9, 2};
  iokv_sampling sampling{sizeof sampling, 0.5f, 0.25f, 7, 11};
  iokv_step_options options = step_of(tokens, 6);
  options.flags = IOKV_STEP_LOGITS;
  options.user_data = 77;
  options.stop_tokens = stops.data();
  options.stop_token_count = 2;
  options.priority = -5;
  options.sampling = &sampling;
  options.deadline_ns = 99;
  iokv_operation operation = 0;
  assert_int_equal(iokv_step(client, kSequence, &options, &operation), 0);
  assert_false(daemon.has_entry());
  assert_int_equal(iokv_submit(client), 1);
  const wire::Submission entry = daemon.take();
  assert_int_equal(static_cast<int>(entry.opcode), 3);
  assert_int_equal(entry.flags, 2);
  assert_int_equal(entry.priority, -5);
  assert_true(entry.operation == operation && operation != 0);
  assert_int_equal(entry.user_data, 77);
  assert_true(entry.sequence == kSequence);
  assert_int_equal(entry.argument, 99);
  assert_int_equal(entry.n, 3);
  assert_int_equal(entry.m, 6);
  assert_int_equal(entry.payload_bytes, 32 + 5 * 4);
  const std::vector<int32_t> expected{32, 2, 1, 0x3f000000, 0x3e800000, 7, 11, 0, 3, 1, 4, 9, 2};
  assert_true(daemon.words_of(entry) == expected);
}

// The rule of docs/protocol.md, "Placing", by hand.
void payloads_follow_each_other_in_the_arena(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  std::mt19937_64 random(test_seed());
  uint32_t position = 0;
  for (int i = 0; i < 5000; i++) {
    std::vector<int32_t> tokens(random() % 1016);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % kVocabulary);
    const iokv_step_options options = step_of(tokens);
    assert_int_equal(iokv_step(client, kSequence, &options, nullptr), 0);
    iokv_submit(client);
    const wire::Submission entry = daemon.take();
    const uint32_t bytes = (32 + static_cast<uint32_t>(tokens.size()) * 4 + 7) / 8 * 8;
    if (position % 4096 + bytes > 4096) position += 4096 - position % 4096;
    assert_int_equal(entry.payload_offset, position);
    position += bytes;
    const std::vector<int32_t> words = daemon.words_of(entry);
    assert_true(std::equal(words.begin() + 8, words.end(), tokens.begin(), tokens.end()));
    daemon.complete(entry);
    daemon.free_taken();
    daemon.announce();
    iokv_completion completion;
    assert_int_equal(iokv_reap(client, &completion, 1, 0), 1);
  }
}

void a_full_ring_refuses_and_changes_nothing(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  for (uint64_t i = 0; i < 8; i++) assert_int_equal(iokv_nop(client, i, nullptr), 0);
  assert_int_equal(iokv_nop(client, 8, nullptr), IOKV_EAGAIN);
  assert_int_equal(iokv_outstanding(client), 8);
  assert_int_equal(iokv_submit(client), 8);
  assert_int_equal(iokv_nop(client, 8, nullptr), IOKV_EAGAIN);
  assert_int_equal(daemon.take().user_data, 0);
  daemon.free_taken();
  assert_int_equal(iokv_nop(client, 8, nullptr), 0);
  assert_int_equal(iokv_nop(client, 9, nullptr), IOKV_EAGAIN);
  iokv_submit(client);
  for (uint64_t i = 1; i <= 8; i++) assert_int_equal(daemon.take().user_data, i);
}

void a_full_arena_refuses_until_its_first_entry_is_taken(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  const std::vector<int32_t> half(504, 1);  // 32 + 2016 = 2048 bytes
  const iokv_step_options options = step_of(half);
  assert_int_equal(iokv_step(client, kSequence, &options, nullptr), 0);
  assert_int_equal(iokv_step(client, kSequence, &options, nullptr), 0);
  assert_int_equal(iokv_step(client, kSequence, &options, nullptr), IOKV_EAGAIN);
  assert_int_equal(iokv_nop(client, 0, nullptr), 0);  // needs no arena
  iokv_submit(client);
  daemon.take();
  daemon.free_taken();
  assert_int_equal(iokv_step(client, kSequence, &options, nullptr), 0);
  assert_int_equal(iokv_step(client, kSequence, &options, nullptr), IOKV_EAGAIN);
}

void outstanding_operations_never_exceed_the_limit(void**) {
  FakeDaemon daemon;
  daemon.welcome.max_operations = 3;
  Connection client(daemon);
  for (int i = 0; i < 3; i++) assert_int_equal(iokv_nop(client, 0, nullptr), 0);
  assert_int_equal(iokv_nop(client, 0, nullptr), IOKV_EAGAIN);
  iokv_submit(client);
  daemon.serve_all();
  assert_int_equal(iokv_nop(client, 0, nullptr), IOKV_EAGAIN);  // completed, but not reaped
  iokv_completion completion;
  assert_int_equal(iokv_reap(client, &completion, 1, 0), 1);
  assert_int_equal(daemon.completion_head(), 1);
  assert_int_equal(iokv_nop(client, 0, nullptr), 0);
  assert_int_equal(iokv_nop(client, 0, nullptr), IOKV_EAGAIN);
}

void a_long_append_arrives_whole_while_its_client_only_reaps(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  std::vector<int32_t> tokens(20'000), got;
  std::iota(tokens.begin(), tokens.end(), 0);
  const std::vector<int32_t> stops{5, 6};
  iokv_step_options options = step_of(tokens, 2);
  options.stop_tokens = stops.data();
  options.stop_token_count = 2;
  iokv_operation operation;
  assert_int_equal(iokv_step(client, kSequence, &options, &operation), 0);
  tokens.assign(tokens.size(), -1);  // the library has its copy
  assert_int_equal(iokv_nop(client, 0, nullptr), IOKV_EAGAIN);
  assert_int_equal(daemon.client_flags() & 2, 2);  // NEED_ROOM
  iokv_submit(client);
  for (bool last = false; !last;) {
    assert_true(daemon.has_entry());
    while (daemon.has_entry() && !last) {
      const wire::Submission entry = daemon.take();
      last = (entry.flags & 4) == 0;
      assert_true(entry.operation == operation);
      assert_int_equal(entry.m, last ? 2 : 0);
      const std::vector<int32_t> words = daemon.words_of(entry);
      assert_int_equal(words.size(), 8 + entry.n + (last ? 2 : 0));
      got.insert(got.end(), words.begin() + 8, words.begin() + 8 + entry.n);
      if (!last) continue;
      assert_true(std::equal(stops.begin(), stops.end(), words.end() - 2));
      daemon.complete(entry);
      daemon.announce();
    }
    daemon.free_taken();
    iokv_completion completion;
    assert_int_equal(iokv_reap(client, &completion, 1, 0), last ? 1 : 0);
  }
  std::vector<int32_t> expected(20'000);
  std::iota(expected.begin(), expected.end(), 0);
  assert_true(got == expected);
  assert_int_equal(daemon.client_flags() & 2, 0);
  assert_int_equal(iokv_outstanding(client), 0);
  assert_int_equal(iokv_nop(client, 0, nullptr), 0);
}

void logits_are_released_in_any_order_and_given_back_in_theirs(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  constexpr uint32_t kRow = kVocabulary * 4;  // a multiple of 8
  iokv_nop(client, 0, nullptr);
  iokv_submit(client);
  const wire::Submission entry = daemon.take();
  for (uint32_t i = 0; i < 3; i++) {
    for (uint32_t j = 0; j < kVocabulary; j++) {
      const float value = static_cast<float>(i * 1000 + j);
      std::memcpy(daemon.results() + i * kRow + j * 4, &value, 4);
    }
    wire::Completion completion{};
    completion.operation = entry.operation;
    completion.flags = IOKV_COMPLETION_LOGITS | (i < 2 ? IOKV_COMPLETION_MORE : 0);
    completion.result_position = i * kRow;
    completion.result_bytes = kRow;
    daemon.post(completion);
  }
  daemon.announce();
  iokv_completion completions[4];
  assert_int_equal(iokv_reap(client, completions, 4, 0), 3);
  iokv_logits_view view{};
  view.struct_size = sizeof view;
  assert_int_equal(iokv_logits(client, &completions[1], &view), 0);
  assert_int_equal(view.count, kVocabulary);
  assert_true(static_cast<const float*>(view.data)[99] == 1099.0f);
  assert_int_equal(iokv_release(client, &completions[1]), 0);
  assert_int_equal(iokv_release(client, &completions[1]), IOKV_EINVAL);
  assert_int_equal(daemon.result_head(), 0);
  assert_int_equal(iokv_release(client, &completions[0]), 0);
  assert_int_equal(daemon.result_head(), 2 * kRow);
  assert_int_equal(iokv_release(client, &completions[2]), 0);
  assert_int_equal(daemon.result_head(), 3 * kRow);
}

void times_are_read_from_their_sixteen_bits(void**) {
  iokv_completion completion{};
  iokv_times times{sizeof times, 0, 1, 1, 1, 1};
  assert_int_equal(iokv_completion_times(&completion, &times), IOKV_EUNSUPPORTED);
  assert_int_equal(times.queued_ns, 1);
  // By the definition: 100; (2048 + 952)·2^0; (2048 + 1)·2^9; the most there is.
  completion.times = uint64_t{100} | uint64_t{1 << 11 | 952} << 16 | uint64_t{10 << 11 | 1} << 32 | uint64_t{0xffff} << 48;
  assert_int_equal(iokv_completion_times(&completion, &times), 0);
  assert_int_equal(times.struct_size, 40);
  assert_int_equal(times.queued_ns, 100);
  assert_int_equal(times.link_ns, 3000);
  assert_int_equal(times.recompute_ns, 2049 << 9);
  assert_int_equal(times.dense_ns, uint64_t{4095} << 30);
  // An older caller's struct is filled as far as it reaches.
  iokv_times shorter{16, 0, 0, 9, 9, 9};
  assert_int_equal(iokv_completion_times(&completion, &shorter), 0);
  assert_int_equal(shorter.struct_size, 16);
  assert_int_equal(shorter.queued_ns, 100);
  assert_int_equal(shorter.link_ns, 9);
  shorter.struct_size = 3;
  assert_int_equal(iokv_completion_times(&completion, &shorter), IOKV_EINVAL);
  assert_int_equal(iokv_completion_times(&completion, nullptr), IOKV_EINVAL);
  assert_int_equal(iokv_completion_times(nullptr, &times), IOKV_EINVAL);
}

void a_duration_is_within_a_4096th(void**) {
  for (uint64_t ns = 1; ns < uint64_t{4095} << 30; ns = ns * 9 / 8 + 1) {
    const uint64_t read = wire::unpack_duration(wire::pack_duration(ns));
    const uint64_t wrong = read > ns ? read - ns : ns - read;
    assert_true(wrong * 4096 <= ns);
  }
}

void a_sequence_id_is_never_used_twice(void**) {
  FakeDaemon daemon;
  Connection client(daemon);
  std::vector<iokv_sequence> seen;
  for (int round = 0; round < 50; round++) {
    iokv_sequence sequences[4], fifth;
    for (iokv_sequence& sequence : sequences) {
      assert_int_equal(iokv_open(client, nullptr, &sequence, nullptr), 0);
      assert_true(std::find(seen.begin(), seen.end(), sequence) == seen.end() && sequence >> 32 != 0);
      assert_true(static_cast<uint32_t>(sequence) < 4);
      seen.push_back(sequence);
    }
    assert_int_equal(iokv_open(client, nullptr, &fifth, nullptr), IOKV_ELIMIT);
    for (iokv_sequence sequence : sequences) assert_int_equal(iokv_close(client, sequence, 0, nullptr), 0);
    iokv_submit(client);
    assert_int_equal(daemon.serve_all(), 8);
    iokv_completion completions[16];
    assert_int_equal(iokv_reap(client, completions, 16, 0), 8);
  }
}

void a_daemon_that_lies_ends_the_connection(void**) {
  struct Case { const char* what; void (*lie)(FakeDaemon&); };
  const Case cases[] = {
      {"tail beyond the ring", [](FakeDaemon& d) { d.down(256).store(17); }},
      {"tail before the head", [](FakeDaemon& d) { d.down(256).store(~0u); }},
      {"an operation of the future", [](FakeDaemon& d) {
         wire::Submission entry{};
         entry.operation = 1000;
         d.complete(entry), d.announce();
       }},
      {"a result where none can be", [](FakeDaemon& d) {
         wire::Completion completion{};
         completion.operation = 1, completion.flags = IOKV_COMPLETION_LOGITS;
         completion.result_position = 64, completion.result_bytes = kVocabulary * 4;
         d.post(completion), d.announce();
       }}};
  for (const Case& one : cases) {
    FakeDaemon daemon;
    Connection client(daemon);
    iokv_nop(client, 0, nullptr);
    iokv_submit(client);
    one.lie(daemon);
    iokv_completion completions[2];
    const int code = iokv_reap(client, completions, 2, 0);
    if (code != IOKV_ECLOSED) print_error("%s: %d\n", one.what, code);
    assert_int_equal(code, IOKV_ECLOSED);
    iokv_error_detail detail{};
    detail.struct_size = sizeof detail;
    assert_int_equal(iokv_end_reason(client, &detail), 0);
    assert_int_equal(detail.code, IOKV_EPROTOCOL);
    assert_int_equal(iokv_nop(client, 0, nullptr), IOKV_ECLOSED);
  }
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_step_is_written_as_the_protocol_says),
      cmocka_unit_test(payloads_follow_each_other_in_the_arena),
      cmocka_unit_test(a_full_ring_refuses_and_changes_nothing),
      cmocka_unit_test(a_full_arena_refuses_until_its_first_entry_is_taken),
      cmocka_unit_test(outstanding_operations_never_exceed_the_limit),
      cmocka_unit_test(a_long_append_arrives_whole_while_its_client_only_reaps),
      cmocka_unit_test(logits_are_released_in_any_order_and_given_back_in_theirs),
      cmocka_unit_test(times_are_read_from_their_sixteen_bits),
      cmocka_unit_test(a_duration_is_within_a_4096th),
      cmocka_unit_test(a_sequence_id_is_never_used_twice),
      cmocka_unit_test(a_daemon_that_lies_ends_the_connection)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
