// SPDX-License-Identifier: Apache-2.0
#include "daemon/runtime/executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <utility>

#include "daemon/base/difference.h"
#include "daemon/base/monotonic.h"

namespace iokv {

Result<float*> PinnedFloats::at_least(size_t count) {
  if (count > values_.size()) {
    release();
    values_.resize(count);
    if (Status pinned = backend_.pin(values_.data(), count * sizeof(float)); !pinned) {
      values_.clear();
      return std::move(pinned.failure());
    }
  }
  return values_.data();
}

void PinnedFloats::release() {
  if (!values_.empty()) backend_.unpin(values_.data());
  values_.clear();
}

Result<std::unique_ptr<Executor>> Executor::make(Backend& backend, std::unique_ptr<Model> model,
                                                 const PipelineOptions& options, const ExecutorLimits& limits) {
  IOKV_ASSERT(limits.max_rows <= model->limits().max_rows && limits.max_draws <= limits.max_rows);
  IOKV_ASSERT(limits.max_draws <= model->limits().batch_rows && options.staging.batch_rows <= model->limits().batch_rows);
  std::unique_ptr<Executor> executor(new Executor(backend, std::move(model), limits));
  IOKV_TRY_ASSIGN(executor->pipeline_, Pipeline::make(backend, *executor->model_, options));
  const size_t bytes = size_t{limits.max_draws} * executor->model_->spec().vocab * sizeof(float);
  IOKV_TRY_ASSIGN(executor->logits_, backend.alloc(bytes));
  return executor;
}

Executor::Executor(Backend& backend, std::unique_ptr<Model> model, const ExecutorLimits& limits)
    : backend_(backend),
      model_(std::move(model)),
      limits_(limits),
      kept_(backend),
      drawn_tokens_(limits.max_draws),
      drawn_logprobs_(limits.max_draws) {}

void Executor::run(Plan& plan, const Pipeline::Next& next) {
  plan.started_ns = monotonic_ns();
  Status done = compute(plan, next);
  if (!done) {
    plan.failure = done.failure().message;
    pipeline_->abandon();
  }
  plan.ended_ns = monotonic_ns();
}

Status Executor::compute(Plan& plan, const Pipeline::Next& next) {
  IOKV_ASSERT(plan.tokens.size() <= limits_.max_rows && plan.draws.size() <= limits_.max_draws);
  fill_in_tokens(plan);
  pipeline_->begin(plan);
  pipeline_->run(plan, next);
  logits_rows_.clear();
  for (const PlanDraw& draw : plan.draws) logits_rows_.push_back(draw.row);
  model_->logits(logits_rows_, static_cast<float*>(logits_->data()));
  IOKV_TRY(draw(plan));
  IOKV_TRY(pipeline_->settle(plan.measured));
  pipeline_->trace(plan);
  StepMeasure& measured = plan.measured;
  measured.step_ns = measured.ended_ns - std::max(measured.started_ns, ended_ns_);
  ended_ns_ = measured.ended_ns;
  return {};
}

void Executor::fill_in_tokens(Plan& plan) {
  for (const PlanSpan& span : plan.spans) {
    if (!span.token_from_draw) continue;
    IOKV_ASSERT(span.rows == 1 && span.slot < latest_draw_.size());
    plan.tokens[span.first_row] = latest_draw_[span.slot];
    if (span.history.count > 0) plan.history[span.history.first + span.history.count - 1] = latest_draw_[span.slot];
  }
}

Status Executor::draw(Plan& plan) {
  const uint32_t vocab = model_->spec().vocab;
  const float* logits = static_cast<const float*>(logits_->data());
  sample_rows_.clear();
  uint32_t tops = 0;
  for (const PlanDraw& draw : plan.draws) {
    SampleRow row{draw.params, static_cast<uint32_t>(sample_rows_.size()), draw.position};
    row.repeated = std::span(plan.history).subspan(draw.repeated.first, draw.repeated.count);
    row.counted = std::span(plan.history).subspan(draw.counted.first, draw.counted.count);
    row.biases = std::span(plan.biases).subspan(draw.biases.first, draw.biases.count);
    if (draw.mask != kNoMask) row.mask = plan.masks.data() + draw.mask;
    row.top = draw.top;
    tops += draw.top;
    sample_rows_.push_back(row);
  }
  if (tops > tops_.size()) tops_.resize(tops);
  SampleArgs args;
  args.logits = logits;
  args.vocab = vocab;
  args.rows = sample_rows_;
  args.tokens = drawn_tokens_.data();
  args.logprobs = drawn_logprobs_.data();
  args.tops = tops_.data();
  if (!plan.draws.empty()) backend_.sample(Queue::dense, args);
  const Ticket end = backend_.record(Queue::dense);
  IOKV_TRY(pipeline_->follow());
  IOKV_TRY(backend_.poll(end, true));
  plan.measured.ended_ns = backend_.reached_ns(end);
  IOKV_TRY(keep_logits(plan));
  auto top = tops_.begin();
  for (uint32_t i = 0; i < plan.draws.size(); i++) {
    plan.draws[i].token = drawn_tokens_[i];
    plan.draws[i].logprob = drawn_logprobs_[i];
    plan.draws[i].tops.assign(top, top + plan.draws[i].top);
    top += plan.draws[i].top;
  }
  for (const PlanSpan& span : plan.spans) {
    if (span.draws == 0 || span.slot == kNoSlot) continue;
    if (span.slot >= latest_draw_.size()) latest_draw_.resize(span.slot + 1);
    latest_draw_[span.slot] = plan.draws[span.first_draw + span.draws - 1].token;
  }
  return {};
}

// Once they have been computed.
Status Executor::keep_logits(Plan& plan) {
  const size_t vocab = model_->spec().vocab;
  const auto kept = static_cast<size_t>(std::ranges::count_if(plan.draws, &PlanDraw::keep_logits));
  if (kept == 0) return {};
  IOKV_TRY_ASSIGN(float* to, kept_.at_least(kept * vocab));
  const float* logits = static_cast<const float*>(logits_->data());
  size_t row = 0;
  for (size_t i = 0; i < plan.draws.size(); i++) {
    if (!plan.draws[i].keep_logits) continue;
    backend_.copy(Queue::d2h, to + row++ * vocab, logits + i * vocab, vocab * sizeof(float));
  }
  IOKV_TRY(backend_.poll(backend_.record(Queue::d2h), true));
  row = 0;
  for (PlanDraw& draw : plan.draws) {
    if (!draw.keep_logits) continue;
    draw.logits.assign(to + row * vocab, to + (row + 1) * vocab);
    row++;
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
  const DeviceInfo& device = backend_.info();
  const double difference = largest_difference(cut, whole);
  const bool same_bits = std::memcmp(whole.data(), cut.data(), whole.size() * sizeof(float)) == 0;
  if (device.batch_invariant ? !same_bits : difference > rounding_tolerance(device.compute)) {
    return error("self-test: " + device.name + " computed the same step twice with different results: they differ by " +
                 std::to_string(difference) + " of the largest logit");
  }
  return {};
}

Result<std::vector<float>> Executor::logits_after(std::span<const int32_t> tokens, uint32_t step_rows, BlockForm form) {
  PlanBuilder builder(pipeline_->staging().shape());
  BlockRun run;
  run.blocks = 1;
  run.form = run.device_form = form;
  if (builder.shape().in_place) run.device_id = run.id;
  Plan plan;
  for (uint32_t first = 0; first < tokens.size(); first += step_rows) {
    const uint32_t rows = std::min(step_rows, static_cast<uint32_t>(tokens.size()) - first);
    plan.clear();
    PlanSpan span;
    span.rows = rows;
    span.first_position = first;
    span.runs = span.draws = 1;
    plan.spans.push_back(span);
    plan.runs.push_back(run);
    for (uint32_t i = 0; i < rows; i++) {
      plan.tokens.push_back(tokens[first + i]);
      plan.positions.push_back(first + i);
    }
    PlanDraw draw;
    draw.row = rows - 1;
    draw.position = first + rows;
    draw.keep_logits = true;
    plan.draws.push_back(draw);
    builder.build(plan);
    IOKV_TRY(compute(plan, {}));
  }
  return std::move(plan.draws.front().logits);
}

}  // namespace iokv
