// SPDX-License-Identifier: Apache-2.0
// Pure: a snapshot in, text out. A counter that no group names is printed under "other", so that a new one shows up
// before anybody has thought about where it belongs.
#include "tools/status.h"

#include "tools/token_times.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace iokv {

namespace {

using wire::Counter;

struct Group {
  std::string_view title;
  std::vector<Counter> counters;
};

const std::vector<Group>& groups() {
  static const std::vector<Group> kGroups = {
      {"clients", {Counter::clients, Counter::clients_total, Counter::clients_ended, Counter::sequences}},
      {"operations",
       {Counter::operations, Counter::submissions, Counter::completions, Counter::refusals, Counter::parked,
        Counter::waiting}},
      {"steps",
       {Counter::steps, Counter::steps_shared, Counter::steps_multiclient_possible, Counter::step_ns,
        Counter::prefill_tokens, Counter::decode_tokens, Counter::sampled_tokens, Counter::recomputed_tokens}},
      {"memory",
       {Counter::pool_bytes, Counter::pool_units, Counter::pool_units_free, Counter::weights_bytes,
        Counter::model_file_bytes, Counter::preemptions, Counter::stall_releases}},
      {"waking",
       {Counter::wakeups, Counter::doorbells_sent, Counter::doorbells_received, Counter::first_works,
        Counter::first_work_ns}},
  };
  return kGroups;
}

constexpr std::array kInHeading = {Counter::instance, Counter::pid, Counter::start_ns, Counter::ready,
                                   Counter::loading_percent};

std::string bytes_text(uint64_t bytes) {
  constexpr std::array<const char*, 4> kUnits = {"B", "KiB", "MiB", "GiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string duration_text(uint64_t ns) {
  if (ns < 10'000) return fmt::format("{} ns", ns);
  if (ns < 10'000'000) return fmt::format("{:.1f} us", static_cast<double>(ns) / 1e3);
  if (ns < 10'000'000'000) return fmt::format("{:.1f} ms", static_cast<double>(ns) / 1e6);
  const uint64_t seconds = ns / 1'000'000'000;
  if (seconds < 3600) return fmt::format("{}:{:02} min", seconds / 60, seconds % 60);
  return fmt::format("{} h {:02} min", seconds / 3600, seconds / 60 % 60);
}

std::string value_text(uint64_t value, std::string_view unit) {
  if (unit == "bytes") return bytes_text(value);
  if (unit == "ns") return duration_text(value);
  if (unit == "1") return std::to_string(value);
  return fmt::format("{} {}", value, unit);
}

void append_counter(std::string& text, const CounterSnapshot& snapshot, Counter counter) {
  const auto index = static_cast<uint32_t>(counter);
  if (index >= snapshot.known) return;
  const CounterInfo& info = kCounterInfos[index];
  text += fmt::format("  {:<27} {:>16}  {}\n", info.name, value_text(snapshot.values[index], info.unit), info.meaning);
}

std::string percent_text(uint64_t part, uint64_t whole) {
  return whole == 0 ? "-" : fmt::format("{:.1f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string times_line(const CounterSnapshot& snapshot, const wire::TokenTimes& times) {
  auto bound = [&](double share) {
    const auto ns = quantile_ns(snapshot, times, share);
    return ns ? fmt::format("<= {}", duration_text(*ns)) : std::string("-");
  };
  const uint64_t tokens = tokens_of(snapshot, times);
  return fmt::format("  {:<27} {:>16}  {}: mean {}, half {}, 99 % {}\n", times.name, fmt::format("{} tokens", tokens), times.meaning,
                     tokens == 0 ? "-" : duration_text(snapshot[times.sum_ns()] / tokens), bound(0.5), bound(0.99));
}

std::string heading(const CounterSnapshot& snapshot, uint64_t now_ns) {
  const uint64_t start_ns = snapshot[Counter::start_ns];
  std::string state = snapshot[Counter::ready] != 0
                          ? "ready"
                          : fmt::format("loading its model, {} %", snapshot[Counter::loading_percent]);
  const uint64_t units = snapshot[Counter::pool_units];
  return fmt::format("iokvd on {}: {}, pid {}, up {}\npool in use {}, steps shared by clients {}\n",
                     snapshot.socket_path, state, snapshot[Counter::pid],
                     duration_text(now_ns > start_ns ? now_ns - start_ns : 0),
                     percent_text(units - std::min(units, snapshot[Counter::pool_units_free]), units),
                     percent_text(snapshot[Counter::steps_shared], snapshot[Counter::steps_multiclient_possible]));
}

}  // namespace

std::string status_text(const CounterSnapshot& snapshot, uint64_t now_ns) {
  std::string text = heading(snapshot, now_ns);
  std::vector<bool> shown(wire::kCounters, false);
  for (Counter counter : kInHeading) shown[static_cast<uint32_t>(counter)] = true;
  for (const Group& group : groups()) {
    text += fmt::format("\n{}\n", group.title);
    for (Counter counter : group.counters) {
      append_counter(text, snapshot, counter);
      shown[static_cast<uint32_t>(counter)] = true;
    }
  }
  text += "\ntimes of tokens\n";
  for (const wire::TokenTimes& times : {wire::kFirstToken, wire::kTokenGap}) {
    text += times_line(snapshot, times);
    for (uint32_t i = 0; i <= wire::kTokenTimeBounds + 1; ++i) shown[static_cast<uint32_t>(times.slot(i))] = true;
  }
  if (std::find(shown.begin(), shown.end(), false) != shown.end()) text += "\nother\n";
  for (uint32_t i = 0; i < wire::kCounters; ++i) {
    if (!shown[i]) append_counter(text, snapshot, static_cast<Counter>(i));
  }
  return text;
}

std::string status_json(const CounterSnapshot& snapshot) {
  nlohmann::ordered_json object;
  for (uint32_t i = 0; i < snapshot.known; ++i) object[kCounterInfos[i].name] = snapshot.values[i];
  return object.dump(2) + "\n";
}

}  // namespace iokv
