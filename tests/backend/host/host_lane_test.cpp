// SPDX-License-Identifier: Apache-2.0
// The host's queue: order, the words by which a device and it wait for each other, records, a lost device, sleep and waking.
// Devices are threads here. They write q and read states as plain memory: tsan would see a lost ordering, and everybody sees
// the NaNs that q holds until the device has written it.
#include <dirent.h>
#include <sched.h>
#include <sys/resource.h>
#include <time.h>

#include <atomic>
#include <fstream>
#include <string>
#include <thread>

#include "daemon/base/monotonic.h"
#include "tests/backend/host/host_fixture.h"
#include "tests/counted_allocations.h"

namespace iokv::test {
namespace {

constexpr KvShape kSmall{2, 1, 16};

struct alignas(128) Word {
  uint32_t value = 0;
  void store(uint32_t next) { __atomic_store_n(&value, next, __ATOMIC_RELEASE); }
  bool reached(uint32_t target) const {
    return static_cast<int32_t>(__atomic_load_n(&value, __ATOMIC_ACQUIRE) - target) >= 0;
  }
  void wait_reached(uint32_t target) const {
    while (!reached(target)) sched_yield();
  }
};

uint64_t processor_ns() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

void spin_ns(uint64_t nanoseconds) {
  const uint64_t start_ns = monotonic_ns();
  while (monotonic_ns() - start_ns < nanoseconds) {
  }
}

bool is_untouched(const Batch& batch) {
  return std::all_of(batch.states.begin(), batch.states.end(), [](float value) { return value == -7.0f; });
}

// The row's results, computed alone.
std::vector<float> results_of(const Row& row, uint32_t r = 0) {
  auto lane = lane_of({.type = row.q.type()});
  Batch batch({&row});
  lane->attend(batch.args());
  lane->wait_reached(lane->record());
  return batch.results(r);
}

// Each operation's queries are the sums that the one before it leaves.
void operations_run_in_the_order_of_issue(void**) {
  Numbers numbers(41);
  const Row row({4, 4, 16}, DType::f32, {700, 0}, {}, 1.0f, numbers);
  constexpr int kLinks = 60;
  auto run = [&](bool together) {
    auto lane = lane_of({.threads = 3, .type = DType::f32});
    std::vector<Batch> links;
    for (int i = 0; i < kLinks; ++i) links.emplace_back(std::vector<const Row*>{&row});
    for (int i = 0; i < kLinks; ++i) {
      AttendArgs args = links[i].args();
      // Of heads of 16: the sums of all heads, 32 floats apart, as queries of as many more rows.
      if (i > 0) args.q = links[i - 1].states.data();
      lane->attend(args);
      if (!together) lane->wait_reached(lane->record());
    }
    lane->wait_reached(lane->record());
    return links.back().results(0);
  };
  assert_true(run(true) == run(false));
}

void a_record_is_reached_when_all_before_it_is_done(void**) {
  Numbers numbers(42);
  const Row row(kSmall, DType::f16, {300, 0}, {}, 1.0f, numbers);
  Word word;
  auto lane = lane_of({.threads = 2});
  Batch first({&row}), second({&row});
  assert_int_equal(lane->record(), 1);
  assert_true(lane->reached(1));  // nothing is before it
  assert_false(lane->reached(2));
  lane->attend(first.args());
  assert_int_equal(lane->record(), 2);
  lane->wait(&word.value, 1);
  assert_int_equal(lane->record(), 3);
  lane->attend(second.args());
  assert_int_equal(lane->record(), 4);
  lane->wait_reached(2);
  expect_state(row, 0, first.state(0, 0));
  assert_false(lane->reached(3));
  assert_true(is_untouched(second));
  word.store(1);
  lane->wait_reached(4);
  assert_true(lane->reached(3));
  expect_state(row, 1, second.state(0, 1));
}

// The record is issued at any moment of an operation of many items.
void an_operation_is_done_when_all_of_its_items_are(void**) {
  Numbers numbers(51);
  const Row row({4, 4, 32}, DType::f16, {1000, 0}, {}, 1.0f, numbers);
  auto lane = lane_of({.threads = 2});
  Batch batch(std::vector<const Row*>(8, &row));
  for (uint32_t round = 0; round < 100; ++round) {
    std::fill(batch.states.begin(), batch.states.end(), -7.0f);
    lane->attend(batch.args());
    spin_ns(round * 1000);
    lane->wait_reached(lane->record());
    for (uint32_t r = 0; r < 8; ++r) {
      for (uint32_t head = 0; head < 4; ++head) assert_true(batch.state(r, head)[0] != -7.0f);
    }
  }
}

void a_word_is_reached_by_its_distance_modulo_2_to_32(void**) {
  Word word;
  word.store(0xfffffffeu);
  auto lane = lane_of({});
  lane->wait(&word.value, 0xfffffffdu);
  lane->wait(&word.value, 0xfffffffeu);
  lane->wait_reached(lane->record());
  lane->wait(&word.value, 0xffffffffu);
  const uint64_t first = lane->record();
  lane->wait(&word.value, 2);
  const uint64_t second = lane->record();
  assert_false(lane->reached(first));
  word.store(1);
  lane->wait_reached(first);
  spin_ns(100'000);
  assert_false(lane->reached(second));
  word.store(0x80000001u);  // the farthest that counts as behind 2
  lane->wait_reached(second);
}

// q is there when the word is, state when the host's word is: 10,000 layers of a device that does one after the other, issued
// ahead of it.
void ten_thousand_layers_meet_a_device_in_both_words(void**) {
  Numbers numbers(43);
  std::vector<std::unique_ptr<Row>> rows;
  std::vector<std::vector<float>> expected;
  for (uint32_t position : {1u, 40u, 64u, 130u}) {
    rows.push_back(std::make_unique<Row>(kSmall, DType::bf16, Place{position, 0}, Limits{}, 1.0f, numbers));
    expected.push_back(results_of(*rows.back()));
  }
  constexpr uint32_t kLayers = 10'000;
  Word device_word, host_word;
  auto lane = lane_of({.threads = 2, .type = DType::bf16, .reached_word = &host_word.value});
  std::vector<Batch> batches;
  for (const auto& row : rows) batches.emplace_back(std::vector<const Row*>{row.get()});
  std::vector<Tensor> queries;
  for (Batch& batch : batches) {
    queries.push_back(batch.q);
    batch.q = Tensor(DType::bf16, batch.q.size());
  }
  std::atomic<uint32_t> wrong{0};
  std::thread device([&] {
    for (uint32_t layer = 1; layer <= kLayers; ++layer) {
      Batch& batch = batches[layer % 4];
      std::memcpy(batch.q.at(), queries[layer % 4].at(), batch.q.size() * 2);
      device_word.store(layer);
      host_word.wait_reached(layer);
      wrong += batch.results(0) != expected[layer % 4];
      std::memset(batch.q.at(), 0xff, batch.q.size() * 2);
      std::fill(batch.states.begin(), batch.states.end(), -7.0f);
    }
  });
  for (uint32_t layer = 1; layer <= kLayers; ++layer) {
    lane->wait(&device_word.value, layer);
    lane->attend(batches[layer % 4].args());
    assert_int_equal(lane->record(), layer);
  }
  device.join();
  assert_int_equal(wrong.load(), 0);
  assert_true(lane->reached(kLayers));
}

void spans_and_addresses_are_copied(void**) {
  Numbers numbers(44);
  const Row row(kSmall, DType::f16, {500, 64}, {}, 1.0f, numbers);
  Word word;
  auto lane = lane_of({.threads = 2});
  lane->wait(&word.value, 1);
  Batch batch({&row});
  {
    AttendArgs args = batch.args();
    std::vector<const void*> addresses = row.addresses;
    std::vector<AttendSpan> spans = batch.spans;
    spans[0].kv_blocks = addresses;
    args.spans = spans;
    lane->attend(args);
    std::fill(addresses.begin(), addresses.end(), nullptr);
    spans[0] = {};
  }
  word.store(1);
  lane->wait_reached(lane->record());
  expect_state(row, 0, batch.state(0, 0));
}

void times_of_records_are_kept_and_rise(void**) {
  auto lane = lane_of({});
  const uint64_t before_ns = monotonic_ns();
  constexpr uint64_t kRecords = Backend::kTimedTickets + 5000;
  for (uint64_t i = 0; i < kRecords; ++i) lane->record();
  lane->wait_reached(kRecords);
  const uint64_t after_ns = monotonic_ns();
  uint64_t last_ns = before_ns;
  for (uint64_t ticket = kRecords - Backend::kTimedTickets + 1; ticket <= kRecords; ++ticket) {
    const uint64_t reached_ns = lane->reached_ns(ticket);
    assert_true(reached_ns >= last_ns);
    last_ns = reached_ns;
  }
  assert_true(last_ns <= after_ns);
}

// Of a device that comes late, more is outstanding than a lane holds: issuing waits, and goes on.
void issuing_waits_for_room_and_for_nothing_else(void**) {
  Word word;
  auto lane = lane_of({});
  std::atomic<uint32_t> issued{0};
  std::thread device([&] {
    while (issued.load() < HostLane::kOperations) sched_yield();
    word.store(1);
  });
  lane->wait(&word.value, 1);
  issued.fetch_add(1);
  for (uint32_t i = 1; i < 3 * HostLane::kOperations; ++i) {
    lane->record();
    issued.fetch_add(1);
  }
  device.join();
  lane->wait_reached(3 * HostLane::kOperations - 1);
}

// The words of a lost device are not written any more; its memory goes away.
void what_is_abandoned_counts_as_reached_and_computes_nothing(void**) {
  Numbers numbers(45);
  auto row = std::make_unique<Row>(kSmall, DType::f16, Place{500, 0}, Limits{}, 1.0f, numbers);
  Word word, host_word;
  auto lane = lane_of({.threads = 2, .reached_word = &host_word.value});
  auto batch = std::make_unique<Batch>(std::vector<const Row*>{row.get()});
  for (int i = 0; i < 50; ++i) {
    lane->wait(&word.value, 1);
    lane->attend(batch->args());
    lane->record();
  }
  assert_false(lane->reached(1));
  lane->abandon();
  assert_true(lane->reached(50));
  assert_true(host_word.reached(50));
  lane->wait(&word.value, 2);
  lane->attend(batch->args());
  lane->wait_reached(lane->record());
  assert_true(is_untouched(*batch));
}

void memory_may_go_when_abandon_returns(void**) {
  Numbers numbers(46);
  for (int round = 0; round < 20; ++round) {
    auto row = std::make_unique<Row>(KvShape{4, 4, 64}, DType::f16, Place{2000, 0}, Limits{}, 1.0f, numbers);
    auto batch = std::make_unique<Batch>(std::vector<const Row*>{row.get()});
    auto lane = lane_of({.threads = 2});
    for (int i = 0; i < 20; ++i) lane->attend(batch->args());
    spin_ns(static_cast<uint64_t>(round) * 20'000);
    lane->abandon();
    batch.reset();
    row.reset();
  }
}

void a_lane_ends_whatever_is_outstanding(void**) {
  Word word;
  for (uint32_t round = 0; round < 50; ++round) {
    auto lane = lane_of({.threads = 1 + round % 3});
    if (round % 2 == 0) continue;
    lane->wait(&word.value, 1);
    lane->record();
  }
}

// Waits, in slices of wall-clock time, until a slice passes in which the process used less than a hundredth of it: a worker
// that polled would never let one pass.
void sleep_until_idle() {
  for (int slice = 0; slice < 100; ++slice) {
    const uint64_t before_ns = processor_ns();
    const timespec slice_time{0, 20'000'000};
    nanosleep(&slice_time, nullptr);
    if (processor_ns() - before_ns < 200'000) return;
  }
  fail_msg("the workers were never idle for 20 ms");
}

void a_lane_without_work_uses_no_processor_time_and_wakes_again(void**) {
  Numbers numbers(47);
  const Row row(kSmall, DType::f16, {1000, 0}, {}, 1.0f, numbers);
  Word word;
  auto lane = lane_of({.threads = 3});
  for (uint32_t round = 1; round <= 3; ++round) {
    sleep_until_idle();
    Batch batch({&row});
    lane->wait(&word.value, round);
    lane->attend(batch.args());
    const uint64_t ticket = lane->record();
    assert_false(lane->reached(ticket));
    word.store(round);
    lane->wait_reached(ticket);
    expect_state(row, 0, batch.state(0, 0));
  }
}

// Pauses as long as a worker polls before it sleeps, within a few µs: what is issued meets one that is about to. There is no
// other that would do its work.
void nothing_is_missed_by_a_worker_that_falls_asleep(void**) {
  Numbers numbers(48);
  const Row row(kSmall, DType::f16, {10, 0}, {}, 1.0f, numbers);
  auto lane = lane_of({.threads = 1});
  Batch batch({&row});
  for (uint32_t round = 0; round < 2000; ++round) {
    lane->attend(batch.args());
    lane->wait_reached(lane->record());
    spin_ns(HostLane::kIdleNanoseconds - 5'000 + numbers.below(20'000));
  }
  expect_state(row, 1, batch.state(0, 1));
}

void a_step_like_those_before_it_allocates_nothing(void**) {
  Numbers numbers(49);
  const Row row({4, 2, 32}, DType::f16, {1500, 0}, {}, 1.0f, numbers);
  Word word;
  auto lane = lane_of({.threads = 1});
  std::vector<Batch> batches;
  for (int layer = 0; layer < 8; ++layer) batches.emplace_back(std::vector<const Row*>{&row, &row});
  uint64_t before = 0;
  for (uint32_t step = 1; step <= 200; ++step) {
    if (step == 3) before = allocations.load();
    for (Batch& batch : batches) {
      lane->wait(&word.value, step);
      lane->attend(batch.args());
    }
    const uint64_t ticket = lane->record();
    word.store(step);
    lane->wait_reached(ticket);
  }
  assert_int_equal(allocations.load() - before, 0);
}

// Thread ids of this process by name.
std::vector<std::pair<std::string, int>> threads() {
  std::vector<std::pair<std::string, int>> found;
  DIR* tasks = opendir("/proc/self/task");
  assert_non_null(tasks);
  while (const dirent* entry = readdir(tasks)) {
    if (entry->d_name[0] == '.') continue;
    std::string name;
    std::getline(std::ifstream(std::string("/proc/self/task/") + entry->d_name + "/comm"), name);
    found.emplace_back(name, std::atoi(entry->d_name));
  }
  closedir(tasks);
  std::sort(found.begin(), found.end());
  return found;
}

void workers_have_names_a_lower_priority_and_their_cpus(void**) {
  cpu_set_t allowed;
  assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE && cpus.size() < 2; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) cpus.push_back(cpu);
  }
  std::reverse(cpus.begin(), cpus.end());
  Numbers numbers(50);
  const Row row({4, 2, 64}, DType::f16, {3000, 0}, {}, 1.0f, numbers);
  auto lane = lane_of({.threads = static_cast<uint32_t>(cpus.size()), .cpus = cpus});
  // A worker lowers its priority before it looks for work, but who takes an item need not be both.
  Batch batch({&row});
  const int lower = std::min(19, getpriority(PRIO_PROCESS, 0) + HostLane::kNiceness);
  bool all_lower = false;
  for (int round = 0; round < 1000 && !all_lower; ++round) {
    lane->attend(batch.args());
    lane->wait_reached(lane->record());
    uint32_t found = 0, lowered = 0;
    for (const auto& [name, id] : threads()) {
      if (name != "iokvd-attend-" + std::to_string(found)) continue;
      cpu_set_t own;
      assert_int_equal(sched_getaffinity(id, sizeof own, &own), 0);
      assert_true(CPU_COUNT(&own) == 1 && CPU_ISSET(cpus[found], &own));
      lowered += getpriority(PRIO_PROCESS, static_cast<id_t>(id)) == lower;
      ++found;
    }
    assert_int_equal(found, cpus.size());
    all_lower = lowered == found;
  }
  assert_true(all_lower);
}

void what_cannot_be_had_is_an_error_that_says_so(void**) {
  auto refused = [](HostLaneOptions options, const char* word) {
    auto made = HostLane::make(options);
    assert_false(static_cast<bool>(made));
    if (made.failure().message.find(word) == std::string::npos) fail_msg("%s", made.failure().message.c_str());
  };
  refused({.threads = 0}, "one thread");
  refused({.threads = 2, .cpus = {0}}, "1 CPUs");
  refused({.threads = 1, .cpus = {CPU_SETSIZE - 1}}, "CPU 1023");
  for (CpuIsa isa : kIsas) {
    if (!cpu_supports(isa)) refused({.isa = isa}, name_of(isa));
  }
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(operations_run_in_the_order_of_issue),
      cmocka_unit_test(a_record_is_reached_when_all_before_it_is_done),
      cmocka_unit_test(an_operation_is_done_when_all_of_its_items_are),
      cmocka_unit_test(a_word_is_reached_by_its_distance_modulo_2_to_32),
      cmocka_unit_test(ten_thousand_layers_meet_a_device_in_both_words),
      cmocka_unit_test(spans_and_addresses_are_copied),
      cmocka_unit_test(times_of_records_are_kept_and_rise),
      cmocka_unit_test(issuing_waits_for_room_and_for_nothing_else),
      cmocka_unit_test(what_is_abandoned_counts_as_reached_and_computes_nothing),
      cmocka_unit_test(memory_may_go_when_abandon_returns),
      cmocka_unit_test(a_lane_ends_whatever_is_outstanding),
      cmocka_unit_test(a_lane_without_work_uses_no_processor_time_and_wakes_again),
      cmocka_unit_test(nothing_is_missed_by_a_worker_that_falls_asleep),
      cmocka_unit_test(a_step_like_those_before_it_allocates_nothing),
      cmocka_unit_test(workers_have_names_a_lower_priority_and_their_cpus),
      cmocka_unit_test(what_cannot_be_had_is_an_error_that_says_so),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
