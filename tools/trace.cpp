// SPDX-License-Identifier: Apache-2.0
#include "tools/trace.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "iokv/iokv.h"
#include "tools/observer.h"
#include "wire/trace.h"

namespace iokv {
namespace {

using Json = nlohmann::ordered_json;
using Name = std::array<char, wire::kTraceNameBytes>;

struct Trace {
  std::vector<std::string> lanes, kinds;
  std::vector<wire::TraceStep> steps;
  std::vector<wire::TraceOp> ops;
};

Error malformed() { return error("the daemon's trace is not laid out as it says", IOKV_EPROTOCOL); }

std::string text_of(const Name& name) { return {name.begin(), std::find(name.begin(), name.end(), '\0')}; }

Result<Trace> read_trace(const std::vector<std::byte>& blob) {
  Trace trace;
  wire::TraceHeader header;
  if (!read_part(blob, 0, sizeof header, 0, header)) return malformed();
  uint64_t offset = header.header_bytes;
  auto read_all = [&](auto& parts, uint64_t count, uint64_t bytes) {
    if (count > blob.size()) return false;
    parts.resize(count);
    for (uint64_t i = 0; i < count; ++i) {
      if (!read_part(blob, offset, bytes, i, parts[i])) return false;
    }
    offset += count * bytes;
    return true;
  };
  std::vector<Name> lanes, kinds;
  if (!read_all(lanes, header.lanes, sizeof(Name)) || !read_all(kinds, header.kinds, sizeof(Name)) ||
      !read_all(trace.steps, header.steps, header.step_bytes) || !read_all(trace.ops, header.ops, header.op_bytes)) {
    return malformed();
  }
  uint64_t ops = 0;
  for (const wire::TraceStep& step : trace.steps) ops += step.ops;
  for (const wire::TraceOp& op : trace.ops) {
    if (op.lane >= lanes.size() || op.kind >= kinds.size() || op.end_ns < op.begin_ns) return malformed();
  }
  if (ops != trace.ops.size()) return malformed();
  std::transform(lanes.begin(), lanes.end(), std::back_inserter(trace.lanes), text_of);
  std::transform(kinds.begin(), kinds.end(), std::back_inserter(trace.kinds), text_of);
  if (trace.steps.empty()) return error("no step has been kept: none has run, or iokvd has --trace-steps 0");
  return trace;
}

constexpr uint32_t kStepThread = 1;
constexpr uint32_t thread_of(size_t lane) { return kStepThread + 1 + 2 * static_cast<uint32_t>(lane); }

class ChromeEvents {
 public:
  explicit ChromeEvents(uint64_t zero_ns) : zero_ns_(zero_ns) {}

  // Threads are drawn in the order of `place`.
  void name_thread(uint32_t thread, const std::string& name, uint32_t place) {
    add({{"name", "thread_name"}, {"ph", "M"}, {"pid", 1}, {"tid", thread}, {"args", {{"name", name}}}});
    add({{"name", "thread_sort_index"}, {"ph", "M"}, {"pid", 1}, {"tid", thread}, {"args", {{"sort_index", place}}}});
  }
  void add_span(uint32_t thread, const std::string& name, uint64_t begin_ns, uint64_t duration_ns, const Json& args) {
    // A double of µs is exact to the nanosecond for 2^53 ns, a hundred days.
    add({{"name", name}, {"ph", "X"}, {"pid", 1}, {"tid", thread},
         {"ts", static_cast<double>(begin_ns - zero_ns_) / 1e3}, {"dur", static_cast<double>(duration_ns) / 1e3},
         {"args", args}});
  }
  void add(const Json& event) {
    text_ += text_.empty() ? "  " : ",\n  ";
    text_ += event.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  std::string text() const { return "{\"displayTimeUnit\": \"ns\", \"traceEvents\": [\n" + text_ + "\n]}\n"; }

 private:
  uint64_t zero_ns_;
  std::string text_;
};

uint64_t counted_from_ns(const wire::TraceStep& step) { return step.ended_ns - std::min(step.ended_ns, step.step_ns); }

uint64_t first_ns(const Trace& trace) {
  uint64_t first = UINT64_MAX;
  for (const wire::TraceStep& step : trace.steps) first = std::min({first, step.started_ns, counted_from_ns(step)});
  for (const wire::TraceOp& op : trace.ops) first = std::min(first, op.begin_ns);
  return first;
}

// The link first: it runs ahead of the others. Each measured lane has its prediction beside it.
void name_lanes(ChromeEvents& events, const Trace& trace) {
  events.add({{"name", "process_name"}, {"ph", "M"}, {"pid", 1}, {"args", {{"name", "iokvd"}}}});
  events.name_thread(kStepThread, "step", 0);
  const auto lanes = static_cast<uint32_t>(trace.lanes.size());
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    const bool link = trace.lanes[lane] == "h2d" || trace.lanes[lane] == "d2h";
    const uint32_t place = 1 + 2 * (lane + (link ? 0 : lanes));
    events.name_thread(thread_of(lane), trace.lanes[lane], place);
    events.name_thread(thread_of(lane) + 1, "predicted " + trace.lanes[lane], place + 1);
  }
}

// Where one prediction ends behind the beginning of the next step, the next one starts there.
void add_predictions(ChromeEvents& events, const Trace& trace) {
  std::vector<uint64_t> free_ns(trace.lanes.size(), 0);
  for (const wire::TraceStep& step : trace.steps) {
    for (size_t lane = 0; lane < std::min<size_t>(trace.lanes.size(), wire::kTraceLanes); ++lane) {
      const uint64_t ns = step.lane_predicted_ns[lane];
      if (ns == 0) continue;
      const uint64_t begin_ns = std::max(free_ns[lane], counted_from_ns(step));
      events.add_span(thread_of(lane) + 1, fmt::format("step {}", step.id), begin_ns, ns, {{"step", step.id}});
      free_ns[lane] = begin_ns + ns;
    }
  }
}

}  // namespace

Result<std::string> chrome_trace(const std::vector<std::byte>& blob) {
  IOKV_TRY_ASSIGN(const Trace trace, read_trace(blob));
  ChromeEvents events(first_ns(trace));
  name_lanes(events, trace);
  size_t next = 0;
  for (const wire::TraceStep& step : trace.steps) {
    events.add_span(kStepThread, fmt::format("step {}", step.id), counted_from_ns(step), step.step_ns,
                    {{"step", step.id}, {"rows", step.rows}, {"sequences", step.sequences},
                     {"predicted_us", static_cast<double>(step.predicted_ns) / 1e3}, {"left_out", step.ops_left_out}});
    for (uint32_t i = 0; i < step.ops; ++i) {
      const wire::TraceOp& op = trace.ops[next++];
      events.add_span(thread_of(op.lane), trace.kinds[op.kind], op.begin_ns, op.end_ns - op.begin_ns,
                      {{"step", step.id}, {"layer", op.layer}, {"round", op.round}, {"bytes", op.bytes}, {"tokens", op.tokens}});
    }
  }
  add_predictions(events, trace);
  return events.text();
}

}  // namespace iokv
