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

namespace iokv::test {
namespace {

constexpr uint32_t kCached = 150;  // tokens: the third block is filled partly

std::unique_ptr<Backend> cpu() { return Variant{CpuIsa::automatic, DType::f32}.backend(1); }

struct Prompt {
  std::vector<int32_t> tokens;
  Sequence as_x, as_kv;  // of the same tokens
};

// Token rows that decode next behind each prompt: logits of the step with everything stored as K,V and read in place.
std::vector<float> in_place(const ModelFiles& files, const std::vector<std::vector<int32_t>>& prompts) {
  auto backend = cpu();
  Decoder decoder(*backend, files);
  std::vector<Sequence> sequences(prompts.size());
  std::vector<Decoder::Append> appends;
  for (size_t i = 0; i < prompts.size(); ++i) {
    decoder.step({{&sequences[i], std::span(prompts[i]).first(kCached)}}, {});
    appends.push_back({&sequences[i], std::span(prompts[i]).subspan(kCached)});
  }
  return decoder.step(appends);
}

// The runs of a sequence whose first `split` tokens come as X; it is stored as both.
std::vector<BlockRun> split_runs(const Prompt& prompt, uint32_t split) {
  std::vector<BlockRun> runs;
  const uint32_t blocks = static_cast<uint32_t>(prompt.as_x.blocks.size());
  for (uint32_t i = 0; i < blocks; ++i) {
    const uint32_t as_x = std::min(kBlockTokens, split - std::min(split, i * kBlockTokens));
    BlockRun run;
    run.blocks = 1;
    run.form = run.device_form = as_x > 0 ? BlockForm::x : BlockForm::kv;
    run.id = as_x > 0 ? prompt.as_x.blocks[i] : prompt.as_kv.blocks[i];
    if (as_x > 0 && as_x < kBlockTokens) {
      run.kv_id = prompt.as_kv.blocks[i];
      run.x_tokens = as_x;
    }
    runs.push_back(run);
  }
  return runs;
}

std::vector<std::vector<int32_t>> prompts_of(const ModelFiles& files, size_t count) {
  Numbers numbers(71);
  std::vector<std::vector<int32_t>> prompts(count);
  for (size_t i = 0; i < count; ++i) {
    // 1, 2, 3 ... new rows each.
    for (uint32_t t = 0; t < kCached + 1 + i; ++t) {
      prompts[i].push_back(static_cast<int32_t>(numbers.below(files.spec().vocab)));
    }
  }
  return prompts;
}

// Fetched and recomputed tokens are what l says, and the bytes on the link are theirs.
void expect_counts(const Decoder& decoder, const ModelFiles& files, const std::vector<uint32_t>& splits) {
  uint64_t x = 0, kv = 0;
  for (uint32_t split : splits) {
    x += split;
    kv += kCached - split;
  }
  const ModelSpec& spec = files.spec();
  assert_int_equal(decoder.measured().recomputed_tokens, x * spec.layers);
  assert_int_equal(decoder.measured().h2d_bytes, (x * spec.hidden + kv * 2 * spec.kv_width()) * sizeof(float) * spec.layers);
}

void every_split_gives_the_bits_of_stored_k_and_v(void**) {
  for (const char* checkpoint : kCheckpoints) {
    ModelFiles files = must(open_model(directory_of(checkpoint)));
    const auto tokens = prompts_of(files, 3);
    const std::vector<float> expected_batch = in_place(files, tokens), expected_one = in_place(files, {tokens[0]});
    assert_true(std::all_of(expected_batch.begin(), expected_batch.end(), [](float v) { return std::isfinite(v); }));
    for (auto [tile, slot_blocks] : {std::pair{16u, 1u}, {64u, 2u}, {256u, 4u}}) {
      LateBackend apart(cpu(), tile, true);
      DecoderOptions options;
      options.ring = {slot_blocks, 2, 3, tile};
      Decoder decoder(apart, files, options);
      std::vector<Prompt> prompts;
      for (const auto& prompt : tokens) prompts.push_back({prompt, {}, {}});
      for (Prompt& prompt : prompts) {
        const auto head = std::span(prompt.tokens).first(kCached);
        for (BlockForm form : {BlockForm::x, BlockForm::kv}) {
          Sequence& sequence = form == BlockForm::x ? prompt.as_x : prompt.as_kv;
          while (sequence.blocks.size() < blocks_for(Tokens(kCached + 8)).value) {
            sequence.blocks.push_back(decoder.take_id());
            sequence.forms.push_back(form);
          }
          decoder.step({{&sequence, head}}, {});
        }
      }
      auto step = [&](const std::vector<uint32_t>& splits) {
        std::vector<Decoder::Append> appends;
        std::vector<Sequence> sequences(splits.size());
        size_t next = 0;
        for (size_t i = 0; i < splits.size(); ++i) {
          sequences[i] = prompts[i].as_x;  // change_runs says where its blocks are
          sequences[i].length = kCached;
          appends.push_back({&sequences[i], std::span(prompts[i].tokens).subspan(kCached)});
        }
        decoder.change_runs = [&](std::vector<BlockRun>& runs) {
          runs = split_runs(prompts[next], splits[next]);
          ++next;
        };
        std::vector<float> logits = decoder.step(appends);
        expect_counts(decoder, files, splits);
        return logits;
      };
      auto expect = [&](const std::vector<uint32_t>& splits, const std::vector<float>& expected) {
        const std::vector<float> logits = step(splits);
        if (logits.size() == expected.size() &&
            std::memcmp(logits.data(), expected.data(), logits.size() * sizeof(float)) == 0) {
          return;
        }
        std::printf("%s, tiles of %u tokens, l = %u ...: other logits\n", checkpoint, tile, splits.front());
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
