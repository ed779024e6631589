// SPDX-License-Identifier: Apache-2.0
// The forward pass is ordered by its tickets alone: on a backend that runs operations late, and those of different
// queues in any order that records and waits permit, logits are the bits of one that runs each before the call returns.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>

#include "daemon/model/model_files.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"
#include "tests/golden/late_backend.h"

namespace iokv::test {
namespace {

// Three prompts in steps of 50 tokens each, in more x blocks than scratch holds at once: all logits.
std::vector<float> decode(Backend& backend, const ModelFiles& files, const FormOf& form) {
  DecoderOptions options;
  options.form = form;
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
    for (const FormOf& form : {FormOf(all_kv), FormOf(all_x), FormOf(kv_then_x)}) {
      std::vector<float> expected = decode(*cpu(), files, form);
      assert_true(std::all_of(expected.begin(), expected.end(), [](float value) { return std::isfinite(value); }));
      for (uint64_t stream = 0; stream < 12; ++stream) {
        const bool apart = stream % 3 != 0;
        LateBackend late(cpu(), stream, apart);
        if (same_bits(decode(late, files, form), expected)) continue;
        std::printf("%s: logits differ with stream %llu%s\n", checkpoint, static_cast<unsigned long long>(stream),
                    apart ? ", host memory apart" : "");
        fail();
      }
    }
  }
}

// What the test above is worth: each queue has something to wait for.
void each_queues_waits_are_needed(void**) {
  ModelFiles files = must(open_model(directory_of("llama_gqa")));
  for (Queue queue : {Queue::dense, Queue::recompute, Queue::h2d, Queue::d2h}) {
    bool seen = false;
    for (const FormOf& form : {FormOf(x_then_kv), FormOf(all_x)}) {
      std::vector<float> expected = decode(*cpu(), files, form);
      for (uint64_t stream = 0; stream < 20 && !seen; ++stream) {
        LateBackend late(cpu(), stream, true, queue);
        seen = !same_bits(decode(late, files, form), expected);
      }
    }
    if (!seen) std::printf("%s: waits for nothing that shows\n", name_of(queue));
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
