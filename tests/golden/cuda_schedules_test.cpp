// SPDX-License-Identifier: Apache-2.0
// On the GPU, too, it makes no difference whether weights stay or cross the link, and in how many micro-batches a step
// goes through a layer: the bits are the same (tests/golden/schedules_test.cpp has more ways, on the CPU).
#include <cstdio>
#include <cstring>

#include "daemon/model/model_files.h"
#include "tests/backend/cuda_fixture.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"

namespace iokv::test {
namespace {

// Two prompts of 130 and 50 tokens in one step, then three tokens of each: logits of the last rows.
std::vector<float> decode(Decoder& decoder, uint32_t vocab) {
  Numbers numbers(8);
  std::vector<std::vector<int32_t>> prompts(2);
  for (auto& prompt : prompts) {
    for (int i = 0; i < 140; ++i) prompt.push_back(static_cast<int32_t>(numbers.below(vocab)));
  }
  std::vector<Sequence> sequences(prompts.size());
  std::vector<float> logits;
  std::vector<size_t> at(prompts.size());
  for (int step = 0; step < 4; ++step) {
    std::vector<Decoder::Append> appends;
    std::vector<uint32_t> wanted;
    uint32_t rows = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const size_t count = step > 0 ? 1 : i == 0 ? 130 : 50;
      appends.push_back({&sequences[i], std::span(prompts[i]).subspan(at[i], count)});
      at[i] += count;
      rows += static_cast<uint32_t>(count);
      wanted.push_back(rows - 1);
    }
    const std::vector<float> part = decoder.step(appends, wanted);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

void schedules_give_the_bits_of_resident_weights_and_one_micro_batch(void**) {
  for (const char* checkpoint : kCheckpoints) {
    const ModelFiles files = must(open_model(directory_of(checkpoint)));
    each_compute_type([&](Backend& backend) {
      DecoderOptions options;
      options.form = x_then_kv;
      options.ring = {2, 3, 4, 0};
      Decoder plain(backend, files, options);
      const std::vector<float> expected = decode(plain, files.spec().vocab);
      for (uint32_t streamed : {0u, 2u, files.spec().layers}) {
        for (uint32_t batch_rows : {64u, 512u}) {
          for (uint32_t kept_blocks : {0u, 4u}) {
            options.streamed_layers = streamed;
            options.weight_slots = 1 + batch_rows % 3;
            options.batch_rows = batch_rows;
            options.kept_blocks = kept_blocks;
            Decoder decoder(backend, files, options);
            const std::vector<float> logits = decode(decoder, files.spec().vocab);
            if (logits.size() == expected.size() &&
                std::memcmp(logits.data(), expected.data(), logits.size() * sizeof(float)) == 0) {
              continue;
            }
            std::printf("%s %s, weights of %u layers over the link, micro-batches of %u rows, %u blocks kept: other logits\n",
                        checkpoint, name_of(backend.info().compute), streamed, batch_rows, kept_blocks);
            fail();
          }
        }
      }
    });
  }
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  if (!has_gpu()) return kSkipped;
  const CMUnitTest tests[] = {cmocka_unit_test(schedules_give_the_bits_of_resident_weights_and_one_micro_batch)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
