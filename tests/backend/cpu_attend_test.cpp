// SPDX-License-Identifier: Apache-2.0
// attend and rope of the CPU backend: against softmax in double over a paged cache whose unwritten slots are NaNs, and
// against itself with rows computed alone, in chunks and by other numbers of threads, where every bit must agree.
#include <algorithm>

#include "tests/backend/cpu_fixture.h"

namespace iokv::test {
namespace {

// Scores of a deviation of 3: attention that looks at a few tokens.
float scale_of(KvShape shape) { return 3.0f / std::sqrt(static_cast<float>(shape.head_dim)); }

// A sequence whose K and V lie in blocks scattered over one tensor of NaNs.
struct Sequence {
  KvShape shape;
  uint32_t length;
  Tensor blocks;
  std::vector<size_t> start;  // of each block, in elements
  std::vector<const void*> addresses;

  Sequence(Variant variant, KvShape kv_shape, uint32_t tokens, Numbers& numbers)
      : shape(kv_shape), length(tokens),
        blocks(variant.compute, blocks_for(Tokens(tokens)).value * shape.block_elements()) {
    uint32_t count = blocks_for(Tokens(tokens)).value;
    for (uint32_t b = 0; b < count; ++b) start.push_back((count - 1 - b) * shape.block_elements());
    for (size_t at : start) addresses.push_back(blocks.at(at));
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t head = 0; head < shape.kv_heads; ++head) {
        for (uint32_t i = 0; i < shape.head_dim; ++i) {
          blocks.set(k_at(t, head) + i, numbers.normal());
          blocks.set(k_at(t, head) + size_t{kBlockTokens} * shape.head_dim + i, numbers.normal());
        }
      }
    }
  }
  size_t k_at(uint32_t token, uint32_t head) const {
    size_t row = size_t{head} * 2 * kBlockTokens + token % kBlockTokens;
    return start[token / kBlockTokens] + row * shape.head_dim;
  }
  size_t v_at(uint32_t token, uint32_t head) const { return k_at(token, head) + size_t{kBlockTokens} * shape.head_dim; }
};

// Queries of the last `rows` tokens of a sequence, a stride apart that is wider than they are.
struct Queries {
  uint32_t rows, width, stride;
  Tensor values;
  Queries(Variant variant, KvShape shape, uint32_t count, Numbers& numbers)
      : rows(count), width(shape.heads * shape.head_dim), stride(width + 24),
        values(Tensor::random(variant.compute, size_t{rows} * stride, numbers)) {}
};

// What of its tokens a row sees, and how large a score becomes; as in AttendArgs.
struct Limits {
  uint32_t window = 0;
  float score_cap = 0;
};

// One span for each of the given chunk sizes, in turn, over the last rows of the sequence.
Tensor attend(Backend& backend, const Sequence& sequence, const Queries& queries, std::vector<uint32_t> chunks,
              Limits limits = {}) {
  Tensor out(backend.info().compute, size_t{queries.rows} * queries.width);
  std::vector<AttendSpan> spans;
  for (uint32_t row = 0, i = 0; row < queries.rows; ++i) {
    uint32_t rows = std::min(chunks[i % chunks.size()], queries.rows - row);
    uint32_t position = sequence.length - queries.rows + row;
    size_t blocks = blocks_for(Tokens(position + rows)).value;
    spans.push_back({row, rows, position, 0, std::span(sequence.addresses).first(blocks)});
    row += rows;
  }
  float scale = scale_of(sequence.shape);
  AttendArgs args{sequence.shape, scale, queries.values.at(), queries.stride, out.at(), nullptr, spans, limits.window,
                  limits.score_cap};
  backend.attend(Queue::dense, args);
  return out;
}

// All rows, a run of so many pieces an operation; what was merged so far waits in `state`.
Tensor attend_in_runs(Backend& backend, const Sequence& sequence, const Queries& queries, uint32_t run,
                      Limits limits = {}) {
  Tensor out(backend.info().compute, size_t{queries.rows} * queries.width);
  const size_t state_floats = attend_state_floats(sequence.shape.head_dim);
  auto state = backend.alloc(queries.rows * sequence.shape.heads * state_floats * sizeof(float));
  assert_true(static_cast<bool>(state));
  AttendArgs args{sequence.shape, scale_of(sequence.shape), queries.values.at(), queries.stride, out.at(),
                  static_cast<float*>((*state)->data()), {}, limits.window, limits.score_cap};
  const auto pieces = static_cast<uint32_t>(sequence.addresses.size());
  for (uint32_t first = 0; first < pieces; first += run) {
    AttendSpan span{0, queries.rows, sequence.length - queries.rows, first, {}};
    span.kv_blocks = std::span(sequence.addresses).subspan(first, std::min(run, pieces - first));
    args.spans = std::span(&span, 1);
    backend.attend(Queue::dense, args);
  }
  return out;
}

// Softmax attention of one head of one row, in double.
std::vector<double> reference(const Sequence& sequence, const Queries& queries, uint32_t row, uint32_t head,
                              Limits limits = {}) {
  uint32_t d = sequence.shape.head_dim, kv_head = head / (sequence.shape.heads / sequence.shape.kv_heads);
  uint32_t seen = sequence.length - queries.rows + row + 1;
  std::vector<double> scores(seen), out(d, 0.0);
  for (uint32_t t = 0; t < seen; ++t) {
    for (uint32_t i = 0; i < d; ++i) {
      double q = queries.values[size_t{row} * queries.stride + head * d + i];
      scores[t] += q * sequence.blocks[sequence.k_at(t, kv_head) + i];
    }
    scores[t] *= double{scale_of(sequence.shape)};
    if (limits.score_cap > 0) scores[t] = limits.score_cap * std::tanh(scores[t] / limits.score_cap);
    if (limits.window > 0 && t + limits.window < seen) scores[t] = -INFINITY;
  }
  double largest = *std::max_element(scores.begin(), scores.end()), sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (uint32_t t = 0; t < seen; ++t) {
    for (uint32_t i = 0; i < d; ++i) out[i] += scores[t] / sum * sequence.blocks[sequence.v_at(t, kv_head) + i];
  }
  return out;
}

const KvShape kShapes[] = {{9, 3, 64}, {4, 4, 32}, {8, 1, 128}, {2, 2, 80}, {3, 1, 40},
                           {2, 1, 8},  {2, 2, 20}, {2, 1, 7},   {1, 1, 256}};

void every_row_is_the_softmax_of_what_is_not_after_it(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(11);
    for (KvShape shape : kShapes) {
      for (auto [length, rows] : {std::pair{1u, 1u}, {64u, 3u}, {65u, 65u}, {150u, 20u}}) {
        Sequence sequence(variant, shape, length, numbers);
        Queries queries(variant, shape, rows, numbers);
        Tensor out = attend(*backend, sequence, queries, {rows});
        for (uint32_t row = 0; row < rows; row += row + 4 < rows ? 4 : 1) {
          for (uint32_t head = 0; head < shape.heads; ++head) {
            auto expected = reference(sequence, queries, row, head);
            for (uint32_t i = 0; i < shape.head_dim; ++i) {
              double bound = 5e-6 + variant.rounding() * std::fabs(expected[i]);
              assert_near(out[size_t{row} * queries.width + head * shape.head_dim + i], expected[i], bound);
            }
          }
        }
      }
    }
  });
}

void a_row_has_the_same_bits_alone_in_a_chunk_and_in_the_whole(void**) {
  each_variant([](Variant variant) {
    Numbers numbers(12);
    for (KvShape shape : kShapes) {
      Sequence sequence(variant, shape, 230, numbers);
      Queries queries(variant, shape, 170, numbers);
      Tensor whole = attend(*variant.backend(1), sequence, queries, {170});
      for (uint32_t threads : {1u, 2u, 5u}) {
        auto backend = variant.backend(threads);
        for (const auto& chunks : {std::vector<uint32_t>{1}, {7}, {64}, {1, 2, 7, 8, 32}}) {
          assert_true(attend(*backend, sequence, queries, chunks) == whole);
        }
      }
    }
  });
}

// 40 pieces for one row: cut into runs for several threads, whole for one.
void a_long_sequence_has_the_same_bits_however_many_threads_share_it(void**) {
  each_variant([](Variant variant) {
    Numbers numbers(13);
    for (KvShape shape : {KvShape{6, 2, 64}, {2, 1, 24}}) {
      Sequence sequence(variant, shape, 2555, numbers);
      Queries queries(variant, shape, 3, numbers);
      Tensor alone = attend(*variant.backend(1), sequence, queries, {3});
      for (uint32_t threads : {2u, 3u, 8u}) {
        assert_true(attend(*variant.backend(threads), sequence, queries, {3}) == alone);
        assert_true(attend(*variant.backend(threads), sequence, queries, {1}) == alone);
      }
      auto expected = reference(sequence, queries, 2, 1);
      for (uint32_t i = 0; i < shape.head_dim; ++i) {
        assert_near(alone[2 * queries.width + shape.head_dim + i], expected[i], 5e-6 + variant.rounding());
      }
    }
  });
}

void pieces_that_come_in_several_operations_give_the_same_bits(void**) {
  each_variant([](Variant variant) {
    Numbers numbers(17);
    for (KvShape shape : kShapes) {
      for (auto [length, rows] : {std::pair{700u, 1u}, {700u, 130u}, {300u, 300u}, {64u, 64u}}) {
        Sequence sequence(variant, shape, length, numbers);
        Queries queries(variant, shape, rows, numbers);
        Tensor whole = attend(*variant.backend(1), sequence, queries, {rows});
        for (uint32_t threads : {1u, 3u}) {
          auto backend = variant.backend(threads);
          for (uint32_t run : {1u, 2u, 6u, 100u}) {
            assert_true(attend_in_runs(*backend, sequence, queries, run) == whole);
          }
        }
      }
    }
  });
}

// Windows within a piece, of one, across several and longer than the sequence, capped scores, and both.
constexpr Limits kLimits[] = {{1, 0}, {40, 0}, {64, 0}, {65, 3}, {150, 2}, {1000, 0}, {0, 4}};

void a_window_and_a_cap_limit_what_a_row_sees(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(18);
    for (KvShape shape : {KvShape{4, 2, 64}, {3, 1, 40}}) {
      for (auto [length, rows] : {std::pair{30u, 30u}, {300u, 1u}, {300u, 130u}}) {
        Sequence sequence(variant, shape, length, numbers);
        Queries queries(variant, shape, rows, numbers);
        for (Limits limits : kLimits) {
          Tensor out = attend(*backend, sequence, queries, {rows}, limits);
          for (uint32_t row = 0; row < rows; row += row + 7 < rows ? 7 : 1) {
            for (uint32_t head = 0; head < shape.heads; ++head) {
              auto expected = reference(sequence, queries, row, head, limits);
              for (uint32_t i = 0; i < shape.head_dim; ++i) {
                double bound = 1e-5 + variant.rounding() * std::fabs(expected[i]);
                assert_near(out[size_t{row} * queries.width + head * shape.head_dim + i], expected[i], bound);
              }
            }
          }
        }
      }
    }
  });
}

void a_row_with_a_window_has_the_same_bits_however_it_is_computed(void**) {
  each_variant([](Variant variant) {
    Numbers numbers(19);
    for (KvShape shape : {KvShape{4, 2, 64}, {3, 1, 40}}) {
      Sequence sequence(variant, shape, 500, numbers);
      Queries queries(variant, shape, 170, numbers);
      for (Limits limits : kLimits) {
        Tensor whole = attend(*variant.backend(1), sequence, queries, {170}, limits);
        for (uint32_t threads : {1u, 3u}) {
          auto backend = variant.backend(threads);
          for (const auto& chunks : {std::vector<uint32_t>{1}, {1, 2, 7, 8, 32}}) {
            assert_true(attend(*backend, sequence, queries, chunks, limits) == whole);
          }
          for (uint32_t run : {1u, 3u}) assert_true(attend_in_runs(*backend, sequence, queries, run, limits) == whole);
        }
      }
    }
  });
}

// Of the sequence's last row the host attends to the cached tokens from a block on; the device has the blocks before it, and
// one with the row's own token and NaNs besides.
void expect_divided(Variant variant, KvShape shape, uint32_t length, uint32_t host_from, Limits limits, uint32_t run,
                    Numbers& numbers) {
  CpuOptions options{variant.compute, 1, variant.isa};
  options.host_attention = true;
  auto made = make_cpu_backend(options);
  assert_true(static_cast<bool>(made));
  const std::unique_ptr<Backend> backend = *std::move(made);
  Sequence sequence(variant, shape, length, numbers);
  Queries queries(variant, shape, 1, numbers);
  const uint32_t position = length - 1, width = queries.width;
  Tensor own(variant.compute, shape.block_elements());
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    for (uint32_t i = 0; i < shape.head_dim; ++i) {
      const size_t at = (size_t{head} * 2 * kBlockTokens + position % kBlockTokens) * shape.head_dim + i;
      own.set(at, sequence.blocks[sequence.k_at(position, head) + i]);
      own.set(at + size_t{kBlockTokens} * shape.head_dim, sequence.blocks[sequence.v_at(position, head) + i]);
    }
  }
  const size_t floats = shape.heads * attend_state_floats(shape.head_dim), element = size_of(variant.compute);
  Tensor q(variant.compute, width), out(variant.compute, width);
  Tensor state(DType::f32, floats), of_host(DType::f32, floats);
  const uint32_t rows[] = {0};
  backend->hand_over(Queue::dense, {queries.values.at(), queries.stride * element, width * element, rows, q.at()});
  const uint32_t first_piece = host_from / kBlockTokens, end_piece = blocks_for(Tokens(position)).value;
  AttendSpan span{0, 1, position, first_piece, std::span(sequence.addresses).subspan(first_piece, end_piece - first_piece),
                  host_from};
  AttendArgs args{shape, scale_of(shape), q.at(), width, nullptr, static_cast<float*>(of_host.at()), {&span, 1},
                  limits.window, limits.score_cap};
  backend->attend(Queue::host, args);
  std::vector<const void*> device(sequence.addresses.begin(), sequence.addresses.begin() + first_piece);
  device.push_back(own.at());
  args.q = queries.values.at(), args.q_stride = queries.stride, args.out = out.at();
  args.state = static_cast<float*>(state.at());
  for (uint32_t first = 0; first < device.size(); first += run) {
    span.first_piece = first;
    span.kv_blocks = std::span(device).subspan(first, std::min<size_t>(run, device.size() - first));
    backend->attend(Queue::dense, args);
  }
  backend->merge(Queue::dense, {shape, rows, static_cast<float*>(state.at()), static_cast<float*>(of_host.at()), out.at()});
  for (uint32_t head = 0; head < shape.heads; ++head) {
    const auto expected = reference(sequence, queries, 0, head, limits);
    for (uint32_t i = 0; i < shape.head_dim; ++i) {
      const double bound = 1e-5 + variant.rounding() * std::fabs(expected[i]);
      assert_near(out[head * shape.head_dim + i], expected[i], bound);
    }
  }
}

void a_row_that_is_divided_with_the_host_is_right(void**) {
  each_variant([](Variant variant) {
    Numbers numbers(21);
    for (KvShape shape : {KvShape{6, 2, 64}, {2, 2, 20}}) {
      for (uint32_t length : {2u, 65u, 66u, 200u}) {
        for (uint32_t host_from = 0; host_from < length - 1; host_from += kBlockTokens) {
          for (uint32_t run : {1u, 100u}) {
            expect_divided(variant, shape, length, host_from, {}, run, numbers);
            for (Limits limits : kLimits) expect_divided(variant, shape, length, host_from, limits, run, numbers);
          }
        }
      }
    }
  });
}

void neighbours_in_a_batch_change_nothing(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend(3);
    Numbers numbers(14);
    KvShape shape{6, 3, 32};
    std::vector<Sequence> sequences;
    for (uint32_t length : {1u, 63u, 64u, 700u, 129u, 5u, 300u}) {
      sequences.emplace_back(variant, shape, length, numbers);
    }
    Queries queries(variant, shape, static_cast<uint32_t>(sequences.size()), numbers);
    Tensor together(variant.compute, size_t{queries.rows} * queries.width);
    std::vector<AttendSpan> spans;
    for (uint32_t s = 0; s < queries.rows; ++s) {
      spans.push_back({s, 1, sequences[s].length - 1, 0, sequences[s].addresses});
    }
    AttendArgs args{shape, scale_of(shape), queries.values.at(), queries.stride, together.at(), nullptr, spans};
    backend->attend(Queue::dense, args);
    for (uint32_t s = 0; s < queries.rows; ++s) {
      Tensor alone(variant.compute, size_t{queries.rows} * queries.width);
      args.out = alone.at();
      args.spans = std::span(&spans[s], 1);
      backend->attend(Queue::dense, args);
      assert_true(alone.same(size_t{s} * queries.width, together, size_t{s} * queries.width, queries.width));
    }
  });
}

void rope_rotates_halves_and_writes_k_and_v_to_their_slots(void**) {
  each_variant([](Variant variant) {
    auto backend = variant.backend();
    Numbers numbers(15);
    for (auto [d, rotary] : {std::pair{64u, 64u}, {80u, 32u}, {24u, 20u}, {16u, 0u}}) {
      KvShape shape{4, 2, d};
      uint32_t rows = 9, q_width = 4 * d, stride = 8 * d;
      std::vector<float> inverse(rotary / 2);
      for (uint32_t i = 0; i < inverse.size(); ++i) {
        inverse[i] = static_cast<float>(std::pow(10000.0, -2.0 * i / static_cast<double>(rotary)));
      }
      RopeTable table{rotary, inverse, 1.25f};
      Tensor fused = Tensor::random(variant.compute, size_t{rows} * stride, numbers), before = fused;
      Tensor blocks(variant.compute, rows * shape.block_elements());
      std::vector<uint32_t> positions = {0, 1, 63, 64, 1000, 8191, 8192, 100000, 5};
      std::vector<RopeRun> runs;
      for (uint32_t r = 0; r < rows; ++r) runs.push_back({r, 1, positions[r], blocks.at(r * shape.block_elements())});
      backend->rope(Queue::dense, {shape, table, fused.at(), stride, fused.at(q_width), fused.at(q_width + 2 * d),
                                   stride, runs});

      auto rotated = [&](size_t head_at, uint32_t i, uint32_t position) {
        uint32_t half = rotary / 2, frequency = i % (half == 0 ? 1 : half);
        if (i >= rotary) return before[head_at + i];
        double angle = double{static_cast<float>(position) * inverse[frequency]};
        double c = std::cos(angle) * 1.25, s = std::sin(angle) * 1.25;
        return i < half ? before[head_at + i] * c - before[head_at + i + half] * s
                        : before[head_at + i] * c + before[head_at + i - half] * s;
      };
      for (uint32_t r = 0; r < rows; ++r) {
        for (uint32_t i = 0; i < d; ++i) {
          double bound = 1e-6 + variant.rounding();
          for (uint32_t head = 0; head < 4; ++head) {
            size_t at = size_t{r} * stride + head * d;
            double expected = rotated(at, i, positions[r]);
            assert_near(fused[at + i], expected, bound * (1 + std::fabs(expected)));
          }
          for (uint32_t head = 0; head < 2; ++head) {
            size_t slot = r * shape.block_elements() + (head * 2 * kBlockTokens + positions[r] % kBlockTokens) * d;
            size_t k = size_t{r} * stride + q_width + head * d;
            double expected = rotated(k, i, positions[r]);
            assert_near(blocks[slot + i], expected, bound * (1 + std::fabs(expected)));
            assert_true(blocks[slot + kBlockTokens * d + i] == before[k + 2 * d + i]);
          }
        }
        assert_true(fused.same(r * stride + q_width, before, r * stride + q_width, stride - q_width));
      }
      size_t written = 0;
      for (size_t i = 0; i < blocks.size(); ++i) written += !std::isnan(blocks[i]);
      assert_int_equal(written, rows * 2 * 2 * d);
    }
  });
}

void rope_gives_a_row_the_same_bits_whatever_the_batch(void**) {
  each_variant([](Variant variant) {
    Numbers numbers(16);
    KvShape shape{6, 2, 64};
    uint32_t rows = 300, stride = 10 * 64;
    std::vector<float> inverse(32);
    for (uint32_t i = 0; i < 32; ++i) inverse[i] = 1.0f / static_cast<float>(1 + i);
    Tensor first = Tensor::random(variant.compute, size_t{rows} * stride, numbers), second = first;
    Tensor first_blocks(variant.compute, 5 * shape.block_elements()), second_blocks = first_blocks;
    auto run = [&](Backend& backend, Tensor& fused, Tensor& blocks, uint32_t row, uint32_t count) {
      const size_t block_bytes = shape.block_elements() * size_of(variant.compute);
      const RopeRun whole{0, count, row, blocks.at(row / kBlockTokens * shape.block_elements()), block_bytes};
      backend.rope(Queue::dense, {shape, {64, inverse, 1.0f}, fused.at(row * stride), stride,
                                  fused.at(row * stride + 6 * 64), fused.at(row * stride + 8 * 64), stride,
                                  std::span(&whole, 1)});
    };
    run(*variant.backend(4), first, first_blocks, 0, rows);
    auto backend = variant.backend(1);
    for (uint32_t row = 0; row < rows; ++row) run(*backend, second, second_blocks, row, 1);
    assert_true(first == second);
    assert_true(first_blocks == second_blocks);
  });
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_row_is_the_softmax_of_what_is_not_after_it),
      cmocka_unit_test(a_row_has_the_same_bits_alone_in_a_chunk_and_in_the_whole),
      cmocka_unit_test(a_long_sequence_has_the_same_bits_however_many_threads_share_it),
      cmocka_unit_test(pieces_that_come_in_several_operations_give_the_same_bits),
      cmocka_unit_test(a_window_and_a_cap_limit_what_a_row_sees),
      cmocka_unit_test(a_row_with_a_window_has_the_same_bits_however_it_is_computed),
      cmocka_unit_test(a_row_that_is_divided_with_the_host_is_right),
      cmocka_unit_test(neighbours_in_a_batch_change_nothing),
      cmocka_unit_test(rope_rotates_halves_and_writes_k_and_v_to_their_slots),
      cmocka_unit_test(rope_gives_a_row_the_same_bits_whatever_the_batch),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
