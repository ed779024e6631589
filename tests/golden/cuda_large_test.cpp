// SPDX-License-Identifier: Apache-2.0
// Layers of real widths on the GPU against themselves: 33 splits of a context, in tiles of several sizes, with and without
// copies on the device, alone and in batches. Logits must have the same bits; and lie within the tolerance of the compute
// type of the CPU's in f32, also where the backend may choose kernels by the batch.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "tests/backend/cuda_fixture.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"
#include "tests/golden/random_model.h"
#include "tests/golden/splits.h"

namespace iokv::test {
namespace {

constexpr uint32_t kCached = 700, kSequences = 6, kSplits = 33;
constexpr uint32_t kBlocks = (kCached + 3 + kBlockTokens - 1) / kBlockTokens;

struct Way {
  uint32_t tile, slot_blocks;
  bool copies;  // of every third block, on the device
};
constexpr Way kWays[] = {{64, 1, false}, {256, 8, false}, {1024, 16, false}, {512, 8, true}};

struct Reference {
  ModelSpec spec;
  SplitPrompts prompts;
  std::vector<float> one;  // the first sequence's, by the CPU
};

Reference reference_of(const ModelSpec& spec) {
  Numbers numbers(81);
  Reference reference{spec, SplitPrompts::random(numbers, spec.vocab, kSequences, kCached, 3), {}};
  auto backend = Variant{CpuIsa::automatic, DType::f32}.backend(0);
  DecoderOptions options;
  options.max_rows = 256;
  options.pool_blocks = kBlocks;
  Decoder decoder(*backend, spec, random_weights(*backend, spec), options);
  reference.one = step_of_stored_kv(decoder, reference.prompts, 1);
  double squares = 0;
  for (float logit : reference.one) squares += double{logit} * logit;
  const double deviation = std::sqrt(squares / static_cast<double>(reference.one.size()));
  std::printf("%s: %u layers, logits of deviation %.2f\n", spec.name.c_str(), spec.layers, deviation);
  assert_true(deviation >= 1);
  return reference;
}

// The splits of as many sequences as are in the step, all of them different.
std::vector<uint32_t> splits_of(uint32_t i, size_t count) {
  std::vector<uint32_t> splits;
  for (size_t s = 0; s < count; ++s) {
    const uint32_t split = i * kCached / (kSplits - 1);
    splits.push_back(s % 2 == 0 ? (split + static_cast<uint32_t>(s) * 97) % (kCached + 1) : kCached - split);
  }
  return splits;
}

struct Worst {
  double error = 0;
  size_t steps = 0;
};

void try_way(Backend& backend, const Reference& reference, const Way& way, std::vector<float>& bits, Worst& worst) {
  const DType compute = backend.info().compute;
  DecoderOptions options;
  options.ring = {way.slot_blocks, 3, 3, way.tile};
  options.pool_blocks = 2 * kSequences * kBlocks;
  options.device_blocks = way.copies ? options.pool_blocks : 0;
  Decoder decoder(backend, reference.spec, random_weights(backend, reference.spec), options);
  SplitSequences sequences(decoder, reference.prompts, [&](uint32_t index) { return way.copies && index % 3 == 0; });
  for (uint32_t i = 0; i < kSplits; ++i) {
    for (const size_t count : {size_t{1}, size_t{3}, size_t{kSequences}}) {
      const std::vector<uint32_t> splits = splits_of(i, count);
      const std::vector<float> logits = sequences.step(splits);
      const std::vector<float> first(logits.begin(), logits.begin() + reference.spec.vocab);
      const double error = relative_error(first, reference.one);
      worst = {std::max(worst.error, error), worst.steps + 1};
      const size_t known = backend.info().batch_invariant ? std::min(bits.size(), logits.size()) : 0;
      const bool same = std::memcmp(logits.data(), bits.data(), known * sizeof(float)) == 0;
      if (logits.size() > bits.size()) bits = logits;
      if (error <= largest_error(compute) && same) continue;
      std::printf("%s %s, tiles of %u tokens%s, l = %u ..., %zu sequences: error %.2e%s\n", reference.spec.name.c_str(),
                  name_of(compute), way.tile, way.copies ? " and copies" : "", splits.front(), count, error,
                  same ? "" : ", other bits");
      fail();
    }
  }
}

void try_shape(const ModelSpec& spec) {
  const Reference reference = reference_of(spec);
  for (DType compute : {DType::f16, DType::bf16}) {
    for (const bool batch_invariant : {true, false}) {
      auto backend = must(open_gpu(compute, batch_invariant));
      std::vector<float> bits;
      Worst worst;
      for (const Way& way : kWays) {
        if (batch_invariant || way.tile == 256) try_way(*backend, reference, way, bits, worst);
      }
      std::printf("%s %s: %zu steps%s, largest error %.2e of %.1e\n", spec.name.c_str(), name_of(compute), worst.steps,
                  batch_invariant ? " of the same bits" : ", free choice of kernels", worst.error, largest_error(compute));
    }
  }
}

void splits_of_opt_6_7bs_layers_agree(void**) { try_shape(opt_6_7b_of(4)); }

void splits_of_llama_3_8bs_layers_agree(void**) { try_shape(llama_3_8b_of(2)); }

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  if (!has_gpu()) return kSkipped;
  const CMUnitTest tests[] = {
      cmocka_unit_test(splits_of_opt_6_7bs_layers_agree),
      cmocka_unit_test(splits_of_llama_3_8bs_layers_agree),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
