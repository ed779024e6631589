// SPDX-License-Identifier: Apache-2.0
// A device of which only the times exist: operations take what their shapes take at a hardware's rates, on a virtual
// clock, and compute nothing. The same model code, scheduler and runtime run on it for any model on any hardware, as
// fast as they can issue, and give the same times each run.
//
// What an operation lasts, with L = launch_ns, the least that one takes, B and F the rates of memory and of products:
//   copy on h2d, d2h        copy_ns + further pieces · piece_ns + bytes / the direction's rate
//   copy on dense, recompute  max(L, 2·bytes/B)
//   gemm                    max(L, bytes of the named rows of W / B, 2·rows·columns·k/F)
//   attend                  max(L, bytes of K,V of each span's pieces / B, 4·heads·d·attended tokens/F), within windows
//   embed, norm, cap, sample  max(L, bytes of rows/B)
//   rope, activate          nothing
// A piece is a run of bytes that is contiguous on both sides. Spans that name the same block read it each; a span reads
// its K,V once, however many rows it has. An operation is launched while the one before it runs, so that L shows only
// in short ones. Rope and activation go element by element and are part of the product before them. So a layer's two
// norms last what expected_profile (daemon/runtime/expected_profile.h) counts as launches, and a decode step what it
// says: the norms of thousands of rows take 2 % more.
//
// Invariants
//  1. Memory is address space: it can be computed with, and touching it is a fault. What a RowSource would give, or
//     what a copy names, is never read.
//  2. Results that the host sees are constants, written when sample is issued: token_at and -log(vocab).
//  3. The clock moves in poll with block, in advance_to and by host_issue_ns, and nowhere else.
//  4. The backend outlives its memory and matrices. One thread uses it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "daemon/backend/backend.h"
#include "daemon/backend/modelled/hardware.h"
#include "daemon/backend/modelled/virtual_queues.h"

namespace iokv {

// Of each piece of a copy after the first. On an H200 cudaMemcpyBatchAsync carried pieces of 64 KiB at 49.2 GB/s, where
// long copies run at 55.5: 65,536/49.2 - 65,536/55.5 = 151 ns.
inline constexpr double kFurtherPieceNs = 150;

struct ModelledOptions {
  Hardware hardware;
  DType compute = DType::f16;
  double piece_ns = kFurtherPieceNs;
  double host_issue_ns = 0;  // that the clock moves with each operation issued
  // Aborts where a copy on h2d (d2h) is not from (to) pinned host memory to (from) the device, a copy on dense or
  // recompute leaves the device, or another operation names something as device memory that is not.
  bool strict = false;
};

struct QueueCounters {
  uint64_t operations = 0;    // issued
  uint64_t copied_bytes = 0;  // issued
  double busy_ns = 0;         // until now
};

class ModelledBackend final : public Backend {
 public:
  explicit ModelledBackend(const ModelledOptions& options);

  // Moves the clock; a time that has passed changes nothing.
  void advance_to(uint64_t now_ns) { queues_.advance_to(now_ns); }
  // When the next operation ends if nothing more is issued; nothing when none runs.
  std::optional<uint64_t> next_end_ns() { return queues_.next_end_ns(); }
  QueueCounters counters(Queue queue) const;
  uint64_t used_bytes() const { return used_bytes_; }
  // What sample draws for a position, below vocab.
  static int32_t token_at(uint64_t position, uint32_t vocab);

  const DeviceInfo& info() const override { return info_; }
  // Error: with what is taken already it is more than the hardware's memory; it says by how much.
  Result<std::unique_ptr<DeviceMemory>> alloc(size_t bytes) override;
  Result<std::unique_ptr<Matrix>> load(uint32_t n, uint32_t k, const RowSource& source) override;
  Packing packing(uint32_t k) const override { return {1, k * element_bytes_}; }
  // Writes nothing.
  Status pack(uint32_t n, uint32_t k, const RowSource& source, void* to) override;
  Result<std::unique_ptr<Matrix>> view(uint32_t n, uint32_t k, void* data) override;
  Status pin(void* data, size_t bytes) override;
  void unpin(void* data) override;

  using Backend::copy;
  void copy(Queue queue, std::span<const CopyRun> runs) override;
  Ticket record(Queue queue) override { return queues_.record(queue); }
  void wait(Queue queue, Ticket ticket) override { queues_.wait(queue, ticket); }
  Result<bool> poll(Ticket ticket, bool block) override;
  uint64_t now_ns() const override { return queues_.now_ns(); }
  uint64_t reached_ns(Ticket ticket) override { return queues_.reached_ns(ticket); }

  void embed(Queue queue, const EmbedArgs& args) override;
  void norm(Queue queue, const NormArgs& args) override;
  void gemm(Queue queue, const GemmArgs& args) override;
  void rope(Queue queue, const RopeArgs& args) override;
  void activate(Queue queue, const ActivateArgs& args) override;
  void attend(Queue queue, const AttendArgs& args) override;
  void hand_over(Queue queue, const HandOverArgs& args) override;
  void merge(Queue queue, const MergeArgs& args) override;
  void cap(Queue queue, const CapArgs& args) override;
  void sample(Queue queue, const SampleArgs& args) override;

 private:
  class Memory;
  class WeightMatrix;
  using Ranges = std::map<uintptr_t, size_t>;  // bytes by their first address

  Status take(size_t bytes);
  void give_back(size_t bytes);
  void issue(Queue queue, double ns);
  // At least a launch, unless there is nothing to do.
  void issue_operation(Queue queue, double bytes, double flop);
  void issue_over_link(Queue queue, size_t bytes);
  void check_copy(Queue queue, const CopyRun& run) const;
  void check_device(const void* data) const;

  const ModelledOptions options_;
  const size_t element_bytes_;
  DeviceInfo info_;
  VirtualQueues queues_;
  uint64_t used_bytes_ = 0;
  Ranges device_, pinned_;
  QueueCounters counters_[kQueues];
};

}  // namespace iokv
