// SPDX-License-Identifier: Apache-2.0
// embed, norm and activate of the CPU backend against their formulas in double; and what an operation needs around it:
// memory, tickets, refusals.
#include <algorithm>
#include <functional>

#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

void embed_gathers_rows_and_adds_positions(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(21);
    for (uint32_t h : {1u, 7u, 64u, 577u}) {
      Rows table(101, h, numbers), positions_table(40, h, numbers);
      auto tokens_matrix = load(*backend, 101, table), positions_matrix = load(*backend, 40, positions_table);
      std::vector<int32_t> tokens = {0, 100, 31, 32, 33, 64, 1, 100};
      std::vector<uint32_t> positions = {0, 1, 2, 37, 5, 30, 7, 8};
      for (bool with_positions : {false, true}) {
        Tensor hidden(DType::f32, tokens.size() * h);
        EmbedArgs args;
        args.table = tokens_matrix.get();
        args.position_table = with_positions ? positions_matrix.get() : nullptr;
        args.position_offset = 2;
        args.scale = 8;
        args.tokens = tokens;
        args.positions = positions;
        args.hidden = static_cast<float*>(hidden.at());
        backend->embed(Queue::dense, args);
        for (size_t r = 0; r < tokens.size(); ++r) {
          for (uint32_t i = 0; i < h; ++i) {
            double expected = 8 * table.stored(variant.compute, static_cast<size_t>(tokens[r]), i);
            if (with_positions) expected += positions_table.stored(variant.compute, positions[r] + 2, i);
            assert_true(hidden[r * h + i] == double{static_cast<float>(expected)});
          }
        }
      }
    }
  });
}

void norms_follow_their_formulas(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(22);
    for (NormKind kind : {NormKind::rms, NormKind::layer}) {
      for (uint32_t h : {1u, 5u, 64u, 576u, 4099u}) {
        uint32_t rows = 40;
        Tensor x = Tensor::random(DType::f32, size_t{rows} * h, numbers, 3.0f), y(variant.compute, size_t{rows} * h);
        for (size_t i = 0; i < x.size(); ++i) x.set(i, static_cast<float>(x[i]) + 1.0f);
        Tensor weight = Tensor::random(DType::f32, h, numbers), bias = Tensor::random(DType::f32, h, numbers);
        NormArgs args;
        args.kind = kind;
        args.epsilon = 1e-3f;
        args.weight = static_cast<const float*>(weight.at());
        args.bias = kind == NormKind::layer ? static_cast<const float*>(bias.at()) : nullptr;
        args.x = static_cast<const float*>(x.at());
        args.y = y.at();
        args.rows = rows;
        args.columns = h;
        backend->norm(Queue::dense, args);
        for (uint32_t r = 0; r < rows; ++r) {
          double mean = 0, variance = 0;
          for (uint32_t i = 0; i < h && kind == NormKind::layer; ++i) mean += x[size_t{r} * h + i] / h;
          for (uint32_t i = 0; i < h; ++i) variance += std::pow(x[size_t{r} * h + i] - mean, 2) / h;
          for (uint32_t i = 0; i < h; ++i) {
            double factor = weight[i] / std::sqrt(variance + double{1e-3f});
            double expected = (x[size_t{r} * h + i] - mean) * factor + (kind == NormKind::layer ? bias[i] : 0.0);
            double bound = 2e-6 * (1 + std::fabs(factor) * 10 + std::fabs(expected));
            assert_near(y[size_t{r} * h + i], expected, bound + variant.rounding() * std::fabs(expected));
          }
        }
        // Added to what was there, without being rounded first.
        Tensor sum = Tensor::random(DType::f32, size_t{rows} * h, numbers), before = sum;
        args.y = sum.at();
        args.output = NormOutput::add_f32;
        backend->norm(Queue::dense, args);
        for (size_t i = 0; i < y.size(); ++i) {
          const double added = sum[i] - before[i];
          assert_near(y[i], added, 1e-6 * (1 + std::fabs(before[i])) + variant.rounding() * std::fabs(added));
        }
      }
    }
  });
}

constexpr Activation kActivations[] = {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu_glu,
                                        Activation::gelu_tanh_glu};

double activated(Activation kind, double x) {
  double u = std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
  switch (kind) {
    case Activation::relu: return x > 0 ? x : 0;
    case Activation::gelu: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh:
    case Activation::gelu_tanh_glu: return x / (1 + std::exp(-2 * u));
    case Activation::silu_glu: return x / (1 + std::exp(-x));
  }
  return 0;
}

void activations_follow_their_formulas(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(23);
    for (Activation kind : kActivations) {
      for (auto [rows, columns] : {std::pair{1u, 1u}, {3u, 37u}, {1u, 20000u}, {33u, 1000u}}) {
        bool glu = is_gated(kind);
        Tensor x = Tensor::random(variant.compute, size_t{rows} * columns * (glu ? 2 : 1), numbers, 4.0f);
        x.set(0, -200.0f);
        if (columns > 2) x.set(1, 200.0f), x.set(2, -0.0f);
        Tensor y(variant.compute, size_t{rows} * columns);
        backend->activate(Queue::dense, {kind, x.at(), y.at(), rows, columns});
        for (uint32_t r = 0; r < rows; ++r) {
          for (uint32_t i = 0; i < columns; ++i) {
            size_t at = size_t{r} * columns * (glu ? 2 : 1) + i;
            double factor = glu ? x[at + columns] : 1.0, expected = activated(kind, x[at]) * factor;
            double bound = variant.rounding() * std::fabs(expected) + 1e-6 * (std::fabs(expected) + std::fabs(factor));
            assert_near(y[size_t{r} * columns + i], expected, bound);
          }
        }
      }
    }
  });
}

void caps_follow_their_formula(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(25);
    for (auto [rows, columns] : {std::pair{1u, 1u}, {3u, 37u}, {2u, 20000u}}) {
      Tensor x = Tensor::random(DType::f32, size_t{rows} * columns, numbers, 20.0f);
      x.set(0, -1e30f);
      if (columns > 2) x.set(1, 1e-20f), x.set(2, 18.75f);
      Tensor y = x;
      backend->cap(Queue::dense, {30.0f, static_cast<float*>(y.at()), rows, columns});
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = 30 * std::tanh(x[i] / 30);
        assert_near(y[i], expected, 6e-7 * std::fabs(expected));
      }
    }
  });
}

// Each head of q and k by itself, before it is rotated; on the way of K to its block as in place.
void heads_are_normalised_before_they_are_rotated(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(26);
    for (auto [d, rotary] : {std::pair{64u, 64u}, {24u, 16u}, {20u, 0u}}) {
      const KvShape shape{3, 1, d};
      const uint32_t rows = 5, stride = 5 * d, half = rotary / 2;
      std::vector<float> inverse(half, 0.25f);
      Tensor fused = Tensor::random(variant.compute, size_t{rows} * stride, numbers), before = fused;
      Tensor q_weight = Tensor::random(DType::f32, d, numbers), k_weight = Tensor::random(DType::f32, d, numbers);
      Tensor block(variant.compute, shape.block_elements());
      const RopeRun run{0, rows, 7, block.at(), 0};
      RopeArgs args{shape, {rotary, inverse, 1.0f}, fused.at(), stride, fused.at(3 * d), fused.at(4 * d), stride,
                    std::span(&run, 1)};
      args.norm = {static_cast<const float*>(q_weight.at()), static_cast<const float*>(k_weight.at()), 1e-3f};
      backend->rope(Queue::dense, args);
      for (uint32_t r = 0; r < rows; ++r) {
        for (uint32_t head = 0; head < 4; ++head) {
          const size_t at = size_t{r} * stride + head * d;
          const Tensor& weight = head < 3 ? q_weight : k_weight;
          double squares = 0;
          for (uint32_t i = 0; i < d; ++i) squares += before[at + i] * before[at + i] / d;
          auto normed = [&](uint32_t i) { return before[at + i] / std::sqrt(squares + 1e-3) * weight[i]; };
          for (uint32_t i = 0; i < d; ++i) {
            const double c = std::cos((7 + r) * 0.25), s = std::sin((7 + r) * 0.25);
            const double expected = i < half     ? normed(i) * c - normed(i + half) * s
                                    : i < rotary ? normed(i) * c + normed(i - half) * s
                                                 : normed(i);
            const double found = head < 3 ? fused[at + i] : block[size_t{7 + r} * d + i];
            assert_near(found, expected, 3 * (1e-6 + variant.rounding()) * (1 + std::fabs(expected) + std::fabs(normed(i))));
          }
        }
        assert_true(fused.same(r * stride + 3 * d, before, r * stride + 3 * d, 2 * d));
      }
    }
  });
}

// Bits of rows computed in one call by 4 threads and one by one on 1.
void norms_and_activations_do_not_depend_on_the_batch(void**) {
  each_variant([](Variant variant) {
    auto many = variant.backend(4), single = variant.backend(1);
    Numbers numbers(24);
    uint32_t rows = 100, h = 333;
    Tensor x = Tensor::random(DType::f32, rows * h * 2, numbers), weight = Tensor::random(DType::f32, h, numbers);
    Tensor z = Tensor::random(variant.compute, rows * h * 2, numbers), whole(variant.compute, rows * h), each = whole;
    for (NormKind kind : {NormKind::rms, NormKind::layer}) {
      auto run = [&](Backend& backend, Tensor& y, uint32_t row, uint32_t count) {
        backend.norm(Queue::dense, {kind, 1e-5f, static_cast<const float*>(weight.at()), nullptr,
                                    static_cast<const float*>(x.at(row * h)), y.at(row * h), count, h});
      };
      run(*many, whole, 0, rows);
      for (uint32_t row = 0; row < rows; ++row) run(*single, each, row, 1);
      assert_true(whole == each);
    }
    for (Activation kind : kActivations) {
      size_t width = is_gated(kind) ? 2 * h : h;
      many->activate(Queue::dense, {kind, z.at(), whole.at(), rows, h});
      for (uint32_t row = 0; row < rows; ++row) {
        single->activate(Queue::dense, {kind, z.at(row * width), each.at(row * h), 1, h});
      }
      assert_true(whole == each);
    }
  });
}

void memory_is_aligned_and_of_the_size_asked(void**) {
  auto backend = Variant{CpuIsa::portable, DType::f32}.backend();
  for (size_t bytes : {size_t{1}, size_t{64}, size_t{1000001}}) {
    auto memory = backend->alloc(bytes);
    assert_true(static_cast<bool>(memory));
    assert_int_equal(reinterpret_cast<uintptr_t>((*memory)->data()) % 64, 0);
    assert_int_equal((*memory)->size_bytes(), bytes);
    std::memset((*memory)->data(), 1, bytes);
    assert_true(static_cast<bool>(backend->pin((*memory)->data(), bytes)));
    backend->unpin((*memory)->data());
  }
  auto refused = backend->alloc(SIZE_MAX - 7);
  assert_false(static_cast<bool>(refused));
}

void tickets_are_reached_at_once_and_copies_are_done(void**) {
  auto backend = Variant{CpuIsa::portable, DType::f32}.backend();
  char from[100], to[100] = {};
  std::memset(from, 'x', sizeof from);
  backend->copy(Queue::h2d, to, from, sizeof from);
  Ticket first = backend->record(Queue::h2d), second = backend->record(Queue::h2d);
  assert_memory_equal(to, from, sizeof from);
  assert_true(second.value > first.value);
  backend->wait(Queue::dense, second);
  for (bool block : {false, true}) {
    auto reached = backend->poll(first, block);
    assert_true(static_cast<bool>(reached) && *reached);
  }
}

void what_cannot_be_made_is_refused_in_one_line(void**) {
  auto f16 = make_cpu_backend({DType::f16, 1, CpuIsa::automatic});
  assert_false(static_cast<bool>(f16));
  assert_non_null(std::strstr(f16.failure().message.c_str(), "f16"));
  for (CpuIsa isa : {CpuIsa::avx2, CpuIsa::avx512, CpuIsa::avx512_bf16}) {
    if (!cpu_supports(isa)) assert_false(static_cast<bool>(make_cpu_backend({DType::f32, 1, isa})));
  }
  auto tiles = make_cpu_backend({DType::bf16, 1, CpuIsa::amx_bf16});
  assert_false(static_cast<bool>(tiles));
  assert_non_null(std::strstr(tiles.failure().message.c_str(), "use avx512_bf16"));
  Numbers numbers(25);
  Rows rows(1, 1, numbers);
  auto backend = Variant{CpuIsa::portable, DType::bf16}.backend(1);
  assert_false(static_cast<bool>(backend->load(0xffffff00u, 0xffffff00u, rows)));  // 2^65 bytes
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(embed_gathers_rows_and_adds_positions),
      cmocka_unit_test(norms_follow_their_formulas),
      cmocka_unit_test(activations_follow_their_formulas),
      cmocka_unit_test(caps_follow_their_formula),
      cmocka_unit_test(heads_are_normalised_before_they_are_rotated),
      cmocka_unit_test(norms_and_activations_do_not_depend_on_the_batch),
      cmocka_unit_test(memory_is_aligned_and_of_the_size_asked),
      cmocka_unit_test(tickets_are_reached_at_once_and_copies_are_done),
      cmocka_unit_test(what_cannot_be_made_is_refused_in_one_line),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
