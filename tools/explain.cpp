// SPDX-License-Identifier: Apache-2.0
#include "tools/explain.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "iokv/iokv.h"
#include "tools/observer.h"
#include "wire/times.h"

namespace iokv {
namespace {

std::string name_of(const wire::SequenceRow& row) {
  const char* end = std::find(row.client_name, std::end(row.client_name), '\0');
  return {row.client_name, end};
}

const char* text_of(wire::SequenceState state) {
  switch (state) {
    case wire::SequenceState::idle: return "idle";
    case wire::SequenceState::running: return "running";
    case wire::SequenceState::waiting: return "waiting";
    case wire::SequenceState::parked: return "parked";
  }
  return "unknown";
}

// A sequence that waited longer than anything took was bound by the others.
const char* bound_of(const wire::SpentTimes& times, uint64_t host_ns) {
  const std::array<std::pair<uint64_t, const char*>, 5> candidates = {{{times.dense_ns, "dense"},
                                                                       {times.recompute_ns, "recompute"},
                                                                       {host_ns, "host"},
                                                                       {times.link_ns, "link"},
                                                                       {times.queued_ns, "queued"}}};
  return std::max_element(candidates.begin(), candidates.end(),
                          [](const auto& a, const auto& b) { return a.first < b.first; })->second;
}

std::string us(uint64_t ns) { return fmt::format("{:.1f}", static_cast<double>(ns) / 1e3); }

std::string heading() {
  return fmt::format("{:>12} {:>8}  {:<20} {:>8} {:>8} {:>8} {:>8} {:>8}  {}\n", "sequence", "pid", "client", "tokens",
                     "cached", "K,V", "X", "priority", "state");
}

std::string line_of(const wire::SequenceRow& row) {
  return fmt::format("{:>12} {:>8}  {:<20} {:>8} {:>8} {:>8} {:>8} {:>8}  {}\n", row.id, row.pid, name_of(row), row.length,
                     row.cached, row.kv_blocks, row.x_blocks, row.priority, text_of(row.state));
}

uint32_t steps_of(const wire::SequenceRow& row) { return std::min(row.steps, wire::kRowSteps); }

}  // namespace

Result<std::vector<wire::SequenceRow>> read_sequences(const std::vector<std::byte>& blob) {
  wire::SequencesHeader header;
  const Error malformed = error("the daemon's table of sequences is not laid out as it says", IOKV_EPROTOCOL);
  if (!read_part(blob, 0, sizeof header, 0, header)) return malformed;
  std::vector<wire::SequenceRow> rows;
  for (uint32_t i = 0; i < header.sequences; ++i) {
    wire::SequenceRow row{};
    if (!read_part(blob, header.header_bytes, header.row_bytes, i, row)) return malformed;
    rows.push_back(row);
  }
  return rows;
}

std::vector<wire::SequenceRow> matching(const std::vector<wire::SequenceRow>& rows, const SequenceQuestion& question) {
  std::vector<wire::SequenceRow> found;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(found), [&](const wire::SequenceRow& row) {
    return row.id == question.id.value_or(row.id) && row.pid == question.pid.value_or(row.pid);
  });
  return found;
}

std::string sequence_list(const std::vector<wire::SequenceRow>& rows) {
  std::string text = heading();
  for (const wire::SequenceRow& row : rows) text += line_of(row);
  return text;
}

std::string sequence_steps(const std::vector<wire::SequenceRow>& rows) {
  std::string text;
  for (const wire::SequenceRow& row : rows) {
    if (!text.empty()) text += '\n';
    text += heading();
    text += line_of(row);
    if (steps_of(row) == 0) text += "none of its steps has ended yet\n";
    if (steps_of(row) > 0) {
      text += fmt::format("{:>12} {:>14} {:>14} {:>14} {:>14} {:>14}  {}\n", "step", "queued us", "link us", "recompute us",
                          "dense us", "host us", "bound by");
    }
    for (uint32_t i = 0; i < steps_of(row); ++i) {
      const wire::SpentTimes times = wire::unpack_times(row.times[i]);
      const std::string step = i + 1 == steps_of(row) ? "last" : fmt::format("last - {}", steps_of(row) - 1 - i);
      const uint64_t host_ns = wire::unpack_duration(row.host_times[i]);
      text += fmt::format("{:>12} {:>14} {:>14} {:>14} {:>14} {:>14}  {}\n", step, us(times.queued_ns), us(times.link_ns),
                          us(times.recompute_ns), us(times.dense_ns), us(host_ns), bound_of(times, host_ns));
    }
  }
  return text;
}

std::string sequences_json(const std::vector<wire::SequenceRow>& rows) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const wire::SequenceRow& row : rows) {
    nlohmann::ordered_json steps = nlohmann::ordered_json::array();
    for (uint32_t i = 0; i < steps_of(row); ++i) {
      const wire::SpentTimes times = wire::unpack_times(row.times[i]);
      const uint64_t host_ns = wire::unpack_duration(row.host_times[i]);
      steps.push_back({{"queued_ns", times.queued_ns}, {"link_ns", times.link_ns}, {"recompute_ns", times.recompute_ns},
                       {"dense_ns", times.dense_ns}, {"host_ns", host_ns}, {"bound", bound_of(times, host_ns)}});
    }
    array.push_back({{"sequence", row.id}, {"client_id", row.client_id}, {"pid", row.pid}, {"client", name_of(row)},
                     {"length", row.length}, {"cached", row.cached}, {"kv_blocks", row.kv_blocks},
                     {"x_blocks", row.x_blocks}, {"priority", row.priority}, {"state", text_of(row.state)},
                     {"operations", row.operations}, {"steps", steps}});
  }
  return array.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace iokv
