// SPDX-License-Identifier: Apache-2.0
// Every split of a sequence: K,V of the first l tokens recomputed from X, those of the others sent, for every l, in tiles
// of several sizes, on a device that cannot address the host's memory. Logits must be the bits of the step that attends
// to stored K,V in place.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "daemon/model/model_files.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"
#include "tests/golden/late_backend.h"
#include "tests/golden/splits.h"

namespace iokv::test {
namespace {

constexpr uint32_t kCached = 150;  // tokens: the third block is filled partly

std::unique_ptr<Backend> cpu() { return Variant{CpuIsa::automatic, DType::f32}.backend(1); }

// Logits of the step with everything stored as K,V and read in place.
std::vector<float> in_place(const ModelFiles& files, const SplitPrompts& prompts, size_t count) {
  auto backend = cpu();
  Decoder decoder(*backend, files);
  return step_of_stored_kv(decoder, prompts, count);
}

// Fetched and recomputed tokens are what l says, and the bytes on the link are theirs.
void expect_counts(const Decoder& decoder, const ModelSpec& spec, std::pair<uint64_t, uint64_t> carried) {
  const auto [x, kv] = carried;
  assert_int_equal(decoder.measured().recomputed_tokens, x * spec.layers);
  assert_int_equal(decoder.measured().h2d_bytes, (x * spec.hidden + kv * 2 * spec.kv_width()) * sizeof(float) * spec.layers);
}

void every_split_gives_the_bits_of_stored_k_and_v(void**) {
  struct Way {
    uint32_t tile, slot_blocks;
    const char* copies;
    SplitSequences::Resident resident;
  };
  const Way ways[] = {{16, 1, "no", [](uint32_t) { return false; }},
                      {64, 2, "no", [](uint32_t) { return false; }},
                      {256, 4, "no", [](uint32_t) { return false; }},
                      {64, 1, "first block's", [](uint32_t index) { return index == 0; }},
                      {32, 2, "other blocks'", [](uint32_t index) { return index > 0; }}};
  for (const char* checkpoint : kPagedCheckpoints) {
    ModelFiles files = must(open_model(directory_of(checkpoint)));
    Numbers numbers(71);
    const auto prompts = SplitPrompts::random(numbers, files.spec().vocab, 3, kCached);
    const std::vector<float> expected_batch = in_place(files, prompts, 3), expected_one = in_place(files, prompts, 1);
    assert_true(std::all_of(expected_batch.begin(), expected_batch.end(), [](float v) { return std::isfinite(v); }));
    for (const Way& way : ways) {
      LateBackend apart(cpu(), way.tile, true);
      DecoderOptions options;
      options.ring = {way.slot_blocks, 2, 3, way.tile};
      options.device_blocks = 18;
      Decoder decoder(apart, files, options);
      SplitSequences sequences(decoder, prompts, way.resident);
      auto expect = [&](const std::vector<uint32_t>& splits, const std::vector<float>& expected) {
        const std::vector<float> logits = sequences.step(splits);
        expect_counts(decoder, files.spec(), sequences.carried(splits));
        if (logits.size() == expected.size() &&
            std::memcmp(logits.data(), expected.data(), logits.size() * sizeof(float)) == 0) {
          return;
        }
        std::printf("%s, tiles of %u tokens, %s copies, l = %u ...: other logits\n", checkpoint, way.tile, way.copies,
                    splits.front());
        fail();
      };
      for (uint32_t split = 0; split <= kCached; ++split) expect({split}, expected_one);
      // Mixed batches, each sequence with a split of its own.
      for (uint32_t split = 0; split <= kCached; split += 7) {
        expect({split, kCached - split, (split * 37) % (kCached + 1)}, expected_batch);
      }
    }
  }
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {cmocka_unit_test(every_split_gives_the_bits_of_stored_k_and_v)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
