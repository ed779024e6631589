// SPDX-License-Identifier: Apache-2.0
// gemm of the CPU backend against products in double, and against itself in other cuts, where every bit must agree.
#include <algorithm>
#include <array>

#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

// Rows that are stored in few bits, and their exact values.
struct QuantRows final : RowSource {
  QuantForm form;
  uint32_t columns;
  std::vector<uint8_t> quants;
  std::vector<float> scales, minima;
  QuantRows(QuantForm of, uint32_t rows, uint32_t row_columns, Numbers& numbers) : form(of), columns(row_columns) {
    for (size_t i = 0; i < size_t{rows} * columns; ++i) {
      quants.push_back(static_cast<uint8_t>(numbers.below(form.bits == 4 ? 16 : 256)));
    }
    auto number = [&](float deviation) {
      const float value = numbers.normal(deviation);
      return form.halves ? f16_to_f32(f32_to_f16(value)) : value;
    };
    for (size_t i = 0; i < quants.size() / form.block; ++i) {
      scales.push_back(number(0.1f));
      minima.push_back(form.minima ? number(0.5f) : 0.0f);
    }
  }
  float value(size_t row, size_t column) const {
    const size_t at = row * columns + column;
    const int quant = form.bits == 4 ? form.values[quants[at]] : static_cast<int8_t>(quants[at]);
    return static_cast<float>(quant) * scales[at / form.block] + minima[at / form.block];
  }
  void read_row(uint32_t index, float* row) const override {
    for (uint32_t i = 0; i < columns; ++i) row[i] = value(index, i);
  }
  QuantForm quant_form() const override { return form; }
  void read_quants(uint32_t index, const QuantRow& row) const override {
    const size_t at = size_t{index} * columns, blocks = columns / form.block;
    std::copy_n(&quants[at], columns, row.quants.begin());
    std::copy_n(&scales[at / form.block], blocks, row.scales.begin());
    std::copy_n(&minima[at / form.block], blocks, row.minima.begin());
  }
};

constexpr std::array<int8_t, 16> kSigned = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
constexpr std::array<int8_t, 16> kUneven = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const QuantForm kForms[] = {{4, 32, false, true, kSigned}, {4, 32, true, true, kUneven}, {4, 32, true, false, kSigned},
                            {8, 32, false, true, {}},      {8, 32, true, true, {}},      {8, 16, true, false, {}},
                            {4, 16, false, false, kUneven}};

// Every ISA; quants stay quants where the backend computes in bf16.
template <typename Test>
void each_bf16_variant(const Test& test) {
  each_variant([&](Variant variant) {
    if (variant.compute == DType::bf16) test(variant);
  });
}

struct Shape {
  uint32_t n, k;
};

GemmArgs arguments(const Matrix& weight, const Tensor& x, uint32_t rows, Tensor& y, GemmOutput output) {
  GemmArgs args;
  args.weight = &weight;
  args.columns = args.y_stride = weight.n;
  args.x = x.at();
  args.y = y.at();
  args.rows = rows;
  args.output = output;
  return args;
}

void every_output_is_the_dot_product_plus_bias(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(1);
    for (Shape shape : {Shape{1, 1}, {16, 16}, {17, 3}, {33, 255}, {48, 256}, {100, 257}, {31, 515}, {64, 5000}}) {
      uint32_t rows = 14;
      Rows weights(shape.n, shape.k, numbers);
      auto weight = load(*backend, shape.n, weights);
      Tensor x = Tensor::random(variant.compute, size_t{rows} * shape.k, numbers);
      Tensor bias = Tensor::random(DType::f32, shape.n, numbers), y(DType::f32, size_t{rows} * shape.n);
      GemmArgs args = arguments(*weight, x, rows, y, GemmOutput::store_f32);
      args.bias = static_cast<const float*>(bias.at());
      backend->gemm(Queue::dense, args);
      for (uint32_t r = 0; r < rows; ++r) {
        for (uint32_t c = 0; c < shape.n; ++c) {
          double sum = bias[c], size = std::fabs(sum);
          for (uint32_t i = 0; i < shape.k; ++i) {
            double term = x[size_t{r} * shape.k + i] * weights.stored(variant.compute, c, i);
            sum += term;
            size += std::fabs(term);
          }
          assert_near(y[size_t{r} * shape.n + c], sum, 1e-6 * size);
        }
      }
    }
  });
}

std::unique_ptr<Matrix> load_quants(Backend& backend, uint32_t n, const QuantRows& rows) {
  auto matrix = backend.load(n, rows.columns, rows);
  assert_true(static_cast<bool>(matrix));
  return *std::move(matrix);
}

// Nothing but the sums is rounded: the bound is f32's.
void quantised_weights_are_multiplied_as_they_are_stored(void**) {
  each_bf16_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(8);
    for (const QuantForm& form : kForms) {
      for (Shape shape : {Shape{1, 32}, {33, 96}, {48, 576}, {17, 1536}}) {
        constexpr uint32_t kRows = 14;
        QuantRows weights(form, shape.n, shape.k, numbers);
        auto weight = load_quants(*backend, shape.n, weights);
        Tensor x = Tensor::random(variant.compute, size_t{kRows} * shape.k, numbers);
        Tensor bias = Tensor::random(DType::f32, shape.n, numbers), y(DType::f32, size_t{kRows} * shape.n);
        GemmArgs args = arguments(*weight, x, kRows, y, GemmOutput::store_f32);
        args.bias = static_cast<const float*>(bias.at());
        backend->gemm(Queue::dense, args);
        for (uint32_t r = 0; r < kRows; ++r) {
          for (uint32_t c = 0; c < shape.n; ++c) {
            double sum = bias[c], size = std::fabs(sum);
            for (uint32_t i = 0; i < shape.k; ++i) {
              const double minimum = weights.minima[(size_t{c} * shape.k + i) / form.block];
              const double input = x[size_t{r} * shape.k + i];
              sum += input * double{weights.value(c, i)};
              size += std::fabs(input) * (std::fabs(weights.value(c, i) - minimum) + std::fabs(minimum));
            }
            assert_near(y[size_t{r} * shape.n + c], sum, 1e-6 * size);
          }
        }
        // Rows of an embedding are the stored values.
        const std::vector<int32_t> tokens = {0, static_cast<int32_t>(shape.n - 1)};
        Tensor hidden(DType::f32, 2 * shape.k);
        EmbedArgs embed;
        embed.table = weight.get();
        embed.tokens = tokens;
        embed.hidden = static_cast<float*>(hidden.at());
        backend->embed(Queue::dense, embed);
        for (uint32_t i = 0; i < shape.k; ++i) {
          assert_true(hidden[i] == double{weights.value(0, i)});
          assert_true(hidden[shape.k + i] == double{weights.value(shape.n - 1, i)});
        }
      }
    }
  });
}

void a_quantised_product_has_the_same_bits_in_every_cut(void**) {
  each_bf16_variant([](Variant variant) {
    Numbers numbers(9);
    constexpr uint32_t kRows = 130, kOutputs = 112, kInputs = 96;
    for (const QuantForm& form : kForms) {
      QuantRows weights(form, kOutputs, kInputs, numbers);
      Tensor x = Tensor::random(variant.compute, size_t{kRows} * kInputs, numbers), whole(DType::f32, kRows * kOutputs);
      auto single = variant.backend(1);
      auto weight = load_quants(*single, kOutputs, weights);
      single->gemm(Queue::dense, arguments(*weight, x, kRows, whole, GemmOutput::store_f32));
      auto backend = variant.backend(3);
      weight = load_quants(*backend, kOutputs, weights);
      for (uint32_t rows : {1u, 2u, 5u, 7u, 13u, 64u, kRows}) {
        for (uint32_t first_column : {0u, 16u, 80u}) {
          for (uint32_t columns : {7u, 16u, 32u, kOutputs - first_column}) {
            const uint32_t first = numbers.below(kRows - rows + 1);
            Tensor y(DType::f32, size_t{rows} * columns);
            GemmArgs args = arguments(*weight, x, rows, y, GemmOutput::store_f32);
            args.x = x.at(size_t{first} * kInputs);
            args.first_column = first_column;
            args.columns = args.y_stride = columns;
            backend->gemm(Queue::dense, args);
            for (uint32_t r = 0; r < rows; ++r) {
              assert_true(y.same(r * columns, whole, size_t{first + r} * kOutputs + first_column, columns));
            }
          }
        }
      }
    }
  });
}

void quantised_weights_take_their_bits(void**) {
  Numbers numbers(10);
  auto bf16 = Variant{CpuIsa::portable, DType::bf16}.backend(), f32 = Variant{CpuIsa::portable, DType::f32}.backend();
  const size_t elements = 64 * 96;
  QuantRows four(kForms[1], 64, 96, numbers), eight(kForms[3], 64, 96, numbers);
  assert_int_equal(load_quants(*bf16, 64, four)->stored_bytes, elements / 2 + elements / 32 * 4);
  assert_int_equal(load_quants(*bf16, 64, eight)->stored_bytes, elements + elements / 32 * 2);
  assert_int_equal(load_quants(*f32, 64, four)->stored_bytes, elements * 4);
}

void a_sum_of_16384_terms_stays_within_5e_7_of_the_norm(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(2);
    Rows weights(32, 16384, numbers);
    auto weight = load(*backend, 32, weights);
    Tensor x = Tensor::random(variant.compute, 16384, numbers), y(DType::f32, 32);
    backend->gemm(Queue::dense, arguments(*weight, x, 1, y, GemmOutput::store_f32));
    double error = 0, norm = 0;
    for (uint32_t c = 0; c < 32; ++c) {
      double sum = 0;
      for (uint32_t i = 0; i < 16384; ++i) sum += x[i] * weights.stored(variant.compute, c, i);
      error += (y[c] - sum) * (y[c] - sum);
      norm += sum * sum;
    }
    assert_near(std::sqrt(error / norm), 0, 5e-7);
  });
}

void store_rounds_to_nearest_even_and_add_adds_to_what_is_there(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(3);
    uint32_t rows = 5, n = 50, k = 70, stride = 53;
    Rows weights(n, k, numbers);
    auto weight = load(*backend, n, weights);
    Tensor x = Tensor::random(variant.compute, rows * k, numbers), exact(DType::f32, rows * n);
    backend->gemm(Queue::dense, arguments(*weight, x, rows, exact, GemmOutput::store_f32));
    Tensor stored(variant.compute, rows * stride), sum = Tensor::random(DType::f32, rows * stride, numbers);
    Tensor before = sum, untouched = stored;
    for (auto [output, y] : {std::pair{GemmOutput::store, &stored}, {GemmOutput::add_f32, &sum}}) {
      GemmArgs args = arguments(*weight, x, rows, *y, output);
      args.y_stride = stride;
      backend->gemm(Queue::dense, args);
    }
    for (uint32_t r = 0; r < rows; ++r) {
      for (uint32_t c = 0; c < n; ++c) {
        auto value = static_cast<float>(exact[r * n + c]);
        Tensor rounded(variant.compute, 1);
        rounded.set(0, value);
        assert_true(stored.same(r * stride + c, rounded, 0, 1));
        assert_true(static_cast<float>(sum[r * stride + c]) == static_cast<float>(before[r * stride + c]) + value);
      }
      assert_true(stored.same(r * stride + n, untouched, 0, stride - n));
      assert_true(sum.same(r * stride + n, before, r * stride + n, stride - n));
    }
  });
}

// The whole product of 500 rows on one thread, which every cut of it must equal.
struct Whole {
  static constexpr uint32_t kRows = 500, kOutputs = 176, kInputs = 579;
  Rows weights;
  Tensor x, y;
  Whole(Variant variant, Numbers& numbers)
      : weights(kOutputs, kInputs, numbers),
        x(Tensor::random(variant.compute, size_t{kRows} * kInputs, numbers)),
        y(DType::f32, size_t{kRows} * kOutputs) {
    auto backend = variant.backend(1);
    auto weight = load(*backend, kOutputs, weights);
    backend->gemm(Queue::dense, arguments(*weight, x, kRows, y, GemmOutput::store_f32));
  }
};

void rows_do_not_depend_on_how_many_there_are(void**) {
  each_variant([](Variant variant) {
    Numbers numbers(4);
    Whole whole(variant, numbers);
    for (uint32_t threads : {1u, 2u, 5u}) {
      auto backend = variant.backend(threads);
      auto weight = load(*backend, Whole::kOutputs, whole.weights);
      for (uint32_t rows : {1u, 2u, 7u, 8u, 32u, 64u, 500u}) {
        uint32_t first = numbers.below(Whole::kRows - rows + 1);
        Tensor y(DType::f32, size_t{rows} * Whole::kOutputs);
        GemmArgs args = arguments(*weight, whole.x, rows, y, GemmOutput::store_f32);
        args.x = whole.x.at(size_t{first} * Whole::kInputs);
        backend->gemm(Queue::dense, args);
        assert_true(y.same(0, whole.y, size_t{first} * Whole::kOutputs, y.size()));
      }
    }
  });
}

void a_range_of_columns_has_the_bits_of_the_whole(void**) {
  each_variant([](Variant variant) {
    Numbers numbers(5);
    Whole whole(variant, numbers);
    auto backend = variant.backend(3);
    auto weight = load(*backend, Whole::kOutputs, whole.weights);
    for (uint32_t first = 0; first < Whole::kOutputs; first += 16) {
      for (uint32_t columns : {1u, 15u, 16u, 17u, 40u, Whole::kOutputs}) {
        if (first + columns > Whole::kOutputs) columns = Whole::kOutputs - first;
        for (uint32_t rows : {1u, 13u}) {
          Tensor y(DType::f32, size_t{rows} * columns);
          GemmArgs args = arguments(*weight, whole.x, rows, y, GemmOutput::store_f32);
          args.first_column = first;
          args.columns = args.y_stride = columns;
          backend->gemm(Queue::dense, args);
          for (uint32_t r = 0; r < rows; ++r) {
            assert_true(y.same(r * columns, whole.y, r * Whole::kOutputs + first, columns));
          }
        }
      }
    }
  });
}

void a_row_after_an_odd_one_may_be_poison(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(6);
    Rows weights(20, 7, numbers);
    auto weight = load(*backend, 20, weights);
    Tensor x(variant.compute, 14), y(DType::f32, 20);  // 14 NaNs, of which 7 are replaced
    for (uint32_t i = 0; i < 7; ++i) x.set(i, 1.0f);
    backend->gemm(Queue::dense, arguments(*weight, x, 1, y, GemmOutput::store_f32));
    for (uint32_t c = 0; c < 20; ++c) assert_true(std::isfinite(y[c]));
  });
}

void stored_bytes_are_those_of_whole_panels(void**) {
  auto backend = Variant{CpuIsa::portable, DType::bf16}.backend();
  Numbers numbers(7);
  assert_int_equal(load(*backend, 960, Rows(960, 576, numbers))->stored_bytes, 960 * 576 * 2);
  assert_int_equal(load(*backend, 33, Rows(33, 5, numbers))->stored_bytes, 64 * 6 * 2);
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_output_is_the_dot_product_plus_bias),
      cmocka_unit_test(quantised_weights_are_multiplied_as_they_are_stored),
      cmocka_unit_test(a_quantised_product_has_the_same_bits_in_every_cut),
      cmocka_unit_test(quantised_weights_take_their_bits),
      cmocka_unit_test(a_sum_of_16384_terms_stays_within_5e_7_of_the_norm),
      cmocka_unit_test(store_rounds_to_nearest_even_and_add_adds_to_what_is_there),
      cmocka_unit_test(rows_do_not_depend_on_how_many_there_are),
      cmocka_unit_test(a_range_of_columns_has_the_bits_of_the_whole),
      cmocka_unit_test(a_row_after_an_odd_one_may_be_poison),
      cmocka_unit_test(stored_bytes_are_those_of_whole_panels),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
