// SPDX-License-Identifier: Apache-2.0
// The seam between the runtime and a device. A backend owns device memory and a few queues; operations are issued to a
// queue, run in issue order within it, and are ordered across queues only by record and wait. It knows nothing of
// clients, sequences or plans. The CPU backend (backend/cpu) is the reference and runs every operation before the call
// returns; a CUDA backend returns at once.
//
// Invariants
//  1. Batch invariance: every output element is a fixed function of its own row's inputs, with one reduction order
//     whatever the number of rows, their neighbours or the thread count.
//  2. One thread, the executor, calls a backend; only info(), packing() and load_bytes() may be called from
//     any thread.
//  3. Pointers in arguments are device pointers unless the comment says host; with info().host_addressable they are the
//     same thing. Memory named by an operation stays valid until a later record of that queue has been reached; host
//     arrays that it reads (tokens, runs, addresses, spans) only until the call returns.
//  4. Queue::host runs attend and nothing else, on threads of the host's CPU, where info().host_threads is above 0; what it
//     reads and writes is host memory. A queue that it is to wait for has been given nothing behind that ticket yet.
//  5. Arguments are trusted (shapes were checked when the model was loaded and when the Plan was built); violations are
//     asserts. What the world can refuse (memory, a lost device) is a Result.
//
// Shapes: M rows are tokens of the step; h hidden size; d head dimension; all matrices row-major.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "daemon/base/assert.h"
#include "daemon/base/dtype.h"
#include "daemon/base/quant_form.h"
#include "daemon/base/queue.h"
#include "daemon/base/result.h"
#include "daemon/base/sampling.h"
#include "daemon/base/units.h"

namespace iokv {

// A point in a queue's work: reached when everything issued to the queue before the record has completed.
struct Ticket {
  Queue queue = Queue::dense;
  uint64_t value = 0;
};

struct DeviceInfo {
  std::string name;               // "cpu (avx512_bf16, 2 threads)"
  std::string driver;             // version of what runs it, and empty where there is nothing to tell
  DType compute = DType::f32;     // of activations, weights, X, K and V
  double paced_bytes_per_s = 0;   // each way, of a link that is slow on purpose; 0: as fast as it is
  bool host_addressable = false;  // operations may read and write the host pool in place: nothing needs to be copied
  uint64_t memory_bytes = 0;      // device memory in all; 0 = the host's
  int numa_node = -1;             // of the host's memory that it reaches fastest; -1: any, or it is not known
  bool batch_invariant = true;    // invariant 1 holds to the bit; else up to the order of sums
  uint32_t host_threads = 0;      // that attend on Queue::host; 0: there is no such queue
  // What suits the device where the configuration does not say.
  uint32_t step_rows = 256;                       // of a step: its products would not be faster with more
  uint64_t staging_bytes = uint64_t{64} << 20;    // through which its link runs at its full rate
};

// `rows` pieces of `bytes` each, the starts of neighbours a pitch apart. A block's K,V of some of its tokens are such a
// run: one piece a head for K and one for V.
struct CopyRun {
  void* to = nullptr;
  const void* from = nullptr;
  size_t bytes = 0;
  uint32_t rows = 1;
  size_t to_pitch_bytes = 0, from_pitch_bytes = 0;  // of no meaning with one row

  size_t total_bytes() const { return bytes * rows; }
};

// Device memory of one allocation; released by its owner's destructor.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  virtual void* data() const = 0;
  virtual size_t size_bytes() const = 0;
};

// A weight matrix [n, k] (n outputs, k inputs, y = x·Wᵀ) in the backend's own packed form. Opaque outside the backend.
class Matrix {
 public:
  virtual ~Matrix() = default;
  uint32_t n = 0, k = 0;
  size_t stored_bytes = 0;  // device bytes that it occupies
};

// How matrices with as many inputs are packed: groups of outputs one behind the other, the last one filled up.
struct Packing {
  uint32_t group_outputs = 1;
  size_t group_bytes = 0;

  size_t bytes(uint32_t outputs) const { return (size_t{outputs} + group_outputs - 1) / group_outputs * group_bytes; }
  // Of the group that has this output: it and all outputs behind it lie there or later.
  size_t offset(uint32_t output) const { return size_t{output} / group_outputs * group_bytes; }
};

// Fills `row` (k floats) with row `index` (0 <= index < n) of a matrix; called once a row, in any order, from any thread.
// Rows that are stored in few bits can be had so too, which a backend may ask for instead.
class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual void read_row(uint32_t index, float* row) const = 0;
  virtual QuantForm quant_form() const { return {}; }  // of every row
  virtual void read_quants(uint32_t, const QuantRow&) const { IOKV_ASSERT(!"rows that are not stored so"); }
};

enum class NormKind : uint8_t { rms, layer };
enum class Activation : uint8_t { relu, gelu, gelu_tanh, silu_glu, gelu_tanh_glu };
// Gated: of a gate and as many other inputs, activation(gate) · other.
constexpr bool is_gated(Activation kind) { return kind == Activation::silu_glu || kind == Activation::gelu_tanh_glu; }

// hidden[i] = table[token[i]]·scale (+ positions_table[position[i] + position_offset]) as f32.
struct EmbedArgs {
  const Matrix* table = nullptr;            // [vocab, h]
  const Matrix* position_table = nullptr;   // [contexts + offset, h] or null
  uint32_t position_offset = 0;             // OPT: 2
  float scale = 1.0f;                       // of the token's row
  std::span<const int32_t> tokens;          // [M], host
  std::span<const uint32_t> positions;      // [M], host
  float* hidden = nullptr;                  // [M, h] f32
};

enum class NormOutput : uint8_t {
  store,    // y is compute dtype
  add_f32,  // y is f32, y += norm(x)·weight + bias
};

// y = norm(x)·weight + bias; statistics in f32.
struct NormArgs {
  NormKind kind = NormKind::rms;
  float epsilon = 1e-5f;
  const float* weight = nullptr;  // [h] f32
  const float* bias = nullptr;    // [h] f32 or null
  const float* x = nullptr;       // [M, h] f32
  void* y = nullptr;              // [M, h]
  uint32_t rows = 0, columns = 0;
  NormOutput output = NormOutput::store;
};

enum class GemmOutput : uint8_t {
  store,      // y is compute dtype, rounded once
  store_f32,  // y is f32
  add_f32,    // y is f32, y += x·Wᵀ + b
};

// y[:, 0:columns] = x · W[first_column : first_column + columns, :]ᵀ + bias. A range of outputs gives the same bits as
// the whole product: recomputing K,V uses the K,V rows of the fused Q,K,V matrix.
struct GemmArgs {
  const Matrix* weight = nullptr;             // [n, k]
  uint32_t first_column = 0, columns = 0;     // of the outputs; first_column is a multiple of 16
  const float* bias = nullptr;                // [n] f32 (indexed like the outputs of the whole matrix) or null
  const void* x = nullptr;                    // [M, k] compute dtype, contiguous
  void* y = nullptr;
  uint32_t y_stride = 0;                      // elements between rows of y, >= columns
  uint32_t rows = 0;                          // M
  GemmOutput output = GemmOutput::store;
};

// A block of K,V of one layer holds kBlockTokens tokens as [kv_heads][2][kBlockTokens][d] in the compute dtype: a KV
// head's K is contiguous, then its V.
struct KvShape {
  uint32_t heads = 0, kv_heads = 0, head_dim = 0;
  size_t block_elements() const { return size_t{2} * kv_heads * kBlockTokens * head_dim; }
};

// Rotary embedding as the half-rotation of GPT-NeoX and HF Llama over the first rotary_dim elements of each head:
// angle(position, i) = position · inverse_frequency[i], i < rotary_dim/2; cos and sin are multiplied by attention_scale.
struct RopeTable {
  uint32_t rotary_dim = 0;                     // 0: positions are not rotary and K is stored as it is
  std::span<const float> inverse_frequency;    // [rotary_dim/2], host
  float attention_scale = 1.0f;
};

// Consecutive rows of one sequence: row first_row + i is position p = first_position + i, and its K,V go to slot
// p % kBlockTokens of a block. The first row's block is at kv_block, each further one block_stride_bytes behind the one
// before it. Runs of one operation name rows in rising order.
struct RopeRun {
  uint32_t first_row = 0, rows = 0;
  uint32_t first_position = 0;
  void* kv_block = nullptr;       // null: where K and V are not stored
  size_t block_stride_bytes = 0;  // of no meaning within one block
};

// Each head of q and of k by itself becomes head / sqrt(mean(head²) + epsilon) · weight before it is rotated.
struct HeadNorm {
  const float* q_weight = nullptr;  // [d] f32; null: heads are rotated as they are
  const float* k_weight = nullptr;  // [d] f32; null where q_weight is
  float epsilon = 1e-6f;
};

// Rotates q in place (if given) and writes rotated K, and V, into their blocks (if given), for the rows of the runs.
struct RopeArgs {
  KvShape shape;
  RopeTable table;
  void* q = nullptr;                           // rows of heads·d elements, q_stride apart, or null
  uint32_t q_stride = 0;
  const void* k = nullptr;                     // rows of kv_heads·d elements, kv_stride apart, or null
  const void* v = nullptr;
  uint32_t kv_stride = 0;
  std::span<const RopeRun> runs;               // host array
  HeadNorm norm;
};

struct ActivateArgs {
  Activation kind = Activation::relu;
  const void* x = nullptr;  // [M, columns], or where it is gated [M, 2·columns]: gate, then up
  void* y = nullptr;        // [M, columns]; may be x where shapes agree
  uint32_t rows = 0, columns = 0;
};

// x = limit·tanh(x / limit), in place.
struct CapArgs {
  float limit = 1.0f;  // above zero
  float* x = nullptr;  // [M, columns] f32
  uint32_t rows = 0, columns = 0;
};

// Rows of one sequence over a run of its pieces, of kBlockTokens tokens each: row r (0 <= r < rows) is position
// first_position + r and attends to every position <= its own, and within its window, that lies in one of the pieces.
struct AttendSpan {
  uint32_t first_row = 0, rows = 0;
  uint32_t first_position = 0;
  uint32_t first_piece = 0;                     // the sequence's; kv_blocks[i] holds piece first_piece + i
  std::span<const void* const> kv_blocks;       // host array of block addresses, not empty
  // A block's start: of a row, its cached tokens from here on are attended to on Queue::host, those before it and its own
  // on another one. Of such spans rows == 1. Elsewhere than on the host the piece at host_from is the one with the row's
  // own token, of which nothing else is there, and the last one.
  uint32_t host_from = kAllOnDevice;

  bool is_divided() const { return host_from != kAllOnDevice; }
  // Of the sequence, that are attended to elsewhere than on the host.
  uint32_t pieces() const { return (is_divided() ? host_from : first_position + rows - 1) / kBlockTokens + 1; }
};

// out = softmax(cap(q·Kᵀ·scale))·V a head. Query head i uses KV head i / (heads / kv_heads). Partial results of fixed
// pieces of kBlockTokens tokens are merged in position order by log-sum-exp, in f32.
//
// A row's pieces may come in several operations, in position order without gaps: what has been merged so far waits in
// `state`, and `out` is written with the row's last piece. The bits are those of one operation over all pieces.
//
// A row that the host has a part in is divided in two (AttendSpan::host_from): either leaves what it has merged in its
// `state`, with no weights and a largest score of minus infinity where it has seen nothing, and `out` is written by merge.
// On Queue::host the pieces of a span come in one operation.
struct AttendArgs {
  KvShape shape;
  float scale = 1.0f;
  const void* q = nullptr;  // [M, heads·d] compute dtype, q_stride elements between rows
  uint32_t q_stride = 0;
  void* out = nullptr;      // [M, heads·d] compute dtype, contiguous
  float* state = nullptr;   // [M, heads, attend_state_floats(d)] f32; may be null when every span has all its pieces
  std::span<const AttendSpan> spans;
  uint32_t window = 0;      // tokens that a row sees, its own and those just before it; 0: all
  float score_cap = 0;      // scores become score_cap·tanh(score / score_cap); 0: they stay as they are
};

// Of a row and head: d sums (padded to 64 bytes), the sum of weights and the largest score (likewise).
constexpr size_t attend_state_floats(size_t head_dim) { return (head_dim + 15) / 16 * 16 + 16; }

// Of rows of M: each `size` bytes from row rows[i] of `from`, on the device, to row i of `to`, in pinned host memory.
struct HandOverArgs {
  const void* from = nullptr;  // [M], pitch_bytes apart
  size_t pitch_bytes = 0, size = 0;  // multiples of 4
  std::span<const uint32_t> rows;    // host array, rising
  void* to = nullptr;          // [rows.size(), size], pinned
};

// What two attend operations have left of rows that were divided between them becomes their `out`.
struct MergeArgs {
  KvShape shape;
  std::span<const uint32_t> rows;  // host array, rising
  const float* state = nullptr;    // [M, heads, attend_state_floats(d)], of the device: rows[i]
  const float* other = nullptr;    // [rows.size(), heads, attend_state_floats(d)], of the host, pinned: row i
  void* out = nullptr;             // [M, heads·d] compute dtype: rows[i]
};

struct SampleRow {
  SampleParams params;
  uint32_t logits_row = 0;
  uint64_t position = 0;  // of the token to be drawn: the counter of the random draw
  // All host arrays. Tokens of the sequence that repetition_penalty is about, and those that presence_penalty and
  // frequency_penalty count; either is empty where the parameters do not ask for it.
  std::span<const int32_t> repeated, counted;
  std::span<const TokenBias> biases;  // of one token add up
  const uint32_t* mask = nullptr;     // [mask_words(vocab)], it permits one token at least; null: every token may be drawn
  uint32_t top = 0;                   // most probable tokens wanted, <= kMaxTopLogprobs and <= vocab
};

struct SampleArgs {
  const float* logits = nullptr;       // [rows, vocab] f32. Those of a row with biases or penalties may change until the
                                       // operation is over, and are then as before: no other row of it names them
  uint32_t vocab = 0;
  std::span<const SampleRow> rows;     // host
  int32_t* tokens = nullptr;           // [rows.size()], host
  float* logprobs = nullptr;           // [rows.size()], host: log-softmax of the unmodified logits at the drawn token
  TokenLogprob* tops = nullptr;        // [sum of the rows' `top`], host: of each row the most probable first, the smaller
                                       // id first among equals; may be null where no row wants any
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const DeviceInfo& info() const = 0;

  // Device memory, 64-byte aligned, not initialised (filled with 0xff bytes, a NaN, in debug builds).
  virtual Result<std::unique_ptr<DeviceMemory>> alloc(size_t bytes) = 0;
  // A weight matrix converted once to the compute dtype and packed as gemm and embed read it.
  virtual Result<std::unique_ptr<Matrix>> load(uint32_t n, uint32_t k, const RowSource& source) = 0;
  // Weights that live on the host: `pack` writes the packed form, as load would have it, to packing(k).bytes(n) bytes of
  // host memory. Copied to as many of an allocation's, 256-byte steps from its start, it is what a `view` of them reads;
  // the memory outlives the view, which has no stored bytes of its own.
  virtual Packing packing(uint32_t k) const = 0;
  // Device bytes that `load` takes for it, before anything is read.
  virtual size_t load_bytes(uint32_t n, uint32_t k, const RowSource&) const { return packing(k).bytes(n); }
  virtual Status pack(uint32_t n, uint32_t k, const RowSource& source, void* to) = 0;
  virtual Result<std::unique_ptr<Matrix>> view(uint32_t n, uint32_t k, void* data) = 0;
  // Makes host memory [data, data + bytes) fast and safe to copy from asynchronously, until unpin.
  virtual Status pin(void* data, size_t bytes) = 0;
  virtual void unpin(void* data) = 0;

  // Starts threads of the host that attend on Queue::host, one on each of these CPUs; before anything is issued. Error: this
  // device has no such queue, or a thread cannot be started.
  virtual Status attend_on_host(std::span<const int>) { return error("this device has no attention on the host"); }

  // Runs do not overlap each other. Between pinned host memory and the device on h2d and d2h; within either on any queue.
  virtual void copy(Queue queue, std::span<const CopyRun> runs) = 0;
  void copy(Queue queue, void* to, const void* from, size_t bytes) {
    const CopyRun run{to, from, bytes};
    copy(queue, std::span(&run, 1));
  }
  virtual Ticket record(Queue queue) = 0;
  virtual void wait(Queue queue, Ticket ticket) = 0;
  // Whether the ticket has been reached; with block, waits for it. An Error is a device that is lost.
  virtual Result<bool> poll(Ticket ticket, bool block) = 0;
  // The device's clock: the host's monotonic one, unless time is modelled.
  virtual uint64_t now_ns() const = 0;
  // On the device's clock, when a ticket was reached that has been reached, for the latest kTimedTickets of its queue.
  virtual uint64_t reached_ns(Ticket ticket) = 0;
  static constexpr size_t kTimedTickets = size_t{1} << 15;

  virtual void embed(Queue queue, const EmbedArgs& args) = 0;
  virtual void norm(Queue queue, const NormArgs& args) = 0;
  virtual void gemm(Queue queue, const GemmArgs& args) = 0;
  virtual void rope(Queue queue, const RopeArgs& args) = 0;
  virtual void activate(Queue queue, const ActivateArgs& args) = 0;
  virtual void attend(Queue queue, const AttendArgs& args) = 0;
  virtual void hand_over(Queue queue, const HandOverArgs& args) = 0;
  virtual void merge(Queue queue, const MergeArgs& args) = 0;
  virtual void cap(Queue queue, const CapArgs& args) = 0;
  virtual void sample(Queue queue, const SampleArgs& args) = 0;
};

}  // namespace iokv
