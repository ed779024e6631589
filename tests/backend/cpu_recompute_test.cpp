// SPDX-License-Identifier: Apache-2.0
// K and V made again from X have the bits of those that were stored: the fused Q,K,V product of a batch against its K,V
// columns alone, over blocks that hold other rows, each through rope into a block.
#include <algorithm>

#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

constexpr uint32_t kTokens = 150;  // two blocks and a part

struct Layer {
  KvShape shape;
  uint32_t hidden;
  std::vector<float> inverse_frequency, bias;
  Rows weights;
  Tensor x;

  Layer(Variant variant, KvShape kv_shape, uint32_t h, Numbers& numbers)
      : shape(kv_shape), hidden(h), inverse_frequency(kv_shape.head_dim / 2), bias(outputs()),
        weights(outputs(), h, numbers), x(Tensor::random(variant.compute, size_t{kTokens} * h, numbers)) {
    for (uint32_t i = 0; i < inverse_frequency.size(); ++i) inverse_frequency[i] = 1.0f / static_cast<float>(i + 1);
    for (float& value : bias) value = numbers.normal();
  }
  uint32_t q_width() const { return shape.heads * shape.head_dim; }
  uint32_t kv_width() const { return shape.kv_heads * shape.head_dim; }
  uint32_t outputs() const { return q_width() + 2 * kv_width(); }
  RopeTable rope() const { return {shape.head_dim, inverse_frequency, 1.0f}; }
};

// Blocks of a sequence, in one tensor of NaNs.
struct Blocks {
  Tensor values;
  size_t elements;
  Blocks(DType type, const Layer& layer)
      : values(type, blocks_for(Tokens(kTokens)).value * layer.shape.block_elements()),
        elements(layer.shape.block_elements()) {}
  RopeRun run_of(uint32_t position, uint32_t rows, DType type) {
    return {0, rows, position, values.at(position / kBlockTokens * elements), elements * size_of(type)};
  }
};

// Columns from `first` on of the fused product for tokens [begin, begin + rows), then K and V through rope.
void project(Backend& backend, const Layer& layer, const Matrix& weight, uint32_t first, uint32_t begin, uint32_t rows,
             Blocks& blocks) {
  uint32_t columns = layer.outputs() - first, k_at = layer.q_width() - first;
  Tensor y(backend.info().compute, size_t{rows} * columns);
  GemmArgs product;
  product.weight = &weight;
  product.first_column = first;
  product.columns = product.y_stride = columns;
  product.bias = layer.bias.data();
  product.x = layer.x.at(size_t{begin} * layer.hidden);
  product.y = y.at();
  product.rows = rows;
  backend.gemm(Queue::recompute, product);
  const RopeRun run = blocks.run_of(begin, rows, backend.info().compute);
  RopeArgs rope;
  rope.shape = layer.shape;
  rope.table = layer.rope();
  rope.q = first == 0 ? y.at() : nullptr;
  rope.q_stride = rope.kv_stride = columns;
  rope.k = y.at(k_at);
  rope.v = y.at(k_at + layer.kv_width());
  rope.runs = std::span(&run, 1);
  backend.rope(Queue::recompute, rope);
}

void recomputed_k_and_v_have_the_bits_of_the_stored(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend(3);
    Numbers numbers(51);
    for (auto [shape, hidden] :
         {std::pair{KvShape{9, 3, 64}, 576u}, {KvShape{4, 4, 20}, 80u}, {KvShape{4, 1, 12}, 33u}}) {
      Layer layer(variant, shape, hidden, numbers);
      auto weight = load(*backend, layer.outputs(), layer.weights);
      Blocks stored(variant.compute, layer);
      // As it was filled: a prompt in uneven chunks, then tokens one at a time.
      uint32_t position = 0;
      for (uint32_t rows : {70u, 13u, 64u, 1u, 1u, 1u}) {
        project(*backend, layer, *weight, 0, position, rows, stored);
        position += rows;
      }
      assert_int_equal(position, kTokens);
      for (uint32_t piece : {kBlockTokens, 7u, kTokens}) {
        Blocks again(variant.compute, layer);
        for (uint32_t begin = 0; begin < kTokens; begin += piece) {
          project(*backend, layer, *weight, layer.q_width(), begin, std::min(piece, kTokens - begin), again);
        }
        assert_true(again.values == stored.values);
      }
    }
  });
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {cmocka_unit_test(recomputed_k_and_v_have_the_bits_of_the_stored)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
