// SPDX-License-Identifier: Apache-2.0
// The profiler on a device whose times are known, because they are modelled here, and on the CPU, against its paced link
// and against steps of a real model. And which profile the daemon takes: the stored one, or another.
#include "daemon/runtime/profiler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "daemon/backend/cpu/cpu_backend.h"
#include "daemon/model/model_files.h"
#include "daemon/sched/cost.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

using test::must;

void assert_near(const char* what, double value, double expected, double relative) {
  std::printf("%s: %.6g, expected %.6g\n", what, value, expected);
  assert_true(std::abs(value - expected) <= relative * std::abs(expected));
}

// Computes nothing; each operation takes a time that is written here, on a clock of its own. Queues run beside each
// other, or recompute and dense, and both directions of the link, take turns.
class TimedBackend final : public Backend {
 public:
  explicit TimedBackend(bool take_turns) : take_turns_(take_turns) {
    info_.name = "timed";
    info_.compute = DType::f32;
    info_.host_threads = 1;
  }
  const DeviceInfo& info() const override { return info_; }
  Result<std::unique_ptr<DeviceMemory>> alloc(size_t bytes) override { return memory_->alloc(bytes); }
  Result<std::unique_ptr<Matrix>> load(uint32_t n, uint32_t k, const RowSource& source) override {
    return memory_->load(n, k, source);
  }
  Packing packing(uint32_t k) const override { return memory_->packing(k); }
  Status pack(uint32_t n, uint32_t k, const RowSource& source, void* to) override { return memory_->pack(n, k, source, to); }
  Result<std::unique_ptr<Matrix>> view(uint32_t n, uint32_t k, void* data) override { return memory_->view(n, k, data); }
  Status pin(void*, size_t) override { return {}; }
  void unpin(void*) override {}
  void copy(Queue queue, std::span<const CopyRun> runs) override {
    for (const CopyRun& run : runs) {
      const double bytes = static_cast<double>(run.total_bytes());
      if (queue == Queue::dense) {
        run_for(queue, 40 + 0.01 * bytes);
      } else {
        run_for(queue, (&run == runs.data() ? 400 : 70) + 70.0 * (run.rows - 1) + 0.02 * bytes);
      }
    }
  }
  Ticket record(Queue queue) override {
    std::vector<double>& times = times_[static_cast<size_t>(queue)];
    times.push_back(std::max(now_ns_, free_at(queue)));
    return {queue, times.size()};
  }
  void wait(Queue queue, Ticket ticket) override { free_at(queue) = std::max(free_at(queue), time_of(ticket)); }
  Result<bool> poll(Ticket ticket, bool block) override {
    if (block) now_ns_ = std::max(now_ns_, time_of(ticket));
    return now_ns_ >= time_of(ticket);
  }
  uint64_t now_ns() const override { return static_cast<uint64_t>(now_ns_); }
  uint64_t reached_ns(Ticket ticket) override { return static_cast<uint64_t>(time_of(ticket)); }

  void gemm(Queue queue, const GemmArgs& args) override { run_for(queue, 500 + 10.0 * args.rows); }
  void attend(Queue queue, const AttendArgs& args) override {
    double tokens = 0, products = 0;
    for (const AttendSpan& span : args.spans) {
      if (queue == Queue::host) {
        assert_true(span.rows == 1 && span.host_from == 0 && span.kv_blocks.size() == blocks_for(Tokens(span.first_position)).value);
        tokens += span.first_position;
        continue;
      }
      tokens += span.first_position + span.rows;
      for (uint32_t row = 0; row < span.rows; ++row) products += span.first_position + row + 1;
    }
    if (queue == Queue::host) return run_for(queue, 1000 + 7 * tokens);
    run_for(queue, std::max(2000.0, 300 + std::max(5 * tokens, 0.5 * products)));
  }
  void embed(Queue queue, const EmbedArgs&) override { run_for(queue, 200); }
  void norm(Queue, const NormArgs&) override {}
  void rope(Queue queue, const RopeArgs&) override {
    if (queue == Queue::dense) run_for(queue, 1000);
  }
  void activate(Queue, const ActivateArgs&) override {}
  void hand_over(Queue queue, const HandOverArgs& args) override { run_for(queue, 300 + 2.0 * static_cast<double>(args.rows.size())); }
  void merge(Queue queue, const MergeArgs& args) override { run_for(queue, 500 + 3.0 * static_cast<double>(args.rows.size())); }
  void cap(Queue, const CapArgs&) override {}
  void sample(Queue, const SampleArgs&) override {}

 private:
  double& free_at(Queue queue) {
    if (take_turns_ && (queue == Queue::recompute || queue == Queue::host)) queue = Queue::dense;
    if (take_turns_ && queue == Queue::d2h) queue = Queue::h2d;
    return free_ns_[static_cast<size_t>(queue)];
  }
  double time_of(Ticket ticket) const { return times_[static_cast<size_t>(ticket.queue)][ticket.value - 1]; }
  void run_for(Queue queue, double ns) { free_at(queue) = std::max(now_ns_, free_at(queue)) + ns; }

  std::unique_ptr<Backend> memory_ = must(make_cpu_backend({DType::f32, 1}));
  DeviceInfo info_;
  const bool take_turns_;
  double now_ns_ = 0;
  std::array<double, kQueues> free_ns_{};
  std::array<std::vector<double>, kQueues> times_;
};

void modelled_times_are_found(void**) {
  for (bool take_turns : {false, true}) {
    TimedBackend backend(take_turns);
    ModelFiles files = must(open_model("tests/golden/llama_mha"));
    const Weights weights = must(load_weights(backend, files, {}));
    const MeasuredProfile measured = must(measure(backend, files.spec(), weights, {}));
    const Profile& profile = measured.profile;
    for (const Curve& link : {profile.h2d, profile.d2h}) {
      assert_near("copy, fixed", link.fixed_ns, 400, 0.02);
      assert_near("copy, a byte", link.each_ns, 0.02, 0.001);
    }
    assert_near("recompute 16", profile.recompute.at(16), 500 + 10 * 16, 0.01);
    assert_near("recompute 4096", profile.recompute.at(4096), 500 + 10 * 4096, 0.01);
    assert_near("attend 64", profile.attend.at(64), 2000, 0.01);
    assert_near("attend 32768", profile.attend.at(32768), 300 + 5 * 32768, 0.01);
    assert_near("attend of rows 131072", profile.attend_rows.at(131'072), 300 + 0.5 * 131'072, 0.01);
    assert_near("64 rows of a prompt", profile.attention_ns(1024, 65'536), 300 + 0.5 * 65'536, 0.01);
    assert_near("dense 1", profile.dense.at(1), 1000 + 4 * (500 + 10), 0.01);  // qkv, o, gate and up, down
    assert_near("dense 256", profile.dense.at(256), 1000 + 4 * (500 + 2560), 0.01);
    assert_near("before attention", profile.project_share, 1660.0 / 3640, 0.01);  // qkv and rope of 16 rows
    assert_near("head 64", profile.head.at(64), 200 + 500 + 640, 0.01);
    assert_near("before the layers", profile.embed_ns, 200, 0.01);
    assert_near("a piece of a copy", profile.piece_ns, 70, 0.01);
    assert_near("X kept", profile.keep_x.at(65536), 40 + 655.36, 0.01);
    assert_near("duplex", profile.duplex, take_turns ? 2 : 1, 0.02);
    assert_near("contention", 1 + profile.contention, take_turns ? 2 : 1, 0.02);
    assert_near("host 64", profile.host_attend.at(64), 1000 + 7 * 64, 0.01);
    assert_near("host 32768", profile.host_attend.at(32768), 1000 + 7 * 32768, 0.01);
    assert_near("exchange 1", profile.exchange.at(1), 805, 0.02);
    assert_near("exchange 256", profile.exchange.at(256), 800 + 5 * 256, 0.02);
    assert_near("host beside dense", 1 + profile.host_contention, take_turns ? 2 : 1, 0.02);
    assert_near("the link beside the host", profile.host_slows_link, 1, 0.01);
    assert_near("dense beside the link", measured.link_slows_dense, 1, 0.01);
    assert_near("the link beside dense", measured.dense_slows_link, 1, 0.01);
    assert_true(measured.took_ns < 5e9);
  }
}

void the_cpu_s_paced_link_is_found(void**) {
  constexpr double kRate = 0.5e9;
  constexpr double kBytes = 4 << 20;
  double nearest = 1, duplex = 2;
  ModelFiles files = must(open_model("tests/golden/llama_mha"));
  for (int attempt = 0; attempt < 5 && (nearest > 0.03 || duplex > 1.1); ++attempt) {
    auto backend = must(make_cpu_backend({DType::f32, 1, CpuIsa::automatic, kRate}));
    const Weights weights = must(load_weights(*backend, files, {}));
    const Profile profile = must(measure(*backend, files.spec(), weights, {})).profile;
    const double up = kBytes / profile.h2d.at(kBytes) * 1e9, down = kBytes / profile.d2h.at(kBytes) * 1e9;
    std::printf("h2d %.4f GB/s, d2h %.4f GB/s, duplex %.3f\n", up / 1e9, down / 1e9, profile.duplex);
    nearest = std::min(nearest, std::max(std::abs(up / kRate - 1), std::abs(down / kRate - 1)));
    duplex = std::min(duplex, profile.duplex);
  }
  assert_true(nearest <= 0.03);
  assert_true(duplex <= 1.1);
}

// Between operations there is the host's own code, which a sanitizer makes several times slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kMostRatio = 5;
#else
constexpr double kMostRatio = 2;
#endif

// Eight sequences of 400 tokens, a token each, on the CPU in place: what cost.h makes of the profile against what the
// model takes. A generous factor: the machine is busy, and the model is so small that what is not an operation shows.
void predicted_steps_take_about_as_long(void**) {
  constexpr uint32_t kSequences = 8, kTokens = 400;
  auto backend = must(make_cpu_backend({DType::f32, 1}));
  ModelFiles files = must(open_model("tests/golden/llama_mha"));
  const Weights weights = must(load_weights(*backend, files, {}));
  test::DecoderOptions options;
  options.pool_blocks = kSequences * 8;
  test::Decoder decoder(*backend, files, options);
  std::vector<test::Sequence> sequences(kSequences);
  const std::vector<int32_t> prompt(kTokens, 7);
  std::vector<test::Decoder::Append> appends;
  std::vector<uint32_t> rows;
  for (test::Sequence& sequence : sequences) {
    decoder.step({{&sequence, prompt}});
    appends.push_back({&sequence, std::span(prompt).first(1)});
    rows.push_back(static_cast<uint32_t>(rows.size()));
  }
  const ModelSpec& spec = files.spec();
  const CacheShape shape{spec.layers, 4 * spec.hidden, 8 * spec.kv_width()};
  LayerWork work;
  work.rows = kSequences;
  work.attended = work.products = kSequences * kTokens;
  ProfilerLimits limits;  // the step's whole cache, as near to the processor as in the step
  limits.probe.max_cache_bytes = size_t{spec.layers} * kSequences * kTokens * shape.kv_bytes;
  double ratio = INFINITY;
  for (int attempt = 0; attempt < 5 && !(ratio > 0.5 && ratio < kMostRatio); ++attempt) {
    const Profile profile = must(measure(*backend, spec, weights, limits)).profile;
    double least_ns = INFINITY;
    for (int step = 0; step < 8; ++step) {
      decoder.step(appends, rows);
      const StepMeasure& measured = decoder.measured();
      least_ns = std::min(least_ns, static_cast<double>(measured.ended_ns - measured.started_ns));
    }
    const double predicted_ns = streaming_cost(profile, shape, work).total_ns;
    std::printf("predicted %.1f us, took %.1f us\n", predicted_ns / 1e3, least_ns / 1e3);
    ratio = least_ns / predicted_ns;
    assert_true(profile.h2d.at(1e6) == 0 && profile.d2h.at(1e6) == 0);  // nothing to carry
  }
  assert_true(ratio > 0.5 && ratio < kMostRatio);
}

// Of every family, with every set of limits, down to a single row and block.
void small_limits_and_other_families_are_measured(void**) {
  for (const char* name : test::kCheckpoints) {
    for (double link : {0.0, 4e9}) {
      auto backend = must(make_cpu_backend({DType::bf16, 2, CpuIsa::automatic, link}));
      ModelFiles files = must(open_model(test::directory_of(name)));
      const Weights weights = must(load_weights(*backend, files, {}));
      for (bool small : {false, true}) {
        ProfilerLimits limits;
        limits.curve_ns = 10'000'000;
        limits.rounds = 3;
        if (small) limits.probe = {1, 1, 1, 1, 1, 4096};
        const Profile profile = must(measure(*backend, files.spec(), weights, limits)).profile;
        assert_true(profile.dense.at(1) > 0 && profile.attend.at(64) > 0 && profile.head.at(1) > 0);
        assert_true(profile.recompute.at(64) > 0);
        assert_true((profile.h2d.at(4096) > 0) == (link > 0) && (profile.d2h.at(4096) > 0) == (link > 0));
        assert_true(profile.duplex >= 1 && profile.contention >= 0 && profile.contention <= 1);
      }
    }
  }
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(modelled_times_are_found),
      cmocka_unit_test(the_cpu_s_paced_link_is_found),
      cmocka_unit_test(predicted_steps_take_about_as_long),
      cmocka_unit_test(small_limits_and_other_families_are_measured),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
