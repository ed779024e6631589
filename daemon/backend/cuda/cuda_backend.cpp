// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/cuda/cuda_backend.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <deque>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "daemon/backend/cuda/copier.h"
#include "daemon/backend/cuda/device_error.h"
#include "daemon/backend/cuda/device_queue.h"
#include "daemon/backend/cuda/host_queue.h"
#include "daemon/backend/cuda/kernels.h"
#include "daemon/backend/cuda/products.h"
#include "daemon/backend/cuda/table_ring.h"
#include "daemon/backend/cuda/weight_matrix.h"
#include "daemon/base/monotonic.h"

namespace iokv {
namespace cuda {
namespace {

// Results of pieces, until they are merged: 64 rows x 32 heads x 32 pieces of 128-wide heads are 34 MB. An operation
// that has more is issued a few spans at a time, and a span that has more by itself is computed in sequence.
constexpr size_t kPartialBytes = size_t{64} << 20;
// Query rows of a KV head up to which a span's pieces are computed apart: K,V are read once for each 16 of them, mostly
// from the second-level cache. With more, rows are enough for the device to be busy.
constexpr uint32_t kSplitRows = 64;
constexpr uint32_t kTileRows = 16;
// Products run at the device's full rate from some thousand rows on.
constexpr uint32_t kStepRows = 2048;
// Slots of 32 MiB of X of a 4096-wide model: an operation of the link takes 0.6 ms, beside which its beginning and its
// end are little. (In slots of 21 MiB they were seen to come at 94 % of the link's rate.)
constexpr uint64_t kStagingBytes = uint64_t{384} << 20;
// Rows of a recomputation up to which it leaves multiprocessors to dense work. Where a layer's is so short the step is
// too, and is bound by reading the weights: its products must not wait behind tiles that hold a multiprocessor for some
// 50 µs each. A longer one needs the whole device to stay ahead of the link.
constexpr uint32_t kShortRecompute = 1024;
// Draws that may be outstanding.
constexpr size_t kDraws = 4096;
// Of a launch that draws: as many as a table can carry.
constexpr size_t kMostAdjustments = TableRing::kLargestBytes / sizeof(Adjustment);
// Runs of tables that a launch takes through the ring at once.
constexpr size_t kMostEntries = TableRing::kLargestBytes / sizeof(RopeTableRun);

class CudaMemory final : public DeviceMemory {
 public:
  CudaMemory(void* data, size_t bytes) : data_(data), bytes_(bytes) {}
  ~CudaMemory() override { (void)cudaFree(data_); }
  void* data() const override { return data_; }
  size_t size_bytes() const override { return bytes_; }

 private:
  void* data_;
  size_t bytes_;
};

bool is_aligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

const WeightMatrix& weights(const Matrix* matrix) { return *static_cast<const WeightMatrix*>(matrix); }

thread_local int thread_device = -1;

cudaError_t use_device(int device) {
  const cudaError_t set = cudaSetDevice(device);
  if (set == cudaSuccess) thread_device = device;
  return set;
}

// Of the device's place on the bus; -1 where there is one node only, or nobody says which.
int numa_node_of(int device) {
  char bus_id[32] = "";
  if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device) != cudaSuccess) return -1;
  std::string name(bus_id);  // "0000:1B:00.0"; files are called in lower case
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::ifstream file("/sys/bus/pci/devices/" + name + "/numa_node");
  int node = -1;
  return file >> node ? node : -1;
}

class CudaBackend final : public Backend {
 public:
  static Result<std::unique_ptr<Backend>> make(const CudaOptions& options);
  ~CudaBackend() override;

  const DeviceInfo& info() const override { return info_; }

  Result<std::unique_ptr<DeviceMemory>> alloc(size_t bytes) override;
  Result<std::unique_ptr<Matrix>> load(uint32_t n, uint32_t k, const RowSource& source) override {
    enter();
    return loader_.load(n, k, source);
  }
  Packing packing(uint32_t k) const override { return {1, k * size_of(info_.compute)}; }
  Status pack(uint32_t n, uint32_t k, const RowSource& source, void* to) override {
    enter();
    return loader_.pack(n, k, source, to);
  }
  Result<std::unique_ptr<Matrix>> view(uint32_t n, uint32_t k, void* data) override {
    return std::unique_ptr<Matrix>(WeightMatrix::view(n, k, info_.compute, data));
  }
  Status pin(void* data, size_t bytes) override {
    enter();
    return copier_.pin(data, bytes);
  }
  void unpin(void* data) override {
    enter();
    copier_.unpin(data);
  }

  using Backend::copy;
  void copy(Queue queue, std::span<const CopyRun> runs) override {
    enter();
    const Copier::Host host = queue == Queue::h2d   ? Copier::Host::from
                              : queue == Queue::d2h ? Copier::Host::to
                                                    : Copier::Host::none;
    copier_.copy(stream(queue), host, runs, failure_);
  }
  Ticket record(Queue queue) override {
    if (queue == Queue::host) return {queue, host_->record()};
    enter();
    return {queue, at(queue).record()};
  }
  void wait(Queue queue, Ticket ticket) override;
  Result<bool> poll(Ticket ticket, bool block) override;
  uint64_t now_ns() const override { return monotonic_ns(); }
  uint64_t reached_ns(Ticket ticket) override {
    return ticket.queue == Queue::host ? host_->reached_ns(ticket.value) : at(ticket.queue).reached_ns(ticket.value);
  }
  Status attend_on_host(std::span<const int> cpus) override;

  void embed(Queue queue, const EmbedArgs& args) override;
  void norm(Queue queue, const NormArgs& args) override {
    if (args.rows == 0 || !ready()) return;
    failure_.check("norm", launch_norm(stream(queue), info_.compute, args));
  }
  void gemm(Queue queue, const GemmArgs& args) override;
  void rope(Queue queue, const RopeArgs& args) override;
  void activate(Queue queue, const ActivateArgs& args) override {
    if (args.rows == 0 || args.columns == 0 || !ready()) return;
    failure_.check("activate", launch_activate(stream(queue), info_.compute, args));
  }
  void attend(Queue queue, const AttendArgs& args) override;
  void hand_over(Queue queue, const HandOverArgs& args) override;
  void merge(Queue queue, const MergeArgs& args) override;
  void cap(Queue queue, const CapArgs& args) override {
    if (args.rows == 0 || args.columns == 0 || !ready()) return;
    failure_.check("cap", launch_cap(stream(queue), args));
  }
  void sample(Queue queue, const SampleArgs& args) override;

 private:
  // Of compute queues; none on the others until they are used so.
  struct Scratch {
    std::unique_ptr<TableRing> tables;
    Products::Scratch products;
    float* partials = nullptr;   // of the dense queue, the one that attends
    float* originals = nullptr;  // of a queue that samples: logits that a launch changes and puts back
    ~Scratch();
  };
  struct PendingDraws {
    Queue queue = Queue::dense;
    uint64_t ticket = 0;            // of the first record behind them
    size_t first = 0, count = 0;    // in draws_
    int32_t* tokens = nullptr;
    float* logprobs = nullptr;
    TokenLogprob* tops = nullptr;
    std::vector<uint32_t> top_counts;  // of each draw; empty where none wants any
  };
  struct Frequencies {
    std::vector<float> inverse;
    float* device = nullptr;
  };

  explicit CudaBackend(const CudaOptions& options) : options_(options), loader_(options.device, options.compute) {}
  Status open();
  Status open(Scratch& scratch, cudaStream_t stream);

  // The calling thread uses this device; CUDA keeps that for each thread.
  void enter() {
    if (thread_device != options_.device) failure_.check("cudaSetDevice", use_device(options_.device));
  }
  bool ready() {
    enter();
    return !failure_.happened();
  }
  DeviceQueue& at(Queue queue) {
    IOKV_ASSERT(queue != Queue::host);
    return *queues_[static_cast<size_t>(queue)];
  }
  Result<bool> poll_host(uint64_t ticket, bool block);
  cudaStream_t stream(Queue queue) { return at(queue).stream(); }
  Scratch& scratch(Queue queue);

  const float* frequencies_of(const RopeTable& table);
  void attend_split(Queue queue, const AttendArgs& args, std::span<const AttendSpan> spans);
  void attend_in_sequence(Queue queue, const AttendArgs& args, std::span<const AttendSpan> spans);
  AttendLaunch attend_launch(const AttendArgs& args, std::span<const AttendSpan> spans) const;
  template <typename Entry>
  const Table& attend_table(Scratch& scratch, const std::vector<Entry>& entries);
  void deliver();
  size_t room_for_draws(size_t count);
  void launch_draws(Queue queue, const SampleArgs& args, size_t first_row);

  const CudaOptions options_;
  DeviceInfo info_;
  Failure failure_;
  std::unique_ptr<DeviceClock> clock_;
  std::array<std::unique_ptr<DeviceQueue>, kQueues> queues_;  // of Queue::host none, but:
  std::unique_ptr<HostQueue> host_;        // or null
  std::array<Scratch, kQueues> scratch_;
  std::unique_ptr<Products> products_;
  Copier copier_;
  WeightLoader loader_;
  std::vector<Frequencies> frequencies_;   // a model has one or two
  Draw* draws_ = nullptr;                  // [kDraws], pinned: the device writes them
  TokenLogprob* tops_ = nullptr;           // [kDraws][kMaxTopLogprobs], likewise
  size_t next_draw_ = 0;
  std::deque<PendingDraws> pending_;

  // Tables that are being made.
  std::vector<EmbedRow> embed_rows_;
  std::vector<RopeTableRun> rope_runs_;
  std::vector<SampleTableRow> sample_rows_;
  Adjustments adjustments_;
  std::vector<Adjustment> sample_adjustments_;
  std::vector<uint32_t> sample_masks_;
  std::vector<AttendTableSpan> attend_spans_;
  std::vector<AttendItem> attend_items_;
  std::vector<const void*> addresses_;
  std::vector<AttendSpan> split_, in_sequence_;
  std::vector<std::byte> blob_;
};

// ---- life -----------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<Backend>> CudaBackend::make(const CudaOptions& options) {
  if (options.compute == DType::f32) return error("a GPU computes in f16 or bf16 here, not in f32");
  int driver = 0, count = 0;
  // Without a driver the runtime says that there is too old a one.
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) return error("there is no NVIDIA driver");
  IOKV_CUDA_TRY(cudaGetDeviceCount(&count));
  if (options.device < 0 || options.device >= count) {
    return error("there is no GPU " + std::to_string(options.device) + ": CUDA sees " + std::to_string(count));
  }
  std::unique_ptr<CudaBackend> backend(new CudaBackend(options));
  if (Status opened = backend->open(); !opened) {
    return std::move(opened.failure()).within("GPU " + std::to_string(options.device));
  }
  return std::unique_ptr<Backend>(std::move(backend));
}

Status CudaBackend::open() {
  IOKV_CUDA_TRY(use_device(options_.device));
  cudaDeviceProp properties{};
  IOKV_CUDA_TRY(cudaGetDeviceProperties(&properties, options_.device));
  if (properties.major < 8) {
    return error(std::string(properties.name) + " is of compute capability " + std::to_string(properties.major) + "." +
                 std::to_string(properties.minor) + "; 8.0 or newer is needed");
  }
  int driver = 0, runtime = 0;
  IOKV_CUDA_TRY(cudaDriverGetVersion(&driver));
  IOKV_CUDA_TRY(cudaRuntimeGetVersion(&runtime));
  auto version = [](int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); };
  info_.name = properties.name;
  info_.driver = "CUDA " + version(runtime) + ", driver for " + version(driver);
  info_.compute = options_.compute;
  info_.memory_bytes = properties.totalGlobalMem;
  info_.batch_invariant = options_.batch_invariant;
  info_.step_rows = kStepRows;
  info_.staging_bytes = kStagingBytes;
  info_.numa_node = numa_node_of(options_.device);

  IOKV_TRY_ASSIGN(clock_, DeviceClock::make());
  for (size_t i = 0; i < kQueues; ++i) {
    if (static_cast<Queue>(i) == Queue::host) continue;
    // Of one priority: kernels of either queue go on when those of the other that came before have their blocks running.
    // With less of it a recomputation starves beside a short step's products, which fill the device without a pause.
    IOKV_TRY_ASSIGN(queues_[i], DeviceQueue::make(*clock_, failure_));
  }
  IOKV_TRY_ASSIGN(products_, Products::make(options_.compute, options_.batch_invariant));
  for (Queue queue : {Queue::dense, Queue::recompute}) {
    IOKV_TRY(open(scratch_[static_cast<size_t>(queue)], stream(queue)));
  }
  IOKV_CUDA_TRY(cudaMalloc(reinterpret_cast<void**>(&scratch_[static_cast<size_t>(Queue::dense)].partials), kPartialBytes));
  IOKV_CUDA_TRY(cudaHostAlloc(reinterpret_cast<void**>(&draws_), kDraws * sizeof(Draw), cudaHostAllocMapped));
  IOKV_CUDA_TRY(cudaHostAlloc(reinterpret_cast<void**>(&tops_), kDraws * kMaxTopLogprobs * sizeof(TokenLogprob),
                              cudaHostAllocMapped));
  return {};
}

Status CudaBackend::open(Scratch& scratch, cudaStream_t stream) {
  IOKV_TRY_ASSIGN(scratch.tables, TableRing::make(stream));
  if (products_->workspace_bytes() > 0) {
    IOKV_CUDA_TRY(cudaMalloc(&scratch.products.workspace, products_->workspace_bytes()));
  }
  IOKV_CUDA_TRY(cudaMalloc(&scratch.products.bias, Products::kMostColumns * size_of(info_.compute)));
  IOKV_CUDA_TRY(cudaMalloc(reinterpret_cast<void**>(&scratch.originals), kMostAdjustments * sizeof(float)));
  return {};
}

// The host waits for a layer's queries, and the next layer for what it finds: dense work is what a step hangs on then, short
// and far between, and must not wait for a recomputation of half a millisecond that has come before it.
Status CudaBackend::attend_on_host(std::span<const int> cpus) {
  enter();
  IOKV_TRY_ASSIGN(host_, HostQueue::make(options_.device, info_.compute, cpus));
  info_.host_threads = host_->threads();
  constexpr auto kDense = static_cast<size_t>(Queue::dense);
  IOKV_TRY_ASSIGN(queues_[kDense], DeviceQueue::make(*clock_, failure_, true));
  IOKV_TRY_ASSIGN(scratch_[kDense].tables, TableRing::make(stream(Queue::dense)));
  return {};
}

CudaBackend::Scratch::~Scratch() {
  for (void* memory : {products.workspace, products.bias, static_cast<void*>(partials), static_cast<void*>(originals)}) {
    if (memory != nullptr) (void)cudaFree(memory);
  }
}

CudaBackend::~CudaBackend() {
  (void)use_device(options_.device);
  if (host_ != nullptr) host_->abandon();  // no stream waits for it any more
  for (const auto& queue : queues_) {
    if (queue != nullptr) (void)cudaStreamSynchronize(queue->stream());
  }
  for (const Frequencies& known : frequencies_) (void)cudaFree(known.device);
  if (draws_ != nullptr) (void)cudaFreeHost(draws_);
  if (tops_ != nullptr) (void)cudaFreeHost(tops_);
}

CudaBackend::Scratch& CudaBackend::scratch(Queue queue) {
  Scratch& scratch = scratch_[static_cast<size_t>(queue)];
  IOKV_ASSERT(scratch.tables != nullptr);  // only dense and recompute compute
  return scratch;
}

Result<std::unique_ptr<DeviceMemory>> CudaBackend::alloc(size_t bytes) {
  enter();
  void* data = nullptr;
  if (const cudaError_t refused = cudaMalloc(&data, std::max<size_t>(bytes, 1)); refused != cudaSuccess) {
    (void)cudaGetLastError();  // it is dealt with here
    size_t free_bytes = 0, all_bytes = 0;
    (void)cudaMemGetInfo(&free_bytes, &all_bytes);
    return device_error("cudaMalloc", refused)
        .within("no memory for " + std::to_string(bytes) + " bytes on " + info_.name + ", of whose " +
                std::to_string(all_bytes) + " bytes " + std::to_string(free_bytes) + " are free");
  }
  auto memory = std::make_unique<CudaMemory>(data, bytes);
#ifndef NDEBUG
  IOKV_CUDA_TRY(cudaMemset(data, 0xff, bytes));
  IOKV_CUDA_TRY(cudaDeviceSynchronize());  // streams here do not wait for the one that fills
#endif
  return std::unique_ptr<DeviceMemory>(std::move(memory));
}

// ---- tickets --------------------------------------------------------------------------------------------------------

void CudaBackend::wait(Queue queue, Ticket ticket) {
  if (queue == ticket.queue || ticket.value == 0) return;
  enter();
  if (queue == Queue::host) {
    // Invariant 4 of backend.h: the stream has been given nothing behind the ticket that the host would wait for in vain.
    if (!at(ticket.queue).reached(ticket.value, false)) host_->wait_for(stream(ticket.queue), failure_);
  } else if (ticket.queue == Queue::host) {
    host_->make_wait(stream(queue), ticket.value, failure_);
  } else {
    at(queue).wait_for(at(ticket.queue), ticket.value);
  }
}

// The host's threads wait for words that a lost device never writes: it is asked meanwhile.
Result<bool> CudaBackend::poll_host(uint64_t ticket, bool block) {
  constexpr uint64_t kAskNs = 1'000'000;
  for (uint64_t asked_ns = monotonic_ns(); !host_->reached(ticket);) {
    if (failure_.happened()) host_->abandon();
    if (!block || failure_.happened()) break;
    if (monotonic_ns() - asked_ns < kAskNs) continue;
    asked_ns = monotonic_ns();
    const cudaError_t answer = cudaStreamQuery(stream(Queue::dense));
    if (answer != cudaErrorNotReady) failure_.check("waiting for the host's attention", answer);
  }
  if (failure_.happened()) return failure_.error();
  return host_->reached(ticket);
}

Result<bool> CudaBackend::poll(Ticket ticket, bool block) {
  enter();
  if (ticket.queue == Queue::host) return poll_host(ticket.value, block);
  if (block) clock_->keep(failure_);
  const bool reached = at(ticket.queue).reached(ticket.value, block);
  if (failure_.happened()) {
    if (host_ != nullptr) host_->abandon();
    return failure_.error();
  }
  if (reached) deliver();
  return reached;
}

// To the host's arrays, in the order of issue.
void CudaBackend::deliver() {
  while (!pending_.empty()) {
    const PendingDraws& drawn = pending_.front();
    DeviceQueue& queue = at(drawn.queue);
    if (queue.recorded() < drawn.ticket || !queue.reached(drawn.ticket, false)) return;
    for (size_t i = 0; i < drawn.count; ++i) {
      drawn.tokens[i] = draws_[drawn.first + i].token;
      if (drawn.logprobs != nullptr) drawn.logprobs[i] = draws_[drawn.first + i].logprob;
    }
    TokenLogprob* tops = drawn.tops;
    for (size_t i = 0; i < drawn.top_counts.size(); ++i) {
      tops = std::copy_n(tops_ + (drawn.first + i) * kMaxTopLogprobs, drawn.top_counts[i], tops);
    }
    pending_.pop_front();
  }
}

// ---- operations -----------------------------------------------------------------------------------------------------

void CudaBackend::embed(Queue queue, const EmbedArgs& args) {
  if (args.tokens.empty() || !ready()) return;
  embed_rows_.clear();
  for (size_t i = 0; i < args.tokens.size(); ++i) {
    const auto token = static_cast<uint32_t>(args.tokens[i]);
    IOKV_ASSERT(args.tokens[i] >= 0 && token < args.table->n);
    uint32_t position = 0;
    if (args.position_table != nullptr) {
      position = args.positions[i] + args.position_offset;
      IOKV_ASSERT(position < args.position_table->n && args.position_table->k == args.table->k);
    }
    embed_rows_.push_back({token, position});
  }
  EmbedLaunch launch;
  launch.table = weights(args.table).data();
  launch.positions = args.position_table == nullptr ? nullptr : weights(args.position_table).data();
  launch.hidden = args.hidden;
  launch.scale = args.scale;
  launch.rows = static_cast<uint32_t>(embed_rows_.size());
  launch.columns = args.table->k;
  const Table& table = scratch(queue).tables->carry(embed_rows_.data(), embed_rows_.size() * sizeof(EmbedRow), failure_);
  if (!failure_.happened()) failure_.check("embed", launch_embed(stream(queue), info_.compute, launch, table));
}

void CudaBackend::gemm(Queue queue, const GemmArgs& args) {
  IOKV_ASSERT(args.first_column % 16 == 0 && args.first_column <= args.weight->n &&
              args.columns <= args.weight->n - args.first_column && args.y_stride >= args.columns);
  if (args.rows == 0 || args.columns == 0 || !ready()) return;
  const bool beside = queue == Queue::recompute && args.rows <= kShortRecompute;
  products_->multiply(stream(queue), scratch(queue).products, args, weights(args.weight).row(args.first_column), beside,
                      failure_);
}

void CudaBackend::rope(Queue queue, const RopeArgs& args) {
  if (!ready()) return;
  const KvShape& shape = args.shape;
  const size_t element = size_of(info_.compute);
  RopeLaunch launch;
  launch.shape = shape;
  launch.half = args.table.rotary_dim / 2;
  IOKV_ASSERT(shape.head_dim <= kLargestHeadDim && 2 * launch.half <= shape.head_dim);
  if (launch.half != 0) launch.frequencies = frequencies_of(args.table);
  launch.attention_scale = args.table.attention_scale;
  launch.norm = args.norm;
  IOKV_ASSERT(args.norm.q_weight == nullptr || shape.heads + shape.kv_heads <= kMostNormedHeads);
  launch.q = args.q;
  launch.k = args.k;
  launch.v = args.v;
  launch.q_stride = args.q_stride;
  launch.kv_stride = args.kv_stride;
  launch.aligned = shape.head_dim % 8 == 0 && launch.half % 8 == 0 && is_aligned(args.q, 16) && is_aligned(args.k, 16) &&
                   is_aligned(args.v, 16) && args.q_stride * element % 16 == 0 && args.kv_stride * element % 16 == 0;
  rope_runs_.clear();
  for (const RopeRun& run : args.runs) {
    if (run.rows == 0) continue;
    rope_runs_.push_back({launch.items, run.first_row, run.first_position, 0, run.kv_block, run.block_stride_bytes});
    launch.items += run.rows;
    launch.aligned &= is_aligned(run.kv_block, 16) && (run.block_stride_bytes % 16 == 0);
  }
  if (launch.items == 0 || failure_.happened()) return;
  IOKV_ASSERT(rope_runs_.size() <= kMostEntries);
  launch.runs = static_cast<uint32_t>(rope_runs_.size());
  const Table& table = scratch(queue).tables->carry(rope_runs_.data(), rope_runs_.size() * sizeof(RopeTableRun), failure_);
  if (!failure_.happened()) failure_.check("rope", launch_rope(stream(queue), info_.compute, launch, table));
}

// On the device; a table is copied there the first time that it is used.
const float* CudaBackend::frequencies_of(const RopeTable& table) {
  for (const Frequencies& known : frequencies_) {
    if (std::ranges::equal(known.inverse, table.inverse_frequency)) return known.device;
  }
  Frequencies added;
  added.inverse.assign(table.inverse_frequency.begin(), table.inverse_frequency.end());
  const size_t bytes = added.inverse.size() * sizeof(float);
  if (!failure_.check("rotary frequencies", cudaMalloc(reinterpret_cast<void**>(&added.device), bytes))) return nullptr;
  frequencies_.push_back(added);
  failure_.check("rotary frequencies", cudaMemcpy(added.device, added.inverse.data(), bytes, cudaMemcpyHostToDevice));
  return added.device;
}

void CudaBackend::attend(Queue queue, const AttendArgs& args) {
  if (queue == Queue::host) {
    if (!failure_.happened()) host_->attend(args);
    return;
  }
  const KvShape& shape = args.shape;
  IOKV_ASSERT(shape.heads % shape.kv_heads == 0 && shape.head_dim <= kLargestHeadDim);
  if (!ready()) return;
  const uint32_t group = shape.heads / shape.kv_heads;
  const size_t row_bytes = ((shape.head_dim + 15) / 16 * 16 + 2) * sizeof(float);
  const size_t room = kPartialBytes / row_bytes;  // partials
  // As many spans a launch as there is room for their pieces' results; the others in sequence.
  size_t taken = 0;
  split_.clear(), in_sequence_.clear();
  for (const AttendSpan& span : args.spans) {
    if (span.rows == 0) continue;
    IOKV_ASSERT(!span.kv_blocks.empty());
    const size_t partials = span.kv_blocks.size() * span.rows * shape.heads;
    if (span.rows * group > kSplitRows || partials > room) {
      in_sequence_.push_back(span);
      continue;
    }
    if (taken + partials > room) {
      attend_split(queue, args, split_);
      split_.clear();
      taken = 0;
    }
    split_.push_back(span);
    taken += partials;
  }
  if (!split_.empty()) attend_split(queue, args, split_);
  if (!in_sequence_.empty()) attend_in_sequence(queue, args, in_sequence_);
}

AttendLaunch CudaBackend::attend_launch(const AttendArgs& args, std::span<const AttendSpan> spans) const {
  const KvShape& shape = args.shape;
  AttendLaunch launch;
  launch.shape = shape;
  constexpr float kLog2E = 1.44269504f;  // weights are powers of two there
  launch.scale = args.score_cap == 0 ? args.scale * kLog2E : args.scale / args.score_cap;
  launch.cap = args.score_cap * kLog2E;
  launch.window = args.window;
  launch.q = args.q;
  launch.q_stride = args.q_stride;
  launch.out = args.out;
  launch.state = args.state;
  launch.spans = static_cast<uint32_t>(spans.size());
  launch.aligned = shape.head_dim % 8 == 0;
  launch.pairs = shape.head_dim % 2 == 0 && args.q_stride % 2 == 0 && is_aligned(args.q, 4);
  launch.eights = shape.head_dim % 8 == 0 && args.q_stride % 8 == 0 && is_aligned(args.q, 16) && is_aligned(args.out, 16);
  uint32_t most_rows = 0;
  for (const AttendSpan& span : spans) {
    most_rows = std::max(most_rows, span.rows * (shape.heads / shape.kv_heads));
    launch.rows += span.rows;
    for (const void* block : span.kv_blocks) launch.aligned &= is_aligned(block, 16);
    // What is not all of a span's pieces waits in the state.
    IOKV_ASSERT(args.state != nullptr ||
                (!span.is_divided() && span.first_piece == 0 && span.kv_blocks.size() >= span.pieces()));
    launch.divided |= span.is_divided();
  }
  launch.tiles = (most_rows + kTileRows - 1) / kTileRows;
  return launch;
}

// The spans, then their items or addresses.
template <typename Entry>
const Table& CudaBackend::attend_table(Scratch& scratch, const std::vector<Entry>& entries) {
  const size_t spans_bytes = attend_spans_.size() * sizeof(AttendTableSpan), bytes = entries.size() * sizeof(Entry);
  blob_.resize(spans_bytes + bytes);
  std::memcpy(blob_.data(), attend_spans_.data(), spans_bytes);
  std::memcpy(blob_.data() + spans_bytes, entries.data(), bytes);
  return scratch.tables->carry(blob_.data(), blob_.size(), failure_);
}

namespace {

AttendTableSpan table_span(const AttendSpan& span) {
  AttendTableSpan entry;
  entry.first_row = span.first_row;
  entry.rows = span.rows;
  entry.first_position = span.first_position;
  entry.first_piece = span.first_piece;
  entry.pieces = static_cast<uint32_t>(span.kv_blocks.size());
  entry.last = !span.is_divided() && span.first_piece + entry.pieces >= span.pieces() ? 1 : 0;
  if (span.is_divided()) {
    entry.own_piece = span.host_from / kBlockTokens;
    entry.first_position = span.host_from + span.first_position % kBlockTokens;
    entry.elsewhere = span.first_position - entry.first_position;
  }
  return entry;
}

}  // namespace

void CudaBackend::attend_split(Queue queue, const AttendArgs& args, std::span<const AttendSpan> spans) {
  Scratch& scratch = this->scratch(queue);
  AttendLaunch launch = attend_launch(args, spans);
  attend_spans_.clear(), attend_items_.clear();
  uint32_t partials = 0, merged = 0;
  for (const AttendSpan& span : spans) {
    AttendTableSpan entry = table_span(span);
    entry.first_partial = partials;
    entry.first_merged = merged;
    for (uint32_t piece = 0; piece < entry.pieces; ++piece) {
      attend_items_.push_back({span.kv_blocks[piece], static_cast<uint32_t>(attend_spans_.size()), piece});
    }
    partials += entry.pieces * span.rows * args.shape.heads;
    merged += span.rows;
    attend_spans_.push_back(entry);
  }
  launch.items = static_cast<uint32_t>(attend_items_.size());
  IOKV_ASSERT(scratch.partials != nullptr);
  launch.partials = scratch.partials;
  launch.partial_sums = scratch.partials + size_t{partials} * ((args.shape.head_dim + 15) / 16 * 16);
  const Table& table = attend_table(scratch, attend_items_);
  if (failure_.happened()) return;
  if (!failure_.check("attend", launch_attend_pieces(stream(queue), info_.compute, launch, table))) return;
  failure_.check("attend", launch_attend_merge(stream(queue), info_.compute, launch, table));
}

void CudaBackend::attend_in_sequence(Queue queue, const AttendArgs& args, std::span<const AttendSpan> spans) {
  const AttendLaunch launch = attend_launch(args, spans);
  attend_spans_.clear(), addresses_.clear();
  for (const AttendSpan& span : spans) {
    AttendTableSpan entry = table_span(span);
    entry.first_address = static_cast<uint32_t>(addresses_.size());
    addresses_.insert(addresses_.end(), span.kv_blocks.begin(), span.kv_blocks.end());
    attend_spans_.push_back(entry);
  }
  const Table& table = attend_table(scratch(queue), addresses_);
  if (!failure_.happened()) {
    failure_.check("attend", launch_attend_sequence(stream(queue), info_.compute, launch, table));
  }
}

void CudaBackend::hand_over(Queue queue, const HandOverArgs& args) {
  if (args.rows.empty() || !ready()) return;
  IOKV_ASSERT(args.size % 4 == 0 && args.pitch_bytes % 4 == 0 && args.rows.size() <= kMostEntries);
  HandOverLaunch launch;
  launch.from = args.from;
  launch.to = args.to;
  launch.rows = static_cast<uint32_t>(args.rows.size());
  launch.sixteens = is_aligned(args.from, 16) && is_aligned(args.to, 16) && args.size % 16 == 0 && args.pitch_bytes % 16 == 0;
  const size_t word = launch.sixteens ? 16 : 4;
  launch.words = static_cast<uint32_t>(args.size / word);
  launch.pitch_words = static_cast<uint32_t>(args.pitch_bytes / word);
  const Table& rows = scratch(queue).tables->carry(args.rows.data(), args.rows.size_bytes(), failure_);
  if (!failure_.happened()) failure_.check("hand over", launch_hand_over(stream(queue), launch, rows));
}

void CudaBackend::merge(Queue queue, const MergeArgs& args) {
  if (args.rows.empty() || !ready()) return;
  IOKV_ASSERT(args.rows.size() <= kMostEntries);
  const MergeLaunch launch{args.shape, args.state, args.other, args.out, static_cast<uint32_t>(args.rows.size())};
  const Table& rows = scratch(queue).tables->carry(args.rows.data(), args.rows.size_bytes(), failure_);
  if (!failure_.happened()) failure_.check("merge", launch_merge(stream(queue), info_.compute, launch, rows));
}

// In several launches where adjustments and masks are more than one table carries.
void CudaBackend::sample(Queue queue, const SampleArgs& args) {
  if (args.rows.empty() || !ready()) return;
  IOKV_ASSERT(args.vocab != 0 && args.rows.size() <= kDraws);
  sample_rows_.clear(), sample_adjustments_.clear(), sample_masks_.clear();
  const size_t words = mask_words(args.vocab);
  size_t first = 0;
  for (size_t i = 0; i < args.rows.size(); ++i) {
    const SampleRow& row = args.rows[i];
    const std::span<const Adjustment> adjustments = adjustments_.of(row, args.vocab);
    const size_t bytes = (sample_rows_.size() + 1) * sizeof(SampleTableRow) +
                         (sample_adjustments_.size() + adjustments.size()) * sizeof(Adjustment) +
                         (sample_masks_.size() + (row.mask != nullptr ? words : 0)) * sizeof(uint32_t);
    if (bytes > TableRing::kLargestBytes) {
      launch_draws(queue, args, first);
      first = i;
    }
    SampleTableRow entry{row.params, row.logits_row, row.position};
    entry.first_adjustment = static_cast<uint32_t>(sample_adjustments_.size());
    entry.adjustments = static_cast<uint32_t>(adjustments.size());
    entry.top = row.top;
    sample_adjustments_.insert(sample_adjustments_.end(), adjustments.begin(), adjustments.end());
    if (row.mask != nullptr) {
      entry.mask = static_cast<uint32_t>(sample_masks_.size());
      sample_masks_.insert(sample_masks_.end(), row.mask, row.mask + words);
    }
    sample_rows_.push_back(entry);
  }
  launch_draws(queue, args, first);
}

// The rows that have been collected, which begin with `first_row` of the operation's.
void CudaBackend::launch_draws(Queue queue, const SampleArgs& args, size_t first_row) {
  const size_t count = sample_rows_.size(), first = room_for_draws(count);
  const size_t rows_bytes = count * sizeof(SampleTableRow);
  const size_t adjustments_bytes = sample_adjustments_.size() * sizeof(Adjustment);
  blob_.resize(rows_bytes + adjustments_bytes + sample_masks_.size() * sizeof(uint32_t));
  std::memcpy(blob_.data(), sample_rows_.data(), rows_bytes);
  if (adjustments_bytes != 0) std::memcpy(blob_.data() + rows_bytes, sample_adjustments_.data(), adjustments_bytes);
  if (!sample_masks_.empty()) {
    std::memcpy(blob_.data() + rows_bytes + adjustments_bytes, sample_masks_.data(), sample_masks_.size() * sizeof(uint32_t));
  }
  Scratch& own = scratch(queue);
  const Table& table = own.tables->carry(blob_.data(), blob_.size(), failure_);
  SampleLaunch launch;
  launch.logits = const_cast<float*>(args.logits);  // backend.h says that they may change meanwhile
  launch.vocab = args.vocab;
  launch.rows = static_cast<uint32_t>(count);
  launch.adjustments = static_cast<uint32_t>(sample_adjustments_.size());
  launch.originals = own.originals;
  launch.draws = draws_ + first;
  launch.tops = tops_ + first * kMaxTopLogprobs;
  sample_rows_.clear(), sample_adjustments_.clear(), sample_masks_.clear();
  if (failure_.happened() || !failure_.check("sample", launch_sample(stream(queue), launch, table))) return;
  const auto rows = args.rows.subspan(first_row, count), before = args.rows.first(first_row);
  PendingDraws pending{queue, at(queue).recorded() + 1, first, count, args.tokens + first_row};
  if (args.logprobs != nullptr) pending.logprobs = args.logprobs + first_row;
  if (std::ranges::any_of(rows, [](const SampleRow& row) { return row.top != 0; })) {
    pending.tops = args.tops;
    for (const SampleRow& row : before) pending.tops += row.top;
    for (const SampleRow& row : rows) pending.top_counts.push_back(row.top);
  }
  pending_.push_back(std::move(pending));
}

// Where so many draws go. Those that are in the way have to be over.
size_t CudaBackend::room_for_draws(size_t count) {
  if (next_draw_ + count > kDraws) next_draw_ = 0;
  const size_t first = next_draw_;
  next_draw_ += count;
  auto in_the_way = [&] {
    return std::ranges::any_of(pending_, [&](const PendingDraws& drawn) {
      return drawn.first < first + count && first < drawn.first + drawn.count;
    });
  };
  while (in_the_way() && !failure_.happened()) {
    // Nothing was recorded behind them yet, or it is not reached.
    const PendingDraws& oldest = pending_.front();
    DeviceQueue& behind = at(oldest.queue);
    while (behind.recorded() < oldest.ticket) (void)behind.record();
    (void)behind.reached(oldest.ticket, true);
    deliver();
  }
  return first;
}

}  // namespace
}  // namespace cuda

Result<std::unique_ptr<Backend>> make_cuda_backend_here(const CudaOptions& options) {
  return cuda::CudaBackend::make(options);
}

}  // namespace iokv
