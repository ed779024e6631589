// SPDX-License-Identifier: Apache-2.0
// Every split of a sequence on the GPU: K,V of the first l tokens recomputed from X, those of the others sent, for every
// l, in tiles of several sizes, with and without copies on the device, alone and in batches of mixed splits. Logits must
// be the CPU's in f32 within the tolerance of the compute type; and one another's, bit for bit, unless the backend may
// choose kernels by the batch.
//
// IOKV_TEST_QUICK leaves most splits out: for runs under compute-sanitizer.
#include <cstdio>
#include <cstring>

#include "daemon/model/model_files.h"
#include "tests/backend/cuda_fixture.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"
#include "tests/golden/splits.h"

namespace iokv::test {
namespace {

constexpr uint32_t kCached = 150;  // tokens: the third block is filled partly
const bool kQuick = std::getenv("IOKV_TEST_QUICK") != nullptr;

bool none(uint32_t) { return false; }
bool first_block(uint32_t index) { return index == 0; }
bool later_blocks(uint32_t index) { return index > 0; }

struct Way {
  uint32_t tile, slot_blocks;
  const char* copies;
  bool (*resident)(uint32_t index);
};
constexpr Way kWays[] = {
    {16, 1, "no", none}, {64, 2, "no", none}, {256, 4, "no", none}, {64, 1, "the first block's", first_block},
    {16, 2, "other blocks'", later_blocks},
};

struct Worst {
  double error = 0;
  size_t steps = 0;
};

// Calls check(logits, splits) for every split alone, and for mixed batches.
template <typename Check>
void each_split(SplitSequences& sequences, const Check& check) {
  for (uint32_t split = 0; split <= kCached; split += kQuick ? 75 : 1) {
    check(sequences.step({split}), std::vector<uint32_t>{split});
  }
  for (uint32_t split = 0; split <= kCached; split += kQuick ? kCached : 7) {
    const std::vector<uint32_t> splits = {split, kCached - split, (split * 37) % (kCached + 1)};
    check(sequences.step(splits), splits);
  }
}

// The CPU's logits of all sequences' new rows; those of the first sequence come first.
struct Reference {
  SplitPrompts prompts;
  std::vector<float> batch, one;
};

Reference reference_of(const ModelFiles& files) {
  Numbers numbers(71);
  Reference reference{SplitPrompts::random(numbers, files.spec().vocab, 3, kCached), {}, {}};
  auto backend = Variant{CpuIsa::automatic, DType::f32}.backend(1);
  Decoder decoder(*backend, files);
  reference.batch = step_of_stored_kv(decoder, reference.prompts, 3);
  reference.one.assign(reference.batch.begin(), reference.batch.begin() + files.spec().vocab);
  return reference;
}

Worst try_way(Backend& backend, const ModelFiles& files, const Reference& reference, const Way& way,
              std::vector<float>& bits) {
  const DType compute = backend.info().compute;
  DecoderOptions options;
  options.ring = {way.slot_blocks, 2, 3, way.tile};
  options.device_blocks = 18;
  Decoder decoder(backend, files, options);
  SplitSequences sequences(decoder, reference.prompts, way.resident);
  Worst worst;
  each_split(sequences, [&](const std::vector<float>& logits, const std::vector<uint32_t>& splits) {
    const double error = relative_error(logits, splits.size() == 1 ? reference.one : reference.batch);
    const auto [x, kv] = sequences.carried(splits);
    assert_int_equal(decoder.measured().recomputed_tokens, x * files.spec().layers);
    assert_int_equal(decoder.measured().h2d_bytes,
                     (x * files.spec().hidden + kv * 2 * files.spec().kv_width()) * size_of(compute) * files.spec().layers);
    worst.error = std::max(worst.error, error);
    ++worst.steps;
    // The first sequence has the same bits alone and in the batch, whatever its split is.
    const size_t known = backend.info().batch_invariant ? std::min(bits.size(), logits.size()) : 0;
    const bool same = std::memcmp(logits.data(), bits.data(), known * sizeof(float)) == 0;
    if (logits.size() > bits.size()) bits = logits;
    if (error <= largest_error(compute) && same) return;
    std::printf("%s %s, tiles of %u tokens, %s copies, l = %u ..., %zu sequences: error %.2e%s\n",
                files.spec().name.c_str(), name_of(compute), way.tile, way.copies, splits.front(), splits.size(), error,
                same ? "" : ", other bits");
    fail();
  });
  return worst;
}

void every_split_gives_the_cpus_logits_and_one_anothers_bits(void**) {
  for (const char* checkpoint : kPagedCheckpoints) {
    ModelFiles files = must(open_model(directory_of(checkpoint)));
    const Reference reference = reference_of(files);
    each_compute_type([&](Backend& backend) {
      assert_true(backend.info().batch_invariant);
      std::vector<float> bits;
      Worst all;
      for (const Way& way : kWays) {
        if (kQuick && way.tile != 16) continue;
        const Worst worst = try_way(backend, files, reference, way, bits);
        all = {std::max(all.error, worst.error), all.steps + worst.steps};
      }
      std::printf("%s %s: %zu steps of the same bits, largest error %.2e of %.1e\n", checkpoint,
                  name_of(backend.info().compute), all.steps, all.error, largest_error(backend.info().compute));
    });
  }
}

void with_free_choice_of_kernels_every_split_stays_within_the_tolerance(void**) {
  for (DType compute : {DType::f16, DType::bf16}) {
    auto backend = must(open_gpu(compute, false));
    assert_false(backend->info().batch_invariant);
    for (const char* checkpoint : kPagedCheckpoints) {
      ModelFiles files = must(open_model(directory_of(checkpoint)));
      std::vector<float> no_bits;
      if (kQuick && files.spec().family != "opt") continue;
      const Worst worst = try_way(*backend, files, reference_of(files), kWays[1], no_bits);
      std::printf("%s %s, free choice: %zu steps, largest error %.2e of %.1e\n", checkpoint, name_of(compute), worst.steps,
                  worst.error, largest_error(compute));
    }
  }
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  if (!has_gpu()) return kSkipped;
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_split_gives_the_cpus_logits_and_one_anothers_bits),
      cmocka_unit_test(with_free_choice_of_kernels_every_split_stays_within_the_tolerance),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
