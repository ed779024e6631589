// SPDX-License-Identifier: Apache-2.0
// A device that is lost under a client: what is under way ends with a code, and the daemon ends with the reason.
#include <atomic>
#include <cstring>
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
  void cap(Queue queue, const CapArgs& args) override { inner_->cap(queue, args); }
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

void operations_end_with_a_code_and_the_daemon_with_the_reason(void**) {
  TemporaryDirectory directory;
  Config config;
  config.model = directory_of("llama_gqa");
  config.profile = ProfileMode::off;
  config.recompute = {Recompute::never, 0};
  auto files = open_model(config.model);
  assert_true(static_cast<bool>(files));
  const ModelSpec spec = files->spec();
  auto cpu = make_cpu_backend({DType::f32, 1, CpuIsa::automatic, 0});
  assert_true(static_cast<bool>(cpu));
  LosableBackend backend(*std::move(cpu));
  auto memory = HostPool::create({spec.layers, block_bytes(spec, DType::f32, BlockForm::kv),
                                  block_bytes(spec, DType::f32, BlockForm::x)}, 8 << 20);
  assert_true(static_cast<bool>(memory));
  BlockPool blocks(memory->shape());
  auto plan = plan_device(config, spec, backend.info(), *memory, blocks);
  assert_true(static_cast<bool>(plan));
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
  auto listener = Listener::open(directory.path() + "/socket");
  assert_true(static_cast<bool>(listener));
  auto offer = Offer::make(*files, {spec.max_context, 4, 1024});
  assert_true(static_cast<bool>(offer));
  auto service = Service::make(options, *std::move(listener), *std::move(offer), blocks, *memory,
                               [&](const LoadProgress& progress) {
                                 return load_device(backend, *files, *plan, *memory, progress);
                               });
  assert_true(static_cast<bool>(service));

  Seen seen;
  std::thread client([&] { seen = decode_and_lose(directory.path() + "/socket", backend); });
  Status ended = (*service)->run();
  service->reset();  // ends connections
  client.join();
  assert_int_equal(seen.connected, 0);
  assert_true(seen.tokens > 0 && seen.tokens < 100);
  assert_int_equal(seen.first, IOKV_EDEVICE);
  assert_int_equal(seen.ended, 0);
  assert_false(static_cast<bool>(ended));
  assert_non_null(std::strstr(ended.failure().message.c_str(), "it was unplugged"));
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(operations_end_with_a_code_and_the_daemon_with_the_reason),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
