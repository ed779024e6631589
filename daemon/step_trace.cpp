// SPDX-License-Identifier: Apache-2.0
#include "daemon/step_trace.h"

#include <algorithm>
#include <cstring>

namespace iokv {
namespace {

constexpr uint32_t kKinds = static_cast<uint32_t>(OpKind::finish) + 1;
static_assert(kQueues == wire::kTraceLanes);

class Writer {
 public:
  explicit Writer(size_t bytes) { bytes_.reserve(bytes); }
  template <typename T>
  void put(const T& value) {
    const auto* raw = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), raw, raw + sizeof value);
  }
  void put_name(const char* text) {
    char name[wire::kTraceNameBytes] = {};
    std::strncpy(name, text, sizeof name - 1);
    put(name);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

wire::TraceStep step_of(const Plan& plan) {
  wire::TraceStep step{};
  step.id = plan.id;
  step.started_ns = plan.measured.started_ns;
  step.ended_ns = plan.measured.ended_ns;
  step.step_ns = plan.measured.step_ns;
  step.predicted_ns = static_cast<uint64_t>(plan.predicted.total_ns);
  auto predicted = [&](Queue lane, double ns) { step.lane_predicted_ns[static_cast<size_t>(lane)] = static_cast<uint64_t>(ns); };
  predicted(Queue::h2d, plan.predicted.h2d_ns);
  predicted(Queue::d2h, plan.predicted.d2h_ns);
  predicted(Queue::recompute, plan.predicted.recompute_ns);
  predicted(Queue::dense, plan.predicted.dense_ns);
  predicted(Queue::host, plan.predicted.host_ns);
  step.rows = static_cast<uint32_t>(plan.tokens.size());
  step.sequences = static_cast<uint32_t>(plan.spans.size());
  step.ops = static_cast<uint32_t>(plan.times.size());
  step.ops_left_out = plan.times_left_out;
  return step;
}

wire::TraceOp op_of(const OpTime& time) {
  wire::TraceOp op{};
  op.begin_ns = time.begin_ns;
  op.end_ns = time.end_ns;
  op.bytes = time.bytes;
  op.tokens = time.tokens;
  op.round = time.round;
  op.layer = time.layer;
  op.lane = static_cast<uint8_t>(time.queue);
  op.kind = static_cast<uint8_t>(time.kind);
  return op;
}

}  // namespace

void StepTrace::keep(Plan& plan) {
  if (kept_.empty() || !plan.failure.empty()) return;
  Kept& oldest = kept_[total_++ % kept_.size()];
  oldest.step = step_of(plan);
  std::swap(oldest.ops, plan.times);
}

std::vector<std::byte> StepTrace::bytes() const {
  const uint64_t steps = std::min<uint64_t>(total_, kept_.size());
  auto each_kept = [&](const auto& act) {
    for (uint64_t i = total_ - steps; i < total_; ++i) act(kept_[i % kept_.size()]);
  };
  wire::TraceHeader header{};
  header.header_bytes = sizeof header;
  header.lanes = kQueues;
  header.kinds = kKinds;
  header.step_bytes = sizeof(wire::TraceStep);
  header.op_bytes = sizeof(wire::TraceOp);
  header.steps = static_cast<uint32_t>(steps);
  each_kept([&](const Kept& kept) { header.ops += kept.step.ops; });
  Writer writer(sizeof header + (kQueues + kKinds) * wire::kTraceNameBytes + steps * sizeof(wire::TraceStep) +
                header.ops * sizeof(wire::TraceOp));
  writer.put(header);
  for (uint32_t i = 0; i < kQueues; ++i) writer.put_name(name_of(static_cast<Queue>(i)));
  for (uint32_t i = 0; i < kKinds; ++i) writer.put_name(name_of(static_cast<OpKind>(i)));
  each_kept([&](const Kept& kept) { writer.put(kept.step); });
  each_kept([&](const Kept& kept) {
    for (const OpTime& time : kept.ops) writer.put(op_of(time));
  });
  return writer.take();
}

}  // namespace iokv
