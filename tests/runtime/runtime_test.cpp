// SPDX-License-Identifier: Apache-2.0
// Plans on a real (small) model: the executor against the model called directly, and the thread that runs it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <semaphore>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "daemon/backend/cpu/cpu_backend.h"
#include "daemon/model/model_files.h"
#include "daemon/pool/host_pool.h"
#include "daemon/runtime/device_thread.h"
#include "daemon/runtime/executor.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

template <typename T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.failure().message);
  return *std::move(result);
}

constexpr ExecutorLimits kLimits{64, 16};

struct Rig {
  std::unique_ptr<Backend> backend = must(make_cpu_backend({DType::f32, 2, CpuIsa::automatic}));
  ModelFiles files = must(open_model("tests/golden/llama_gqa"));
  HostPool memory = must(HostPool::create({files.spec().layers, block_bytes(files.spec(), DType::f32, BlockForm::kv),
                                           block_bytes(files.spec(), DType::f32, BlockForm::x)},
                                          1 << 24));
  PipelineOptions options = [this] {
    PipelineOptions chosen;
    StagingChoice choice;
    choice.in_place = true;
    choice.kv_units = memory.shape().kv_units;
    choice.x_units = memory.shape().x_units;
    chosen.staging = must(choose_staging(files.spec(), DType::f32, choice));
    chosen.host = chosen.device = {memory.base(), memory.layer_stride_bytes(), memory.unit_bytes()};
    return chosen;
  }();

  Result<std::unique_ptr<Executor>> make(const LoadProgress& progress = {}) {
    IOKV_TRY_ASSIGN(Weights weights, load_weights(*backend, files, progress));
    ModelLimits limits;
    limits.max_rows = kLimits.max_rows;
    limits.recompute_rows = options.staging.tile_tokens;
    IOKV_TRY_ASSIGN(auto model, Model::make(*backend, files.spec(), std::move(weights), limits));
    return Executor::make(*backend, std::move(model), options, kLimits);
  }
};

// One span of a sequence in `slot`, whose block is `block`, drawing at its last row.
Plan plan_of(const Rig& rig, uint32_t slot, uint32_t block, uint32_t position, const std::vector<int32_t>& tokens,
             bool from_draw = false, BlockForm form = BlockForm::kv) {
  Plan plan;
  PlanSpan span;
  span.slot = slot;
  span.rows = static_cast<uint32_t>(tokens.size());
  span.first_position = position;
  span.runs = 1;
  span.draws = 1;
  span.token_from_draw = from_draw;
  plan.tokens = tokens;
  for (uint32_t i = 0; i < span.rows; i++) plan.positions.push_back(position + i);
  BlockRun run;
  run.id = run.device_id = block;
  run.blocks = 1;
  run.form = run.device_form = form;
  plan.runs.push_back(run);
  PlanDraw draw;
  draw.row = span.rows - 1;
  draw.position = position + span.rows;
  draw.keep_logits = true;
  plan.draws.push_back(draw);
  plan.spans.push_back(span);
  PlanBuilder(rig.options.staging).build(plan);
  return plan;
}

void a_token_left_open_is_what_the_slot_drew_last(void**) {
  Rig rig;
  auto executor = must(rig.make());
  Plan first = plan_of(rig, 3, 0, 0, {5, 6, 7});
  executor->run(first);
  assert_true(first.failure.empty());
  Plan other = plan_of(rig, 4, 8, 0, {9});  // another sequence draws in between
  executor->run(other);
  Plan open = plan_of(rig, 3, 0, 3, {0}, true);
  executor->run(open);
  Plan told = plan_of(rig, 5, 16, 0, {5, 6, 7, first.draws[0].token});
  executor->run(told);
  assert_int_equal(open.tokens[0], first.draws[0].token);
  assert_true(open.draws[0].logits == told.draws[0].logits);
  assert_int_equal(open.draws[0].token, told.draws[0].token);
}

void greedy_draws_are_the_largest_logit_with_its_log_probability(void**) {
  Rig rig;
  auto executor = must(rig.make());
  Plan plan = plan_of(rig, 0, 0, 0, {1, 2, 3});
  executor->run(plan);
  const std::vector<float>& logits = plan.draws[0].logits;
  assert_int_equal(logits.size(), rig.files.spec().vocab);
  const auto largest = std::max_element(logits.begin(), logits.end());
  assert_int_equal(plan.draws[0].token, largest - logits.begin());
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - *largest);
  assert_true(std::abs(plan.draws[0].logprob + std::log(sum)) < 1e-5);
  assert_true(plan.ended_ns > plan.started_ns);
}

void recomputed_tokens_are_counted_a_layer(void**) {
  Rig rig;
  auto executor = must(rig.make());
  Plan first = plan_of(rig, 0, 0, 0, {1, 2, 3, 4, 5}, false, BlockForm::x);
  executor->run(first);
  assert_int_equal(first.measured.recomputed_tokens, 0);
  Plan second = plan_of(rig, 0, 0, 5, {6}, false, BlockForm::x);
  executor->run(second);
  assert_int_equal(second.measured.recomputed_tokens, 5 * rig.files.spec().layers);
}

void a_sound_device_passes_the_self_test_and_corrupt_weights_do_not(void**) {
  Rig rig;
  auto executor = must(rig.make());
  assert_true(static_cast<bool>(executor->self_test(BlockForm::kv)));
  assert_true(static_cast<bool>(executor->self_test(BlockForm::x)));
  Weights weights = must(load_weights(*rig.backend, rig.files, {}));
  static_cast<float*>(weights.layers[1].attention_norm.weight->data())[0] = std::nanf("");
  ModelLimits limits;
  limits.max_rows = kLimits.max_rows;
  auto broken = must(Executor::make(*rig.backend, must(Model::make(*rig.backend, rig.files.spec(), std::move(weights), limits)),
                                    rig.options, kLimits));
  Status tested = broken->self_test(BlockForm::kv);
  assert_false(static_cast<bool>(tested));
  assert_non_null(std::strstr(tested.failure().message.c_str(), "not finite"));
}

void the_thread_runs_plans_in_order_and_sleeps_between(void**) {
  Rig rig;
  std::counting_semaphore<> news{0};
  DeviceThread device([&](const LoadProgress& progress) -> Result<LoadedDevice> {
    LoadedDevice loaded;
    IOKV_TRY_ASSIGN(loaded.executor, rig.make(progress));
    return loaded;
  }, [&] { news.release(); });
  while (device.state() == DeviceThread::State::loading) news.acquire();
  assert_true(device.state() == DeviceThread::State::ready);
  assert_int_equal(device.percent(), 100);
  std::vector<Plan> plans;
  for (uint32_t i = 0; i < 40; i++) plans.push_back(plan_of(rig, 0, 0, i, {static_cast<int32_t>(i)}));
  uint32_t retired = 0;
  for (uint32_t issued = 0; retired < plans.size();) {
    for (; issued < plans.size() && issued - retired < 2; issued++) device.issue(&plans[issued]);
    for (Plan* plan = device.retired(); plan != nullptr; plan = device.retired()) assert_ptr_equal(plan, &plans[retired++]);
    if (retired < issued) news.acquire();
  }
}

void a_load_that_fails_says_why_and_one_that_is_not_wanted_stops(void**) {
  Rig rig;
  std::counting_semaphore<> news{0};
  DeviceThread failing([](const LoadProgress&) -> Result<LoadedDevice> { return error("no such thing"); },
                       [&] { news.release(); });
  while (failing.state() == DeviceThread::State::loading) news.acquire();
  assert_true(failing.state() == DeviceThread::State::failed);
  assert_string_equal(failing.failure().c_str(), "no such thing");
  std::binary_semaphore stopped{0};
  {
    DeviceThread endless([&](const LoadProgress& progress) -> Result<LoadedDevice> {
      while (progress(1)) std::this_thread::yield();
      stopped.release();
      return error("interrupted");
    }, [] {});
  }
  assert_true(stopped.try_acquire());
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_token_left_open_is_what_the_slot_drew_last),
      cmocka_unit_test(greedy_draws_are_the_largest_logit_with_its_log_probability),
      cmocka_unit_test(recomputed_tokens_are_counted_a_layer),
      cmocka_unit_test(a_sound_device_passes_the_self_test_and_corrupt_weights_do_not),
      cmocka_unit_test(the_thread_runs_plans_in_order_and_sleeps_between),
      cmocka_unit_test(a_load_that_fails_says_why_and_one_that_is_not_wanted_stops),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
