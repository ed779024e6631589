// SPDX-License-Identifier: Apache-2.0
// The audit: what it decides, on a device of the test's own; and that it finds a fault, on a real model whose cached
// tokens are changed behind its back.
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <stdexcept>

#include "daemon/backend/cpu/cpu_backend.h"
#include "daemon/base/difference.h"
#include "daemon/model/model_files.h"
#include "daemon/pool/host_pool.h"
#include "daemon/runtime/executor.h"
#include "tests/conductor/harness.h"

#include "iokv/iokv.h"
#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

constexpr uint64_t kA = 1 | uint64_t{1} << 32, kB = 2 | uint64_t{1} << 32;

ConductorConfig audited(double share, uint32_t max_tokens = 1024) {
  ConductorConfig config;
  config.audit.share = share;
  config.audit.max_tokens = max_tokens;
  return config;
}

// Logits that say which tokens they are of, as far as the harness knows: their number.
void answer(Plan& plan) {
  for (PlanDraw& draw : plan.draws) {
    if (draw.keep_logits) draw.logits = {static_cast<float>(draw.position), 1};
  }
}

void run(Harness& harness) {
  for (harness.plan(); !harness.issued.empty(); harness.plan()) {
    answer(*harness.issued.front());
    harness.retire();
  }
}

void a_share_of_the_steps_is_audited_evenly(void**) {
  const Audit quarter({0.25, 0, 100}), none({0, 0, 100}), all({1, 0, 100}), some({0.003, 0, 100});
  int of_quarter = 0, of_some = 0;
  for (uint64_t id = 1; id <= 10000; ++id) {
    of_quarter += quarter.due(id) ? 1 : 0;
    of_some += some.due(id) ? 1 : 0;
    assert_int_equal(quarter.due(id), id % 4 == 0);
    assert_false(none.due(id));
    assert_true(all.due(id));
  }
  assert_int_equal(of_quarter, 2500);
  assert_int_equal(of_some, 30);
}

void differences_are_relative_to_the_largest_and_never_hide_a_nan(void**) {
  const std::vector<float> reference{1, -4, 2}, near{1, -4, 2.5f}, shorter{1, -4};
  const std::vector<float> nan{1, std::numeric_limits<float>::quiet_NaN(), 2};
  assert_true(largest_difference(reference, reference) == 0);
  assert_true(largest_difference(near, reference) == 0.125);
  assert_true(std::isinf(largest_difference(nan, reference)));
  assert_true(std::isinf(largest_difference(reference, nan)));
  assert_true(std::isinf(largest_difference(shorter, reference)));
}

void a_step_is_computed_again_as_kv_in_blocks_of_its_own(void**) {
  ConductorConfig config = audited(1);
  config.recompute = {Recompute::always, 0};
  Harness harness(config);
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  const uint64_t step = harness.submit(client, Harness::step(kA, 100, 1));
  harness.plan();
  assert_int_equal(harness.issued.front()->audited_draw, 0);
  answer(*harness.issued.front());
  harness.retire();
  assert_int_equal(harness.outcomes(step).size(), 1);
  assert_true(harness.outcomes(step)[0].logits.empty());  // the client did not ask for them
  harness.plan();
  const Plan& first = *harness.issued.at(0);
  assert_int_equal(harness.issued.size(), 1);  // alone, it has one Plan out
  assert_int_equal(first.spans.size(), 1);
  assert_int_equal(first.spans[0].slot, kNoSlot);
  assert_int_equal(first.spans[0].rows, 64);
  assert_int_equal(first.draws.size(), 0);
  assert_int_equal(first.clients, 0);
  for (const BlockRun& part : first.runs) assert_true(part.form == BlockForm::kv);
  answer(*harness.issued.front());
  harness.retire();
  harness.plan();
  assert_int_equal(harness.issued.at(0)->spans[0].rows, 36);
  assert_int_equal(harness.issued.at(0)->draws.at(0).row, 35);
  answer(*harness.issued.front());
  harness.retire();
  assert_int_equal(harness.counter(wire::Counter::audit_steps), 1);
  assert_int_equal(harness.counter(wire::Counter::audit_mismatches), 0);
  assert_int_equal(harness.counter(wire::Counter::kv_blocks), 0);
  assert_int_equal(harness.pool.total_units().value - harness.pool.free_units().value, 2);  // the sequence's
}

void a_client_that_wants_logits_gets_them_all_the_same(void**) {
  Harness harness(audited(1));
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  Request request = Harness::step(kA, 10, 2);
  request.logits = true;
  const uint64_t step = harness.submit(client, request);
  run(harness);
  assert_int_equal(harness.outcomes(step).size(), 2);
  for (const Outcome& outcome : harness.outcomes(step)) assert_int_equal(outcome.logits.size(), 2);
  assert_true(harness.counter(wire::Counter::audit_steps) > 0);
}

void others_have_their_rows_and_blocks_first(void**) {
  Harness harness(audited(1), 6);
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 150, 1));  // 3 blocks, and the audit's 3
  harness.plan();
  answer(*harness.issued.front());
  harness.retire();
  harness.plan();
  assert_int_equal(harness.pool.free_units().value, 0);
  // Somebody comes who needs blocks: nobody else loses any, and the audit's come free with its Plan.
  harness.open(client, kB);
  const uint64_t other = harness.submit(client, Harness::step(kB, 100, 1));
  run(harness);
  assert_int_equal(harness.outcomes(other).back().result, 0);
  assert_int_equal(harness.counter(wire::Counter::preemptions), 0);
  assert_true(harness.counter(wire::Counter::audit_skipped) > 0);
  // A's cache is there: one row is enough.
  harness.submit(client, Harness::step(kA, 0, 1));
  harness.plan();
  assert_int_equal(harness.span_of(0, 0)->rows, 1);
  run(harness);
}

void what_cannot_be_audited_is_skipped_and_counted(void**) {
  Harness harness(audited(1, 20));
  const ClientId client = harness.join(0);
  harness.open(client, kA);
  harness.submit(client, Harness::step(kA, 30, 1));  // too long
  run(harness);
  assert_int_equal(harness.counter(wire::Counter::audit_steps), 0);
  assert_int_equal(harness.counter(wire::Counter::audit_skipped), 1);
  harness.submit(client, Harness::step(kA, 30, 0));  // draws nothing: there is nothing to compare
  run(harness);
  assert_int_equal(harness.counter(wire::Counter::audit_skipped), 1);
}

void shutting_down_and_a_lost_device_end_it(void**) {
  for (const bool device : {false, true}) {
    Harness harness(audited(1));
    const ClientId client = harness.join(0);
    harness.open(client, kA);
    harness.submit(client, Harness::step(kA, 200, 1));
    harness.plan();
    answer(*harness.issued.front());
    harness.retire();
    harness.plan();
    assert_int_equal(harness.issued.size(), 1);
    if (!device) harness.handle(ShutdownRequested{});
    harness.retire(device ? "gone" : "");
    harness.plan();
    assert_true(harness.issued.empty());
    assert_int_equal(harness.counter(wire::Counter::audit_steps), 0);
    assert_int_equal(harness.counter(wire::Counter::audit_skipped), 1);
    harness.handle(ClientGone{client});
    assert_int_equal(harness.pool.free_units().value, harness.pool.total_units().value);
  }
}

// ---- on a real model ------------------------------------------------------------------------------------------------

template <typename T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.failure().message);
  return *std::move(result);
}

class RealDevice : public Effects {
 public:
  RealDevice(RecomputeSetting recompute, double link_bytes_per_s)
      : backend_(must(make_cpu_backend({DType::f32, 2, CpuIsa::automatic, link_bytes_per_s}))),
        files_(must(open_model("tests/golden/llama_gqa"))),
        memory_(must(HostPool::create({files_.spec().layers, block_bytes(files_.spec(), DType::f32, BlockForm::kv),
                                       block_bytes(files_.spec(), DType::f32, BlockForm::x)},
                                      1 << 24))),
        pool_(memory_.shape()) {
    StagingChoice choice;
    choice.in_place = backend_->info().host_addressable;
    choice.recomputes = true;
    choice.device_bytes = 4 << 20;
    choice.kv_units = memory_.shape().kv_units;
    choice.x_units = memory_.shape().x_units;
    PipelineOptions pipeline;
    pipeline.staging = must(choose_staging(files_.spec(), DType::f32, choice));
    pipeline.host = pipeline.device = view_ = {memory_.base(), memory_.layer_stride_bytes(), memory_.unit_bytes()};
    if (Status pinned = backend_->pin(memory_.base(), memory_.bytes()); !pinned) throw std::runtime_error("pin");
    ModelLimits limits;
    limits.max_rows = 256;
    limits.recompute_rows = pipeline.staging.tile_tokens;
    auto model = must(Model::make(*backend_, files_.spec(), must(load_weights(*backend_, files_, {})), limits));
    executor_ = must(Executor::make(*backend_, std::move(model), pipeline, {256, 64}));
    ConductorConfig config = audited(1);
    config.vocabulary = files_.spec().vocab;
    config.max_context = files_.spec().max_context;
    config.recompute = recompute;
    config.staging = pipeline.staging;
    config.verify_always = true;
    conductor_.emplace(config, pool_, *this);
    handle(ClientJoined{{0, 1}, {16, 1024, 4096, 4096}, 512, 1});
    Request open;
    open.kind = RequestKind::open;
    open.operation = ++operations_;
    open.sequence = kA;
    handle(RequestTaken{{0, 1}, open});
  }

  // Appends and samples so many tokens; the audits that follow from it are done when this returns.
  void step(uint32_t tokens, uint32_t max_tokens) {
    Request request = Harness::step(kA, 0, max_tokens);
    for (uint32_t i = 0; i < tokens; ++i) request.tokens.push_back(static_cast<int32_t>((i * 7919 + 13) % files_.spec().vocab));
    request.operation = ++operations_;
    handle(RequestTaken{{0, 1}, request});
    for (handle(PassEnded{}); !issued_.empty(); handle(PassEnded{})) {
      Plan* plan = issued_.front();
      issued_.pop_front();
      executor_->run(*plan);
      assert_string_equal(plan->failure.c_str(), "");
      handle(PlanRetired{plan});
    }
  }
  // One number of the third cached token's K or X in the first layer.
  void corrupt() {
    auto* values = reinterpret_cast<float*>(view_.block(0, sequences_block_));
    values[2 * (pool_.form(sequences_block_) == BlockForm::x ? files_.spec().hidden : files_.spec().head_dim)] += 0.5f;
  }
  uint64_t counter(wire::Counter which) const { return conductor_->counters()[static_cast<uint32_t>(which)]; }

  void post(ClientId, const Outcome&) override {}
  void end_client(ClientId, int32_t, const std::string&) override { assert_true(false); }
  void issue(Plan* plan) override {
    if (plan->spans[0].slot != kNoSlot) sequences_block_ = plan->runs[0].id;
    issued_.push_back(plan);
  }
  void discarded(uint32_t block, BlockForm form) override { memory_.discard(block, form); }
  void audit_failed(const AuditFinding& finding) override { findings.push_back(finding); }

  std::vector<AuditFinding> findings;

 private:
  template <typename What>
  void handle(What what) {
    conductor_->handle({++now_ns_, std::move(what)});
  }

  std::unique_ptr<Backend> backend_;
  ModelFiles files_;
  HostPool memory_;
  BlockPool pool_;
  PoolView view_;
  std::unique_ptr<Executor> executor_;
  std::optional<Conductor> conductor_;
  std::deque<Plan*> issued_;
  uint64_t now_ns_ = 0, operations_ = 0;
  uint32_t sequences_block_ = 0;
};

constexpr RecomputeSetting kForms[] = {{Recompute::never, 0}, {Recompute::always, 0}, {Recompute::fraction, 0.5}};
constexpr double kLinks[] = {0, 20e9};  // none, and one that copies as fast as it can

void a_sound_model_has_no_mismatch_however_its_tokens_are_kept(void**) {
  for (const RecomputeSetting& form : kForms) {
    for (const double link : kLinks) {
      RealDevice device(form, link);
      device.step(150, 20);
      device.step(10, 20);
      assert_true(device.counter(wire::Counter::audit_steps) >= 2);
      assert_int_equal(device.counter(wire::Counter::audit_mismatches), 0);
    }
  }
}

void a_cached_token_that_was_changed_is_found(void**) {
  for (const RecomputeSetting& form : kForms) {
    for (const double link : kLinks) {
      RealDevice device(form, link);
      device.step(150, 1);
      assert_int_equal(device.counter(wire::Counter::audit_mismatches), 0);
      device.corrupt();
      device.step(0, 1);
      assert_int_equal(device.counter(wire::Counter::audit_mismatches), 1);
      const AuditFinding& finding = device.findings.at(0);
      assert_true(finding.sequence == kA);
      assert_int_equal(finding.position, 150);
      assert_true(finding.difference > 1e-6);
    }
  }
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_share_of_the_steps_is_audited_evenly),
      cmocka_unit_test(differences_are_relative_to_the_largest_and_never_hide_a_nan),
      cmocka_unit_test(a_step_is_computed_again_as_kv_in_blocks_of_its_own),
      cmocka_unit_test(a_client_that_wants_logits_gets_them_all_the_same),
      cmocka_unit_test(others_have_their_rows_and_blocks_first),
      cmocka_unit_test(what_cannot_be_audited_is_skipped_and_counted),
      cmocka_unit_test(shutting_down_and_a_lost_device_end_it),
      cmocka_unit_test(a_sound_model_has_no_mismatch_however_its_tokens_are_kept),
      cmocka_unit_test(a_cached_token_that_was_changed_is_found),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
