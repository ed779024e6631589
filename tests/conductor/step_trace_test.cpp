// SPDX-License-Identifier: Apache-2.0
// The ring of traced steps, read back from its bytes by the layout that wire/trace.h states.
#include <algorithm>
#include <cstring>
#include <vector>

#include "daemon/step_trace.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

Plan plan_with(uint64_t id, uint32_t ops) {
  Plan plan;
  plan.id = id;
  plan.tokens.resize(id);
  plan.measured.started_ns = 1000 * id;
  plan.measured.ended_ns = 1000 * id + 900;
  plan.predicted.h2d_ns = 10.0 * static_cast<double>(id);
  for (uint32_t i = 0; i < ops; ++i) {
    plan.times.push_back({1000 * id + i, 1000 * id + i + 1, 7, 3, 2, static_cast<uint16_t>(i), OpKind::attend, Queue::dense});
  }
  return plan;
}

struct Read {
  wire::TraceHeader header;
  std::vector<wire::TraceStep> steps;
  std::vector<wire::TraceOp> ops;
};

Read read(const StepTrace& trace) {
  const std::vector<std::byte> bytes = trace.bytes();
  Read read{};
  std::memcpy(&read.header, bytes.data(), sizeof read.header);
  size_t offset = read.header.header_bytes + size_t{16} * (read.header.lanes + read.header.kinds);
  auto take = [&](auto& parts, uint64_t count) {
    parts.resize(count);
    const size_t size = count * sizeof parts[0];
    if (size > 0) std::memcpy(parts.data(), bytes.data() + offset, size);
    offset += size;
  };
  take(read.steps, read.header.steps);
  take(read.ops, read.header.ops);
  assert_int_equal(offset, bytes.size());
  return read;
}

void the_last_steps_are_kept_oldest_first(void**) {
  StepTrace trace(3);
  for (uint64_t id = 1; id <= 5; ++id) {
    Plan plan = plan_with(id, static_cast<uint32_t>(id));
    trace.keep(plan);
  }
  const Read kept = read(trace);
  assert_int_equal(kept.header.steps, 3);
  assert_int_equal(kept.header.ops, 3 + 4 + 5);
  for (uint32_t i = 0; i < 3; ++i) {
    assert_int_equal(kept.steps[i].id, 3 + i);
    assert_int_equal(kept.steps[i].ops, 3 + i);
    assert_int_equal(kept.steps[i].rows, 3 + i);
    assert_int_equal(kept.steps[i].lane_predicted_ns[static_cast<size_t>(Queue::h2d)], 10 * (3 + i));
  }
  assert_int_equal(kept.ops[0].begin_ns, 3000);
  assert_int_equal(kept.ops[3].begin_ns, 4000);
  assert_int_equal(kept.ops[11].end_ns, 5005);
  assert_int_equal(kept.ops[11].layer, 4);
  assert_int_equal(kept.ops[11].bytes, 7);
}

void a_step_that_failed_is_not_kept(void**) {
  StepTrace trace(2);
  Plan good = plan_with(1, 1), failed = plan_with(2, 1);
  failed.failure = "lost";
  trace.keep(good);
  trace.keep(failed);
  assert_int_equal(read(trace).header.steps, 1);
  assert_int_equal(read(trace).steps[0].id, 1);
}

// Memory goes round between the Plans and the ring.
void a_full_ring_takes_no_more_memory(void**) {
  StepTrace trace(2);
  std::vector<Plan> plans(2);
  std::vector<const OpTime*> seen;
  for (uint64_t id = 1; id <= 20; ++id) {
    Plan& plan = plans[id % 2];
    plan.clear();
    for (uint32_t i = 0; i < 100; ++i) plan.times.push_back({});
    const OpTime* memory = plan.times.data();
    if (id <= 4) {
      seen.push_back(memory);
    } else {
      assert_true(std::find(seen.begin(), seen.end(), memory) != seen.end());
    }
    trace.keep(plan);
  }
}

void a_ring_of_none_keeps_nothing(void**) {
  StepTrace trace(0);
  Plan plan = plan_with(1, 1);
  trace.keep(plan);
  assert_int_equal(read(trace).header.steps, 0);
  assert_int_equal(plan.times.size(), 1);
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(the_last_steps_are_kept_oldest_first),
      cmocka_unit_test(a_step_that_failed_is_not_kept),
      cmocka_unit_test(a_full_ring_takes_no_more_memory),
      cmocka_unit_test(a_ring_of_none_keeps_nothing),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
