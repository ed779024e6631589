// SPDX-License-Identifier: Apache-2.0
// Durations are in modelled_backend.h, next to what they mean.
#include "daemon/backend/modelled/modelled_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

namespace iokv {
namespace {

constexpr size_t index(Queue queue) { return static_cast<size_t>(queue); }
constexpr bool is_link(Queue queue) { return queue == Queue::h2d || queue == Queue::d2h; }

// Bytes from the first to the last that a side of the run names.
size_t extent_bytes(const CopyRun& run, size_t pitch_bytes) {
  return run.rows == 0 ? 0 : (run.rows - 1) * pitch_bytes + run.bytes;
}

bool is_contiguous(const CopyRun& run) {
  return run.rows == 1 || (run.to_pitch_bytes == run.bytes && run.from_pitch_bytes == run.bytes);
}

bool continues(const CopyRun& run, const CopyRun& before) {
  return is_contiguous(run) && is_contiguous(before) &&
         static_cast<std::byte*>(before.to) + before.total_bytes() == run.to &&
         static_cast<const std::byte*>(before.from) + before.total_bytes() == run.from;
}

bool lies_within(const std::map<uintptr_t, size_t>& ranges, const void* data, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const auto after = ranges.upper_bound(address);
  if (after == ranges.begin()) return false;
  const auto& [begin, size] = *std::prev(after);
  return address - begin <= size && bytes <= size - (address - begin);
}

// Of [0, end), how many tokens from `begin` on.
uint64_t tokens_from(uint64_t begin, uint64_t end) { return end > begin ? end - begin : 0; }

struct SpanTokens {
  uint64_t read = 0;      // whose K,V the span reads
  uint64_t attended = 0;  // over all rows, those that each attends to
};

SpanTokens tokens_of(const AttendSpan& span) {
  const uint64_t begin = uint64_t{span.first_piece} * kBlockTokens;
  const uint64_t pieces_end = begin + span.kv_blocks.size() * kBlockTokens;
  const uint64_t context = uint64_t{span.first_position} + 1;  // of the first row; each further one has a token more
  SpanTokens tokens;
  tokens.read = tokens_from(begin, std::min(pieces_end, context - 1 + span.rows));
  // Rows whose context ends before the pieces begin, among the pieces, and behind them.
  const uint64_t rows_before = std::min<uint64_t>(span.rows, tokens_from(context, begin + 1));
  const uint64_t rows_within = std::min<uint64_t>(span.rows, tokens_from(context, pieces_end)) - rows_before;
  const uint64_t rows_behind = span.rows - rows_before - rows_within;
  const uint64_t first_within = context + rows_before - begin;  // tokens of the first row within; no sense without one
  if (rows_within != 0) tokens.attended = rows_within * (2 * first_within + rows_within - 1) / 2;
  tokens.attended += rows_behind * (pieces_end - begin);
  return tokens;
}

// Without what lies before the rows' windows, which is what the rows would see that much earlier in the sequence.
SpanTokens tokens_of(const AttendSpan& span, uint32_t window) {
  SpanTokens tokens = tokens_of(span);
  if (window == 0 || span.first_position + span.rows <= window) return tokens;
  AttendSpan hidden = span;
  const uint32_t whole_rows = window > span.first_position ? window - span.first_position : 0;
  hidden.rows -= whole_rows;
  hidden.first_position = std::max(span.first_position, window) - window;
  tokens.attended -= tokens_of(hidden).attended;
  if (whole_rows != 0) return tokens;
  hidden.rows = 1;  // what no row sees
  tokens.read -= std::min(tokens.read, tokens_of(hidden).read);
  return tokens;
}

// Of a divided row the host sees what the token before its own would.
SpanTokens tokens_of_host(AttendSpan span, uint32_t window) {
  if (window == 1) return {};
  --span.first_position;
  return tokens_of(span, window == 0 ? 0 : window - 1);
}

// The device sees the pieces before the host's, and its own token.
SpanTokens tokens_of_device(AttendSpan span, uint32_t window) {
  const uint32_t before = span.host_from / kBlockTokens - std::min(span.first_piece, span.host_from / kBlockTokens);
  const bool own = span.kv_blocks.size() > before;
  span.kv_blocks = span.kv_blocks.first(std::min<size_t>(span.kv_blocks.size(), before));
  SpanTokens tokens;
  if (!span.kv_blocks.empty()) tokens = tokens_of(span, window);
  if (own) ++tokens.read, ++tokens.attended;
  return tokens;
}

}  // namespace

// Address space that counts as device memory.
class ModelledBackend::Memory final : public DeviceMemory {
 public:
  Memory(ModelledBackend& backend, void* data, size_t bytes) : backend_(backend), data_(data), bytes_(bytes) {
    backend_.device_.emplace(reinterpret_cast<uintptr_t>(data_), bytes_);
  }
  ~Memory() override {
    backend_.device_.erase(reinterpret_cast<uintptr_t>(data_));
    backend_.give_back(bytes_);
    ::munmap(data_, std::max<size_t>(bytes_, 1));
  }
  void* data() const override { return data_; }
  size_t size_bytes() const override { return bytes_; }

 private:
  ModelledBackend& backend_;
  void* data_;
  size_t bytes_;
};

class ModelledBackend::WeightMatrix final : public Matrix {
 public:
  WeightMatrix(ModelledBackend& backend, uint32_t outputs, uint32_t inputs, size_t bytes) : backend_(backend) {
    n = outputs;
    k = inputs;
    stored_bytes = bytes;
  }
  ~WeightMatrix() override { backend_.give_back(stored_bytes); }

 private:
  ModelledBackend& backend_;
};

ModelledBackend::ModelledBackend(const ModelledOptions& options)
    : options_(options),
      element_bytes_(size_of(options.compute)),
      queues_(options.hardware.contention, options.hardware.duplex, options.hardware.host_slows_link) {
  const Hardware& hardware = options_.hardware;
  IOKV_ASSERT(hardware.h2d_bytes_per_s > 0 && hardware.d2h_bytes_per_s > 0 && hardware.memory_bytes_per_s > 0 &&
              hardware.matrix_flop_per_s > 0);
  info_.name = "modelled (" + hardware.name + ")";
  info_.compute = options_.compute;
  info_.memory_bytes = static_cast<uint64_t>(hardware.memory_bytes);
  info_.host_threads = hardware.host_attend_bytes_per_s > 0 ? 1 : 0;
}

QueueCounters ModelledBackend::counters(Queue queue) const {
  QueueCounters counters = counters_[index(queue)];
  counters.busy_ns = queues_.busy_ns(queue);
  return counters;
}

int32_t ModelledBackend::token_at(uint64_t position, uint32_t vocab) {
  // The multiplier of Fibonacci hashing, 2^64 / golden ratio.
  return static_cast<int32_t>(((position + 1) * 0x9e3779b97f4a7c15u >> 32) % vocab);
}

Result<std::unique_ptr<DeviceMemory>> ModelledBackend::alloc(size_t bytes) {
  IOKV_TRY(take(bytes));
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* data = ::mmap(nullptr, std::max<size_t>(bytes, 1), PROT_NONE, kFlags, -1, 0);
  if (data == MAP_FAILED) {
    const int reason = errno;
    give_back(bytes);
    return error("no address space for " + std::to_string(bytes) + " bytes: " + std::strerror(reason));
  }
  return std::unique_ptr<DeviceMemory>(std::make_unique<Memory>(*this, data, bytes));
}

Result<std::unique_ptr<Matrix>> ModelledBackend::load(uint32_t n, uint32_t k, const RowSource&) {
  const size_t bytes = size_t{n} * k * element_bytes_;
  IOKV_TRY(take(bytes));
  return std::unique_ptr<Matrix>(std::make_unique<WeightMatrix>(*this, n, k, bytes));
}

Status ModelledBackend::pack(uint32_t, uint32_t, const RowSource&, void*) { return {}; }

Result<std::unique_ptr<Matrix>> ModelledBackend::view(uint32_t n, uint32_t k, void* data) {
  if (options_.strict) check_device(data);
  return std::unique_ptr<Matrix>(std::make_unique<WeightMatrix>(*this, n, k, 0));
}

Status ModelledBackend::take(size_t bytes) {
  const uint64_t free_bytes = info_.memory_bytes - used_bytes_;
  if (bytes > free_bytes) {
    return error("no memory for " + std::to_string(bytes) + " bytes on " + info_.name + ": of its " +
                 std::to_string(info_.memory_bytes) + " bytes " + std::to_string(free_bytes) + " are free, " +
                 std::to_string(bytes - free_bytes) + " too few; use a smaller batch or model");
  }
  used_bytes_ += bytes;
  return {};
}

void ModelledBackend::give_back(size_t bytes) {
  IOKV_ASSERT(bytes <= used_bytes_);
  used_bytes_ -= bytes;
}

Status ModelledBackend::pin(void* data, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const auto after = pinned_.lower_bound(begin + bytes);
  if (after != pinned_.begin() && std::prev(after)->first + std::prev(after)->second > begin) {
    return error("memory to be pinned is pinned in part already");
  }
  pinned_.emplace(begin, bytes);
  return {};
}

void ModelledBackend::unpin(void* data) { IOKV_ASSERT(pinned_.erase(reinterpret_cast<uintptr_t>(data)) == 1); }

Result<bool> ModelledBackend::poll(Ticket ticket, bool block) {
  if (block) queues_.run_until(ticket);
  return queues_.reached(ticket);
}

void ModelledBackend::copy(Queue queue, std::span<const CopyRun> runs) {
  uint64_t bytes = 0, pieces = 0;
  const CopyRun* before = nullptr;
  for (const CopyRun& run : runs) {
    if (run.total_bytes() == 0) continue;
    if (options_.strict) check_copy(queue, run);
    bytes += run.total_bytes();
    if (!is_contiguous(run)) {
      pieces += run.rows;
    } else if (before == nullptr || !continues(run, *before)) {
      ++pieces;
    }
    before = &run;
  }
  counters_[index(queue)].copied_bytes += bytes;
  if (!is_link(queue)) return issue_operation(queue, 2.0 * static_cast<double>(bytes), 0);
  const Hardware& hardware = options_.hardware;
  const double rate = queue == Queue::h2d ? hardware.h2d_bytes_per_s : hardware.d2h_bytes_per_s;
  issue(queue, bytes == 0 ? 0
                          : hardware.copy_ns + static_cast<double>(pieces - 1) * options_.piece_ns +
                                static_cast<double>(bytes) / rate * 1e9);
}

void ModelledBackend::embed(Queue queue, const EmbedArgs& args) {
  if (options_.strict) check_device(args.hidden);
  const double tables = args.position_table == nullptr ? 1 : 2;
  const double elements = static_cast<double>(args.tokens.size()) * args.table->k;
  issue_operation(queue, elements * (sizeof(float) + tables * static_cast<double>(element_bytes_)), 0);
}

void ModelledBackend::norm(Queue queue, const NormArgs& args) {
  if (options_.strict) {
    check_device(args.x);
    check_device(args.y);
  }
  const double elements = static_cast<double>(args.rows) * args.columns;
  const size_t written = args.output == NormOutput::store ? element_bytes_ : 2 * sizeof(float);
  issue_operation(queue, elements * static_cast<double>(sizeof(float) + written), 0);
}

void ModelledBackend::gemm(Queue queue, const GemmArgs& args) {
  IOKV_ASSERT(args.first_column % 16 == 0 && args.y_stride >= args.columns && args.first_column <= args.weight->n &&
              args.columns <= args.weight->n - args.first_column);
  if (options_.strict) {
    check_device(args.x);
    check_device(args.y);
  }
  const double weights = args.rows == 0 ? 0 : static_cast<double>(args.columns) * args.weight->k;
  issue_operation(queue, weights * static_cast<double>(element_bytes_), 2.0 * args.rows * weights);
}

void ModelledBackend::rope(Queue queue, const RopeArgs& args) {
  if (options_.strict) {
    check_device(args.q);
    check_device(args.k);
    check_device(args.v);
    for (const RopeRun& run : args.runs) check_device(run.kv_block);
  }
  issue(queue, 0);
}

void ModelledBackend::activate(Queue queue, const ActivateArgs& args) {
  if (options_.strict) {
    check_device(args.x);
    check_device(args.y);
  }
  issue(queue, 0);
}

void ModelledBackend::attend(Queue queue, const AttendArgs& args) {
  const bool on_host = queue == Queue::host;
  IOKV_ASSERT(!on_host || info_.host_threads > 0);
  uint64_t read = 0, attended = 0;
  for (const AttendSpan& span : args.spans) {
    const SpanTokens tokens = !span.is_divided() ? tokens_of(span, args.window)
                              : on_host          ? tokens_of_host(span, args.window)
                                                 : tokens_of_device(span, args.window);
    read += tokens.read;
    attended += tokens.attended;
    if (!options_.strict) continue;
    for (const void* block : span.kv_blocks) {
      if (on_host) {
        IOKV_ASSERT(lies_within(pinned_, block, 1));
      } else {
        check_device(block);
      }
    }
  }
  if (options_.strict && !on_host) {
    check_device(args.q);
    check_device(args.out);
    check_device(args.state);
  }
  const double kv_elements = 2.0 * args.shape.kv_heads * args.shape.head_dim;
  if (on_host) {
    const double bytes = static_cast<double>(read) * kv_elements * static_cast<double>(element_bytes_);
    return issue(queue, options_.hardware.host_attend_ns + bytes / options_.hardware.host_attend_bytes_per_s * 1e9);
  }
  const double flop = 4.0 * args.shape.heads * args.shape.head_dim;
  issue_operation(queue, static_cast<double>(read) * kv_elements * static_cast<double>(element_bytes_),
                  static_cast<double>(attended) * flop);
}

void ModelledBackend::hand_over(Queue queue, const HandOverArgs& args) {
  if (options_.strict) {
    check_device(args.from);
    IOKV_ASSERT(lies_within(pinned_, args.to, args.rows.size() * args.size));
  }
  issue_over_link(queue, args.rows.size() * args.size);
}

void ModelledBackend::merge(Queue queue, const MergeArgs& args) {
  const size_t bytes = args.rows.size() * args.shape.heads * attend_state_floats(args.shape.head_dim) * sizeof(float);
  if (options_.strict) {
    check_device(args.state);
    check_device(args.out);
    IOKV_ASSERT(lies_within(pinned_, args.other, bytes));
  }
  issue_over_link(queue, bytes);
}

// A kernel that reads or writes host memory.
void ModelledBackend::issue_over_link(Queue queue, size_t bytes) {
  const Hardware& hardware = options_.hardware;
  const double rate = queue == Queue::d2h ? hardware.d2h_bytes_per_s : hardware.h2d_bytes_per_s;
  issue(queue, bytes == 0 ? 0 : hardware.launch_ns + static_cast<double>(bytes) / rate * 1e9);
}

void ModelledBackend::cap(Queue queue, const CapArgs& args) {
  if (options_.strict) check_device(args.x);
  const double elements = static_cast<double>(args.rows) * args.columns;
  issue_operation(queue, 2.0 * elements * sizeof(float), 0);
}

void ModelledBackend::sample(Queue queue, const SampleArgs& args) {
  if (options_.strict) check_device(args.logits);
  const float logprob = -std::log(static_cast<float>(args.vocab));
  TokenLogprob* tops = args.tops;
  for (size_t i = 0; i < args.rows.size(); ++i) {
    args.tokens[i] = token_at(args.rows[i].position, args.vocab);
    if (args.logprobs != nullptr) args.logprobs[i] = logprob;
    for (uint32_t k = 0; k < args.rows[i].top; ++k) *tops++ = {static_cast<int32_t>(k), logprob};
  }
  issue_operation(queue, static_cast<double>(args.rows.size()) * args.vocab * sizeof(float), 0);
}

void ModelledBackend::issue(Queue queue, double ns) {
  if (options_.host_issue_ns > 0) queues_.advance_by(options_.host_issue_ns);
  ++counters_[index(queue)].operations;
  queues_.work(queue, ns);
}

void ModelledBackend::issue_operation(Queue queue, double bytes, double flop) {
  const Hardware& hardware = options_.hardware;
  const double ns = std::max(bytes / hardware.memory_bytes_per_s, flop / hardware.matrix_flop_per_s) * 1e9;
  issue(queue, ns == 0 ? 0 : std::max(hardware.launch_ns, ns));
}

void ModelledBackend::check_copy(Queue queue, const CopyRun& run) const {
  const Ranges& to = queue == Queue::d2h ? pinned_ : device_;
  const Ranges& from = queue == Queue::h2d ? pinned_ : device_;
  IOKV_ASSERT(lies_within(to, run.to, extent_bytes(run, run.to_pitch_bytes)));
  IOKV_ASSERT(lies_within(from, run.from, extent_bytes(run, run.from_pitch_bytes)));
}

void ModelledBackend::check_device(const void* data) const {
  IOKV_ASSERT(data == nullptr || lies_within(device_, data, 1));
}

}  // namespace iokv
