// SPDX-License-Identifier: Apache-2.0
// A device that is lost under a client: what is under way ends with a code, and the daemon ends with the reason. One that
// cannot be loaded ends it as well, with nobody there to wake it up.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "daemon/device_setup.h"
#include "daemon/runtime/expected_profile.h"
#include "daemon/service.h"
#include "iokv/iokv.h"
#include "tests/backend/cpu_fixture.h"
#include "tests/golden/checkpoint.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;
using namespace iokv::test;

namespace {

// The CPU, until somebody says that it is lost: then every poll fails.
class LosableBackend final : public Backend {
 public:
  explicit LosableBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}
  void lose() { lost_ = true; }

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
  void sample(Queue queue, const SampleArgs& args) override { inner_->sample(queue, args); }

 private:
  std::unique_ptr<Backend> inner_;
  std::atomic<bool> lost_{false};
};

struct Seen {
  int connected = 0;
  uint32_t tokens = 0;
  int first = 0, ended = 0;  // results of the operation, and of the connection after it
  std::string reason;
};

// Decodes, and takes the device away once tokens come.
Seen decode_and_lose(const std::string& socket, LosableBackend& backend) {
  Seen seen;
  iokv_client* client = nullptr;
  iokv_connect_options options{};
  options.struct_size = sizeof options;
  options.socket_path = socket.c_str();
  seen.connected = iokv_connect(&options, &client, nullptr);
  if (seen.connected != 0) return seen;
  iokv_sequence sequence = 0;
  static const int32_t prompt[] = {1, 2, 3};
  iokv_step_options step{};
  step.struct_size = sizeof step;
  step.tokens = prompt;
  step.token_count = 3;
  step.max_tokens = 100;
  iokv_open(client, nullptr, &sequence, nullptr);
  iokv_step(client, sequence, &step, nullptr);
  iokv_submit(client);
  while (iokv_outstanding(client) > 0) {
    iokv_completion completions[16];
    const int got = iokv_reap(client, completions, 16, 20'000'000'000);
    if (got <= 0) {
      seen.ended = got;
      break;
    }
    for (int i = 0; i < got; ++i) {
      if (completions[i].flags & IOKV_COMPLETION_TOKEN) ++seen.tokens;
      if (completions[i].result < 0 && seen.first == 0) seen.first = completions[i].result;
    }
    if (seen.tokens > 0) backend.lose();
  }
  iokv_error_detail why{};
  why.struct_size = sizeof why;
  iokv_end_reason(client, &why);
  seen.reason = why.message;
  iokv_disconnect(client);
  return seen;
}

// A service of a small model on the CPU that can be lost.
struct Served {
  using Load = std::function<Result<LoadedDevice>(Served&, const LoadProgress&)>;
  explicit Served(Load load) {
    Config config;
    config.model = directory_of("llama_gqa");
    config.profile = ProfileMode::off;
    config.recompute = {Recompute::never, 0};
    files = std::make_unique<ModelFiles>(taken(open_model(config.model)));
    const ModelSpec& spec = files->spec();
    backend = std::make_unique<LosableBackend>(taken(make_cpu_backend({DType::f32, 1, CpuIsa::automatic, 0})));
    const PoolLayout layout{spec.layers, block_bytes(spec, DType::f32, BlockForm::kv),
                            block_bytes(spec, DType::f32, BlockForm::x)};
    memory = std::make_unique<HostPool>(taken(HostPool::create(layout, 8 << 20)));
    blocks = std::make_unique<BlockPool>(memory->shape());
    plan = std::make_unique<DevicePlan>(taken(plan_device(config, spec, *backend, *memory, *blocks)));
    ServiceOptions options;
    options.conductor.vocabulary = spec.vocab;
    options.conductor.max_context = spec.max_context;
    options.conductor.max_clients = 4;
    options.conductor.max_sequences = 4;
    options.conductor.stall_lease_ns = 10'000'000'000;
    options.conductor.recompute = plan->recompute;
    options.conductor.staging = plan->pipeline.staging;
    options.conductor.step_model.shape = cache_shape_of(spec, 4);
    options.conductor.batch.max_rows = plan->limits.max_rows;
    options.conductor.batch.max_draws = plan->limits.max_draws;
    service = taken(Service::make(options, taken(Listener::open(socket())),
                                  taken(Offer::make(*files, {spec.max_context, 4, 1024})), *blocks, *memory,
                                  [this, load](const LoadProgress& progress) { return load(*this, progress); }));
  }
  std::string socket() const { return directory.path() + "/socket"; }

  TemporaryDirectory directory;
  std::unique_ptr<ModelFiles> files;
  std::unique_ptr<LosableBackend> backend;
  std::unique_ptr<HostPool> memory;
  std::unique_ptr<BlockPool> blocks;
  std::unique_ptr<DevicePlan> plan;
  std::unique_ptr<Service> service;

 private:
  template <typename T>
  static T taken(Result<T> result) {
    if (!result) print_error("%s\n", result.failure().message.c_str());
    assert_true(static_cast<bool>(result));
    return *std::move(result);
  }
};

void operations_end_with_a_code_and_the_daemon_with_the_reason(void**) {
  Served served([](Served& self, const LoadProgress& progress) {
    return load_device(*self.backend, *self.files, *self.plan, *self.memory, nullptr, progress);
  });
  Seen seen;
  std::thread client([&] { seen = decode_and_lose(served.socket(), *served.backend); });
  Status ended = served.service->run();
  served.service.reset();  // ends connections
  client.join();
  assert_int_equal(seen.connected, 0);
  assert_true(seen.tokens > 0 && seen.tokens < 100);
  assert_int_equal(seen.first, IOKV_EDEVICE);
  assert_int_equal(seen.ended, 0);
  assert_false(static_cast<bool>(ended));
  assert_non_null(std::strstr(ended.failure().message.c_str(), "it was unplugged"));
}

// Long after the loop has begun to wait.
void a_late_failure_to_load_ends_the_daemon(void**) {
  Served served([](Served&, const LoadProgress&) -> Result<LoadedDevice> {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    return error("the device has no kernel for this");
  });
  ::alarm(20);  // a loop that sleeps on would do so forever; the signal ends the test
  Status ended = served.service->run();
  ::alarm(0);
  assert_false(static_cast<bool>(ended));
  assert_string_equal(ended.failure().message.c_str(), "the device has no kernel for this");
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(operations_end_with_a_code_and_the_daemon_with_the_reason),
      cmocka_unit_test(a_late_failure_to_load_ends_the_daemon),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
