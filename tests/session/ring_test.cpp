// SPDX-License-Identifier: Apache-2.0
// What a session keeps of wire/rings.h beyond single entries: indices, budgets, publishing, waking, results.
#include <string>

#include "daemon/session/credits.h"
#include "daemon/session/session.h"
#include "include/iokv/iokv.h"
#include "tests/session/raw_client.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;
using wire::Opcode;

namespace {

constexpr wire::Geometry kGeometry{16, 16, 4096, 8192};

struct Rig {
  explicit Rig(uint32_t copy_bytes = 1 << 20)
      : session(kGeometry, up.data(), down.data(), {1000, 200, 4, copy_bytes}) {}
  RawMemory up{wire::up_bytes(kGeometry)}, down{wire::down_bytes(kGeometry)};
  Session session;
  RawClient client{kGeometry, up.data(), down.data()};
  std::vector<Request> requests;

  Outcome outcome(uint64_t operation) {
    Outcome made;
    made.operation = operation;
    made.user_data = operation * 1000;
    return made;
  }
};

void geometry_is_written_for_tools(void**) {
  Rig rig;
  wire::Geometry written;
  std::memcpy(&written, rig.down.data() + wire::kDownGeometry, sizeof written);
  assert_memory_equal(&written, &kGeometry, sizeof written);
}

void a_tail_beyond_the_ring_ends_the_client(void**) {
  Rig rig;
  rig.client.up_word(wire::kUpSubmissionTail).store(17);
  assert_true(rig.session.drain(rig.requests) == Session::Pass::broken);
  assert_false(rig.session.broken_reason().empty());
}

void a_tail_that_goes_back_ends_the_client(void**) {
  Rig rig;
  for (uint64_t i = 1; i <= 3; i++) rig.client.place(entry_of(Opcode::nop, i));
  rig.client.announce();
  assert_true(rig.session.drain(rig.requests) == Session::Pass::drained);
  assert_int_equal(rig.requests.size(), 3);
  rig.client.up_word(wire::kUpSubmissionTail).store(2);
  assert_true(rig.session.drain(rig.requests) == Session::Pass::broken);
}

void heads_beyond_what_was_published_end_the_client(void**) {
  Rig rig;
  rig.session.post(rig.outcome(1));
  rig.client.up_word(wire::kUpCompletionHead).store(1);
  assert_false(rig.session.observe_heads());  // posted, but not published
  Rig other;
  other.client.up_word(wire::kUpResultHead).store(8);
  assert_false(other.session.observe_heads());
}

void slots_and_indices_agree_over_many_rounds(void**) {
  Rig rig;
  for (uint64_t i = 1; i <= 1000; i++) {
    rig.requests.clear();
    rig.client.place(entry_of(Opcode::nop, i));
    rig.client.announce();
    assert_true(rig.session.drain(rig.requests) == Session::Pass::drained);
    rig.session.post(rig.outcome(rig.requests.at(0).operation));
    rig.session.publish();
    assert_int_equal(rig.client.ready(), 1);
    assert_int_equal(rig.client.take().user_data, i * 1000);
    rig.client.give_back_completions();
    assert_true(rig.session.observe_heads());
    assert_int_equal(rig.client.taken_by_daemon(), i);
  }
}

void nothing_is_visible_before_it_is_published(void**) {
  Rig rig;
  rig.client.place(entry_of(Opcode::nop, 1));
  rig.client.announce();
  rig.session.drain(rig.requests);
  rig.session.post(rig.outcome(1));
  assert_int_equal(rig.client.ready(), 0);
  assert_int_equal(rig.client.taken_by_daemon(), 0);
  rig.session.publish();
  assert_int_equal(rig.client.ready(), 1);
  assert_int_equal(rig.client.taken_by_daemon(), 1);
}

void a_pass_copies_no_more_than_its_budget_and_always_something(void**) {
  Rig rig(600);
  const auto payload = step_payload(std::vector<int32_t>(100, 5), {});
  for (uint64_t i = 1; i <= 3; i++) rig.client.place(step_of(i, 100), payload);
  rig.client.announce();
  for (size_t taken = 1; taken <= 3; taken++) {
    const Session::Pass pass = rig.session.drain(rig.requests);
    assert_int_equal(rig.requests.size(), taken);
    assert_true(pass == (taken < 3 ? Session::Pass::more : Session::Pass::drained));
  }
}

void a_client_is_rung_only_if_it_sleeps_and_has_something(void**) {
  Rig rig;
  rig.session.post(rig.outcome(1));
  assert_false(rig.session.publish());
  rig.client.up_word(wire::kUpFlags).store(wire::kUpNeedWakeup);
  assert_false(rig.session.publish());
  rig.session.post(rig.outcome(2));
  assert_true(rig.session.publish());
  // Room in `up` concerns only whom it was announced to.
  rig.client.up_word(wire::kUpFlags).store(wire::kUpNeedRoom);
  rig.session.post(rig.outcome(3));
  assert_false(rig.session.publish());
  rig.client.place(entry_of(Opcode::nop, 1));
  rig.client.announce();
  rig.session.drain(rig.requests);
  assert_true(rig.session.publish());
}

void arming_finds_what_came_before_the_flag_was_seen(void**) {
  Rig rig;
  assert_false(rig.session.arm(false));
  assert_int_equal(rig.client.down_word(wire::kDownFlags).load(), wire::kDownNeedWakeup);
  rig.session.disarm();
  assert_int_equal(rig.client.down_word(wire::kDownFlags).load(), 0);
  rig.client.place(entry_of(Opcode::nop, 1));
  rig.client.announce();
  assert_true(rig.session.arm(false));
}

void heads_matter_to_a_daemon_that_waits_for_room(void**) {
  Rig rig;
  rig.session.post(rig.outcome(1));
  rig.session.publish();
  rig.client.take();
  rig.client.give_back_completions();
  assert_false(rig.session.arm(false));
  assert_true(rig.session.arm(true));
  assert_int_equal(rig.client.down_word(wire::kDownFlags).load(), wire::kDownNeedWakeup | wire::kDownNeedReap);
}

void logits_lie_where_the_fifo_puts_them(void**) {
  Rig rig;
  Credits credits(kGeometry, 8);
  uint32_t position = 0;
  for (int round = 0; round < 40; round++) {
    Outcome outcome = rig.outcome(1);
    outcome.flags = IOKV_COMPLETION_LOGITS;
    outcome.logits.assign(700, static_cast<float>(round));  // 2800 bytes: two fit, the third crosses the end
    credits.reserve();
    assert_true(credits.can_post_final(2800));
    credits.post_final(2800);
    rig.session.post(outcome);
    rig.session.publish();
    const wire::Completion completion = rig.client.take();
    assert_int_equal(completion.result_bytes, 2800);
    assert_true(rig.client.logits_of(completion) == outcome.logits);
    assert_true(completion.result_position % kGeometry.result_bytes + 2800 <= kGeometry.result_bytes);
    position = completion.result_position + 2800;
    rig.client.give_back_completions();
    rig.client.give_back_results(position);
    assert_true(rig.session.observe_heads());
    credits.observe(rig.session.completion_head(), rig.session.result_head());
  }
}

void finals_have_room_whatever_tokens_take(void**) {
  std::mt19937_64 random(test_seed());
  for (int life = 0; life < 100; life++) {
    const uint32_t operations = 1 + static_cast<uint32_t>(random() % 8);
    Credits credits(kGeometry, operations);
    uint32_t posted = 0, reaped = 0, outstanding_finals = 0;  // finals posted and not reaped
    for (int step = 0; step < 500; step++) {
      switch (random() % 4) {
        case 0:  // the library keeps to max_operations, unreaped finals included
          if (credits.reserved() + outstanding_finals < operations) credits.reserve();
          break;
        case 1:
          if (credits.can_post_more(0)) credits.post_more(0), posted++;
          break;
        case 2:
          if (credits.reserved() > 0) credits.post_final(0), posted++, outstanding_finals++;
          break;
        default:
          reaped = posted;
          outstanding_finals = 0;
          credits.observe(reaped, 0);
      }
      assert_true(posted - reaped + credits.reserved() <= kGeometry.completion_entries);
      assert_true(credits.reserved() + outstanding_finals >= operations || credits.can_reserve());
    }
  }
}

void an_ended_client_finds_the_code(void**) {
  Rig rig;
  rig.session.end(IOKV_EPROTOCOL);
  assert_int_equal(static_cast<int32_t>(rig.client.down_word(wire::kDownEndCode).load()), IOKV_EPROTOCOL);
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(geometry_is_written_for_tools),
      cmocka_unit_test(a_tail_beyond_the_ring_ends_the_client),
      cmocka_unit_test(a_tail_that_goes_back_ends_the_client),
      cmocka_unit_test(heads_beyond_what_was_published_end_the_client),
      cmocka_unit_test(slots_and_indices_agree_over_many_rounds),
      cmocka_unit_test(nothing_is_visible_before_it_is_published),
      cmocka_unit_test(a_pass_copies_no_more_than_its_budget_and_always_something),
      cmocka_unit_test(a_client_is_rung_only_if_it_sleeps_and_has_something),
      cmocka_unit_test(arming_finds_what_came_before_the_flag_was_seen),
      cmocka_unit_test(heads_matter_to_a_daemon_that_waits_for_room),
      cmocka_unit_test(logits_lie_where_the_fifo_puts_them),
      cmocka_unit_test(finals_have_room_whatever_tokens_take),
      cmocka_unit_test(an_ended_client_finds_the_code),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
