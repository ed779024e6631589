// SPDX-License-Identifier: Apache-2.0
// A backend that runs operations late, and those of different queues in any order that records and waits permit: the
// worst device that keeps to daemon/backend/backend.h.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "daemon/backend/backend.h"
#include "tests/backend/cpu_fixture.h"

namespace iokv::test {

// Keeps operations, with copies of the host arrays that their caller may reuse, until a poll has to wait; then runs them
// one at a time, each time from a queue chosen at random among those whose first operation waits for nothing.
class LateBackend final : public Backend {
 public:
  // apart: it says that it cannot address the host's memory, so that everything is fetched and written back.
  // deaf: the queue whose waits are ignored.
  LateBackend(std::unique_ptr<Backend> inner, uint64_t stream, bool apart, std::optional<Queue> deaf = {})
      : inner_(std::move(inner)), info_(inner_->info()), numbers_(stream), deaf_(deaf) {
    info_.host_addressable = !apart;
  }

  const DeviceInfo& info() const override { return info_; }
  Result<std::unique_ptr<DeviceMemory>> alloc(size_t bytes) override { return inner_->alloc(bytes); }
  Result<std::unique_ptr<Matrix>> load(uint32_t n, uint32_t k, const RowSource& source) override {
    return inner_->load(n, k, source);
  }
  Packing packing(uint32_t k) const override { return inner_->packing(k); }
  Status pack(uint32_t n, uint32_t k, const RowSource& source, void* to) override { return inner_->pack(n, k, source, to); }
  Result<std::unique_ptr<Matrix>> view(uint32_t n, uint32_t k, void* data) override { return inner_->view(n, k, data); }
  Status pin(void* data, size_t bytes) override { return inner_->pin(data, bytes); }
  void unpin(void* data) override { inner_->unpin(data); }

  using Backend::copy;
  void copy(Queue queue, std::span<const CopyRun> runs) override {
    issue(queue, [=, this, own = copy_of(runs)] { inner_->copy(queue, own); });
  }
  Ticket record(Queue queue) override {
    Ticket ticket{queue, ++recorded_[index(queue)]};
    issue(queue, [=, this] { reached_[index(queue)] = ticket.value; });
    return ticket;
  }
  void wait(Queue queue, Ticket ticket) override {
    if (queue != deaf_) pending_[index(queue)].push_back({[] {}, ticket});
  }
  Result<bool> poll(Ticket ticket, bool block) override {
    while (block && !reached(ticket)) run_one();
    return reached(ticket);
  }
  uint64_t now_ns() const override { return inner_->now_ns(); }
  uint64_t reached_ns(Ticket ticket) override { return inner_->reached_ns(ticket); }

  void embed(Queue queue, const EmbedArgs& args) override {
    issue(queue, [=, this, tokens = copy_of(args.tokens), positions = copy_of(args.positions)] {
      EmbedArgs own = args;
      own.tokens = tokens;
      own.positions = positions;
      inner_->embed(queue, own);
    });
  }
  void norm(Queue queue, const NormArgs& args) override {
    issue(queue, [=, this] { inner_->norm(queue, args); });
  }
  void gemm(Queue queue, const GemmArgs& args) override {
    issue(queue, [=, this] { inner_->gemm(queue, args); });
  }
  void rope(Queue queue, const RopeArgs& args) override {
    issue(queue, [=, this, runs = copy_of(args.runs), frequencies = copy_of(args.table.inverse_frequency)] {
      RopeArgs own = args;
      own.runs = runs;
      own.table.inverse_frequency = frequencies;
      inner_->rope(queue, own);
    });
  }
  void activate(Queue queue, const ActivateArgs& args) override {
    issue(queue, [=, this] { inner_->activate(queue, args); });
  }
  void attend(Queue queue, const AttendArgs& args) override {
    std::vector<std::vector<const void*>> blocks;
    for (const AttendSpan& span : args.spans) blocks.push_back(copy_of(span.kv_blocks));
    issue(queue, [=, this, spans = copy_of(args.spans), blocks = std::move(blocks)]() mutable {
      for (size_t i = 0; i < spans.size(); ++i) spans[i].kv_blocks = blocks[i];
      AttendArgs own = args;
      own.spans = spans;
      inner_->attend(queue, own);
    });
  }
  void hand_over(Queue queue, const HandOverArgs& args) override {
    issue(queue, [=, this, rows = copy_of(args.rows)] {
      HandOverArgs own = args;
      own.rows = rows;
      inner_->hand_over(queue, own);
    });
  }
  void merge(Queue queue, const MergeArgs& args) override {
    issue(queue, [=, this, rows = copy_of(args.rows)] {
      MergeArgs own = args;
      own.rows = rows;
      inner_->merge(queue, own);
    });
  }
  void cap(Queue queue, const CapArgs& args) override {
    issue(queue, [=, this] { inner_->cap(queue, args); });
  }
  void sample(Queue queue, const SampleArgs& args) override {
    issue(queue, [=, this, rows = copy_of(args.rows)] {
      SampleArgs own = args;
      own.rows = rows;
      inner_->sample(queue, own);
    });
  }

 private:
  struct Operation {
    std::function<void()> run;
    Ticket after;  // value 0: nothing
  };

  template <typename T>
  static std::vector<std::remove_const_t<T>> copy_of(std::span<T> values) {
    return {values.begin(), values.end()};
  }
  static size_t index(Queue queue) { return static_cast<size_t>(queue); }
  bool reached(Ticket ticket) const { return reached_[index(ticket.queue)] >= ticket.value; }

  void issue(Queue queue, std::function<void()> run) { pending_[index(queue)].push_back({std::move(run), {}}); }

  void run_one() {
    std::vector<size_t> ready;
    for (size_t i = 0; i < kQueues; ++i) {
      if (!pending_[i].empty() && reached(pending_[i].front().after)) ready.push_back(i);
    }
    IOKV_ASSERT(!ready.empty());  // queues that wait for each other
    auto& queue = pending_[ready[numbers_.below(static_cast<uint32_t>(ready.size()))]];
    Operation operation = std::move(queue.front());
    queue.pop_front();
    operation.run();
  }

  std::unique_ptr<Backend> inner_;
  DeviceInfo info_;
  Numbers numbers_;
  std::optional<Queue> deaf_;
  std::deque<Operation> pending_[kQueues];
  uint64_t recorded_[kQueues] = {}, reached_[kQueues] = {};
};

}  // namespace iokv::test
