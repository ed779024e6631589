// SPDX-License-Identifier: Apache-2.0
// Cuts each operation into tasks for the team and hands them to the kernels. Tasks are cut over rows, columns, heads
// and elements, never over what is summed; their number follows the work, so that small operations wake nobody.
#include "daemon/backend/cpu/cpu_backend.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "daemon/backend/cpu/attend.h"
#include "daemon/backend/cpu/isa.h"
#include "daemon/backend/cpu/kernels.h"
#include "daemon/backend/cpu/link.h"
#include "daemon/backend/cpu/packed_matrix.h"
#include "daemon/backend/cpu/rotary_cache.h"
#include "daemon/backend/cpu/sampler.h"
#include "daemon/backend/cpu/thread_team.h"
#include "daemon/base/monotonic.h"

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
  // h2d and d2h: null without a link.
  CpuBackend(DeviceInfo info, const Kernels& kernels, std::unique_ptr<ThreadTeam> team, std::unique_ptr<Link> h2d,
             std::unique_ptr<Link> d2h)
      : info_(std::move(info)),
        kernels_(kernels),
        team_(std::move(team)),
        h2d_(std::move(h2d)),
        d2h_(std::move(d2h)),
        samplers_(team_->threads()),
        x_sums_(team_->threads()) {
    for (auto& times : recorded_ns_) times.resize(kTimedTickets);
  }

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
    return PackedMatrix::load(n, k, info_.compute, source, *team_);
  }
  size_t load_bytes(uint32_t n, uint32_t k, const RowSource& source) const override {
    return PackedMatrix::load_bytes(n, k, info_.compute, source);
  }
  Packing packing(uint32_t k) const override { return PackedMatrix::packing(k, info_.compute); }
  Status pack(uint32_t n, uint32_t k, const RowSource& source, void* to) override {
    return PackedMatrix::pack(n, k, info_.compute, source, *team_, to);
  }
  Result<std::unique_ptr<Matrix>> view(uint32_t n, uint32_t k, void* data) override {
    return PackedMatrix::view(n, k, info_.compute, data);
  }

  Status pin(void*, size_t) override { return {}; }
  void unpin(void*) override {}

  using Backend::copy;
  void copy(Queue queue, std::span<const CopyRun> runs) override {
    if (Link* link = link_of(queue)) return link->copy(runs);
    for (const CopyRun& run : runs) {
      auto* to = static_cast<std::byte*>(run.to);
      const auto* from = static_cast<const std::byte*>(run.from);
      for (uint32_t row = 0; row < run.rows; ++row) {
        std::memcpy(to + row * run.to_pitch_bytes, from + row * run.from_pitch_bytes, run.bytes);
      }
    }
  }
  Ticket record(Queue queue) override {
    if (Link* link = link_of(queue)) return {queue, link->record()};
    const auto index = static_cast<size_t>(queue);
    const uint64_t value = ++recorded_[index];
    recorded_ns_[index][value % kTimedTickets] = monotonic_ns();
    return {queue, value};
  }
  void wait(Queue queue, Ticket ticket) override {
    const Link* behind = link_of(ticket.queue);
    if (behind == nullptr || behind == link_of(queue)) return;
    if (Link* link = link_of(queue)) return link->wait_for(*behind, ticket.value);
    behind->wait_until(ticket.value);
  }
  Result<bool> poll(Ticket ticket, bool block) override {
    if (const Link* link = link_of(ticket.queue)) {
      if (block) link->wait_until(ticket.value);
      return link->reached(ticket.value);
    }
    IOKV_ASSERT(ticket.value <= recorded_[static_cast<size_t>(ticket.queue)]);
    return true;
  }
  uint64_t now_ns() const override { return monotonic_ns(); }
  uint64_t reached_ns(Ticket ticket) override {
    if (const Link* link = link_of(ticket.queue)) return link->reached_ns(ticket.value);
    return recorded_ns_[static_cast<size_t>(ticket.queue)][ticket.value % kTimedTickets];
  }

  void embed(Queue, const EmbedArgs& args) override {
    const PackedMatrix& table = packed(args.table);
    size_t columns = table.k;
    for_rows(args.tokens.size(), columns, [&](size_t row, uint32_t) {
      float* hidden = args.hidden + row * columns;
      IOKV_ASSERT(args.tokens[row] >= 0 && static_cast<uint32_t>(args.tokens[row]) < table.n);
      table.copy_row(static_cast<uint32_t>(args.tokens[row]), hidden);
      if (args.scale != 1.0f) {
        for (size_t i = 0; i < columns; ++i) hidden[i] *= args.scale;
      }
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
      const bool add = args.output == NormOutput::add_f32;
      void* y = add ? static_cast<float*>(args.y) + at : element(args.y, at);
      kernel({args.x + at, args.weight, args.bias, y, args.columns, args.epsilon, add});
    });
  }

  void gemm(Queue, const GemmArgs& args) override;
  void rope(Queue, const RopeArgs& args) override;
  void activate(Queue, const ActivateArgs& args) override;

  void attend(Queue queue, const AttendArgs& args) override {
    IOKV_ASSERT(args.shape.heads % args.shape.kv_heads == 0);
    IOKV_ASSERT(queue != Queue::host || info_.host_threads > 0);
    attention_.run(args, queue == Queue::host, info_.compute, kernels_, *team_);
  }

  void hand_over(Queue, const HandOverArgs& args) override {
    for (size_t i = 0; i < args.rows.size(); ++i) {
      std::memcpy(static_cast<std::byte*>(args.to) + i * args.size,
                  static_cast<const std::byte*>(args.from) + args.rows[i] * args.pitch_bytes, args.size);
    }
  }

  void merge(Queue, const MergeArgs& args) override {
    const size_t heads = args.shape.heads, d = args.shape.head_dim, floats = attend_state_floats(d);
    team_->run(static_cast<uint32_t>(args.rows.size()), [&](uint32_t index, uint32_t) {
      const size_t row = args.rows[index];
      for (size_t head = 0; head < heads; ++head) {
        kernels_.attend_join(args.state + (row * heads + head) * floats, args.other + (index * heads + head) * floats,
                             args.shape.head_dim, element(args.out, (row * heads + head) * d));
      }
    });
  }

  void cap(Queue, const CapArgs& args) override {
    size_t total = size_t{args.rows} * args.columns;
    team_->run(ceil_div(total, kTaskElements), [&](uint32_t task, uint32_t) {
      size_t at = size_t{task} * kTaskElements, end = std::min(total, at + kTaskElements);
      kernels_.cap(args.x + at, end - at, args.limit);
    });
  }

  void sample(Queue, const SampleArgs& args) override {
    first_tops_.clear();
    uint32_t tops = 0;
    for (const SampleRow& row : args.rows) first_tops_.push_back(std::exchange(tops, tops + row.top));
    team_->run(static_cast<uint32_t>(args.rows.size()), [&](uint32_t index, uint32_t thread) {
      const SampleRow& row = args.rows[index];
      std::span<const float> logits(args.logits + size_t{row.logits_row} * args.vocab, args.vocab);
      Sampler::Draw draw = samplers_[thread].draw(kernels_, logits, row, args.tops + first_tops_[index]);
      args.tokens[index] = draw.token;
      if (args.logprobs != nullptr) args.logprobs[index] = draw.logprob;
    });
  }

 private:
  Link* link_of(Queue queue) const {
    return queue == Queue::h2d ? h2d_.get() : queue == Queue::d2h ? d2h_.get() : nullptr;
  }
  // Sums over blocks of the rows that a thread multiplies, which its tasks of one product share.
  class BlockSums {
   public:
    const float* of(const Kernels& kernels, uint64_t product, uint32_t first_row, const GemmTile& tile) {
      const uint32_t blocks = tile.k / tile.quants->block;
      if (product_ == product && first_row_ == first_row) return sums_.data();
      product_ = product, first_row_ = first_row;
      if (sums_.size() < size_t{tile.rows} * blocks) sums_.resize(size_t{tile.rows} * blocks);
      for (uint32_t r = 0; r < tile.rows; ++r) {
        const uint16_t* x = static_cast<const uint16_t*>(tile.x) + r * tile.x_stride;
        kernels.sum_blocks(x, tile.quants->block, blocks, &sums_[size_t{r} * blocks]);
      }
      return sums_.data();
    }

   private:
    uint64_t product_ = 0;
    uint32_t first_row_ = 0;
    std::vector<float> sums_;
  };
  struct RopeRow {
    uint32_t row = 0, position = 0;
    void* block = nullptr;
  };
  void store_kv(const RopeArgs& args, const RopeRow& row, const float* cos);

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
  std::unique_ptr<Link> h2d_, d2h_;
  std::vector<Sampler> samplers_;  // of each thread
  std::vector<BlockSums> x_sums_;  // of each thread
  uint64_t products_ = 0;          // so far
  std::vector<uint32_t> first_tops_;  // of each row that is drawn, in SampleArgs::tops
  Attention attention_;
  RotaryCache rotary_;
  std::vector<RopeRow> rope_rows_;
  std::vector<float> angles_;  // of each of them
  std::array<uint64_t, kQueues> recorded_{};
  std::array<std::vector<uint64_t>, kQueues> recorded_ns_;
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

  const QuantPanels* quants = weight.quants();
  auto kernel = quants == nullptr ? kernels_.gemm : kernels_.gemm_quants;
  ++products_;
  team_->run(row_tasks * panel_tasks, [&](uint32_t task, uint32_t thread) {
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
    tile.quants = quants;
    if (quants != nullptr && quants->minima) tile.x_sums = x_sums_[thread].of(kernels_, products_, row, tile);
    for (; panel < end_panel; ++panel) {
      uint32_t column = std::max(begin, panel * kPanelColumns);
      tile.panel = weight.panel(panel);
      tile.begin = column % kPanelColumns;
      tile.columns = std::min(end, (panel + 1) * kPanelColumns) - column;
      tile.bias = args.bias == nullptr ? nullptr : args.bias + column;
      size_t at = size_t{row} * args.y_stride + (column - begin);
      tile.y = args.output == GemmOutput::store ? element(args.y, at) : static_cast<float*>(args.y) + at;
      kernel(tile);
    }
  });
}

void CpuBackend::rope(Queue, const RopeArgs& args) {
  const KvShape& shape = args.shape;
  const size_t d = shape.head_dim, half = args.table.rotary_dim / 2, rotated = 2 * half;
  IOKV_ASSERT(rotated <= d && (half == 0 || args.table.inverse_frequency.size() == half));
  rope_rows_.clear();
  for (const RopeRun& run : args.runs) {
    const uint32_t first_block = run.first_position / kBlockTokens;
    for (uint32_t i = 0; i < run.rows; ++i) {
      const uint32_t position = run.first_position + i;
      std::byte* block = static_cast<std::byte*>(run.kv_block);
      if (block != nullptr) block += (position / kBlockTokens - first_block) * run.block_stride_bytes;
      rope_rows_.push_back({run.first_row + i, position, args.k == nullptr ? nullptr : block});
    }
  }
  angles_.resize(rope_rows_.size() * rotated);
  if (half != 0) {
    for (size_t i = 0; i < rope_rows_.size(); ++i) {
      rotary_.copy(args.table, rope_rows_[i].position, &angles_[i * rotated]);
    }
  }
  for_rows(rope_rows_.size(), (shape.heads + 2 * shape.kv_heads) * d, [&](size_t index, uint32_t) {
    const RopeRow& row = rope_rows_[index];
    const float* cos = angles_.data() + index * rotated;
    if (args.q != nullptr && (half != 0 || args.norm.q_weight != nullptr)) {
      for (size_t head = 0; head < shape.heads; ++head) {
        void* q = element(args.q, size_t{row.row} * args.q_stride + head * d);
        if (args.norm.q_weight != nullptr) kernels_.head_norm(q, args.norm.q_weight, q, shape.head_dim, args.norm.epsilon);
        if (half != 0) kernels_.rotate(q, q, cos, cos + half, static_cast<uint32_t>(half));
      }
    }
    if (row.block != nullptr) store_kv(args, row, cos);
  });
}

void CpuBackend::store_kv(const RopeArgs& args, const RopeRow& row, const float* cos) {
  const size_t d = args.shape.head_dim, half = args.table.rotary_dim / 2;
  const size_t bytes = d * size_of(info_.compute), rotated_bytes = 2 * half * size_of(info_.compute);
  const size_t slot = row.position % kBlockTokens;
  for (size_t head = 0; head < args.shape.kv_heads; ++head) {
    const void* k = element(args.k, size_t{row.row} * args.kv_stride + head * d);
    void* to = element(row.block, (head * 2 * kBlockTokens + slot) * d);
    if (args.norm.k_weight != nullptr) {
      kernels_.head_norm(k, args.norm.k_weight, to, args.shape.head_dim, args.norm.epsilon);
      k = to;
    }
    if (half != 0) kernels_.rotate(k, to, cos, cos + half, static_cast<uint32_t>(half));
    if (k != to) {
      std::memcpy(static_cast<char*>(to) + rotated_bytes, static_cast<const char*>(k) + rotated_bytes,
                  bytes - rotated_bytes);
    }
    std::memcpy(static_cast<char*>(to) + kBlockTokens * bytes,
                element(args.v, size_t{row.row} * args.kv_stride + head * d), bytes);
  }
}

void CpuBackend::activate(Queue, const ActivateArgs& args) {
  size_t columns = args.columns, total = args.rows * columns;
  auto kernel = args.kind == Activation::relu   ? kernels_.relu
                : args.kind == Activation::gelu ? kernels_.gelu
                                                : kernels_.gelu_tanh;
  team_->run(ceil_div(total, kTaskElements), [&](uint32_t task, uint32_t) {
    size_t at = size_t{task} * kTaskElements, end = std::min(total, at + kTaskElements);
    if (!is_gated(args.kind)) return kernel(element(args.x, at), element(args.y, at), end - at);
    auto gated = args.kind == Activation::silu_glu ? kernels_.silu_glu : kernels_.gelu_tanh_glu;
    while (at < end) {  // a row's part at a time: its gates and ups are apart
      size_t row = at / columns, column = at % columns, count = std::min(end - at, columns - column);
      const void* gate = element(args.x, row * 2 * columns + column);
      gated(gate, element(args.x, (row * 2 + 1) * columns + column), element(args.y, at), count);
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
  if (options.isa == CpuIsa::amx_bf16) return error("the CPU backend has no amx_bf16 kernels; use avx512_bf16 or automatic");
  if (!cpu_supports(options.isa)) {
    return error("this machine has no " + std::string(name_of(options.isa)) + "; use a lower ISA or automatic");
  }
  CpuIsa isa = options.isa == CpuIsa::automatic ? cpu::best_isa(options.compute) : options.isa;
  uint32_t threads = options.threads == 0 ? cpu::allowed_cores() : options.threads;
  IOKV_TRY_ASSIGN(auto team, cpu::ThreadTeam::start(threads));
  std::unique_ptr<cpu::Link> h2d, d2h;
  if (options.link_bytes_per_s > 0) {
    IOKV_TRY_ASSIGN(h2d, cpu::Link::start(options.link_bytes_per_s));
    IOKV_TRY_ASSIGN(d2h, cpu::Link::start(options.link_bytes_per_s));
  }
  DeviceInfo info;
  info.name = "cpu (" + std::string(name_of(isa)) + ", " + std::to_string(threads) +
              (threads == 1 ? " thread" : " threads");
  if (h2d != nullptr) {
    char rate[32];
    std::snprintf(rate, sizeof rate, ", link %.3g GB/s", options.link_bytes_per_s / 1e9);
    info.name += rate;
  }
  info.name += ")";
  info.compute = options.compute;
  info.paced_bytes_per_s = options.link_bytes_per_s;
  info.host_addressable = h2d == nullptr;
  info.host_threads = options.host_attention ? threads : 0;
  const cpu::Kernels& kernels = cpu::kernels_for(isa, options.compute);
  return std::unique_ptr<Backend>(
      std::make_unique<cpu::CpuBackend>(std::move(info), kernels, std::move(team), std::move(h2d), std::move(d2h)));
}

}  // namespace iokv
