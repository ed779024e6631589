// SPDX-License-Identifier: Apache-2.0
// The golden test must be able to fail: each way in which a forward pass is commonly wrong, as an alteration of a
// checkpoint or of the block table, gives finite logits that logits_test would refuse. Nothing of the product is altered.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numbers>
#include <string>
#include <utility>

#include "daemon/model/model_files.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"
#include "tests/golden/tolerance.h"

#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

// Refused with both compute types, or with f32 only: too small a difference to be seen in bf16.
enum class Seen { always, in_f32 };

struct Mutant {
  const char* name;
  std::function<void(Checkpoint&)> alter;
  Seen seen = Seen::always;
};

void zero(Checkpoint& checkpoint, const std::string& suffix) {
  for (Weight* weight : checkpoint.ending(suffix)) weight->values.assign(weight->values.size(), 0.0f);
}

std::function<void(Checkpoint&)> without(const char* suffix) {
  return [suffix](Checkpoint& checkpoint) { zero(checkpoint, suffix); };
}

std::function<void(Checkpoint&)> with_setting(const char* key, nlohmann::json value) {
  return [key, value = std::move(value)](Checkpoint& checkpoint) { checkpoint.config[key] = value; };
}

void drop_layer_0(Checkpoint& checkpoint) {
  for (auto& [name, weight] : checkpoint.weights) {
    bool output = name.find("out_proj.") != name.npos || name.find("o_proj.") != name.npos ||
                  name.find("down_proj.") != name.npos || name.find("fc2.") != name.npos;
    if (output && name.find("layers.0.") != name.npos) weight.values.assign(weight.values.size(), 0.0f);
  }
}

uint32_t setting(const Checkpoint& checkpoint, const char* key) { return checkpoint.config.at(key).get<uint32_t>(); }

uint32_t head_size(const Checkpoint& checkpoint) {
  return checkpoint.config.contains("head_dim") ? setting(checkpoint, "head_dim")
                                                : setting(checkpoint, "hidden_size") /
                                                      setting(checkpoint, "num_attention_heads");
}

// Query head i meets KV head i mod kv_heads instead of i / (heads / kv_heads): the heads of q trade places, and the
// columns of o with them.
void deal_heads_round_robin(Checkpoint& checkpoint) {
  uint32_t d = head_size(checkpoint), heads = setting(checkpoint, "num_attention_heads");
  uint32_t kv_heads = setting(checkpoint, "num_key_value_heads"), group = heads / kv_heads;
  auto source = [&](size_t i) { return (i / d % group * kv_heads + i / d / group) * d + i % d; };
  for (Weight* q : checkpoint.ending("q_proj.weight")) {
    Weight before = *q;
    for (size_t i = 0; i < q->rows; ++i) std::copy_n(before.row(source(i)), q->columns, q->row(i));
  }
  for (Weight* o : checkpoint.ending("o_proj.weight")) {
    Weight before = *o;
    for (size_t row = 0; row < o->rows; ++row) {
      for (size_t i = 0; i < o->columns; ++i) o->row(row)[i] = before.row(row)[source(i)];
    }
  }
}

// Neighbours 2i, 2i + 1 rotate together instead of i, i + d/2.
void interleave_rotated_pairs(Checkpoint& checkpoint) {
  uint32_t d = head_size(checkpoint);
  for (const char* name : {"q_proj.weight", "k_proj.weight"}) {
    for (Weight* weight : checkpoint.ending(name)) {
      Weight before = *weight;
      for (size_t i = 0; i < weight->rows; ++i) {
        size_t in_head = i % d, source = in_head < d / 2 ? 2 * in_head : 2 * (in_head - d / 2) + 1;
        std::copy_n(before.row(i - in_head + source), weight->columns, weight->row(i));
      }
    }
  }
}

// Queries one position later than the keys beside them: the rows of q turned by the angle of one position (at the
// unscaled frequencies), which commutes with every further turn.
void turn_queries_by_a_position(Checkpoint& checkpoint) {
  uint32_t d = head_size(checkpoint);
  for (Weight* q : checkpoint.ending("q_proj.weight")) {
    for (size_t i = 0; i < q->rows; ++i) {
      if (i % d >= d / 2) continue;
      double angle = std::pow(10000.0, -2.0 * static_cast<double>(i % d) / d);
      auto cosine = static_cast<float>(std::cos(angle)), sine = static_cast<float>(std::sin(angle));
      float *low = q->row(i), *high = q->row(i + d / 2);
      for (size_t column = 0; column < q->columns; ++column) {
        float x = low[column], y = high[column];
        low[column] = cosine * x - sine * y;
        high[column] = cosine * y + sine * x;
      }
    }
  }
}

// Row p of the table becomes row p + by.
std::function<void(Checkpoint&)> positions_moved(int by) {
  return [by](Checkpoint& checkpoint) {
    for (Weight* table : checkpoint.ending("embed_positions.weight")) {
      Weight before = *table;
      for (size_t row = 0; row < table->rows; ++row) {
        size_t source = (row + table->rows + static_cast<size_t>(by)) % table->rows;
        std::copy_n(before.row(source), table->columns, table->row(row));
      }
    }
  };
}

void trade_gate_and_up(Checkpoint& checkpoint) {
  auto gates = checkpoint.ending("gate_proj.weight"), ups = checkpoint.ending("up_proj.weight");
  for (size_t i = 0; i < gates.size(); ++i) std::swap(gates[i]->values, ups[i]->values);
}

void trade_keys_and_values(Checkpoint& checkpoint) {
  auto keys = checkpoint.ending("k_proj.weight"), values = checkpoint.ending("v_proj.weight");
  for (size_t i = 0; i < keys.size(); ++i) std::swap(keys[i]->values, values[i]->values);
}

// As if scores were not divided by sqrt(d).
void leave_scores_unscaled(Checkpoint& checkpoint) {
  auto factor = static_cast<float>(std::sqrt(head_size(checkpoint)));
  for (auto& [name, weight] : checkpoint.weights) {
    if (name.find("q_proj.") == name.npos) continue;
    for (float& value : weight.values) value *= factor;
  }
}

std::function<void(Checkpoint&)> with_rope(const char* key, nlohmann::json value) {
  return [key, value = std::move(value)](Checkpoint& checkpoint) { checkpoint.config["rope_parameters"][key] = value; };
}

std::vector<float> prefill(Backend& backend, const ModelFiles& files, const Golden& golden) {
  Decoder decoder(backend, files);
  std::vector<float> logits;
  for (const auto& prompt : golden.prompts) {
    std::vector<float> part = decoder.run(prompt, static_cast<uint32_t>(prompt.size()));
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

void expect_refused(const char* name, double error, DType compute, Seen seen) {
  std::printf("  %-58s %-4s error %.1e, %.0f x the tolerance\n", name, name_of(compute), error,
              error / tolerance(compute));
  assert_true(std::isfinite(error));
  if (seen == Seen::always || compute == DType::f32) assert_true(error > tolerance(compute));
}

void expect_all_refused(const char* checkpoint, const std::vector<Mutant>& mutants) {
  Golden golden = read_golden(checkpoint);
  std::printf("%s\n", checkpoint);
  for (const Mutant& mutant : mutants) {
    Checkpoint altered = Checkpoint::read(checkpoint);
    mutant.alter(altered);
    TemporaryDirectory directory;
    altered.write(directory.path());
    ModelFiles files = must(open_model(directory.path()));
    for (DType compute : {DType::f32, DType::bf16}) {
      auto backend = Variant{CpuIsa::automatic, compute}.backend();
      expect_refused(mutant.name, relative_error(prefill(*backend, files, golden), golden.logits), compute,
                     mutant.seen);
    }
  }
}

void an_unaltered_copy_of_each_checkpoint_is_accepted(void**) {
  for (const char* checkpoint : kCheckpoints) {
    Golden golden = read_golden(checkpoint);
    TemporaryDirectory directory;
    Checkpoint::read(checkpoint).write(directory.path());
    ModelFiles files = must(open_model(directory.path()));
    for (DType compute : {DType::f32, DType::bf16}) {
      auto backend = Variant{CpuIsa::automatic, compute}.backend();
      assert_true(relative_error(prefill(*backend, files, golden), golden.logits) <= tolerance(compute));
    }
  }
}

void every_mutant_of_opt_is_refused(void**) {
  expect_all_refused(
      "opt", {
                 {"K = 0", [](Checkpoint& c) { zero(c, "k_proj.weight"), zero(c, "k_proj.bias"); }},
                 {"K and V exchanged", trade_keys_and_values},
                 {"position + 1", positions_moved(1)},
                 {"positions without OPT's offset of 2", positions_moved(-2)},
                 {"positions missing", without("embed_positions.weight")},
                 {"layer 0 dropped", drop_layer_0},
                 {"scores not divided by sqrt(d)", leave_scores_unscaled},
                 {"bias of q missing", without("q_proj.bias")},
                 {"bias of v missing", without("v_proj.bias")},
                 {"bias of o missing", without("out_proj.bias")},
                 {"bias of fc1 missing", without("fc1.bias")},
                 {"bias of fc2 missing", without("fc2.bias")},
                 {"bias of the attention's norm missing", without("self_attn_layer_norm.bias")},
                 {"bias of the other norms missing", without("final_layer_norm.bias")},
                 {"gelu in place of relu", with_setting("activation_function", "gelu")},
             });
}

void every_mutant_of_llama_is_refused(void**) {
  expect_all_refused("llama_mha", {
                                      {"K = 0", without("k_proj.weight")},
                                      {"K and V exchanged", trade_keys_and_values},
                                      {"position + 1 for q", turn_queries_by_a_position},
                                      {"layer 0 dropped", drop_layer_0},
                                      {"scores not divided by sqrt(d)", leave_scores_unscaled},
                                      {"rope base 500000 in place of 10000", with_rope("rope_theta", 500000.0)},
                                      {"rope of neighbours in place of halves", interleave_rotated_pairs},
                                      {"gate and up exchanged", trade_gate_and_up},
                                      {"norm's epsilon 1e-6 in place of 1e-4", with_setting("rms_norm_eps", 1e-6),
                                       Seen::in_f32},
                                  });
}

void every_mutant_of_llama_with_shared_kv_heads_is_refused(void**) {
  expect_all_refused(
      "llama_gqa", {
                       {"K = 0", without("k_proj.weight")},
                       {"position + 1 for q", turn_queries_by_a_position},
                       {"layer 0 dropped", drop_layer_0},
                       {"heads dealt to KV heads round robin", deal_heads_round_robin},
                       {"rope scaling missing", with_setting("rope_parameters", {{"rope_type", "default"},
                                                                                 {"rope_theta", 10000.0}})},
                       {"rope scaling linear in place of llama3",
                        with_setting("rope_parameters",
                                     {{"rope_type", "linear"}, {"rope_theta", 10000.0}, {"factor", 4.0}})},
                       {"rope scaling with another factor", with_rope("factor", 8.0)},
                       {"rope scaling without its blended wavelengths", with_rope("low_freq_factor", 3.999)},
                       {"rope scaling for another context", with_rope("original_max_position_embeddings", 64)},
                       {"gate and up exchanged", trade_gate_and_up},
                   });
}

std::function<void(Checkpoint&)> with_ones(const char* suffix) {
  return [suffix](Checkpoint& checkpoint) {
    for (Weight* weight : checkpoint.ending(suffix)) weight->values.assign(weight->values.size(), 1.0f);
  };
}

// The halves of the rows of a tensor that holds two matrices.
std::function<void(Checkpoint&)> halves_traded(const char* suffix) {
  return [suffix](Checkpoint& checkpoint) {
    for (Weight* weight : checkpoint.ending(suffix)) {
      const auto middle = static_cast<std::ptrdiff_t>(weight->values.size() / 2);
      std::rotate(weight->values.begin(), weight->values.begin() + middle, weight->values.end());
    }
  };
}

// The last row of a table of positions first.
std::function<void(Checkpoint&)> rows_moved(const char* suffix) {
  return [suffix](Checkpoint& checkpoint) {
    for (Weight* weight : checkpoint.ending(suffix)) {
      const auto row = static_cast<std::ptrdiff_t>(weight->columns);
      std::rotate(weight->values.begin(), weight->values.end() - row, weight->values.end());
    }
  };
}

// As if q, k and v of a tensor that has them head by head were one after the other.
void gather_heads(Checkpoint& checkpoint) {
  const uint32_t d = head_size(checkpoint), heads = setting(checkpoint, "num_attention_heads");
  for (const char* suffix : {"query_key_value.weight", "query_key_value.bias"}) {
    for (Weight* weight : checkpoint.ending(suffix)) {
      Weight before = *weight;
      for (size_t i = 0; i < weight->rows; ++i) {
        const size_t part = i / d % 3, head = i / d / 3;
        std::copy_n(before.row((part * heads + head) * d + i % d), weight->columns, weight->row(i));
      }
    }
  }
}

std::function<void(Checkpoint&)> with_theta(double theta) { return with_rope("rope_theta", theta); }

void every_mutant_of_mistral_is_refused(void**) {
  expect_all_refused("families/mistral", {
                                             {"K = 0", without("k_proj.weight")},
                                             {"no window", with_setting("sliding_window", nullptr)},
                                             {"a window of one more", with_setting("sliding_window", 41)},
                                             {"a window of one less", with_setting("sliding_window", 39)},
                                             {"another rope base", with_theta(10000)},
                                         });
}

void every_mutant_of_qwen_is_refused(void**) {
  expect_all_refused("families/qwen2",
                     {
                         {"bias of q missing", [](Checkpoint& c) { zero(c, "q_proj.bias"); }},
                         {"bias of k missing", [](Checkpoint& c) { zero(c, "k_proj.bias"); }},
                         {"bias of v missing", [](Checkpoint& c) { zero(c, "v_proj.bias"); }},
                         {"rope scaling missing", with_rope("rope_type", "default")},
                         {"linear in place of yarn", with_rope("rope_type", "linear")},
                         {"yarn without its factor on attention", with_rope("attention_factor", 1.0)},
                         {"yarn with another ramp", with_rope("beta_slow", 4.0)},
                     });
  expect_all_refused("families/qwen3", {
                                           {"weights of q's norm missing", with_ones("q_norm.weight")},
                                           {"weights of k's norm missing", with_ones("k_norm.weight")},
                                           {"rope scaling missing", with_rope("rope_type", "default")},
                                           {"layer 0 dropped", drop_layer_0},
                                       });
}

void every_mutant_of_phi_is_refused(void**) {
  expect_all_refused("families/phi3",
                     {
                         {"no window", with_setting("sliding_window", nullptr)},
                         {"gate and up exchanged", halves_traded("gate_up_proj.weight")},
                         {"rope scaling missing", with_rope("rope_type", "default")},
                         {"the other factors", with_rope("short_factor", {2.0, 4.0, 6.0, 8.0})},
                         {"longrope without its factor on attention", with_rope("attention_factor", 1.0)},
                     });
  expect_all_refused("families/phi", {
                                         {"bias of the head missing", without("lm_head.bias")},
                                         {"all of a head rotated", with_rope("partial_rotary_factor", 1.0)},
                                         {"bias of the norm missing", without("input_layernorm.bias")},
                                         {"relu in place of gelu", with_setting("hidden_act", "relu")},
                                     });
}

void every_mutant_of_olmo_and_gemma_is_refused(void**) {
  expect_all_refused("families/olmo", {
                                          {"K = 0", without("k_proj.weight")},
                                          {"gate and up exchanged", trade_gate_and_up},
                                          {"another rope base", with_theta(500)},
                                      });
  const nlohmann::json others = {"full_attention", "sliding_attention", "full_attention"};
  expect_all_refused("families/gemma2",
                     {
                         {"scores not capped", with_setting("attn_logit_softcapping", nullptr)},
                         {"logits not capped", with_setting("final_logit_softcapping", nullptr)},
                         {"scores divided by sqrt(d)", with_setting("query_pre_attn_scalar", 16)},
                         {"windows in the other layers", with_setting("layer_types", others)},
                         {"a window of one more", with_setting("sliding_window", 34)},
                         {"norm of what attention gives missing",
                          [](Checkpoint& c) { zero(c, "post_attention_layernorm.weight"); }},
                         {"norm of what the feed-forward gives missing",
                          [](Checkpoint& c) { zero(c, "post_feedforward_layernorm.weight"); }},
                     });
}

void every_mutant_of_gpt_is_refused(void**) {
  expect_all_refused("families/gpt2", {
                                          {"position + 1", rows_moved("wpe.weight")},
                                          {"bias of q, k and v missing", without("c_attn.bias")},
                                          {"gelu in place of its approximation",
                                           with_setting("activation_function", "gelu"), Seen::in_f32},
                                          {"norm's epsilon 1e-3", with_setting("layer_norm_epsilon", 1e-3), Seen::in_f32},
                                      });
  expect_all_refused("families/gpt_neox",
                     {
                         {"one after the other", with_setting("use_parallel_residual", false)},
                         {"all of a head rotated", with_rope("partial_rotary_factor", 1.0)},
                         {"q, k and v not head by head", gather_heads},
                         {"bias of the second norm missing", without("post_attention_layernorm.bias")},
                     });
}

// Both prompts' first two blocks, then exchange(), then what is left of them: error of the logits of the latter.
template <typename Exchange>
double error_after(Backend& backend, const ModelFiles& files, const Golden& golden, const FormOf& form,
                   const Exchange& exchange) {
  constexpr size_t kHead = 2 * kBlockTokens;
  DecoderOptions options;
  options.form = form;
  Decoder decoder(backend, files, options);
  Sequence sequences[2];
  std::vector<Decoder::Append> heads, tails;
  std::vector<float> reference;
  const float* logits = golden.logits.data();
  for (size_t i = 0; i < 2; ++i) {
    std::span<const int32_t> prompt = golden.prompts[i];
    heads.push_back({&sequences[i], prompt.first(kHead)});
    tails.push_back({&sequences[i], prompt.subspan(kHead)});
    const float* end = logits + prompt.size() * decoder.vocab();
    reference.insert(reference.end(), logits + kHead * decoder.vocab(), end);
    logits = end;
  }
  decoder.step(heads);
  exchange(sequences);
  return relative_error(decoder.step(tails), reference);
}

template <typename Exchange>
void expect_exchange_refused(const char* name, std::initializer_list<const char*> checkpoints, const FormOf& form,
                             const Exchange& exchange) {
  for (const char* checkpoint : checkpoints) {
    Golden golden = read_golden(checkpoint);
    ModelFiles files = must(open_model(directory_of(checkpoint)));
    std::printf("%s\n", checkpoint);
    for (DType compute : {DType::f32, DType::bf16}) {
      auto backend = Variant{CpuIsa::automatic, compute}.backend();
      double untouched = error_after(*backend, files, golden, form, [](Sequence*) {});
      assert_true(untouched <= tolerance(compute));
      expect_refused(name, error_after(*backend, files, golden, form, exchange), compute, Seen::always);
    }
  }
}

void a_block_exchanged_with_another_sequences_is_refused(void**) {
  auto exchange = [](Sequence* sequences) { std::swap(sequences[0].blocks[1], sequences[1].blocks[1]); };
  expect_exchange_refused("kv blocks of two sequences exchanged", {"opt", "llama_mha", "llama_gqa"}, all_kv, exchange);
  expect_exchange_refused("x blocks of two sequences exchanged", {"opt", "llama_mha", "llama_gqa"}, all_x, exchange);
}

// Only recomputing turns keys by their block's place in the table. Full kv blocks of one sequence may trade places, and
// x blocks of a model whose positions are in X: attention is a sum over a set.
void two_x_blocks_of_a_sequence_exchanged_are_refused_where_keys_are_rotated(void**) {
  auto exchange = [](Sequence* sequences) {
    for (int i = 0; i < 2; ++i) std::swap(sequences[i].blocks[0], sequences[i].blocks[1]);
  };
  expect_exchange_refused("x blocks of a sequence exchanged", {"llama_mha", "llama_gqa"}, all_x, exchange);
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(an_unaltered_copy_of_each_checkpoint_is_accepted),
      cmocka_unit_test(every_mutant_of_opt_is_refused),
      cmocka_unit_test(every_mutant_of_llama_is_refused),
      cmocka_unit_test(every_mutant_of_llama_with_shared_kv_heads_is_refused),
      cmocka_unit_test(every_mutant_of_mistral_is_refused),
      cmocka_unit_test(every_mutant_of_qwen_is_refused),
      cmocka_unit_test(every_mutant_of_phi_is_refused),
      cmocka_unit_test(every_mutant_of_olmo_and_gemma_is_refused),
      cmocka_unit_test(every_mutant_of_gpt_is_refused),
      cmocka_unit_test(a_block_exchanged_with_another_sequences_is_refused),
      cmocka_unit_test(two_x_blocks_of_a_sequence_exchanged_are_refused_where_keys_are_rotated),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
