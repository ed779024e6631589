// SPDX-License-Identifier: Apache-2.0
// What stays on the device never exceeds its budget, whatever the sizes, and no layer more would fit.
#include <cstring>
#include <random>

#include "daemon/sched/weight_choice.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

// Ten layers of 100 bytes beside 50 that are always there.
constexpr WeightSizes kSizes{10, 50, 100};

WeightChoice choose(WeightSetting setting, uint64_t budget_bytes) {
  auto choice = choose_weights(setting, kSizes, budget_bytes);
  assert_true(static_cast<bool>(choice));
  return *choice;
}

void expect(const WeightChoice& choice, uint32_t streamed, uint32_t slots, uint64_t device_bytes) {
  assert_int_equal(choice.layers.layers, 10);
  assert_int_equal(choice.layers.streamed, streamed);
  assert_int_equal(choice.slots, slots);
  assert_int_equal(choice.device_bytes, device_bytes);
}

void all_that_fit_stay(void**) {
  expect(choose(WeightSetting::automatic, 0), 0, 1, 1050);
  expect(choose(WeightSetting::automatic, 1050), 0, 1, 1050);
  expect(choose(WeightSetting::automatic, 1049), 3, 2, 950);  // 7 and two slots
  expect(choose(WeightSetting::automatic, 350), 9, 2, 350);
  expect(choose(WeightSetting::automatic, 250), 10, 2, 250);
  expect(choose(WeightSetting::automatic, 249), 10, 1, 150);
  expect(choose(WeightSetting::host, 0), 10, 2, 250);
  expect(choose(WeightSetting::host, 1000), 10, 2, 250);
  expect(choose(WeightSetting::host, 150), 10, 1, 150);
  expect(choose(WeightSetting::device, 0), 0, 1, 1050);
}

void refused(WeightSetting setting, uint64_t budget_bytes, const char* needed) {
  auto choice = choose_weights(setting, kSizes, budget_bytes);
  assert_false(static_cast<bool>(choice));
  const char* message = choice.failure().message.c_str();
  assert_non_null(std::strstr(message, needed));
  assert_non_null(std::strstr(message, std::to_string(budget_bytes).c_str()));
  assert_non_null(std::strstr(message, "--device-weights-budget"));
}

void what_cannot_be_is_refused_with_what_it_needs(void**) {
  refused(WeightSetting::automatic, 149, "150");
  refused(WeightSetting::host, 1, "150");
  refused(WeightSetting::device, 1049, "1050");
}

void budgets_are_kept_and_used(void**) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 10'000; ++i) {
    const WeightSizes sizes{static_cast<uint32_t>(1 + random() % 100), random() % 1000, 1 + random() % 1000};
    const uint64_t least = sizes.fixed_bytes + sizes.layer_bytes;
    const uint64_t budget = least + random() % (sizes.layers * sizes.layer_bytes + 100);
    const auto choice = choose_weights(WeightSetting::automatic, sizes, budget);
    assert_true(static_cast<bool>(choice));
    assert_true(choice->device_bytes <= budget);
    if (choice->layers.streamed > 0) assert_true(choice->device_bytes + sizes.layer_bytes > budget);
  }
}

// Of any neighbouring layers as many stream as of all, to within one.
void streamed_layers_are_spread_evenly(void**) {
  for (uint32_t layers = 1; layers <= 40; ++layers) {
    for (uint32_t streamed = 0; streamed <= layers; ++streamed) {
      const StreamedLayers of{layers, streamed};
      uint32_t count = 0;
      for (uint32_t layer = 0; layer < layers; ++layer) {
        assert_int_equal(of.before(layer), count);
        count += of.streams(layer) ? 1 : 0;
        const uint32_t even = (layer + 1) * streamed / layers;
        assert_true(count == even);
      }
      assert_int_equal(count, streamed);
    }
  }
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(all_that_fit_stay),
      cmocka_unit_test(what_cannot_be_is_refused_with_what_it_needs),
      cmocka_unit_test(budgets_are_kept_and_used),
      cmocka_unit_test(streamed_layers_are_spread_evenly),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
