// SPDX-License-Identifier: Apache-2.0
// The forward pass is ordered by its tickets alone: on a backend that runs operations late, and those of different
// queues in any order that records and waits permit, logits are the bits of one that runs each before the call returns.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "daemon/model/model_files.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"

#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

// Keeps operations, with copies of the host arrays that their caller may reuse, until a poll has to wait; then runs them
// one at a time, each time from a queue chosen at random among those whose first operation waits for nothing.
class LateBackend final : public Backend {
 public:
  // `deaf`: the queue whose waits are ignored.
  LateBackend(std::unique_ptr<Backend> inner, uint64_t stream, std::optional<Queue> deaf = {})
      : inner_(std::move(inner)), numbers_(stream), deaf_(deaf) {}

  const DeviceInfo& info() const override { return inner_->info(); }
  Result<std::unique_ptr<DeviceMemory>> alloc(size_t bytes) override { return inner_->alloc(bytes); }
  Result<std::unique_ptr<Matrix>> load(uint32_t n, uint32_t k, const RowSource& source) override {
    return inner_->load(n, k, source);
  }
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
  Numbers numbers_;
  std::optional<Queue> deaf_;
  std::deque<Operation> pending_[kQueues];
  uint64_t recorded_[kQueues] = {}, reached_[kQueues] = {};
};

// Three prompts in steps of 50 tokens each, in more x blocks than scratch holds at once: all logits.
std::vector<float> decode(Backend& backend, const ModelFiles& files, const FormOf& form) {
  DecoderOptions options;
  options.form = form;
  options.max_context = 192;
  Decoder decoder(backend, files, options);
  Golden golden = read_golden("llama_gqa");
  std::vector<std::vector<int32_t>> prompts = {golden.prompts[0], golden.prompts[1], golden.prompts[0]};
  std::vector<Sequence> sequences(prompts.size());
  std::vector<float> logits;
  for (size_t at = 0; at < 150; at += 50) {
    std::vector<Decoder::Append> appends;
    for (size_t i = 0; i < prompts.size(); ++i) {
      std::span<const int32_t> left = std::span(prompts[i]).subspan(at);
      appends.push_back({&sequences[i], left.first(std::min<size_t>(50, left.size()))});
    }
    std::vector<float> part = decoder.step(appends);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::unique_ptr<Backend> cpu() { return Variant{CpuIsa::automatic, DType::f32}.backend(1); }

void any_order_of_queues_that_tickets_permit_gives_the_same_bits(void**) {
  for (const char* checkpoint : kCheckpoints) {
    ModelFiles files = must(open_model(directory_of(checkpoint)));
    for (const FormOf& form : {FormOf(all_x), FormOf(kv_then_x)}) {
      std::vector<float> expected = decode(*cpu(), files, form);
      assert_true(std::all_of(expected.begin(), expected.end(), [](float value) { return std::isfinite(value); }));
      for (uint64_t stream = 0; stream < 10; ++stream) {
        LateBackend late(cpu(), stream);
        if (same_bits(decode(late, files, form), expected)) continue;
        std::printf("%s: logits differ with stream %llu\n", checkpoint, static_cast<unsigned long long>(stream));
        fail();
      }
    }
  }
}

// What the test above is worth: dense work waits for recomputed K,V, and recomputing waits until scratch is free.
void each_queues_waits_are_needed(void**) {
  ModelFiles files = must(open_model(directory_of("llama_gqa")));
  std::vector<float> expected = decode(*cpu(), files, all_x);
  for (Queue queue : {Queue::dense, Queue::recompute}) {
    bool seen = false;
    for (uint64_t stream = 0; stream < 10 && !seen; ++stream) {
      LateBackend late(cpu(), stream, queue);
      seen = !same_bits(decode(late, files, all_x), expected);
    }
    assert_true(seen);
  }
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(any_order_of_queues_that_tickets_permit_gives_the_same_bits),
      cmocka_unit_test(each_queues_waits_are_needed),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
