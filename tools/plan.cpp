// SPDX-License-Identifier: Apache-2.0
#include "tools/plan.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "daemon/runtime/expected_profile.h"
#include "daemon/sched/split.h"
#include "daemon/sched/whole_placement.h"

namespace iokv {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;

// Beside weights and cached tokens: what CUDA takes, the staging ring and activations.
constexpr uint64_t kOtherBytes = uint64_t{2} << 30;

WeightSizes weight_sizes(const PlanQuestion& question) {
  const uint64_t layer = layer_weight_bytes(question.model, question.element_bytes);
  const uint64_t all = weight_bytes(question.model, question.element_bytes);
  return {question.model.layers, all - question.model.layers * layer, layer};
}

// The question's constants, and one step of it at a time.
class Planner {
 public:
  // Weights as they are in every run but the best one of a device to be divided.
  Planner(const PlanQuestion& question, const WeightChoice& weights)
      : question_(question),
        sizes_(weight_sizes(question)),
        weights_(weights),
        with_cpu_(expected_profile(question.hardware, question.model, question.element_bytes)),
        profile_(without_cpu(with_cpu_)),
        shape_(cache_shape_of(question.model, question.element_bytes)) {}

  uint64_t tokens(uint64_t context) const { return question_.batch * context; }

  // A step of which `x_tokens` come as X, and all others as K,V.
  LayerWork split(uint64_t context, uint64_t x_tokens) const {
    LayerWork work = resident(context, tokens(context));
    work.x_host = x_tokens;
    work.kv_host = tokens(context) - x_tokens;
    return work;
  }

  LayerWork paper(uint64_t context, PaperSchedule schedule) const {
    return split(context, question_.batch * paper_split(profile_, shape_, context, question_.batch, schedule));
  }

  bool cpu_attends() const { return with_cpu_.host_attends(); }
  // The best of what K,V, X and the host's CPU make possible.
  DeviceDivision best_with_cpu(uint64_t context) const { return best(context, with_cpu_); }
  StepCost streaming_with_cpu(const LayerWork& work) const { return streaming_cost(with_cpu_, shape_, work); }

  DeviceDivision best(uint64_t context) const { return best(context, profile_); }

  DeviceDivision best(uint64_t context, const Profile& profile) const {
    LayerWork work = resident(context, 0);
    if (question_.device_bytes == 0) {
      return {best_whole_placement(profile, shape_, work, question_.device_kv_bytes), weights_};
    }
    work.weight_bytes = 0;
    return best_division(profile, shape_, work, sizes_, question_.device_bytes);
  }

  // What the link needs at least: every token in its smaller form, as many as fit on the device.
  double bound_ns(uint64_t context) const {
    const bool x_is_smaller = shape_.x_bytes < shape_.kv_bytes;
    uint64_t token_bytes = question_.device_kv_bytes, all_weights = 0;
    if (question_.device_bytes > 0) {
      // A byte that stays saves no more than itself, be it of weights or of a token in its smaller form.
      all_weights = sizes_.layers * sizes_.layer_bytes;
      const uint64_t room = question_.device_bytes - sizes_.fixed_bytes;
      token_bytes = room - std::min(room, all_weights);
      all_weights -= std::min(room, all_weights);
    }
    const uint64_t room = token_bytes / (shape_.layers * std::min(shape_.x_bytes, shape_.kv_bytes));
    LayerWork work = resident(context, std::min(tokens(context), room));
    if (question_.device_bytes > 0) work.weight_bytes = all_weights / shape_.layers;
    if (x_is_smaller) std::swap(work.x_host, work.kv_host);
    return link_ns(streaming(work));
  }

  StepCost streaming(const LayerWork& work) const { return streaming_cost(profile_, shape_, work); }
  StepCost serial(const LayerWork& work, PaperSchedule schedule) const {
    return serial_cost(profile_, shape_, work, schedule);
  }
  // What the paper does with the weights where they are.
  PaperSchedule schedule() const {
    return weights_.layers.streamed > 0 ? PaperSchedule::column_by_column : PaperSchedule::row_by_row;
  }

  static double link_ns(const StepCost& cost) { return std::max(cost.h2d_ns, cost.d2h_ns); }

 private:
  static Profile without_cpu(Profile profile) {
    profile.host_attend = {};
    return profile;
  }

  // A step with some tokens on the device as K,V, all others on the host as K,V.
  LayerWork resident(uint64_t context, uint64_t kv_device) const {
    LayerWork work;
    work.rows = question_.batch;
    work.attended = work.products = question_.batch * (context + 1);
    work.new_kv = question_.batch;
    work.weight_bytes = weights_.layers.streamed * sizes_.layer_bytes / sizes_.layers;
    work.kv_host = tokens(context) - kv_device;
    return work;
  }

  const PlanQuestion& question_;
  const WeightSizes sizes_;
  const WeightChoice weights_;
  const Profile with_cpu_, profile_;
  const CacheShape shape_;
};

void add(PlannedRun& run, const StepCost& cost, const LayerWork& work, uint32_t sequences) {
  run.split_tokens = static_cast<double>(work.x_host + work.x_device) / sequences;
  run.link_s += Planner::link_ns(cost) / 1e9;
  run.device_s += cost.device_ns / 1e9;
  run.host_s += cost.chain_ns / 1e9;
  run.total_s += cost.total_ns / 1e9;
  run.binds = cost.bound;
}

std::array<uint64_t, kPlaces> places_of(const LayerWork& work, uint64_t tokens) {
  std::array<uint64_t, kPlaces> places{};
  places[static_cast<size_t>(Place::x_device)] = work.x_device;
  places[static_cast<size_t>(Place::x_host)] = work.x_host;
  places[static_cast<size_t>(Place::kv_host)] = work.kv_host;
  places[static_cast<size_t>(Place::kv_attended)] = work.kv_attended;
  places[static_cast<size_t>(Place::kv_device)] = tokens - work.x_device - work.x_host - work.kv_host - work.kv_attended;
  return places;
}

Status check_context(const PlanQuestion& question) {
  const ModelSpec& model = question.model;
  if (uint64_t{question.prompt} + question.generate > model.max_context) {
    return error(fmt::format("{} + {} tokens are more than {} was trained for; prompt and generated tokens together "
                             "may be {}", question.prompt, question.generate, model.name, model.max_context));
  }
  return {};
}

Result<WeightChoice> weights_of(const PlanQuestion& question) {
  const WeightSizes sizes = weight_sizes(question);
  const auto memory = static_cast<uint64_t>(question.hardware.memory_bytes);
  if (question.device_bytes > 0) {
    const bool more = question.weights != WeightSetting::automatic || question.device_weights_bytes + question.device_kv_bytes > 0;
    if (more) return error("--device-memory is divided by what is best: leave out --weights, --device-weights-budget and --device-kv");
    return choose_weights(WeightSetting::automatic, sizes, question.device_bytes);
  }
  uint64_t budget = question.device_weights_bytes;
  if (budget == 0 && question.weights == WeightSetting::automatic) {
    const uint64_t others = question.device_kv_bytes + kOtherBytes;
    budget = memory - std::min(others, memory - 1);
  }
  return choose_weights(question.weights, sizes, budget);
}

Status check_memory(const PlanQuestion& question, const WeightChoice& weights) {
  const uint64_t cached = question.device_kv_bytes, needed = std::max(weights.device_bytes + cached, question.device_bytes);
  const double memory = question.hardware.memory_bytes;
  if (static_cast<double>(needed) <= memory) return {};
  if (question.device_bytes > 0) {
    return error(fmt::format("--device-memory is {:.1f} GiB, and {} has {:.1f}", static_cast<double>(needed) / kGiB,
                             question.hardware.name, memory / kGiB));
  }
  return error(fmt::format("{}'s weights take {:.1f} GiB on the device and cached tokens {:.1f}, but {} has {:.1f} GiB; "
                           "--weights host and a smaller --device-kv take less", question.model.name,
                           static_cast<double>(weights.device_bytes) / kGiB, static_cast<double>(cached) / kGiB,
                           question.hardware.name, memory / kGiB));
}

}  // namespace

Result<PlanAnswer> plan(const PlanQuestion& question) {
  const uint64_t end = uint64_t{question.prompt} + question.generate;
  const CacheShape shape = cache_shape_of(question.model, question.element_bytes);
  const uint64_t kv_bytes_of_token = uint64_t{question.batch} * shape.layers * shape.kv_bytes;
  PlanAnswer answer;
  answer.weight_bytes = weight_bytes(question.model, question.element_bytes);
  IOKV_TRY(check_context(question));
  IOKV_TRY_ASSIGN(answer.weights, weights_of(question));
  IOKV_TRY(check_memory(question, answer.weights));
  answer.first_kv_bytes = kv_bytes_of_token * question.prompt;
  answer.last_kv_bytes = kv_bytes_of_token * end;
  answer.context = end - 1;

  const Planner planner(question, answer.weights);
  PlannedRun serial_never{"never", "serial"}, serial_paper{"paper", "serial"};
  PlannedRun serial_waited{"paper_x_waited", "serial"};
  PlannedRun never{"never", "streaming"}, always{"always", "streaming"}, paper{"paper", "streaming"};
  PlannedRun best{"auto", "streaming"}, best_with_cpu{"auto_cpu", "streaming"};
  for (uint64_t cached = question.prompt; cached < end; ++cached) {
    const LayerWork all_kv = planner.split(cached, 0), all_x = planner.split(cached, planner.tokens(cached));
    const LayerWork as_paper = planner.paper(cached, planner.schedule());
    const DeviceDivision best_of_device = planner.best(cached);
    const LayerWork& as_best = best_of_device.work;
    const LayerWork as_waited = planner.paper(cached, PaperSchedule::column_by_column);
    add(serial_never, planner.serial(all_kv, planner.schedule()), all_kv, question.batch);
    add(serial_paper, planner.serial(as_paper, planner.schedule()), as_paper, question.batch);
    add(serial_waited, planner.serial(as_waited, PaperSchedule::column_by_column), as_waited, question.batch);
    add(never, planner.streaming(all_kv), all_kv, question.batch);
    add(always, planner.streaming(all_x), all_x, question.batch);
    add(paper, planner.streaming(as_paper), as_paper, question.batch);
    add(best, planner.streaming(as_best), as_best, question.batch);
    answer.bound_s += planner.bound_ns(cached) / 1e9;
    if (planner.cpu_attends()) {
      const LayerWork divided = planner.best_with_cpu(cached).work;
      add(best_with_cpu, planner.streaming_with_cpu(divided), divided, question.batch);
      answer.cpu_placement = places_of(divided, planner.tokens(cached));
    }
    answer.placement = places_of(as_best, planner.tokens(cached));
    answer.weights = best_of_device.weights;
    answer.streamed_weight_bytes = as_best.weight_bytes * shape.layers;
  }
  answer.runs = {serial_never, serial_paper, serial_waited, never, always, paper, best};
  if (planner.cpu_attends()) answer.runs.push_back(best_with_cpu);
  return answer;
}

PlanCurve plan_curve(const PlanQuestion& question, const PlanAnswer& answer) {
  constexpr uint64_t kPoints = 200;
  PlanQuestion nothing_resident = question;
  nothing_resident.device_kv_bytes = nothing_resident.device_bytes = 0;
  const Planner planner(nothing_resident, answer.weights);
  PlanCurve curve;
  curve.context = uint64_t{question.prompt} + question.generate - 1;
  const uint64_t tokens = planner.tokens(curve.context);
  for (uint64_t i = 0; i <= kPoints; ++i) {
    const LayerWork work = planner.split(curve.context, tokens * i / kPoints);
    curve.serial_ms.push_back(planner.serial(work, PaperSchedule::column_by_column).total_ns / 1e6);
    curve.streaming_ms.push_back(planner.streaming(work).total_ns / 1e6);
  }
  const LayerWork serial = planner.paper(curve.context, PaperSchedule::column_by_column);
  const LayerWork best = planner.best(curve.context).work;
  curve.serial_best_ms = planner.serial(serial, PaperSchedule::column_by_column).total_ns / 1e6;
  curve.best_ms = planner.streaming(best).total_ns / 1e6;
  if (tokens != 0) {
    curve.serial_share = static_cast<double>(serial.x_host) / static_cast<double>(tokens);
    curve.best_share = static_cast<double>(best.x_host) / static_cast<double>(tokens);
  }
  return curve;
}

}  // namespace iokv
