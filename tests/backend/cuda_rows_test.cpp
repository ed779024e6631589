// SPDX-License-Identifier: Apache-2.0
// Copies and tickets of the CUDA backend, and what treats rows by themselves: embed, norm, activate and rope against
// their formulas in double.
#include <sys/mman.h>

#include <algorithm>
#include <limits>

#include "tests/backend/cuda_fixture.h"

namespace iokv::test {
namespace {

// Pinned memory of the host.
class PinnedBytes {
 public:
  PinnedBytes(Backend& backend, size_t bytes) : backend_(backend), bytes_(bytes) {
    void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(mapped != MAP_FAILED);
    data_ = static_cast<uint8_t*>(mapped);
    Status pinned = backend.pin(data_, bytes);
    if (!pinned) std::printf("%s\n", pinned.failure().message.c_str());
    assert_true(static_cast<bool>(pinned));
  }
  ~PinnedBytes() {
    backend_.unpin(data_);
    ::munmap(data_, bytes_);
  }
  PinnedBytes(const PinnedBytes&) = delete;
  PinnedBytes& operator=(const PinnedBytes&) = delete;
  uint8_t* data() const { return data_; }

 private:
  Backend& backend_;
  size_t bytes_;
  uint8_t* data_;
};

void runs_of_every_kind_arrive(void**) {
  each_compute_type([](Backend& backend) {
    Numbers numbers(301);
    constexpr size_t kBytes = 1 << 20;
    PinnedBytes host(backend, kBytes), back(backend, kBytes);
    for (size_t i = 0; i < kBytes; ++i) host.data()[i] = static_cast<uint8_t>(numbers.below(256));
    Array device(backend, DType::f32, kBytes / 4), other(backend, DType::f32, kBytes / 4);
    auto* first = static_cast<uint8_t*>(device.at());
    auto* second = static_cast<uint8_t*>(other.at());
    // Scattered pieces, one of them empty, and two pitched runs.
    std::vector<CopyRun> up, down;
    for (size_t i = 0; i < 100; ++i) up.push_back({first + i * 4096, host.data() + (99 - i) * 4096, 4000});
    up.push_back({first, host.data(), 0});
    up.push_back({first + 500000, host.data() + 600000, 100, 50, 128, 256});
    up.push_back({first + 700000, host.data() + 700000, 128, 32, 128, 128});
    backend.copy(Queue::h2d, up);
    backend.wait(Queue::dense, backend.record(Queue::h2d));
    backend.copy(Queue::dense, second, first, kBytes);
    backend.wait(Queue::d2h, backend.record(Queue::dense));
    for (const CopyRun& run : up) {
      const size_t at = static_cast<size_t>(static_cast<uint8_t*>(run.to) - first);
      const bool pitched = run.to_pitch_bytes != run.from_pitch_bytes;
      down.push_back({back.data() + at, second + at, run.bytes, run.rows, run.to_pitch_bytes * (pitched ? 2 : 1),
                      run.to_pitch_bytes});
    }
    backend.copy(Queue::d2h, down);
    finish(backend, Queue::d2h);
    for (size_t i = 0; i < 100; ++i) assert_memory_equal(back.data() + i * 4096, host.data() + (99 - i) * 4096, 4000);
    for (size_t row = 0; row < 50; ++row) {
      assert_memory_equal(back.data() + 500000 + row * 256, host.data() + 600000 + row * 256, 100);
    }
    assert_memory_equal(back.data() + 700000, host.data() + 700000, 128 * 32);
  });
}

void tickets_are_reached_in_order_and_know_when(void**) {
  each_compute_type([](Backend& backend) {
    const uint64_t before_ns = backend.now_ns();
    Array from(backend, DType::f32, 1 << 20), to(backend, DType::f32, 1 << 20);
    // More of them than the backend has events for.
    std::vector<Ticket> tickets;
    for (int i = 0; i < 10000; ++i) {
      if (i % 100 == 0) backend.copy(Queue::dense, to.at(), from.at(), 4 << 20);
      tickets.push_back(backend.record(Queue::dense));
      backend.wait(Queue::recompute, tickets.back());
    }
    const Ticket behind = backend.record(Queue::recompute);
    auto reached = backend.poll(behind, true);
    assert_true(reached && *reached);
    for (const Ticket& ticket : tickets) {
      auto now = backend.poll(ticket, false);
      assert_true(now && *now);
    }
    const uint64_t after_ns = backend.now_ns();
    uint64_t last_ns = 0;
    for (const Ticket& ticket : tickets) {
      const uint64_t ns = backend.reached_ns(ticket);
      assert_true(ns >= last_ns);
      last_ns = ns;
    }
    // The clocks are compared within some µs.
    assert_true(backend.reached_ns(tickets.front()) + 200'000 >= before_ns);
    assert_true(last_ns <= after_ns + 200'000);
  });
}

void embed_gathers_rows_and_adds_positions(void**) {
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(321);
    for (uint32_t h : {1u, 7u, 64u, 577u}) {
      // As many rows as make several pieces for the loader's threads.
      const uint32_t vocab = h == 577 ? 9001 : 101;
      Rows table(vocab, h, numbers), position_table(40, h, numbers);
      auto tokens_matrix = load(backend, vocab, table), positions_matrix = load(backend, 40, position_table);
      assert_int_equal(tokens_matrix->stored_bytes, size_t{2} * vocab * h);
      for (size_t count : {size_t{8}, size_t{1500}}) {  // in a launch's parameters, and not
        std::vector<int32_t> tokens;
        std::vector<uint32_t> positions;
        for (size_t i = 0; i < count; ++i) {
          tokens.push_back(static_cast<int32_t>(i == 0 ? vocab - 1 : numbers.below(vocab)));
          positions.push_back(numbers.below(38));
        }
        for (bool with_positions : {false, true}) {
          Array hidden(backend, DType::f32, count * h);
          EmbedArgs args;
          args.table = tokens_matrix.get();
          args.position_table = with_positions ? positions_matrix.get() : nullptr;
          args.position_offset = 2;
          args.scale = 8;
          std::vector<int32_t> tokens_copy = tokens;
          args.tokens = tokens_copy;
          args.positions = positions;
          args.hidden = hidden.floats();
          backend.embed(Queue::dense, args);
          std::fill(tokens_copy.begin(), tokens_copy.end(), -1);  // they have been read
          hidden.get();
          for (size_t r = 0; r < count; ++r) {
            for (uint32_t i = 0; i < h; ++i) {
              double expected = 8 * stored(table, compute, static_cast<size_t>(tokens[r]), i);
              if (with_positions) expected += stored(position_table, compute, positions[r] + 2, i);
              assert_true(hidden[r * h + i] == double{static_cast<float>(expected)});
            }
          }
        }
      }
    }
  });
}

void norms_follow_their_formulas_whatever_the_batch(void**) {
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(322);
    for (NormKind kind : {NormKind::rms, NormKind::layer}) {
      for (uint32_t h : {1u, 5u, 64u, 576u, 4099u}) {
        constexpr uint32_t kRows = 20;
        Array x = Array::random(backend, DType::f32, size_t{kRows} * h, numbers, 3.0f);
        Array y(backend, compute, size_t{kRows} * h);
        for (size_t i = 0; i < x.size(); ++i) x.set(i, static_cast<float>(x[i]) + 1.0f);
        x.put();
        Array weight = Array::random(backend, DType::f32, h, numbers);
        Array bias = Array::random(backend, DType::f32, h, numbers);
        const float* bias_at = kind == NormKind::layer ? bias.floats() : nullptr;
        backend.norm(Queue::dense, {kind, 1e-3f, weight.floats(), bias_at, x.floats(), y.at(), kRows, h});
        y.get();
        RelativeError error;
        for (uint32_t r = 0; r < kRows; ++r) {
          double mean = 0, variance = 0;
          for (uint32_t i = 0; i < h && kind == NormKind::layer; ++i) mean += x[size_t{r} * h + i] / h;
          for (uint32_t i = 0; i < h; ++i) variance += std::pow(x[size_t{r} * h + i] - mean, 2) / h;
          for (uint32_t i = 0; i < h; ++i) {
            const double factor = weight[i] / std::sqrt(variance + double{1e-3f});
            const double shift = kind == NormKind::layer ? bias[i] : 0;
            error.add(y[size_t{r} * h + i], (x[size_t{r} * h + i] - mean) * factor + shift);
          }
        }
        assert_small("norm", error, largest_error(compute) / 3);
        Array alone(backend, compute, size_t{kRows} * h);
        for (uint32_t r = 0; r < kRows; ++r) {
          backend.norm(Queue::dense, {kind, 1e-3f, weight.floats(), bias_at, x.floats() + size_t{r} * h,
                                      alone.at(size_t{r} * h), 1, h});
        }
        assert_true(alone.get() == y);
      }
    }
  });
}

constexpr Activation kActivations[] = {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu_glu,
                                        Activation::gelu_tanh_glu};

double activated(Activation kind, double x) {
  const double u = std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
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
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(323);
    for (Activation kind : kActivations) {
      for (auto [rows, columns] : {std::pair{1u, 1u}, {3u, 37u}, {1u, 20000u}, {33u, 1000u}, {2u, 1036u}}) {
        const bool gated = is_gated(kind);
        Array x = Array::random(backend, compute, size_t{rows} * columns * (gated ? 2 : 1), numbers, 4.0f);
        if (columns > 2) x.set(0, -200.0f), x.set(1, 200.0f), x.set(2, -0.0f);
        x.put();
        Array y(backend, compute, size_t{rows} * columns);
        backend.activate(Queue::dense, {kind, x.at(), y.at(), rows, columns});
        y.get();
        RelativeError error;
        for (uint32_t r = 0; r < rows; ++r) {
          for (uint32_t i = 0; i < columns; ++i) {
            const size_t at = size_t{r} * columns * (gated ? 2 : 1) + i;
            error.add(y[size_t{r} * columns + i], activated(kind, x[at]) * (gated ? x[at + columns] : 1.0));
          }
        }
        if (columns > 1) assert_small("activate", error, largest_error(compute) / 3);
        if (gated) continue;
        backend.activate(Queue::dense, {kind, x.at(), x.at(), rows, columns});
        assert_true(x.get() == y);
      }
    }
  });
}

void caps_and_added_norms_follow_their_formulas(void**) {
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(327);
    for (uint32_t h : {5u, 576u, 4096u, 9001u}) {
      constexpr uint32_t kRows = 3;
      Array x = Array::random(backend, DType::f32, size_t{kRows} * h, numbers, 20.0f);
      Array weight = Array::random(backend, DType::f32, h, numbers);
      Array y(backend, compute, size_t{kRows} * h), sum = Array::random(backend, DType::f32, size_t{kRows} * h, numbers);
      std::vector<double> old;
      for (size_t i = 0; i < sum.size(); ++i) old.push_back(sum[i]);
      NormArgs args{NormKind::rms, 1e-3f, weight.floats(), nullptr, x.floats(), y.at(), kRows, h};
      backend.norm(Queue::dense, args);
      args.y = sum.at();
      args.output = NormOutput::add_f32;
      backend.norm(Queue::dense, args);
      y.get(), sum.get();
      RelativeError norm_error, cap_error;
      for (size_t i = 0; i < y.size(); ++i) norm_error.add(y[i], sum[i] - old[i]);
      assert_small("norm added", norm_error, largest_error(compute) / 3);
      std::vector<double> expected;
      for (size_t i = 0; i < x.size(); ++i) expected.push_back(30 * std::tanh(x[i] / 30));
      backend.cap(Queue::dense, {30.0f, x.floats(), kRows, h});
      x.get();
      for (size_t i = 0; i < x.size(); ++i) cap_error.add(x[i], expected[i]);
      assert_small("cap", cap_error, 1e-6);
    }
  });
}

// Each head of q and k by itself, before it is rotated; on the way of K to its block as in place.
void heads_are_normalised_before_they_are_rotated(void**) {
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(328);
    for (auto [d, rotary] : {std::pair{64u, 64u}, {128u, 128u}, {80u, 32u}, {24u, 16u}, {20u, 0u}}) {
      const KvShape shape{3, 1, d};
      const uint32_t rows = 5, stride = 5 * d, half = rotary / 2;
      std::vector<float> inverse(half, 0.25f);
      Array fused = Array::random(backend, compute, size_t{rows} * stride, numbers);
      std::vector<double> before;
      for (size_t i = 0; i < fused.size(); ++i) before.push_back(fused[i]);
      Array q_weight = Array::random(backend, DType::f32, d, numbers), k_weight = Array::random(backend, DType::f32, d, numbers);
      Array block(backend, compute, shape.block_elements());
      const RopeRun run{0, rows, 7, block.at(), 0};
      RopeArgs args{shape, {rotary, inverse, 1.0f}, fused.at(), stride, fused.at(3 * d), fused.at(4 * d), stride,
                    std::span(&run, 1)};
      args.norm = {q_weight.floats(), k_weight.floats(), 1e-3f};
      backend.rope(Queue::dense, args);
      fused.get(), block.get();
      RelativeError error;
      for (uint32_t r = 0; r < rows; ++r) {
        for (uint32_t head = 0; head < 4; ++head) {
          const size_t at = size_t{r} * stride + head * d;
          const Array& weight = head < 3 ? q_weight : k_weight;
          double squares = 0;
          for (uint32_t i = 0; i < d; ++i) squares += before[at + i] * before[at + i] / d;
          auto normed = [&](uint32_t i) { return before[at + i] / std::sqrt(squares + 1e-3) * weight[i]; };
          for (uint32_t i = 0; i < d; ++i) {
            const double c = std::cos((7 + r) * 0.25), s = std::sin((7 + r) * 0.25);
            const double expected = i < half     ? normed(i) * c - normed(i + half) * s
                                    : i < rotary ? normed(i) * c + normed(i - half) * s
                                                 : normed(i);
            error.add(head < 3 ? fused[at + i] : block[size_t{7 + r} * d + i], expected);
          }
        }
      }
      assert_small("heads normalised", error, largest_error(compute) / 3);
    }
  });
}

struct RopeCase {
  KvShape shape;
  uint32_t rotary_dim;
};

void rope_rotates_halves_and_writes_k_and_v_to_their_slots(void**) {
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(324);
    for (RopeCase test : {RopeCase{{4, 2, 64}, 64}, {{4, 2, 64}, 0}, {{2, 2, 128}, 128}, {{4, 2, 80}, 32}, {{6, 3, 20}, 10},
                          {{2, 1, 256}, 256}, {{2, 2, 24}, 24}, {{3, 1, 7}, 4}}) {
      const KvShape shape = test.shape;
      const uint32_t d = shape.head_dim, half = test.rotary_dim / 2;
      const uint32_t q_width = shape.heads * d, kv_width = shape.kv_heads * d, stride = q_width + 2 * kv_width;
      std::vector<float> inverse(half);
      for (uint32_t i = 0; i < half; ++i) {
        inverse[i] = std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half));
      }
      // Three runs: across two blocks, one row far away, and one whose K,V stay.
      constexpr uint32_t kRows = 9, kBlocks = 4;
      Array fused = Array::random(backend, compute, size_t{kRows} * stride, numbers);
      Array blocks(backend, compute, kBlocks * shape.block_elements());
      const size_t block_bytes = shape.block_elements() * 2;
      const std::vector<RopeRun> runs = {{0, 5, 62, blocks.at(0), 2 * block_bytes},
                                         {5, 1, 100003, blocks.at(shape.block_elements()), 0},
                                         {7, 2, 5, nullptr, 0}};
      Array original(backend, compute, fused.size());
      for (size_t i = 0; i < fused.size(); ++i) original.set(i, static_cast<float>(fused[i]));
      std::vector<RopeRun> given = runs;
      std::vector<float> given_frequencies = inverse;
      RopeArgs args{shape, {test.rotary_dim, given_frequencies, 1.25f}, fused.at(), stride, fused.at(q_width),
                    fused.at(q_width + kv_width), stride, given};
      backend.rope(Queue::dense, args);
      std::fill(given.begin(), given.end(), RopeRun{});  // they have been read
      fused.get(), blocks.get();
      auto rotated = [&](size_t at, uint32_t i, uint32_t position) {
        if (i >= 2 * half) return original[at + i];
        const double angle = double{static_cast<float>(position) * inverse[i % half]};
        const double c = std::cos(angle) * 1.25, s = std::sin(angle) * 1.25;
        return i < half ? original[at + i] * c - original[at + i + half] * s
                        : original[at + i] * c + original[at + i - half] * s;
      };
      RelativeError q_error, k_error;
      size_t written = 0;
      std::vector<bool> in_a_run(kRows, false);
      for (const RopeRun& run : runs) {
        for (uint32_t n = 0; n < run.rows; ++n) {
          const uint32_t row = run.first_row + n, position = run.first_position + n;
          in_a_run[row] = true;
          for (uint32_t head = 0; head < shape.heads; ++head) {
            const size_t at = size_t{row} * stride + head * d;
            for (uint32_t i = 0; i < d; ++i) q_error.add(fused[at + i], rotated(at, i, position));
          }
          if (run.kv_block == nullptr) continue;
          const size_t block = run.first_row == 0 ? (position / 64 - run.first_position / 64) * 2 : 1;
          for (uint32_t head = 0; head < shape.kv_heads; ++head) {
            const size_t slot = block * shape.block_elements() + (size_t{head} * 2 * 64 + position % 64) * d;
            const size_t k = size_t{row} * stride + q_width + head * d;
            for (uint32_t i = 0; i < d; ++i) {
              k_error.add(blocks[slot + i], rotated(k, i, position));
              assert_true(blocks[slot + 64 * d + i] == original[k + kv_width + i]);
            }
            written += 2 * d;
          }
        }
      }
      assert_small("rope of q", q_error, largest_error(compute) / 3);
      assert_small("rope of k", k_error, largest_error(compute) / 3);
      for (uint32_t row = 0; row < kRows; ++row) {
        const size_t at = size_t{row} * stride;
        if (!in_a_run[row] || half == 0) assert_true(fused.same(at, original, at, q_width));
        assert_true(fused.same(at + q_width, original, at + q_width, 2 * kv_width));
      }
      size_t numbers_there = 0;
      for (size_t i = 0; i < blocks.size(); ++i) numbers_there += std::isnan(blocks[i]) ? 0 : 1;
      assert_int_equal(numbers_there, written);
    }
  });
}

void rope_takes_more_runs_than_a_launch_has_parameters_for(void**) {
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(325);
    const KvShape shape{1, 1, 64};
    constexpr uint32_t kRows = 1000;
    Array k = Array::random(backend, compute, kRows * 64, numbers);
    Array v = Array::random(backend, compute, kRows * 64, numbers);
    Array blocks(backend, compute, kRows * shape.block_elements());
    std::vector<RopeRun> runs;
    for (uint32_t i = 0; i < kRows; ++i) runs.push_back({i, 1, i, blocks.at(i * shape.block_elements()), 0});
    backend.rope(Queue::recompute, {shape, {}, nullptr, 0, k.at(), v.at(), 64, runs});
    blocks.get();
    for (uint32_t i = 0; i < kRows; ++i) {
      const size_t slot = i * shape.block_elements() + (i % 64) * 64;
      assert_true(blocks.same(slot, k, i * 64, 64) && blocks.same(slot + 64 * 64, v, i * 64, 64));
    }
  });
}

void what_cannot_be_made_is_refused_in_one_line(void**) {
  assert_false(static_cast<bool>(open_gpu(DType::f32)));
  CudaOptions options;
  options.device = 1000;
  assert_false(static_cast<bool>(make_cuda_backend_here(options)));
  each_compute_type([](Backend& backend) {
    auto memory = backend.alloc(std::numeric_limits<size_t>::max() / 2);
    assert_false(static_cast<bool>(memory));
    assert_non_null(std::strstr(memory.failure().message.c_str(), "no memory for"));
    Numbers numbers(326);
    Rows rows(1, 1, numbers);
    assert_false(static_cast<bool>(backend.load(0xffffff00u, 0x7ff00u, rows)));
    finish(backend);  // it goes on
  });
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  if (!has_gpu()) return kSkipped;
  const CMUnitTest tests[] = {
      cmocka_unit_test(runs_of_every_kind_arrive),
      cmocka_unit_test(tickets_are_reached_in_order_and_know_when),
      cmocka_unit_test(embed_gathers_rows_and_adds_positions),
      cmocka_unit_test(norms_follow_their_formulas_whatever_the_batch),
      cmocka_unit_test(activations_follow_their_formulas),
      cmocka_unit_test(caps_and_added_norms_follow_their_formulas),
      cmocka_unit_test(heads_are_normalised_before_they_are_rotated),
      cmocka_unit_test(rope_rotates_halves_and_writes_k_and_v_to_their_slots),
      cmocka_unit_test(rope_takes_more_runs_than_a_launch_has_parameters_for),
      cmocka_unit_test(what_cannot_be_made_is_refused_in_one_line),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
