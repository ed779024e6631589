// SPDX-License-Identifier: Apache-2.0
// What is shown while weights load: how far, how fast and how much longer.
#include "daemon/load_bar.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30, kSecond = 1'000'000'000;

void a_bar_says_how_far_how_fast_and_how_much_longer(void**) {
  assert_string_equal(LoadBar::text(50, 8 * kGiB, 2 * kSecond, true).c_str(),
                      "weights: [###############---------------] 50 % of 8.00 GiB, 2.00 GiB a second, 2 s left");
  assert_string_equal(LoadBar::text(100, kGiB, 4 * kSecond, true).c_str(),
                      "weights: [##############################] 100 % of 1.00 GiB, 0.25 GiB a second, 0 s left");
}

void a_log_has_no_bar_and_a_beginning_no_estimate(void**) {
  assert_string_equal(LoadBar::text(25, 8 * kGiB, 4 * kSecond, false).c_str(),
                      "weights: 25 % of 8.00 GiB, 0.50 GiB a second, 12 s left");
  assert_string_equal(LoadBar::text(0, kGiB, kSecond, false).c_str(), "weights: 0 % of 1.00 GiB, 0.00 GiB a second");
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_bar_says_how_far_how_fast_and_how_much_longer),
      cmocka_unit_test(a_log_has_no_bar_and_a_beginning_no_estimate),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
