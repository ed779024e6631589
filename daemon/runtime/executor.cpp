// SPDX-License-Identifier: Apache-2.0
#include "daemon/runtime/executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "daemon/base/monotonic.h"

namespace iokv {

Result<std::unique_ptr<Executor>> Executor::make(Backend& backend, std::unique_ptr<Model> model, const PoolView& pool,
                                                 const ExecutorLimits& limits) {
  IOKV_ASSERT(limits.max_rows <= model->limits().max_rows && limits.max_draws <= limits.max_rows);
  std::unique_ptr<Executor> executor(new Executor(backend, std::move(model), pool, limits));
  const size_t bytes = size_t{limits.max_draws} * executor->model_->spec().vocab * sizeof(float);
  IOKV_TRY_ASSIGN(executor->logits_, backend.alloc(bytes));
  return executor;
}

Executor::Executor(Backend& backend, std::unique_ptr<Model> model, const PoolView& pool, const ExecutorLimits& limits)
    : backend_(backend),
      model_(std::move(model)),
      pool_(pool),
      limits_(limits),
      drawn_tokens_(limits.max_draws),
      drawn_logprobs_(limits.max_draws) {}

void Executor::run(Plan& plan) {
  plan.started_ns = monotonic_ns();
  Status done = forward(plan);
  if (done) done = draw(plan);
  if (!done) plan.failure = done.failure().message;
  plan.ended_ns = monotonic_ns();
}

Status Executor::forward(Plan& plan) {
  IOKV_ASSERT(plan.tokens.size() <= limits_.max_rows && plan.draws.size() <= limits_.max_draws);
  spans_.clear();
  plan.recomputed_tokens = 0;
  for (const PlanSpan& span : plan.spans) {
    if (span.token_from_draw) {
      IOKV_ASSERT(span.rows == 1 && span.slot < latest_draw_.size());
      plan.tokens[span.first_row] = latest_draw_[span.slot];
    }
    StepSpan step;
    step.first_row = span.first_row;
    step.rows = span.rows;
    step.first_position = span.first_position;
    step.blocks = std::span(plan.blocks).subspan(span.first_block, span.blocks);
    step.forms = std::span(plan.forms).subspan(span.first_block, span.blocks);
    spans_.push_back(step);
    for (uint32_t i = 0; i < blocks_for(Tokens(span.first_position)).value; i++) {
      if (step.forms[i] != BlockForm::x) continue;
      plan.recomputed_tokens += uint64_t{std::min(kBlockTokens, span.first_position - i * kBlockTokens)};
    }
  }
  plan.recomputed_tokens *= model_->spec().layers;
  logits_rows_.clear();
  for (const PlanDraw& draw : plan.draws) logits_rows_.push_back(draw.row);

  StepInputs inputs;
  inputs.tokens = plan.tokens;
  inputs.positions = plan.positions;
  inputs.spans = spans_;
  inputs.logits_rows = logits_rows_;
  inputs.logits = static_cast<float*>(logits_->data());
  return model_->forward(inputs, pool_);
}

Status Executor::draw(Plan& plan) {
  if (plan.draws.empty()) return {};
  const uint32_t vocab = model_->spec().vocab;
  const float* logits = static_cast<const float*>(logits_->data());
  sample_rows_.clear();
  for (uint32_t i = 0; i < plan.draws.size(); i++) {
    sample_rows_.push_back({plan.draws[i].params, i, plan.draws[i].position});
  }
  SampleArgs args;
  args.logits = logits;
  args.vocab = vocab;
  args.rows = sample_rows_;
  args.tokens = drawn_tokens_.data();
  args.logprobs = drawn_logprobs_.data();
  backend_.sample(Queue::dense, args);
  for (uint32_t i = 0; i < plan.draws.size(); i++) {
    if (!plan.draws[i].keep_logits) continue;
    plan.draws[i].logits.resize(vocab);
    backend_.copy(Queue::dense, plan.draws[i].logits.data(), logits + size_t{i} * vocab, size_t{vocab} * sizeof(float));
  }
  IOKV_TRY(backend_.poll(backend_.record(Queue::dense), true));
  for (uint32_t i = 0; i < plan.draws.size(); i++) {
    plan.draws[i].token = drawn_tokens_[i];
    plan.draws[i].logprob = drawn_logprobs_[i];
  }
  for (const PlanSpan& span : plan.spans) {
    if (span.draws == 0) continue;
    if (span.slot >= latest_draw_.size()) latest_draw_.resize(span.slot + 1);
    latest_draw_[span.slot] = plan.draws[span.first_draw + span.draws - 1].token;
  }
  return {};
}

Status Executor::self_test(BlockForm form) {
  const int32_t last = static_cast<int32_t>(model_->spec().vocab) - 1;
  const std::vector<int32_t> tokens{0, last, last / 2, last / 3, last / 5};
  IOKV_TRY_ASSIGN(std::vector<float> whole, logits_after(tokens, static_cast<uint32_t>(tokens.size()), form));
  IOKV_TRY_ASSIGN(std::vector<float> cut, logits_after(tokens, 2, form));
  if (!std::all_of(whole.begin(), whole.end(), [](float value) { return std::isfinite(value); })) {
    return error("self-test: the model's logits are not finite: its weights are corrupt, or overflow " +
                 std::string(name_of(backend_.info().compute)) + " (try --dtype f32)");
  }
  if (std::memcmp(whole.data(), cut.data(), whole.size() * sizeof(float)) != 0) {
    return error("self-test: " + backend_.info().name + " computed the same step twice with different results");
  }
  return {};
}

Result<std::vector<float>> Executor::logits_after(std::span<const int32_t> tokens, uint32_t step_rows, BlockForm form) {
  const uint32_t block = 0;
  std::vector<float> logits(model_->spec().vocab);
  for (uint32_t first = 0; first < tokens.size(); first += step_rows) {
    const uint32_t rows = std::min(step_rows, static_cast<uint32_t>(tokens.size()) - first);
    std::vector<uint32_t> positions;
    for (uint32_t i = 0; i < rows; i++) positions.push_back(first + i);
    const StepSpan span{0, rows, first, std::span(&block, 1), std::span(&form, 1)};
    const uint32_t last_row = rows - 1;
    StepInputs inputs;
    inputs.tokens = tokens.subspan(first, rows);
    inputs.positions = positions;
    inputs.spans = std::span(&span, 1);
    inputs.logits_rows = std::span(&last_row, 1);
    inputs.logits = static_cast<float*>(logits_->data());
    IOKV_TRY(model_->forward(inputs, pool_));
  }
  backend_.copy(Queue::dense, logits.data(), logits_->data(), logits.size() * sizeof(float));
  IOKV_TRY(backend_.poll(backend_.record(Queue::dense), true));
  return logits;
}

}  // namespace iokv
