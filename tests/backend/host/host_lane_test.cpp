// SPDX-License-Identifier: Apache-2.0
// The host's queue: order, words of a device, records, a lost device, sleep and waking.
#include "tests/backend/host/host_fixture.h"

namespace iokv::test {
namespace {

void a_record_is_reached_after_what_was_issued_before_it(void**) {
  auto lane = lane_of({.threads = 2});
  assert_int_equal(lane->record(), 1);
  lane->wait_reached(1);
  assert_true(lane->reached(1));
  assert_false(lane->reached(2));
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_record_is_reached_after_what_was_issued_before_it),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
