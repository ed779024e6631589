// SPDX-License-Identifier: Apache-2.0
// Cuts each operation into tasks for the team and hands them to the kernels. Tasks are cut over rows, columns, heads
// and elements, never over what is summed; their number follows the work, so that small operations wake nobody.
#include "daemon/backend/cpu/cpu_backend.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "daemon/backend/cpu/attend.h"
#include "daemon/backend/cpu/isa.h"
#include "daemon/backend/cpu/kernels.h"
#include "daemon/backend/cpu/packed_matrix.h"
#include "daemon/backend/cpu/rotary_cache.h"
#include "daemon/backend/cpu/sampler.h"
#include "daemon/backend/cpu/thread_team.h"

namespace iokv {
namespace cpu {
namespace {

// A task of this many elements (norm, rope, activation, at about 4 a nanosecond at worst 0.5) is some µs of work, more
// than handing it over costs.
constexpr uint32_t kTaskElements = 8192;
// The same in multiply-adds: 2^15 are 0.3 µs at the portable kernels' rate of some 10^11 a second.
constexpr size_t kLeastProducts = size_t{1} << 16;
// Gemm tasks a thread: the last one to finish is late by 3 % on average, and a claim costs 0.1 µs.
constexpr uint32_t kGemmTasksPerThread = 16;
// Rows below which gemm is cut over columns only; a multiple of every kernel's block of rows.
constexpr uint32_t kGemmTaskRows = 48;

constexpr uint32_t ceil_div(size_t a, size_t b) { return static_cast<uint32_t>((a + b - 1) / b); }

class HostMemory final : public DeviceMemory {
 public:
  HostMemory(Memory memory, size_t bytes) : memory_(std::move(memory)), bytes_(bytes) {}
  void* data() const override { return memory_.get(); }
  size_t size_bytes() const override { return bytes_; }

 private:
  Memory memory_;
  size_t bytes_;
};

const PackedMatrix& packed(const Matrix* matrix) { return *static_cast<const PackedMatrix*>(matrix); }

class CpuBackend final : public Backend {
 public:
  CpuBackend(DeviceInfo info, const Kernels& kernels, std::unique_ptr<ThreadTeam> team)
      : info_(std::move(info)), kernels_(kernels), team_(std::move(team)), samplers_(team_->threads()) {}

  const DeviceInfo& info() const override { return info_; }

  Result<std::unique_ptr<DeviceMemory>> alloc(size_t bytes) override {
    Memory memory = allocate(bytes);
    if (!memory) return error("no memory for " + std::to_string(bytes) + " bytes; use a smaller batch or free memory");
#if !defined(NDEBUG) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    std::memset(memory.get(), 0xff, bytes);
#endif
    return std::unique_ptr<DeviceMemory>(std::make_unique<HostMemory>(std::move(memory), bytes));
  }

  Result<std::unique_ptr<Matrix>> load(uint32_t n, uint32_t k, const RowSource& source) override {
    return PackedMatrix::pack(n, k, info_.compute, source, *team_);
  }

  Status pin(void*, size_t) override { return {}; }
  void unpin(void*) override {}

  void copy(Queue, void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  Ticket record(Queue queue) override { return {queue, ++recorded_[static_cast<size_t>(queue)]}; }
  void wait(Queue, Ticket) override {}
  Result<bool> poll(Ticket ticket, bool) override {
    IOKV_ASSERT(ticket.value <= recorded_[static_cast<size_t>(ticket.queue)]);
    return true;
  }

  void embed(Queue, const EmbedArgs& args) override {
    const PackedMatrix& table = packed(args.table);
    size_t columns = table.k;
    for_rows(args.tokens.size(), columns, [&](size_t row, uint32_t) {
      float* hidden = args.hidden + row * columns;
      IOKV_ASSERT(args.tokens[row] >= 0 && static_cast<uint32_t>(args.tokens[row]) < table.n);
      table.copy_row(static_cast<uint32_t>(args.tokens[row]), hidden);
      if (args.position_table == nullptr) return;
      uint32_t position = args.positions[row] + args.position_offset;
      IOKV_ASSERT(position < args.position_table->n && args.position_table->k == columns);
      packed(args.position_table).add_row(position, hidden);
    });
  }

  void norm(Queue, const NormArgs& args) override {
    auto kernel = args.kind == NormKind::rms ? kernels_.rms_norm : kernels_.layer_norm;
    for_rows(args.rows, args.columns, [&](size_t row, uint32_t) {
      size_t at = row * args.columns;
      kernel({args.x + at, args.weight, args.bias, element(args.y, at), args.columns, args.epsilon});
    });
  }

  void gemm(Queue, const GemmArgs& args) override;
  void rope(Queue, const RopeArgs& args) override;
  void activate(Queue, const ActivateArgs& args) override;

  void attend(Queue, const AttendArgs& args) override {
    IOKV_ASSERT(args.shape.heads % args.shape.kv_heads == 0);
    attention_.run(args, info_.compute, kernels_, *team_);
  }

  void sample(Queue, const SampleArgs& args) override {
    team_->run(static_cast<uint32_t>(args.rows.size()), [&](uint32_t index, uint32_t thread) {
      const SampleRow& row = args.rows[index];
      std::span<const float> logits(args.logits + size_t{row.logits_row} * args.vocab, args.vocab);
      Sampler::Draw draw = samplers_[thread].draw(kernels_, logits, row.params, row.position);
      args.tokens[index] = draw.token;
      if (args.logprobs != nullptr) args.logprobs[index] = draw.logprob;
    });
  }

 private:
  const void* element(const void* base, size_t index) const {
    return static_cast<const char*>(base) + index * size_of(info_.compute);
  }
  void* element(void* base, size_t index) const { return static_cast<char*>(base) + index * size_of(info_.compute); }

  // row_task(row, thread) for every row, in tasks of some rows.
  template <typename RowTask>
  void for_rows(size_t rows, size_t row_elements, const RowTask& row_task) {
    size_t task_rows = std::max<size_t>(1, kTaskElements / std::max<size_t>(1, row_elements));
    team_->run(ceil_div(rows, task_rows), [&](uint32_t task, uint32_t thread) {
      size_t end = std::min(rows, (task + 1) * task_rows);
      for (size_t row = task * task_rows; row < end; ++row) row_task(row, thread);
    });
  }

  DeviceInfo info_;
  const Kernels& kernels_;
  std::unique_ptr<ThreadTeam> team_;
  std::vector<Sampler> samplers_;  // of each thread
  Attention attention_;
  RotaryCache rotary_;
  std::vector<float> angles_;  // of the rows of a rope operation
  std::array<uint64_t, kQueues> recorded_{};
};

void CpuBackend::gemm(Queue, const GemmArgs& args) {
  const PackedMatrix& weight = packed(args.weight);
  uint32_t begin = args.first_column, end = args.first_column + args.columns;
  IOKV_ASSERT(begin % 16 == 0 && end <= weight.n && args.y_stride >= args.columns);
  if (args.rows == 0 || args.columns == 0) return;
  uint32_t first_panel = begin / kPanelColumns, panels = ceil_div(end, kPanelColumns) - first_panel;
  size_t products = size_t{args.rows} * args.columns * weight.k;
  uint32_t wanted = products < kLeastProducts ? 1 : team_->threads() * kGemmTasksPerThread;
  // Many rows and few columns, as in prefill on many cores, are cut over rows too.
  uint32_t row_tasks = std::min(ceil_div(args.rows, kGemmTaskRows), ceil_div(wanted, panels));
  uint32_t task_rows = ceil_div(ceil_div(args.rows, row_tasks), 12) * 12;
  row_tasks = ceil_div(args.rows, task_rows);
  uint32_t task_panels = std::max(1u, panels * row_tasks / wanted), panel_tasks = ceil_div(panels, task_panels);

  team_->run(row_tasks * panel_tasks, [&](uint32_t task, uint32_t) {
    uint32_t row = task / panel_tasks * task_rows, panel = first_panel + task % panel_tasks * task_panels;
    uint32_t end_panel = std::min(panel + task_panels, first_panel + panels);
    GemmTile tile;
    tile.x = element(args.x, size_t{row} * weight.k);
    tile.x_stride = weight.k;
    tile.rows = std::min(task_rows, args.rows - row);
    tile.k = weight.k;
    tile.y_stride = args.y_stride;
    tile.store = args.output == GemmOutput::store       ? Store::element
                 : args.output == GemmOutput::store_f32 ? Store::f32
                                                        : Store::add_f32;
    for (; panel < end_panel; ++panel) {
      uint32_t column = std::max(begin, panel * kPanelColumns);
      tile.panel = weight.panel(panel);
      tile.begin = column % kPanelColumns;
      tile.columns = std::min(end, (panel + 1) * kPanelColumns) - column;
      tile.bias = args.bias == nullptr ? nullptr : args.bias + column;
      size_t at = size_t{row} * args.y_stride + (column - begin);
      tile.y = args.output == GemmOutput::store ? element(args.y, at) : static_cast<float*>(args.y) + at;
      kernels_.gemm(tile);
    }
  });
}

void CpuBackend::rope(Queue, const RopeArgs& args) {
  const KvShape& shape = args.shape;
  size_t d = shape.head_dim, half = args.table.rotary_dim / 2, rows = args.positions.size();
  size_t bytes = d * size_of(info_.compute), rotated = 2 * half, rotated_bytes = rotated * size_of(info_.compute);
  IOKV_ASSERT(rotated <= d && args.kv_blocks.size() == rows);
  IOKV_ASSERT(half == 0 || args.table.inverse_frequency.size() == half);
  angles_.resize(rows * rotated);
  if (half != 0) {
    for (size_t row = 0; row < rows; ++row) rotary_.copy(args.table, args.positions[row], &angles_[row * rotated]);
  }
  for_rows(rows, (shape.heads + 2 * shape.kv_heads) * d, [&](size_t row, uint32_t) {
    const float* cos = angles_.data() + row * rotated;
    const float* sin = cos + half;
    if (args.q != nullptr && half != 0) {
      for (size_t head = 0; head < shape.heads; ++head) {
        void* q = element(args.q, row * args.q_stride + head * d);
        kernels_.rotate(q, q, cos, sin, static_cast<uint32_t>(half));
      }
    }
    size_t slot = args.positions[row] % kBlockTokens;
    for (size_t head = 0; head < shape.kv_heads; ++head) {
      const void* k = element(args.k, row * args.kv_stride + head * d);
      void* to = element(args.kv_blocks[row], (head * 2 * kBlockTokens + slot) * d);
      if (half != 0) kernels_.rotate(k, to, cos, sin, static_cast<uint32_t>(half));
      std::memcpy(static_cast<char*>(to) + rotated_bytes, static_cast<const char*>(k) + rotated_bytes,
                  bytes - rotated_bytes);
      std::memcpy(static_cast<char*>(to) + kBlockTokens * bytes, element(args.v, row * args.kv_stride + head * d),
                  bytes);
    }
  });
}

void CpuBackend::activate(Queue, const ActivateArgs& args) {
  size_t columns = args.columns, total = args.rows * columns;
  auto kernel = args.kind == Activation::relu   ? kernels_.relu
                : args.kind == Activation::gelu ? kernels_.gelu
                                                : kernels_.gelu_tanh;
  team_->run(ceil_div(total, kTaskElements), [&](uint32_t task, uint32_t) {
    size_t at = size_t{task} * kTaskElements, end = std::min(total, at + kTaskElements);
    if (args.kind != Activation::silu_glu) return kernel(element(args.x, at), element(args.y, at), end - at);
    while (at < end) {  // a row's part at a time: its gates and ups are apart
      size_t row = at / columns, column = at % columns, count = std::min(end - at, columns - column);
      const void* gate = element(args.x, row * 2 * columns + column);
      kernels_.silu_glu(gate, element(args.x, (row * 2 + 1) * columns + column), element(args.y, at), count);
      at += count;
    }
  });
}

// Cores that this process may run on.
uint32_t allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return static_cast<uint32_t>(CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace
}  // namespace cpu

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options) {
  if (options.compute == DType::f16) return error("the CPU backend computes in f32 or bf16, not f16; set one of them");
  if (!cpu_supports(options.isa)) {
    return error("this machine has no " + std::string(name_of(options.isa)) + "; use a lower ISA or automatic");
  }
  CpuIsa isa = options.isa == CpuIsa::automatic ? cpu::best_isa(options.compute) : options.isa;
  uint32_t threads = options.threads == 0 ? cpu::allowed_cores() : options.threads;
  IOKV_TRY_ASSIGN(auto team, cpu::ThreadTeam::start(threads));
  DeviceInfo info;
  info.name = "cpu (" + std::string(name_of(isa)) + ", " + std::to_string(threads) +
              (threads == 1 ? " thread)" : " threads)");
  info.compute = options.compute;
  info.host_addressable = true;
  const cpu::Kernels& kernels = cpu::kernels_for(isa, options.compute);
  return std::unique_ptr<Backend>(std::make_unique<cpu::CpuBackend>(std::move(info), kernels, std::move(team)));
}

}  // namespace iokv
