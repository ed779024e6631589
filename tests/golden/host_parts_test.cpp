// SPDX-License-Identifier: Apache-2.0
// Every part of a context that the host can have: rows that are divided between device and host, from any block on, beside
// others that are not, with windows, in micro-batches and with weights over the link. Logits must be those of the undivided
// row to within f32's sums, on a device that runs its queues in any order that tickets permit.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "daemon/backend/cpu/cpu_backend.h"
#include "daemon/model/model_files.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"
#include "tests/golden/late_backend.h"
#include "tests/golden/tolerance.h"

namespace iokv::test {
namespace {

std::unique_ptr<Backend> cpu_with_host() {
  CpuOptions options;
  options.compute = DType::f32;
  options.threads = 1;
  options.host_attention = true;
  return must(make_cpu_backend(options));
}

// Contexts that are cached, of which a step can be taken again and again.
class Contexts {
 public:
  Contexts(Decoder& decoder, uint32_t vocab, const std::vector<uint32_t>& lengths) : decoder_(decoder) {
    Numbers numbers(29);
    for (uint32_t length : lengths) {
      Context& context = contexts_.emplace_back();
      for (uint32_t i = 0; i < length + kMostRows; ++i) context.tokens.push_back(static_cast<int32_t>(numbers.below(vocab)));
      for (uint32_t at = 0; at < length; at += 64) {
        decoder_.step({{&context.cached, std::span(context.tokens).subspan(at, std::min(64u, length - at))}}, {});
      }
    }
  }

  // Logits of the contexts' next rows, rows[i] of context i, whose last tokens from host_from[i] on are the host's.
  std::vector<float> step(const std::vector<uint32_t>& rows, const std::vector<uint32_t>& host_from) {
    std::vector<Decoder::Append> appends;
    std::vector<Sequence> taken(rows.size());
    std::vector<uint32_t> last_rows;
    uint32_t row = 0, expected = 0, next = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      Context& context = contexts_[i];
      const uint32_t length = context.cached.length;
      taken[i] = context.cached;
      appends.push_back({&taken[i], std::span(context.tokens).subspan(length, rows[i])});
      last_rows.push_back((row += rows[i]) - 1);
      if (host_from[i] != kAllOnDevice) expected += length - host_from[i];
    }
    decoder_.change_span = [&](PlanSpan& span) { span.host_from = host_from[next++]; };
    std::vector<float> logits = decoder_.step(appends, last_rows);
    decoder_.change_span = nullptr;
    assert_int_equal(decoder_.plan().work.kv_attended, expected);
    for (size_t i = 0; i < rows.size(); ++i) {  // what was taken for it stays theirs
      contexts_[i].cached.blocks = taken[i].blocks;
      contexts_[i].cached.forms = taken[i].forms;
    }
    return logits;
  }

 private:
  static constexpr uint32_t kMostRows = 100;
  struct Context {
    std::vector<int32_t> tokens;
    Sequence cached;
  };
  Decoder& decoder_;
  std::vector<Context> contexts_;
};

void expect_near(const char* checkpoint, const std::vector<float>& logits, const std::vector<float>& expected,
                 const std::string& what) {
  const double error = relative_error(logits, expected);
  if (error > tolerance(DType::f32)) std::printf("%s, %s: off by %.3g\n", checkpoint, what.c_str(), error);
  assert_true(error <= tolerance(DType::f32));
}

void every_part_gives_the_logits_of_the_whole(void**) {
  for (const char* checkpoint : kPagedCheckpoints) {
    const ModelFiles files = must(open_model(directory_of(checkpoint)));
    bool other_bits = false;
    for (uint32_t length : {1u, 40u, 64u, 65u, 128u, 150u, 191u}) {
      LateBackend apart(cpu_with_host(), length, true);
      DecoderOptions options;
      options.ring = {1 + length % 2, 2, 2, 32};
      Decoder decoder(apart, files, options);
      Contexts contexts(decoder, files.spec().vocab, {length});
      const std::vector<float> whole = contexts.step({1}, {kAllOnDevice});
      for (uint32_t from = 0; from < length; from += kBlockTokens) {
        const std::vector<float> parts = contexts.step({1}, {from});
        expect_near(checkpoint, parts, whole, std::to_string(length) + " tokens from " + std::to_string(from));
        other_bits |= std::memcmp(parts.data(), whole.data(), whole.size() * sizeof(float)) != 0;
      }
    }
    assert_true(other_bits);  // or nothing has been divided
  }
}

// Divided rows beside whole ones and prompts: one micro-batch and several, weights on the device and over the link, and
// X before the host's part.
void parts_beside_others_change_nothing(void**) {
  struct Way {
    uint32_t batch_rows, streamed_layers;
    FormOf form;
  };
  const auto x_before = [](uint32_t index) { return index == 0 ? BlockForm::x : BlockForm::kv; };
  const Way ways[] = {{UINT32_MAX, 0, all_kv}, {64, 0, all_kv}, {UINT32_MAX, 1, x_before}, {64, 1, x_before}};
  const std::vector<uint32_t> rows{1, 1, 70, 1, 3, 1};
  constexpr uint32_t kNone = kAllOnDevice;
  for (const char* checkpoint : {"opt", "llama_gqa", "families/mistral", "families/gemma2"}) {
    const ModelFiles files = must(open_model(directory_of(checkpoint)));
    for (const Way& way : ways) {
      LateBackend apart(cpu_with_host(), way.batch_rows + way.streamed_layers, true);
      DecoderOptions options;
      options.ring = {2, 2, 2, 48};
      options.form = way.form;
      options.batch_rows = way.batch_rows;
      options.streamed_layers = way.streamed_layers;
      options.kept_blocks = way.batch_rows == 64 ? 1 : 0;
      Decoder decoder(apart, files, options);
      Contexts contexts(decoder, files.spec().vocab, {150, 128, 70, 90, 64, 180});
      const std::vector<float> whole = contexts.step(rows, std::vector<uint32_t>(rows.size(), kNone));
      for (const std::vector<uint32_t>& from : {std::vector<uint32_t>{64, 64, kNone, 64, kNone, 128},
                                                {128, kNone, kNone, 64, kNone, kNone},
                                                {kNone, 64, kNone, kNone, kNone, 64}}) {
        expect_near(checkpoint, contexts.step(rows, from), whole,
                    std::to_string(way.batch_rows) + " rows a micro-batch, " + std::to_string(way.streamed_layers) + " layers streamed");
      }
    }
  }
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_part_gives_the_logits_of_the_whole),
      cmocka_unit_test(parts_beside_others_change_nothing),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
