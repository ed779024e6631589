// SPDX-License-Identifier: Apache-2.0
// What `iokv plan` prints: for people, and as JSON with every number unrounded.
#include <algorithm>
#include <array>
#include <iterator>
#include <numeric>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tools/plan.h"

namespace iokv {
namespace {

double gib(uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024 * 1024); }

std::string_view title_of(std::string_view run) {
  if (run == "paper") return "the paper's l";
  if (run == "paper_x_waited") return "the paper's l, X waited for";
  if (run == "auto_cpu") return "auto, the CPU attends too";
  return run;
}

double tokens_per_s(const PlanQuestion& question, const PlannedRun& run) {
  return static_cast<double>(question.batch) * question.generate / run.total_s;
}

const char* place_of(const WeightChoice& weights) {
  const StreamedLayers& layers = weights.layers;
  return layers.streamed == 0 ? "device" : layers.streamed == layers.layers ? "host" : "device and host";
}

std::string run_lines(const PlanQuestion& question, const PlanAnswer& answer) {
  std::string text;
  std::string_view model;
  const double context = static_cast<double>(answer.context);
  for (const PlannedRun& run : answer.runs) {
    if (run.model != model) {
      model = run.model;
      text += fmt::format("{:<36}{:>9}{:>10}{:>10}{:>10}{:>10}  binds\n",
                          model == "serial" ? "layer after layer, as KVPR models it" : "streaming, as iokv runs", "l",
                          "link s", "device s", "total s", "tokens/s");
    }
    text += fmt::format("  {:<28}{:>5.1f} %{:>8.1f}{:>#10.4g}{:>#10.4g}{:>#10.4g}{:>10.1f}  {}\n", title_of(run.name),
                        context > 0 ? 100 * run.split_tokens / context : 0, run.split_tokens, run.link_s, run.device_s,
                        run.total_s, tokens_per_s(question, run), name_of(run.binds));
  }
  return text;
}

std::string placement_lines(std::string_view under, const std::array<uint64_t, kPlaces>& placement) {
  std::string text = fmt::format("\nplacement under {} at the last step, in tokens of each layer\n", under);
  auto out = std::back_inserter(text);
  const uint64_t all = std::accumulate(placement.begin(), placement.end(), uint64_t{0});
  if (all == 0) text += "  nothing is cached\n";
  for (size_t place = 0; place < kPlaces; ++place) {
    if (placement[place] == 0) continue;
    fmt::format_to(out, "  {:<28}{:>5.1f} %{:>12}\n", name_of(static_cast<Place>(place)),
                   100 * static_cast<double>(placement[place]) / static_cast<double>(all), placement[place]);
  }
  return text;
}

}  // namespace

std::string plan_text(const PlanQuestion& question, const PlanAnswer& answer) {
  std::string text;
  auto out = std::back_inserter(text);
  fmt::format_to(out, "{} on {}\n", question.model.name, question.hardware.description);
  fmt::format_to(out, "  its figures: {}\n", question.hardware.source);
  fmt::format_to(out, "batch {}, {} tokens of prompt, {} generated; weights on the {} ({:.1f} GiB)\n", question.batch,
                 question.prompt, question.generate, place_of(answer.weights), gib(answer.weight_bytes));
  if (answer.weights.layers.streamed > 0) {
    fmt::format_to(out, "{} of {} layers' weights cross the link in every step, {:.1f} GiB; weights take {:.1f} GiB of the "
                   "device\n", answer.weights.layers.streamed, answer.weights.layers.layers,
                   gib(answer.streamed_weight_bytes), gib(answer.weights.device_bytes));
  }
  fmt::format_to(out, "K,V grows from {:.1f} to {:.1f} GiB; l is of the {} cached tokens of a sequence at the last "
                 "step\n\n", gib(answer.first_kv_bytes), gib(answer.last_kv_bytes), answer.context);
  text += run_lines(question, answer);

  const auto is_auto = [](const PlannedRun& run) { return run.name == std::string_view("auto"); };
  const PlannedRun& best = *std::find_if(answer.runs.begin(), answer.runs.end(), is_auto);
  fmt::format_to(out, "bound: {:#.4g} s, what the link alone needs; auto takes {:.3f} times that\n", answer.bound_s,
                 best.total_s / answer.bound_s);
  if (const PlannedRun& last = answer.runs.back(); &last != &best) {
    fmt::format_to(out, "with the CPU's part of attention, which takes {:#.4g} s with what waits for it, {:#.4g} s: {:.3f} times "
                        "the bound\n", last.host_s, last.total_s, last.total_s / answer.bound_s);
  }
  text += placement_lines("auto", answer.placement);
  if (&answer.runs.back() != &best) text += placement_lines("auto, where the CPU attends,", answer.cpu_placement);
  return text;
}

std::string plan_json(const PlanQuestion& question, const PlanAnswer& answer) {
  nlohmann::ordered_json json;
  json["hardware"] = question.hardware.name;
  json["source"] = question.hardware.source;
  json["model"] = question.model.name;
  json["batch"] = question.batch;
  json["prompt"] = question.prompt;
  json["generate"] = question.generate;
  json["weights"] = place_of(answer.weights);
  json["streamed_layers"] = answer.weights.layers.streamed;
  json["streamed_weight_bytes"] = answer.streamed_weight_bytes;
  json["device_weight_bytes"] = answer.weights.device_bytes;
  json["device_kv_bytes"] = question.device_kv_bytes;
  json["device_bytes"] = question.device_bytes;
  json["weight_bytes"] = answer.weight_bytes;
  json["first_kv_bytes"] = answer.first_kv_bytes;
  json["last_kv_bytes"] = answer.last_kv_bytes;
  json["context"] = answer.context;
  for (const PlannedRun& run : answer.runs) {
    auto& one = json[run.model][run.name];
    one["split_tokens"] = run.split_tokens;
    one["link_s"] = run.link_s;
    one["device_s"] = run.device_s;
    one["host_s"] = run.host_s;
    one["total_s"] = run.total_s;
    one["tokens_per_s"] = tokens_per_s(question, run);
    one["binds"] = name_of(run.binds);
  }
  json["bound_s"] = answer.bound_s;
  constexpr const char* kNames[kPlaces] = {"kv_device", "x_device", "kv_host", "x_host", "kv_attended"};
  for (size_t place = 0; place < kPlaces; ++place) {
    json["placement_tokens"][kNames[place]] = answer.placement[place];
    if (answer.runs.back().name == std::string_view("auto_cpu")) json["cpu_placement_tokens"][kNames[place]] = answer.cpu_placement[place];
  }
  return json.dump(2) + "\n";
}

}  // namespace iokv
