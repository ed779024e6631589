// SPDX-License-Identifier: Apache-2.0
// gemm of the CUDA backend against products in double; with batch_invariant against itself in other cuts, where every
// bit must agree; and K,V made again from X against K,V that were stored.
#include <algorithm>
#include <numeric>

#include "tests/backend/cuda_fixture.h"

namespace iokv::test {
namespace {

struct Shape {
  uint32_t n, k;
};

GemmArgs arguments(const Matrix& weight, const void* x, uint32_t rows, void* y, GemmOutput output) {
  GemmArgs args;
  args.weight = &weight;
  args.columns = args.y_stride = weight.n;
  args.x = x;
  args.y = y;
  args.rows = rows;
  args.output = output;
  return args;
}

void check_products(Backend& backend) {
  const DType compute = backend.info().compute;
  Numbers numbers(401);
  for (Shape shape : {Shape{16, 16}, {17, 3}, {33, 255}, {48, 256}, {100, 264}, {64, 5000}, {768, 512}, {1024, 1024}}) {
    for (uint32_t rows : {1u, 25u, 65u}) {
      Rows weights(shape.n, shape.k, numbers);
      auto weight = load(backend, shape.n, weights);
      Array x = Array::random(backend, compute, size_t{rows} * shape.k, numbers);
      Array bias = Array::random(backend, DType::f32, shape.n, numbers, 10.0f);
      std::vector<double> exact(size_t{rows} * shape.n);
      for (uint32_t r = 0; r < rows; ++r) {
        for (uint32_t c = 0; c < shape.n; ++c) {
          double sum = 0;
          for (uint32_t i = 0; i < shape.k; ++i) sum += x[size_t{r} * shape.k + i] * stored(weights, compute, c, i);
          exact[size_t{r} * shape.n + c] = sum;
        }
      }
      for (GemmOutput output : {GemmOutput::store, GemmOutput::store_f32, GemmOutput::add_f32}) {
        for (bool with_bias : {false, true}) {
          // A range of columns, where there is one, and a stride that is wider than it.
          const uint32_t first = shape.n >= 48 ? 32 : 0, columns = shape.n - first, stride = columns + 8;
          const DType type = output == GemmOutput::store ? compute : DType::f32;
          Array y = Array::random(backend, type, size_t{rows} * stride, numbers), before(backend, type, y.size());
          for (size_t i = 0; i < y.size(); ++i) before.set(i, static_cast<float>(y[i]));
          GemmArgs args = arguments(*weight, x.at(), rows, y.at(), output);
          args.first_column = first;
          args.columns = columns;
          args.y_stride = stride;
          args.bias = with_bias ? bias.floats() : nullptr;
          backend.gemm(Queue::dense, args);
          y.get();
          RelativeError error;
          for (uint32_t r = 0; r < rows; ++r) {
            for (uint32_t c = 0; c < columns; ++c) {
              const size_t at = size_t{r} * stride + c;
              double expected = exact[size_t{r} * shape.n + first + c] + (with_bias ? bias[first + c] : 0);
              if (output == GemmOutput::add_f32) expected += before[at];
              error.add(y[at], expected);
            }
            assert_true(y.same(size_t{r} * stride + columns, before, size_t{r} * stride + columns, 8));
          }
          const double bound = output == GemmOutput::store ? largest_error(compute) / 2 : 1e-5;
          if (!(error.value() <= bound)) {
            std::printf("%s, n %u, k %u, %u rows, output %d, bias %d:\n", name_of(compute), shape.n, shape.k, rows,
                        static_cast<int>(output), with_bias);
          }
          assert_small("gemm", error, bound);
        }
      }
    }
  }
}

void every_output_is_the_dot_product_plus_bias(void**) { each_compute_type(check_products); }

void the_same_without_batch_invariance(void**) {
  for (DType compute : {DType::f16, DType::bf16}) {
    auto backend = open_gpu(compute, false);
    assert_true(static_cast<bool>(backend));
    check_products(**backend);
  }
}

// Shapes of models: a fused Q,K,V, an MLP; and an odd one.
void rows_and_columns_have_the_bits_of_the_whole_product(void**) {
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(402);
    for (Shape shape : {Shape{3072, 1024}, {1024, 4096}, {960, 576}, {6144, 2048}, {176, 584}, {100, 255}}) {
      constexpr uint32_t kRows = 700;
      Rows weights(shape.n, shape.k, numbers, 0.1f);
      auto weight = load(backend, shape.n, weights);
      Array x = Array::random(backend, compute, size_t{kRows} * shape.k, numbers);
      Array bias = Array::random(backend, DType::f32, shape.n, numbers);
      for (GemmOutput output : {GemmOutput::store, GemmOutput::store_f32, GemmOutput::add_f32}) {
        const DType type = output == GemmOutput::store ? compute : DType::f32;
        auto product = [&](Array& y, uint32_t row, uint32_t rows, uint32_t first, uint32_t columns) {
          GemmArgs args = arguments(*weight, x.at(size_t{row} * shape.k), rows, y.at(), output);
          args.first_column = first;
          args.columns = args.y_stride = columns;
          args.bias = bias.floats();
          backend.gemm(Queue::dense, args);
          y.get();
        };
        auto zeros = [&](size_t count) {
          Array y(backend, type, count);
          for (size_t i = 0; i < count; ++i) y.set(i, 0);
          y.put();
          return y;
        };
        Array whole = zeros(size_t{kRows} * shape.n);
        product(whole, 0, kRows, 0, shape.n);
        std::vector<uint32_t> counts = {1, 2, 7, 8, 16, 32, 64, 65, 129, 500};
        if (shape.n < 1024) counts.resize(66), std::iota(counts.begin(), counts.end(), 1u);
        for (uint32_t rows : counts) {
          const uint32_t first = numbers.below(kRows - rows + 1);
          Array y = zeros(size_t{rows} * shape.n);
          product(y, first, rows, 0, shape.n);
          if (!y.same(0, whole, size_t{first} * shape.n, y.size())) {
            std::printf("%s, n %u, k %u: %u of %u rows have other bits\n", name_of(compute), shape.n, shape.k, rows, kRows);
            fail();
          }
        }
        for (uint32_t first : {0u, shape.n / 3 / 16 * 16, (shape.n - 64) / 16 * 16}) {
          const uint32_t columns = first == 0 ? 64 : shape.n - first;
          for (uint32_t rows : {1u, 64u, 700u}) {
            Array y = zeros(size_t{rows} * columns);
            product(y, 0, rows, first, columns);
            for (uint32_t r = 0; r < rows; ++r) {
              if (y.same(size_t{r} * columns, whole, size_t{r} * shape.n + first, columns)) continue;
              std::printf("%s, n %u, k %u: columns from %u of row %u have other bits\n", name_of(compute), shape.n, shape.k,
                          first, r);
              fail();
            }
          }
        }
      }
    }
  });
}

// As many rows as a step of prompts has, for which other kernels are the fastest.
void thousands_of_rows_have_the_bits_of_a_few(void**) {
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(404);
    for (Shape shape : {Shape{2048, 2048}, {1024, 4096}}) {
      constexpr uint32_t kRows = 4100;
      Rows weights(shape.n, shape.k, numbers, 0.1f);
      auto weight = load(backend, shape.n, weights);
      Array bias = Array::random(backend, DType::f32, shape.n, numbers);
      Array few = Array::random(backend, compute, size_t{64} * shape.k, numbers);
      Array x(backend, compute, size_t{kRows} * shape.k);
      for (uint32_t row = 0; row < kRows; row += 64) {
        const size_t rows = std::min(64u, kRows - row);
        backend.copy(Queue::dense, x.at(size_t{row} * shape.k), few.at(), rows * shape.k * size_of(compute));
      }
      for (GemmOutput output : {GemmOutput::store, GemmOutput::add_f32}) {
        const DType type = output == GemmOutput::store ? compute : DType::f32;
        auto product = [&](const Array& from, uint32_t rows) {
          Array y(backend, type, size_t{rows} * shape.n);
          if (output == GemmOutput::add_f32) {
            for (size_t i = 0; i < y.size(); ++i) y.set(i, 1);
            y.put();
          }
          GemmArgs args = arguments(*weight, from.at(), rows, y.at(), output);
          args.bias = bias.floats();
          backend.gemm(Queue::dense, args);
          y.get();
          return y;
        };
        const Array of_few = product(few, 64);
        for (uint32_t rows : {1000u, 2049u, kRows}) {
          const Array many = product(x, rows);
          for (uint32_t row = 0; row < rows; ++row) {
            if (many.same(size_t{row} * shape.n, of_few, size_t{row % 64} * shape.n, shape.n)) continue;
            std::printf("%s, n %u, k %u: row %u of %u has other bits\n", name_of(compute), shape.n, shape.k, row, rows);
            fail();
          }
        }
      }
    }
  });
}

constexpr uint32_t kTokens = 150;  // two blocks and a part

void recomputed_k_and_v_have_the_bits_of_the_stored(void**) {
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(403);
    for (auto [shape, hidden, rotary] : {std::tuple{KvShape{8, 8, 64}, 512u, true}, {KvShape{9, 3, 64}, 576u, true},
                                         {KvShape{8, 8, 128}, 1024u, false}, {KvShape{4, 4, 20}, 80u, true}}) {
      const uint32_t q_width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
      const uint32_t outputs = q_width + 2 * kv_width;
      std::vector<float> inverse(rotary ? shape.head_dim / 2 : 0);
      for (uint32_t i = 0; i < inverse.size(); ++i) inverse[i] = 1.0f / static_cast<float>(i + 1);
      Rows weights(outputs, hidden, numbers, 0.1f);
      auto weight = load(backend, outputs, weights);
      Array bias = Array::random(backend, DType::f32, outputs, numbers);
      Array x = Array::random(backend, compute, size_t{kTokens} * hidden, numbers);
      const size_t block_elements = shape.block_elements();
      auto project = [&](uint32_t first, uint32_t begin, uint32_t rows, Array& blocks) {
        const uint32_t columns = outputs - first, k_at = q_width - first;
        Array y(backend, compute, size_t{rows} * columns);
        GemmArgs product = arguments(*weight, x.at(size_t{begin} * hidden), rows, y.at(), GemmOutput::store);
        product.first_column = first;
        product.columns = product.y_stride = columns;
        product.bias = bias.floats();
        backend.gemm(Queue::recompute, product);
        const RopeRun run{0, rows, begin, blocks.at(begin / 64 * block_elements), block_elements * 2};
        backend.rope(Queue::recompute, {shape, {static_cast<uint32_t>(2 * inverse.size()), inverse, 1.0f},
                                        first == 0 ? y.at() : nullptr, columns, y.at(k_at), y.at(k_at + kv_width), columns,
                                        std::span(&run, 1)});
        finish(backend, Queue::recompute);
      };
      Array once(backend, compute, 3 * block_elements);
      uint32_t position = 0;
      for (uint32_t rows : {70u, 13u, 64u, 1u, 1u, 1u}) {
        project(0, position, rows, once);
        position += rows;
      }
      assert_int_equal(position, kTokens);
      once.get();
      for (uint32_t piece : {64u, 7u, kTokens}) {
        Array again(backend, compute, 3 * block_elements);
        for (uint32_t begin = 0; begin < kTokens; begin += piece) {
          project(q_width, begin, std::min(piece, kTokens - begin), again);
        }
        if (again.get() == once) continue;
        std::printf("%s, head %u, pieces of %u tokens: other bits\n", name_of(compute), shape.head_dim, piece);
        fail();
      }
    }
  });
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  if (!has_gpu()) return kSkipped;
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_output_is_the_dot_product_plus_bias),
      cmocka_unit_test(the_same_without_batch_invariance),
      cmocka_unit_test(rows_and_columns_have_the_bits_of_the_whole_product),
      cmocka_unit_test(thousands_of_rows_have_the_bits_of_a_few),
      cmocka_unit_test(recomputed_k_and_v_have_the_bits_of_the_stored),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
