// SPDX-License-Identifier: Apache-2.0
#include "bench/cuda_operations.h"

#include <cstdio>

#include "bench/cuda_model.h"
#include "daemon/base/monotonic.h"

namespace iokv::bench {
namespace {

constexpr uint32_t kLayers = 3;         // 1.2 GB of weights
constexpr uint32_t kMostRows = 4096;
constexpr uint32_t kSequences = 32, kContext = 1024;

struct Time {
  double device_us = 0, issue_us = 0;
};

class Operations {
 public:
  explicit Operations(Backend& backend) : backend_(backend), spec_(opt_6_7b(kContext)) { spec_.layers = kLayers; }
  Status run();

 private:
  Status prepare();
  template <typename Issue>
  Result<Time> time(Queue queue, uint32_t times, const Issue& issue);
  Status products();
  Status product(const char* name, LinearWeights LayerWeights::*weights, uint32_t rows, uint32_t first_column,
                 GemmOutput output, Queue queue = Queue::dense);
  Status head(uint32_t rows);
  Status rows();
  Status attention();
  Status attend(const char* name, uint32_t sequences, uint32_t rows_each, double bytes, double flops);
  Status overheads();
  void print(const char* name, uint32_t rows, Time time, double bytes, double flops) const;

  std::byte* at(const std::unique_ptr<DeviceMemory>& memory, size_t bytes = 0) const {
    return static_cast<std::byte*>(memory->data()) + bytes;
  }

  Backend& backend_;
  ModelSpec spec_;
  Weights weights_;
  std::byte* host_ = nullptr;
  static constexpr size_t kHostBytes = size_t{128} << 20;
  std::unique_ptr<DeviceMemory> x_, y_, hidden_, blocks_;
};

Status Operations::run() {
  IOKV_TRY(prepare());
  std::printf("%-22s %6s %10s %9s %9s %9s\n", "operation", "rows", "device us", "issue us", "GB/s", "TFLOP/s");
  IOKV_TRY(products());
  IOKV_TRY(rows());
  IOKV_TRY(attention());
  return overheads();
}

Status Operations::prepare() {
  IOKV_TRY_ASSIGN(host_, take_pool(backend_, kHostBytes));
  IOKV_TRY_ASSIGN(weights_, RandomWeights(backend_, spec_).make());
  const size_t row_bytes = size_t{spec_.ffn} * 2;
  IOKV_TRY_ASSIGN(x_, take_filled(backend_, kMostRows * row_bytes, host_, kHostBytes));
  IOKV_TRY_ASSIGN(y_, take_filled(backend_, kMostRows * row_bytes, host_, kHostBytes));
  // Halves of the host's numbers as floats are about 1 too.
  IOKV_TRY_ASSIGN(hidden_, take_filled(backend_, size_t{kMostRows} * spec_.hidden * 4, host_, kHostBytes));
  const size_t block = block_bytes(spec_, backend_.info().compute, BlockForm::kv);
  IOKV_TRY_ASSIGN(blocks_, take_filled(backend_, kSequences * kContext / kBlockTokens * block, host_, kHostBytes));
  return {};
}

template <typename Issue>
Result<Time> Operations::time(Queue queue, uint32_t times, const Issue& issue) {
  for (uint32_t i = 0; i < 3; ++i) issue(i);
  IOKV_TRY(backend_.poll(backend_.record(queue), true));
  const Ticket begin = backend_.record(queue);
  const uint64_t begun_ns = monotonic_ns();
  for (uint32_t i = 0; i < times; ++i) issue(i);
  const uint64_t issued_ns = monotonic_ns() - begun_ns;
  const Ticket end = backend_.record(queue);
  IOKV_TRY(backend_.poll(end, true));
  const double device_ns = static_cast<double>(backend_.reached_ns(end) - backend_.reached_ns(begin));
  return Time{device_ns / 1e3 / times, static_cast<double>(issued_ns) / 1e3 / times};
}

void Operations::print(const char* name, uint32_t rows, Time time, double bytes, double flops) const {
  std::printf("%-22s %6u %10.1f %9.1f", name, rows, time.device_us, time.issue_us);
  auto rate = [&](double of_what, double unit) {
    if (of_what > 0) {
      std::printf(" %9.1f", of_what / time.device_us / unit);
    } else {
      std::printf(" %9s", "");
    }
  };
  rate(bytes, 1e3);
  rate(flops, 1e6);
  std::printf("\n");
}

Status Operations::products() {
  for (uint32_t rows : {1u, 8u, 32u, 64u, 256u, kMostRows}) {
    IOKV_TRY(product("qkv", &LayerWeights::qkv, rows, 0, GemmOutput::store));
    IOKV_TRY(product("k,v again", &LayerWeights::qkv, rows, spec_.q_width(), GemmOutput::store));
    IOKV_TRY(product("o", &LayerWeights::o, rows, 0, GemmOutput::add_f32));
    IOKV_TRY(product("up", &LayerWeights::gate_up, rows, 0, GemmOutput::store));
    IOKV_TRY(product("down", &LayerWeights::down, rows, 0, GemmOutput::add_f32));
    if (rows <= 64) IOKV_TRY(head(rows));
  }
  // As a short step has them made, and a long one.
  for (uint32_t rows : {1024u, kMostRows}) {
    IOKV_TRY(product("k,v recomputed", &LayerWeights::qkv, rows, spec_.q_width(), GemmOutput::store, Queue::recompute));
  }
  return {};
}

Status Operations::product(const char* name, LinearWeights LayerWeights::*weights, uint32_t rows, uint32_t first_column,
                           GemmOutput output, Queue queue) {
  GemmArgs args;
  auto issue = [&](uint32_t i) {
    const LinearWeights& linear = weights_.layers[i % kLayers].*weights;
    args.weight = linear.matrix.get();
    args.first_column = first_column;
    args.columns = args.y_stride = args.weight->n - first_column;
    args.bias = static_cast<const float*>(linear.bias->data());
    args.x = at(x_);
    args.y = output == GemmOutput::store ? at(y_) : at(hidden_);
    args.rows = rows;
    args.output = output;
    backend_.gemm(queue, args);
  };
  IOKV_TRY_ASSIGN(const Time taken, time(queue, rows > 64 ? 12 : 60, issue));
  const double weight = static_cast<double>(args.columns) * args.weight->k;
  print(name, rows, taken, 2 * weight, 2 * weight * rows);
  return {};
}

Status Operations::head(uint32_t rows) {
  GemmArgs args;
  args.weight = &weights_.head();
  args.columns = args.y_stride = spec_.vocab;
  args.x = at(x_);
  args.y = at(y_);
  args.rows = rows;
  args.output = GemmOutput::store_f32;
  IOKV_TRY_ASSIGN(const Time taken, time(Queue::dense, 20, [&](uint32_t) { backend_.gemm(Queue::dense, args); }));
  const double weight = static_cast<double>(spec_.vocab) * spec_.hidden;
  print("head", rows, taken, 2 * weight, 2 * weight * rows);
  return {};
}

Status Operations::rows() {
  for (uint32_t rows : {1u, 32u, kMostRows}) {
    const double elements = static_cast<double>(rows) * spec_.hidden;
    NormArgs norm;
    norm.kind = spec_.norm;
    norm.weight = static_cast<const float*>(weights_.final_norm.weight->data());
    norm.bias = static_cast<const float*>(weights_.final_norm.bias->data());
    norm.x = reinterpret_cast<const float*>(at(hidden_));
    norm.y = at(y_);
    norm.rows = rows;
    norm.columns = spec_.hidden;
    IOKV_TRY_ASSIGN(Time taken, time(Queue::dense, 60, [&](uint32_t) { backend_.norm(Queue::dense, norm); }));
    print("norm", rows, taken, 6 * elements, 0);

    ActivateArgs activate;
    activate.kind = spec_.activation;
    activate.x = activate.y = at(y_);
    activate.rows = rows;
    activate.columns = spec_.ffn;
    IOKV_TRY_ASSIGN(taken, time(Queue::dense, 60, [&](uint32_t) { backend_.activate(Queue::dense, activate); }));
    print("activate", rows, taken, 4.0 * rows * spec_.ffn, 0);

    // As a decode step, or a few prompts, store K,V.
    RopeArgs rope;
    rope.shape = spec_.kv_shape();
    rope.k = at(y_);
    rope.v = at(y_, spec_.kv_width() * 2);
    rope.kv_stride = 2 * spec_.kv_width();
    const size_t block = block_bytes(spec_, backend_.info().compute, BlockForm::kv);
    std::vector<RopeRun> runs;
    const uint32_t of_a_run = rows == kMostRows ? kContext : 1;
    for (uint32_t row = 0; row < rows; row += of_a_run) {
      runs.push_back({row, of_a_run, 0, at(blocks_, row / of_a_run * (kContext / kBlockTokens) * block), block});
    }
    rope.runs = runs;
    IOKV_TRY_ASSIGN(taken, time(Queue::dense, 60, [&](uint32_t) { backend_.rope(Queue::dense, rope); }));
    print("store k,v", rows, taken, 8.0 * rows * spec_.kv_width(), 0);
  }
  return {};
}

Status Operations::attention() {
  const double kv_bytes = 4.0 * spec_.kv_width();  // of a token
  const double scores = static_cast<double>(spec_.heads) * spec_.head_dim * 4;  // FLOP of a row and token
  IOKV_TRY(attend("attend, decode", 1, 1, kContext * kv_bytes, 0));
  IOKV_TRY(attend("attend, decode", kSequences, 1, kSequences * kContext * kv_bytes, 0));
  const double prompts = static_cast<double>(kMostRows) / kContext;
  return attend("attend, prompts", kMostRows / kContext, kContext, 0, prompts * kContext * (kContext + 1) / 2 * scores);
}

Status Operations::attend(const char* name, uint32_t sequences, uint32_t rows_each, double bytes, double flops) {
  const size_t block = block_bytes(spec_, backend_.info().compute, BlockForm::kv);
  constexpr uint32_t kBlocks = kContext / kBlockTokens;
  std::vector<const void*> addresses(kSequences * kBlocks);
  for (uint32_t i = 0; i < addresses.size(); ++i) addresses[i] = at(blocks_, i * block);
  AttendArgs args;
  args.shape = spec_.kv_shape();
  args.scale = spec_.attention_scale;
  args.q = at(x_);
  args.q_stride = spec_.q_width();
  args.out = at(y_);
  std::vector<AttendSpan> spans(sequences);
  auto issue = [&](uint32_t i) {
    for (uint32_t s = 0; s < sequences; ++s) {
      const uint32_t sequence = (i * sequences + s) % kSequences;
      spans[s] = {s * rows_each, rows_each, kContext - rows_each, 0, std::span(addresses).subspan(sequence * kBlocks, kBlocks)};
    }
    args.spans = spans;
    backend_.attend(Queue::dense, args);
  };
  IOKV_TRY_ASSIGN(const Time taken, time(Queue::dense, 30, issue));
  print(name, sequences * rows_each, taken, bytes, flops);
  return {};
}

// What the host takes for what is not a kernel, beside an idle device.
Status Operations::overheads() {
  constexpr uint32_t kTimes = 1000;
  Ticket ticket = backend_.record(Queue::recompute);
  IOKV_TRY_ASSIGN(Time taken, time(Queue::dense, kTimes, [&](uint32_t) { ticket = backend_.record(Queue::dense); }));
  print("record", 0, taken, 0, 0);
  IOKV_TRY_ASSIGN(taken, time(Queue::dense, kTimes, [&](uint32_t) {
    backend_.wait(Queue::dense, backend_.record(Queue::recompute));
  }));
  print("record and wait", 0, taken, 0, 0);
  IOKV_TRY_ASSIGN(taken, time(Queue::h2d, 200, [&](uint32_t i) {
    backend_.copy(Queue::h2d, at(blocks_), host_ + (i % 16) * (size_t{1} << 20), size_t{1} << 20);
  }));
  print("copy of 1 MiB", 0, taken, 1 << 20, 0);
  std::vector<CopyRun> runs(32);
  for (size_t r = 0; r < runs.size(); ++r) runs[r] = {at(blocks_, r << 21), host_ + (r << 21), size_t{1} << 20, 1, 0, 0};
  IOKV_TRY_ASSIGN(taken, time(Queue::h2d, 30, [&](uint32_t) { backend_.copy(Queue::h2d, runs); }));
  print("copy of 32 x 1 MiB", 0, taken, 32 << 20, 0);
  return {};
}

}  // namespace

Status time_operations(Backend& backend) { return Operations(backend).run(); }

}  // namespace iokv::bench
