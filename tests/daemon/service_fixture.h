// SPDX-License-Identifier: Apache-2.0
// A whole daemon but for its process: a golden model on the CPU, whose device can be taken away, or made to hang or to
// load for as long as a test wants.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "daemon/device_setup.h"
#include "daemon/runtime/expected_profile.h"
#include "daemon/service.h"
#include "tests/backend/cpu_fixture.h"
#include "tests/golden/checkpoint.h"

#include "tests/cmocka_cpp.h"

namespace iokv::test {

// The CPU. Once lost, every poll fails; while it hangs, none returns.
class SteeredBackend final : public Backend {
 public:
  explicit SteeredBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}
  void lose() { lost_ = true; }
  void hang() { hangs_ = true; }
  void go_on() {
    hangs_ = false;
    hangs_.notify_all();
  }
  // Returns once a poll hangs.
  void await_hanging() { hanging_.wait(false); }

  const DeviceInfo& info() const override { return inner_->info(); }
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
  void copy(Queue queue, std::span<const CopyRun> runs) override { inner_->copy(queue, runs); }
  Ticket record(Queue queue) override { return inner_->record(queue); }
  void wait(Queue queue, Ticket ticket) override { inner_->wait(queue, ticket); }
  Result<bool> poll(Ticket ticket, bool block) override {
    if (hangs_) {
      hanging_ = true;
      hanging_.notify_all();
      hangs_.wait(true);
      hanging_ = false;
    }
    if (lost_) return error("the device is lost: it was unplugged");
    return inner_->poll(ticket, block);
  }
  uint64_t now_ns() const override { return inner_->now_ns(); }
  uint64_t reached_ns(Ticket ticket) override { return inner_->reached_ns(ticket); }
  void embed(Queue queue, const EmbedArgs& args) override { inner_->embed(queue, args); }
  void norm(Queue queue, const NormArgs& args) override { inner_->norm(queue, args); }
  void gemm(Queue queue, const GemmArgs& args) override { inner_->gemm(queue, args); }
  void rope(Queue queue, const RopeArgs& args) override { inner_->rope(queue, args); }
  void activate(Queue queue, const ActivateArgs& args) override { inner_->activate(queue, args); }
  void attend(Queue queue, const AttendArgs& args) override { inner_->attend(queue, args); }
  void hand_over(Queue queue, const HandOverArgs& args) override { inner_->hand_over(queue, args); }
  void merge(Queue queue, const MergeArgs& args) override { inner_->merge(queue, args); }
  void cap(Queue queue, const CapArgs& args) override { inner_->cap(queue, args); }
  void sample(Queue queue, const SampleArgs& args) override { inner_->sample(queue, args); }

 private:
  std::unique_ptr<Backend> inner_;
  std::atomic<bool> lost_{false}, hangs_{false}, hanging_{false};
};

class ServiceFixture {
 public:
  ServiceFixture() {
    config_.model = directory_of("llama_gqa");
    config_.profile = ProfileMode::off;
    config_.recompute = {Recompute::never, 0};
    files_ = std::make_unique<ModelFiles>(taken(open_model(config_.model)));
    backend_ = std::make_unique<SteeredBackend>(taken(make_cpu_backend({DType::f32, 1, CpuIsa::automatic, 0})));
    const ModelSpec& spec = files_->spec();
    memory_ = std::make_unique<HostPool>(taken(HostPool::create(
        {spec.layers, block_bytes(spec, DType::f32, BlockForm::kv), block_bytes(spec, DType::f32, BlockForm::x)}, 8 << 20)));
    blocks_ = std::make_unique<BlockPool>(memory_->shape());
    plan_ = taken(plan_device(config_, spec, *backend_, *memory_, *blocks_));
  }

  SteeredBackend& backend() { return *backend_; }
  std::string socket() const { return directory_.path() + "/socket"; }
  const std::string& directory() const { return directory_.path(); }

  // What is done before the model is loaded, on the device's thread; it is not loaded when that fails.
  std::function<Status(const LoadProgress&)> before_loading = [](const LoadProgress&) { return Status(); };

  std::unique_ptr<Service> start(Supervisor supervisor) {
    const ModelSpec& spec = files_->spec();
    ServiceOptions options;
    options.conductor.vocabulary = spec.vocab;
    options.conductor.max_context = spec.max_context;
    options.conductor.max_clients = 4;
    options.conductor.max_sequences = 4;
    options.conductor.recompute = plan_.recompute;
    options.conductor.staging = plan_.pipeline.staging;
    options.conductor.step_model.shape = cache_shape_of(spec, 4);
    options.conductor.batch.max_rows = plan_.limits.max_rows;
    options.conductor.batch.max_draws = plan_.limits.max_draws;
    return taken(Service::make(std::move(options), std::move(supervisor), taken(Listener::open(socket())),
                               taken(Offer::make(*files_, {spec.max_context, 4, 1024})), *blocks_, *memory_,
                               [this](const LoadProgress& progress) -> Result<LoadedDevice> {
                                 IOKV_TRY(before_loading(progress));
                                 return load_device(*backend_, *files_, plan_, *memory_, nullptr, progress);
                               }));
  }

 private:
  template <typename T>
  static T taken(Result<T> result) {
    if (!result) fail_msg("%s", result.failure().message.c_str());
    return *std::move(result);
  }

  TemporaryDirectory directory_;
  Config config_;
  std::unique_ptr<ModelFiles> files_;
  std::unique_ptr<SteeredBackend> backend_;
  std::unique_ptr<HostPool> memory_;
  std::unique_ptr<BlockPool> blocks_;
  DevicePlan plan_;
};

}  // namespace iokv::test
