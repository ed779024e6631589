// SPDX-License-Identifier: Apache-2.0
#include "tools/top.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <thread>

#include <fmt/format.h>

#include "daemon/base/monotonic.h"
#include "tools/explain.h"
#include "tools/latency.h"
#include "tools/token_times.h"

namespace iokv {
namespace {

using wire::Counter;

// How often something has happened between the two readings.
uint64_t delta(const TopFrame& frame, uint32_t index) {
  return frame.now.values[index] - std::min(frame.now.values[index], frame.before.values[index]);
}
uint64_t delta(const TopFrame& frame, Counter counter) { return delta(frame, static_cast<uint32_t>(counter)); }

double per_second(const TopFrame& frame, uint64_t count) {
  return frame.elapsed_ns == 0 ? 0 : static_cast<double>(count) * 1e9 / static_cast<double>(frame.elapsed_ns);
}

double percent(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : 100 * static_cast<double>(part) / static_cast<double>(whole);
}

// Of the tokens between the two readings.
std::string times_text(const TopFrame& frame, const wire::TokenTimes& times) {
  if (frame.now.known <= static_cast<uint32_t>(times.sum_ns())) return "not counted by this daemon";
  CounterSnapshot between = frame.now;
  for (uint32_t i = 0; i < between.known; ++i) between.values[i] = delta(frame, i);
  const uint64_t tokens = tokens_of(between, times);
  if (tokens == 0) return "none";
  auto at = [&](double share) {
    const auto ns = quantile_ns(between, times, share);
    return ns ? "<= " + short_duration(static_cast<double>(*ns)) : std::string("longer");
  };
  return fmt::format("mean {}, p50 {}, p90 {}, p99 {}  ({} tokens)",
                     short_duration(static_cast<double>(between[times.sum_ns()]) / static_cast<double>(tokens)), at(0.5),
                     at(0.9), at(0.99), tokens);
}

std::string bytes_text(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1024;
  return fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

// What was busy for longest of the time in which steps ran.
std::string binds_text(const TopFrame& frame) {
  const uint64_t step_ns = delta(frame, Counter::step_ns);
  if (delta(frame, Counter::steps) == 0) return "nothing: no step has ended";
  if (frame.now[Counter::waiting] > 0) {
    return fmt::format("the pool: {} sequences wait for blocks", frame.now[Counter::waiting]);
  }
  const std::pair<const char*, uint64_t> candidates[] = {
      {"the device's dense work", delta(frame, Counter::dense_busy_ns)},
      {"the link to the device", delta(frame, Counter::h2d_busy_ns)},
      {"the link from the device", delta(frame, Counter::d2h_busy_ns)},
      {"recomputing K,V", delta(frame, Counter::recompute_busy_ns)},
      {"attention on the host", delta(frame, Counter::host_busy_ns)}};
  const auto most = std::max_element(std::begin(candidates), std::end(candidates),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  if (percent(step_ns, frame.elapsed_ns) < 50) {
    return fmt::format("the clients: steps take {:.0f} % of the time", percent(step_ns, frame.elapsed_ns));
  }
  return fmt::format("{}: busy for {:.0f} % of the steps' time", most->first, percent(most->second, step_ns));
}

struct ClientLine {
  std::string name;
  uint32_t pid = 0;
  uint64_t sequences = 0, running = 0, waiting = 0, parked = 0, tokens = 0, cached = 0;
};

std::vector<ClientLine> clients_of(const std::vector<wire::SequenceRow>& rows) {
  std::map<uint64_t, ClientLine> by_id;
  for (const wire::SequenceRow& row : rows) {
    ClientLine& line = by_id[row.client_id];
    line.name.assign(row.client_name, std::find(row.client_name, std::end(row.client_name), '\0'));
    line.pid = row.pid;
    line.sequences++;
    line.running += row.state == wire::SequenceState::running ? 1 : 0;
    line.waiting += row.state == wire::SequenceState::waiting ? 1 : 0;
    line.parked += row.state == wire::SequenceState::parked ? 1 : 0;
    line.tokens += row.length;
    line.cached += row.cached;
  }
  std::vector<ClientLine> lines;
  for (auto& [id, line] : by_id) lines.push_back(std::move(line));
  std::stable_sort(lines.begin(), lines.end(),
                   [](const ClientLine& a, const ClientLine& b) { return a.running > b.running; });
  return lines;
}

std::string state_text(const CounterSnapshot& now) {
  return now[Counter::ready] != 0 ? "ready" : fmt::format("loading its model, {} %", now[Counter::loading_percent]);
}

}  // namespace

std::string top_text(const TopFrame& frame) {
  const CounterSnapshot& now = frame.now;
  const uint64_t steps = delta(frame, Counter::steps), step_ns = delta(frame, Counter::step_ns);
  const uint64_t units = now[Counter::pool_units], free = std::min(units, now[Counter::pool_units_free]);
  const auto up_ns = static_cast<double>(frame.now_ns - std::min(frame.now_ns, now[Counter::start_ns]));
  std::string text = fmt::format("iokvd on {}: {}, pid {}, up {:.0f} s\n\n", now.socket_path, state_text(now),
                                 now[Counter::pid], up_ns / 1e9);
  text += fmt::format("clients        {}, {} sequences open, {} operations, {} waiting for blocks, {} for their client\n",
                      now[Counter::clients], now[Counter::sequences], now[Counter::operations], now[Counter::waiting],
                      now[Counter::parked]);
  text += fmt::format("tokens/s       {:.1f} sampled, {:.1f} decoded, {:.1f} of prompts\n",
                      per_second(frame, delta(frame, Counter::sampled_tokens)),
                      per_second(frame, delta(frame, Counter::decode_tokens)),
                      per_second(frame, delta(frame, Counter::prefill_tokens)));
  text += fmt::format("steps          {:.1f}/s of {}, {:.0f} % of the time\n", per_second(frame, steps),
                      steps == 0 ? "-" : short_duration(static_cast<double>(step_ns) / static_cast<double>(steps)),
                      percent(step_ns, frame.elapsed_ns));
  text += fmt::format("first token    {}\n", times_text(frame, wire::kFirstToken));
  text += fmt::format("between tokens {}\n", times_text(frame, wire::kTokenGap));
  text += fmt::format("pool           {:.1f} % of {} in use, {} blocks as K,V, {} as X, {} preemptions\n",
                      percent(units - free, units), bytes_text(static_cast<double>(now[Counter::pool_bytes])),
                      now[Counter::kv_blocks], now[Counter::x_blocks], delta(frame, Counter::preemptions));
  text += fmt::format("link           {}/s to the device, {}/s back\n",
                      bytes_text(per_second(frame, delta(frame, Counter::h2d_bytes))),
                      bytes_text(per_second(frame, delta(frame, Counter::d2h_bytes))));
  text += fmt::format("bound by       {}\n\n", binds_text(frame));
  text += fmt::format("{:>8}  {:<24} {:>9} {:>8} {:>8} {:>7} {:>10} {:>10}\n", "pid", "client", "sequences", "running",
                      "waiting", "parked", "tokens", "cached");
  for (const ClientLine& line : clients_of(frame.sequences)) {
    text += fmt::format("{:>8}  {:<24} {:>9} {:>8} {:>8} {:>7} {:>10} {:>10}\n", line.pid, line.name, line.sequences,
                        line.running, line.waiting, line.parked, line.tokens, line.cached);
  }
  return text;
}

Status top(const std::string& socket_path, double interval_s, uint32_t frames) {
  IOKV_TRY_ASSIGN(const CounterWatch counters, CounterWatch::open(socket_path));
  const bool terminal = ::isatty(STDOUT_FILENO) != 0;
  TopFrame frame;
  const auto first = counters.read();
  if (!first) return error("the daemon is gone");
  frame.before = *first;
  uint64_t before_ns = monotonic_ns();
  for (uint32_t printed = 0; frames == 0 || printed < frames; ++printed) {
    std::this_thread::sleep_for(std::chrono::duration<double>(interval_s));
    const auto now = counters.read();
    if (!now) return error(frame.before.socket_path + ": the daemon is gone");
    frame.now = *now;
    frame.now_ns = monotonic_ns();
    frame.elapsed_ns = frame.now_ns - before_ns;
    // While a model loads there is no table yet, and an older daemon has none.
    frame.sequences.clear();
    if (auto blob = read_blob(frame.now.socket_path, wire::BlobKind::sequences)) {
      if (auto rows = read_sequences(blob->bytes)) frame.sequences = *std::move(rows);
    }
    // Home, then what is left of the screen cleared behind the text.
    std::string text = top_text(frame);
    if (terminal) text = "\x1b[H\x1b[2J" + text;
    if (std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0) return error("standard output is closed");
    frame.before = frame.now;
    before_ns = frame.now_ns;
  }
  return {};
}

}  // namespace iokv
