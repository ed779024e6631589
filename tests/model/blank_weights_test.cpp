// SPDX-License-Identifier: Apache-2.0
// Blank weights against shapes written down by hand, on a device that really holds them.
#include "daemon/model/blank_weights.h"

#include "daemon/backend/cpu/cpu_backend.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

// h = 16, of 4 heads; k = 8.
ModelSpec small_model() {
  ModelSpec model;
  model.layers = 2;
  model.hidden = 16;
  model.heads = 4;
  model.kv_heads = 2;
  model.head_dim = 4;
  model.ffn = 48;
  model.vocab = 100;
  model.max_context = 30;
  return model;
}

Weights blank(Backend& backend, const ModelSpec& spec) {
  Result<Weights> weights = blank_weights(backend, spec);
  assert_true(static_cast<bool>(weights));
  return *std::move(weights);
}

std::unique_ptr<Backend> cpu() {
  auto backend = make_cpu_backend({DType::f32, 1, CpuIsa::portable});
  assert_true(static_cast<bool>(backend));
  return *std::move(backend);
}

void assert_shape(const std::unique_ptr<Matrix>& matrix, uint32_t n, uint32_t k) {
  assert_non_null(matrix.get());
  assert_int_equal(matrix->n, n);
  assert_int_equal(matrix->k, k);
}

void assert_floats(const std::unique_ptr<DeviceMemory>& memory, size_t count) {
  assert_non_null(memory.get());
  assert_int_equal(memory->size_bytes(), count * sizeof(float));
}

void a_gated_model_has_fused_matrices_and_no_biases(void**) {
  const std::unique_ptr<Backend> backend = cpu();
  const Weights weights = blank(*backend, small_model());
  assert_shape(weights.embedding, 100, 16);
  assert_shape(weights.own_head, 100, 16);
  assert_null(weights.positions.get());
  assert_floats(weights.final_norm.weight, 16);
  assert_null(weights.final_norm.bias.get());
  assert_int_equal(weights.layers.size(), 2);
  for (const LayerWeights& layer : weights.layers) {
    assert_shape(layer.qkv.matrix, 16 + 2 * 8, 16);
    assert_shape(layer.o.matrix, 16, 16);
    assert_shape(layer.gate_up.matrix, 96, 16);
    assert_shape(layer.down.matrix, 16, 48);
    assert_floats(layer.attention_norm.weight, 16);
    assert_floats(layer.mlp_norm.weight, 16);
    assert_null(layer.qkv.bias.get());
  }
}

void a_model_like_opt_has_biases_positions_and_one_table(void**) {
  const std::unique_ptr<Backend> backend = cpu();
  ModelSpec spec = small_model();
  spec.norm = NormKind::layer;
  spec.activation = Activation::relu;
  spec.positions = PositionKind::learned;
  spec.learned_position_offset = 2;
  spec.tied_embeddings = true;
  const Weights weights = blank(*backend, spec);
  assert_shape(weights.positions, 32, 16);
  assert_null(weights.own_head.get());
  assert_ptr_equal(&weights.head(), weights.embedding.get());
  assert_floats(weights.final_norm.bias, 16);
  for (const LayerWeights& layer : weights.layers) {
    assert_shape(layer.gate_up.matrix, 48, 16);
    assert_floats(layer.qkv.bias, 32);
    assert_floats(layer.o.bias, 16);
    assert_floats(layer.gate_up.bias, 48);
    assert_floats(layer.down.bias, 16);
    assert_floats(layer.attention_norm.bias, 16);
    assert_floats(layer.mlp_norm.bias, 16);
  }
}

void stored_bytes_are_the_sum_of_all(void**) {
  const std::unique_ptr<Backend> backend = cpu();
  const Weights weights = blank(*backend, small_model());
  size_t bytes = weights.embedding->stored_bytes + weights.own_head->stored_bytes + 16 * sizeof(float);
  for (const LayerWeights& layer : weights.layers) {
    for (const LinearWeights* one : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      bytes += one->matrix->stored_bytes;
    }
    bytes += 2 * 16 * sizeof(float);
  }
  assert_int_equal(weights.stored_bytes, bytes);
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_gated_model_has_fused_matrices_and_no_biases),
      cmocka_unit_test(a_model_like_opt_has_biases_positions_and_one_table),
      cmocka_unit_test(stored_bytes_are_the_sum_of_all),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
