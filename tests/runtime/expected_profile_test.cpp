// SPDX-License-Identifier: Apache-2.0
// A profile of hardware that is not here, against numbers worked out by hand and published parameter counts.
#include "daemon/runtime/expected_profile.h"

#include <cmath>

#include "daemon/model/shapes.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

void assert_near(double value, double expected, double relative = 1e-9) {
  if (std::abs(value - expected) <= relative * std::abs(expected)) return;
  fail_msg("%.12g is not %.12g", value, expected);
}

// 10 and 20 bytes a nanosecond, 1,000 operations a nanosecond, 100 bytes a nanosecond from memory.
Hardware small_hardware() {
  Hardware hardware;
  hardware.h2d_bytes_per_s = 10e9;
  hardware.d2h_bytes_per_s = 20e9;
  hardware.copy_ns = 7;
  hardware.duplex = 1.5;
  hardware.matrix_flop_per_s = 1e12;
  hardware.memory_bytes_per_s = 100e9;
  hardware.launch_ns = 5;
  hardware.contention = 0.5;
  return hardware;
}

// h = 100, k = 50. Weights of a layer 100·100·2 + 100·50·2 + 100·300·2 = 90,000, with a gate 120,000; of the head
// 20,000.
ModelSpec small_model(Activation activation) {
  ModelSpec model;
  model.layers = 3;
  model.hidden = 100;
  model.heads = 10;
  model.kv_heads = 5;
  model.head_dim = 10;
  model.ffn = 300;
  model.vocab = 200;
  model.activation = activation;
  model.tied_embeddings = true;
  return model;
}

void every_curve_is_what_the_hand_computes(void**) {
  const ModelSpec model = small_model(Activation::relu);
  const CacheShape shape = cache_shape_of(model, 2);
  assert_int_equal(shape.layers, 3);
  assert_int_equal(shape.x_bytes, 200);
  assert_int_equal(shape.kv_bytes, 200);

  const Profile profile = expected_profile(small_hardware(), model, 2);
  assert_near(profile.h2d.at(1000), 7 + 100);
  assert_near(profile.d2h.at(1000), 7 + 50);
  assert_near(profile.duplex, 1.5);
  assert_near(profile.contention, 0.5);
  // 4·h·k = 20,000 operations a token, 20,000 bytes of W_K and W_V.
  assert_near(profile.recompute.at(1), 200);
  assert_near(profile.recompute.at(100), 2000);
  // 200 bytes of K,V an attended token.
  assert_near(profile.attend.at(50), 100);
  assert_near(profile.attend.at(1), 5);  // a launch
  // 180,000 operations a row, 180,000 bytes; two norms. Before attention 40,000 bytes and a norm.
  assert_near(profile.dense.at(1), 2 * 5 + 1800);
  assert_near(profile.dense.at(64), 2 * 5 + 64 * 180);
  assert_near(profile.project_share, 405.0 / 1810);
  // Embedding, norm and draws.
  assert_near(profile.head.at(1), 3 * 5 + 400);
  assert_near(profile.head.at(64), 3 * 5 + 64 * 40);
  assert_near(profile.embed_ns, 5);
  // Read and written.
  assert_near(profile.keep_x.at(1000), 20);
  // Pieces of K,V: five heads' K and V.
  assert_int_equal(shape.row_pieces, 10);
  assert_near(profile.piece_ns, 150);
}

void a_gate_is_a_third_matrix_and_untied_embeddings_a_second_table(void**) {
  ModelSpec model = small_model(Activation::silu_glu);
  assert_int_equal(layer_weight_bytes(model, 2), 240'000);
  assert_int_equal(weight_bytes(model, 2), 3 * 240'000 + 40'000);
  model.tied_embeddings = false;
  assert_int_equal(weight_bytes(model, 2), 3 * 240'000 + 2 * 40'000);
  assert_near(expected_profile(small_hardware(), model, 2).dense.at(1), 2 * 5 + 2400);
}

// What the models' authors publish, in thousands of millions.
void known_models_have_their_published_number_of_parameters(void**) {
  const struct {
    const char* name;
    double parameters;
  } rows[] = {{"opt-6.7b", 6.658e9},   {"opt-13b", 12.853e9},  {"opt-30b", 29.975e9},
              {"llama-2-7b", 6.738e9}, {"llama-3-8b", 8.030e9}, {"llama-3-70b", 70.554e9}};
  for (const auto& row : rows) {
    Result<ModelSpec> spec = known_shape(row.name);
    assert_true(static_cast<bool>(spec));
    assert_near(static_cast<double>(weight_bytes(*spec, 2)) / 2, row.parameters, 0.002);
  }
}

// OPT-6.7B, 32 sequences of 1,024 tokens on an H200: 4·4096·4096·32 operations a token, 102 ms at 690 TFLOP/s.
void opt_67b_is_recomputed_in_a_tenth_of_a_second(void**) {
  Result<ModelSpec> spec = known_shape("opt-6.7b");
  Result<Hardware> h200 = find_hardware("h200");
  assert_true(static_cast<bool>(spec) && static_cast<bool>(h200));
  const Profile profile = expected_profile(*h200, *spec, 2);
  assert_near(32 * profile.recompute.at(32 * 1024) / 1e6, 102, 0.01);
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_curve_is_what_the_hand_computes),
      cmocka_unit_test(a_gate_is_a_third_matrix_and_untied_embeddings_a_second_table),
      cmocka_unit_test(known_models_have_their_published_number_of_parameters),
      cmocka_unit_test(opt_67b_is_recomputed_in_a_tenth_of_a_second),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
