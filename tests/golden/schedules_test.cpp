// SPDX-License-Identifier: Apache-2.0
// However a step is scheduled it gives the same bits: row by row, with weights on the device and one micro-batch, or
// column by column, with the weights of any number of layers over the link, through any number of slots, once for any
// number of micro-batches; beside cached tokens of any form, on a device that runs its queues in any order that tickets
// permit.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <optional>

#include "daemon/model/model_files.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"
#include "tests/golden/late_backend.h"

namespace iokv::test {
namespace {

std::unique_ptr<Backend> cpu() { return Variant{CpuIsa::automatic, DType::f32}.backend(1); }

// Two prompts, together, in steps of 70 tokens each and then of one: all logits.
std::vector<float> decode(Decoder& decoder, const std::vector<std::vector<int32_t>>& prompts) {
  std::vector<Sequence> sequences(prompts.size());
  std::vector<float> logits;
  size_t at = 0;
  for (size_t rows : {70, 70, 1, 1, 1}) {
    std::vector<Decoder::Append> appends;
    for (size_t i = 0; i < prompts.size(); ++i) appends.push_back({&sequences[i], std::span(prompts[i]).subspan(at, rows)});
    const std::vector<float> part = decoder.step(appends);
    logits.insert(logits.end(), part.begin(), part.end());
    at += rows;
  }
  return logits;
}

std::vector<std::vector<int32_t>> prompts_of(const ModelFiles& files) {
  Numbers numbers(5);
  std::vector<std::vector<int32_t>> prompts(2);
  for (auto& prompt : prompts) {
    for (int i = 0; i < 143; ++i) prompt.push_back(static_cast<int32_t>(numbers.below(files.spec().vocab)));
  }
  return prompts;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void streamed_weights_give_the_bits_of_those_that_stay(void**) {
  for (const char* checkpoint : kCheckpoints) {
    const ModelFiles files = must(open_model(directory_of(checkpoint)));
    const auto prompts = prompts_of(files);
    const auto in_place = cpu();
    Decoder plain(*in_place, files);
    const std::vector<float> expected = decode(plain, prompts);
    assert_true(std::all_of(expected.begin(), expected.end(), [](float value) { return std::isfinite(value); }));
    uint64_t stream = 0;
    for (uint32_t streamed = 1; streamed <= files.spec().layers; ++streamed) {
      for (uint32_t slots = 1; slots <= 3; ++slots) {
        for (const FormOf& form : {FormOf(all_kv), FormOf(all_x), FormOf(x_then_kv)}) {
          LateBackend apart(cpu(), ++stream, true);
          DecoderOptions options;
          options.form = form;
          options.streamed_layers = streamed;
          options.weight_slots = slots;
          Decoder decoder(apart, files, options);
          if (same_bits(decode(decoder, prompts), expected)) continue;
          std::printf("%s, weights of %u layers in %u slots: other logits\n", checkpoint, streamed, slots);
          fail();
        }
      }
    }
  }
}

// Three sequences: prompts of 130, 40 and 35 tokens, then some more of each, with these cached, then one each. Logits of each step's last rows and of some others.
std::vector<float> prompts_and_tokens(Decoder& decoder, const std::vector<std::vector<int32_t>>& prompts) {
  std::vector<Sequence> sequences(prompts.size());
  std::vector<float> logits;
  std::vector<size_t> at(prompts.size());
  for (int step = 0; step < 4; ++step) {
    std::vector<Decoder::Append> appends;
    std::vector<uint32_t> wanted;
    uint32_t row = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const size_t rows = step == 0 ? std::array{130, 40, 35}[i] : step == 1 ? std::array{58, 90, 20}[i] : 1;
      appends.push_back({&sequences[i], std::span(prompts[i]).subspan(at[i], rows)});
      at[i] += rows;
      for (uint32_t r = 0; r < rows; r += 37) wanted.push_back(row + r);
      row += static_cast<uint32_t>(rows);
      if (wanted.back() != row - 1) wanted.push_back(row - 1);
    }
    const std::vector<float> part = decoder.step(appends, wanted);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

void every_schedule_gives_the_bits_of_one_micro_batch(void**) {
  uint64_t stream = 0;
  for (const char* checkpoint : kCheckpoints) {
    const ModelFiles files = must(open_model(directory_of(checkpoint)));
    Numbers numbers(6);
    std::vector<std::vector<int32_t>> prompts(3);
    for (auto& prompt : prompts) {
      for (int i = 0; i < 200; ++i) prompt.push_back(static_cast<int32_t>(numbers.below(files.spec().vocab)));
    }
    const auto in_place = cpu();
    Decoder plain(*in_place, files);
    const std::vector<float> expected = prompts_and_tokens(plain, prompts);
    assert_true(std::all_of(expected.begin(), expected.end(), [](float value) { return std::isfinite(value); }));
    for (uint32_t batch_rows : {64u, 70u, 100u, 129u, 204u, 205u}) {
      for (uint32_t kept_blocks : {0u, 1u, 3u}) {
        for (const FormOf& form : {FormOf(all_kv), FormOf(all_x), FormOf(kv_then_x)}) {
          DecoderOptions options;
          options.form = form;
          options.batch_rows = batch_rows;
          options.kept_blocks = kept_blocks;
          options.streamed_layers = numbers.below(files.spec().layers + 1);
          options.weight_slots = 1 + numbers.below(3);
          LateBackend apart(cpu(), ++stream, true), together(cpu(), stream, false);
          Decoder over_the_link(apart, files, options);
          options.streamed_layers = 0;
          Decoder in_the_pool(together, files, options);
          for (Decoder* decoder : {&over_the_link, &in_the_pool}) {
            if (same_bits(prompts_and_tokens(*decoder, prompts), expected)) continue;
            std::printf("%s, micro-batches of %u rows, %u blocks kept, %s: other logits\n", checkpoint, batch_rows,
                        kept_blocks, decoder == &over_the_link ? "over the link" : "in place");
            fail();
          }
        }
      }
    }
  }
}

// A prompt's own context crosses the link once for each further micro-batch, unless it is kept.
void a_prompts_own_context_stays_for_its_layer(void**) {
  const ModelFiles files = must(open_model(directory_of("llama_mha")));
  const ModelSpec& spec = files.spec();
  std::vector<int32_t> tokens(512);  // rotary positions have no end
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 7 % spec.vocab);
  const uint64_t token_bytes = uint64_t{2} * spec.kv_width() * sizeof(float) * spec.layers;
  for (const auto& [kept, carried] : {std::pair(0u, 128u + 256 + 384), {3u, (128u - 128) + (256 - 192) + (384 - 192)}, {6u, 0u}}) {
    LateBackend apart(cpu(), 9, true);
    DecoderOptions options;
    options.batch_rows = 128;
    options.kept_blocks = kept;
    Decoder decoder(apart, files, options);
    Sequence sequence;
    const uint32_t last = 511;
    decoder.step({{&sequence, tokens}}, std::span(&last, 1));
    assert_int_equal(decoder.plan().batches.size(), 4);
    assert_int_equal(decoder.measured().h2d_bytes, carried * token_bytes);
    assert_int_equal(decoder.measured().d2h_bytes, 512 * token_bytes);
  }
}

// Both parts of each streamed layer, once a step, whatever else crosses the link.
void weights_cross_the_link_once_a_step(void**) {
  const ModelFiles files = must(open_model(directory_of("llama_mha")));
  const std::vector<int32_t> tokens = prompts_of(files)[0];
  const ModelSpec& spec = files.spec();
  // Matrices in f32, in panels of 32 outputs: [qkv, o, gate and up, down].
  auto panels = [](uint64_t outputs) { return (outputs + 31) / 32 * 32; };
  const uint64_t layer_bytes = 4 * (panels(spec.q_width() + 2 * spec.kv_width()) * spec.hidden + panels(spec.hidden) * spec.q_width() +
                                    panels(2 * spec.ffn) * spec.hidden + panels(spec.hidden) * spec.ffn);
  for (uint32_t streamed = 0; streamed <= spec.layers; ++streamed) {
    LateBackend apart(cpu(), 3, true);
    DecoderOptions options;
    options.streamed_layers = streamed;
    Decoder decoder(apart, files, options);
    Sequence sequence;
    decoder.step({{&sequence, std::span(tokens).first(100)}});
    assert_int_equal(decoder.measured().h2d_bytes, streamed * layer_bytes);
    decoder.step({{&sequence, std::span(tokens).subspan(100, 1)}});
    const uint64_t cached_bytes = uint64_t{100} * 2 * spec.kv_width() * 4 * spec.layers;
    assert_int_equal(decoder.measured().h2d_bytes, streamed * layer_bytes + cached_bytes);
  }
}

// What the first test is worth: a queue that does not wait reads weights that are not there.
void waits_for_weights_show(void**) {
  const ModelFiles files = must(open_model(directory_of("opt")));
  const auto prompts = prompts_of(files);
  const auto in_place = cpu();
  Decoder plain(*in_place, files);
  const std::vector<float> expected = decode(plain, prompts);
  for (Queue deaf : {Queue::dense, Queue::h2d}) {
    bool seen = false;
    for (uint64_t stream = 0; stream < 20 && !seen; ++stream) {
      LateBackend apart(cpu(), stream, true, deaf);
      DecoderOptions options;
      options.streamed_layers = files.spec().layers;
      options.weight_slots = 1;
      options.ring = {8, 40, 40, 0};
      Decoder decoder(apart, files, options);
      // The first step fetches nothing but weights.
      Sequence sequence;
      const std::vector<float> logits = decoder.step({{&sequence, std::span(prompts[0]).first(70)}});
      seen = !same_bits(logits, {expected.begin(), expected.begin() + static_cast<long>(logits.size())});
    }
    if (!seen) std::printf("%s: waits for nothing that shows\n", name_of(deaf));
    assert_true(seen);
  }
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(streamed_weights_give_the_bits_of_those_that_stay),
      cmocka_unit_test(every_schedule_gives_the_bits_of_one_micro_batch),
      cmocka_unit_test(a_prompts_own_context_stays_for_its_layer),
      cmocka_unit_test(weights_cross_the_link_once_a_step),
      cmocka_unit_test(waits_for_weights_show),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
