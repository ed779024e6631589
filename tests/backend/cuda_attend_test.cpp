// SPDX-License-Identifier: Apache-2.0
// attend of the CUDA backend: against softmax in double over a paged cache whose unwritten slots are NaNs, and against
// itself with rows computed alone, in chunks, with neighbours and with their pieces in several operations, where every
// bit must agree.
#include <algorithm>

#include "tests/backend/cuda_fixture.h"

namespace iokv::test {
namespace {

// Scores of a deviation of 3: attention that looks at a few tokens.
float scale_of(KvShape shape) { return 3.0f / std::sqrt(static_cast<float>(shape.head_dim)); }

// A sequence whose K and V lie in blocks scattered over one array of NaNs.
struct Sequence {
  KvShape shape;
  uint32_t length;
  Array blocks;
  std::vector<size_t> start;  // of each block, in elements
  std::vector<const void*> addresses;

  Sequence(Backend& backend, KvShape kv_shape, uint32_t tokens, Numbers& numbers)
      : shape(kv_shape), length(tokens),
        blocks(backend, backend.info().compute, blocks_for(Tokens(tokens)).value * kv_shape.block_elements()) {
    const uint32_t count = blocks_for(Tokens(tokens)).value;
    for (uint32_t b = 0; b < count; ++b) start.push_back((count - 1 - b) * shape.block_elements());
    for (size_t at : start) addresses.push_back(blocks.at(at));
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t head = 0; head < shape.kv_heads; ++head) {
        for (uint32_t i = 0; i < shape.head_dim; ++i) {
          blocks.set(k_at(t, head) + i, numbers.normal());
          blocks.set(v_at(t, head) + i, numbers.normal());
        }
      }
    }
    blocks.put();
  }
  size_t k_at(uint32_t token, uint32_t head) const {
    const size_t row = size_t{head} * 2 * kBlockTokens + token % kBlockTokens;
    return start[token / kBlockTokens] + row * shape.head_dim;
  }
  size_t v_at(uint32_t token, uint32_t head) const { return k_at(token, head) + size_t{kBlockTokens} * shape.head_dim; }
};

// Queries of the last `rows` tokens of a sequence, a stride apart that is wider than they are.
struct Queries {
  uint32_t rows, width, stride;
  Array values;
  Queries(Backend& backend, KvShape shape, uint32_t count, Numbers& numbers)
      : rows(count), width(shape.heads * shape.head_dim), stride(width + 24),
        values(Array::random(backend, backend.info().compute, size_t{rows} * stride, numbers)) {}
  // One row of many.
  Queries(Backend& backend, const Queries& all, uint32_t row)
      : rows(1), width(all.width), stride(all.stride), values(backend, all.values.type(), stride) {
    for (uint32_t i = 0; i < stride; ++i) values.set(i, static_cast<float>(all.values[size_t{row} * stride + i]));
  }
};

Array out_of(Backend& backend, const Queries& queries) {
  return Array(backend, backend.info().compute, size_t{queries.rows} * queries.width);
}

// What of its tokens a row sees, and how large a score becomes; as in AttendArgs.
struct Limits {
  uint32_t window = 0;
  float score_cap = 0;
};

// One span for each of the given chunk sizes, in turn, over the last rows of the sequence.
Array attend(Backend& backend, const Sequence& sequence, const Queries& queries, std::vector<uint32_t> chunks,
             Limits limits = {}) {
  Array out = out_of(backend, queries);
  std::vector<AttendSpan> spans;
  for (uint32_t row = 0, i = 0; row < queries.rows; ++i) {
    const uint32_t rows = std::min(chunks[i % chunks.size()], queries.rows - row);
    const uint32_t position = sequence.length - queries.rows + row;
    const size_t blocks = blocks_for(Tokens(position + rows)).value;
    spans.push_back({row, rows, position, 0, std::span(sequence.addresses).first(blocks)});
    row += rows;
  }
  backend.attend(Queue::dense, {sequence.shape, scale_of(sequence.shape), queries.values.at(), queries.stride, out.at(),
                                nullptr, spans, limits.window, limits.score_cap});
  out.get();
  return out;
}

// All rows, a run of so many pieces an operation; what was merged so far waits in `state`.
Array attend_in_runs(Backend& backend, const Sequence& sequence, const Queries& queries, uint32_t run,
                     Limits limits = {}) {
  Array out = out_of(backend, queries);
  const size_t floats = attend_state_floats(sequence.shape.head_dim);
  Array state(backend, DType::f32, queries.rows * sequence.shape.heads * floats);
  AttendArgs args{sequence.shape, scale_of(sequence.shape), queries.values.at(), queries.stride, out.at(),
                  state.floats(), {}, limits.window, limits.score_cap};
  const auto pieces = static_cast<uint32_t>(sequence.addresses.size());
  for (uint32_t first = 0; first < pieces; first += run) {
    AttendSpan span{0, queries.rows, sequence.length - queries.rows, first, {}};
    std::vector<const void*> addresses(sequence.addresses.begin() + first,
                                       sequence.addresses.begin() + std::min(first + run, pieces));
    span.kv_blocks = addresses;
    args.spans = std::span(&span, 1);
    backend.attend(Queue::dense, args);
    std::fill(addresses.begin(), addresses.end(), nullptr);  // they have been read
  }
  out.get();
  return out;
}

// Softmax attention of one head of one row, in double.
std::vector<double> reference(const Sequence& sequence, const Queries& queries, uint32_t row, uint32_t head,
                              Limits limits = {}) {
  const uint32_t d = sequence.shape.head_dim, kv_head = head / (sequence.shape.heads / sequence.shape.kv_heads);
  const uint32_t seen = sequence.length - queries.rows + row + 1;
  std::vector<double> scores(seen), out(d, 0.0);
  for (uint32_t t = 0; t < seen; ++t) {
    for (uint32_t i = 0; i < d; ++i) {
      const double q = queries.values[size_t{row} * queries.stride + head * d + i];
      scores[t] += q * sequence.blocks[sequence.k_at(t, kv_head) + i];
    }
    scores[t] *= double{scale_of(sequence.shape)};
    if (limits.score_cap > 0) scores[t] = limits.score_cap * std::tanh(scores[t] / limits.score_cap);
    if (limits.window > 0 && t + limits.window < seen) scores[t] = -INFINITY;
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (uint32_t t = 0; t < seen; ++t) {
    for (uint32_t i = 0; i < d; ++i) out[i] += scores[t] / sum * sequence.blocks[sequence.v_at(t, kv_head) + i];
  }
  return out;
}

void add_errors(RelativeError& error, const Array& out, const Sequence& sequence, const Queries& queries, uint32_t row) {
  const KvShape shape = sequence.shape;
  for (uint32_t head = 0; head < shape.heads; ++head) {
    const auto expected = reference(sequence, queries, row, head);
    for (uint32_t i = 0; i < shape.head_dim; ++i) {
      error.add(out[size_t{row} * queries.width + head * shape.head_dim + i], expected[i]);
    }
  }
}

const KvShape kShapes[] = {{9, 3, 64}, {4, 4, 32},  {8, 1, 128}, {2, 2, 80}, {3, 1, 40},   {2, 1, 8}, {2, 2, 20},
                           {2, 1, 7},  {1, 1, 256}, {4, 4, 128}, {4, 2, 96}, {16, 1, 192}, {2, 1, 24}};

void every_row_is_the_softmax_of_what_is_not_after_it(void**) {
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(511);
    for (KvShape shape : kShapes) {
      for (auto [length, rows] : {std::pair{1u, 1u}, {64u, 3u}, {65u, 65u}, {150u, 20u}, {200u, 100u}}) {
        Sequence sequence(backend, shape, length, numbers);
        Queries queries(backend, shape, rows, numbers);
        const Array out = attend(backend, sequence, queries, {rows});
        RelativeError error;
        for (uint32_t row = 0; row < rows; row += row + 4 < rows ? 4 : 1) add_errors(error, out, sequence, queries, row);
        if (!(error.value() <= largest_error(compute))) {
          std::printf("%s, %u heads, %u KV heads of %u, length %u, %u rows:\n", name_of(compute), shape.heads,
                      shape.kv_heads, shape.head_dim, length, rows);
        }
        assert_small("attend", error, largest_error(compute));
      }
    }
  });
}

void expect_same(const Array& one, const Array& other, const char* what, KvShape shape) {
  if (one == other) return;
  std::printf("%s: other bits, %u heads, %u KV heads of %u\n", what, shape.heads, shape.kv_heads, shape.head_dim);
  fail();
}

void a_row_has_the_same_bits_alone_in_a_chunk_and_in_the_whole(void**) {
  each_compute_type([](Backend& backend) {
    Numbers numbers(512);
    for (KvShape shape : kShapes) {
      Sequence sequence(backend, shape, 230, numbers);
      Queries queries(backend, shape, 170, numbers);
      const Array whole = attend(backend, sequence, queries, {170});
      for (const auto& chunks : {std::vector<uint32_t>{1}, {7}, {64}, {1, 2, 7, 8, 32}}) {
        expect_same(attend(backend, sequence, queries, chunks), whole, "rows in chunks", shape);
      }
    }
  });
}

void pieces_that_come_in_several_operations_give_the_same_bits(void**) {
  each_compute_type([](Backend& backend) {
    Numbers numbers(517);
    for (KvShape shape : kShapes) {
      for (auto [length, rows] : {std::pair{700u, 1u}, {700u, 130u}, {300u, 300u}, {64u, 64u}, {450u, 5u}}) {
        Sequence sequence(backend, shape, length, numbers);
        Queries queries(backend, shape, rows, numbers);
        const Array whole = attend(backend, sequence, queries, {rows});
        for (uint32_t run : {1u, 2u, 6u, 100u}) {
          expect_same(attend_in_runs(backend, sequence, queries, run), whole, "pieces in runs", shape);
        }
      }
    }
  });
}

void a_long_sequence_is_right_and_takes_a_large_table(void**) {
  each_compute_type([](Backend& backend) {
    Numbers numbers(513);
    for (KvShape shape : {KvShape{6, 2, 64}, {1, 1, 128}}) {
      Sequence sequence(backend, shape, 20000, numbers);
      Queries queries(backend, shape, 3, numbers);
      const Array together = attend(backend, sequence, queries, {3});
      expect_same(attend(backend, sequence, queries, {1}), together, "rows alone", shape);
      RelativeError error;
      for (uint32_t row = 0; row < 3; ++row) add_errors(error, together, sequence, queries, row);
      assert_small("attend", error, largest_error(backend.info().compute));
      // In sequence: a warp goes over all pieces.
      Queries many(backend, shape, 65, numbers);
      RelativeError of_many;
      add_errors(of_many, attend(backend, sequence, many, {65}), sequence, many, 64);
      assert_small("attend in sequence", of_many, largest_error(backend.info().compute));
    }
  });
}

// Windows within a piece, of one, across several and longer than the sequence, capped scores, and both.
constexpr Limits kLimits[] = {{1, 0}, {40, 0}, {64, 0}, {65, 3}, {150, 2}, {1000, 0}, {0, 4}};

void a_window_and_a_cap_limit_what_a_row_sees(void**) {
  each_compute_type([](Backend& backend) {
    const DType compute = backend.info().compute;
    Numbers numbers(518);
    for (KvShape shape : {KvShape{4, 2, 64}, {3, 1, 40}, {2, 1, 256}}) {
      for (auto [length, rows] : {std::pair{30u, 30u}, {300u, 1u}, {300u, 130u}}) {
        Sequence sequence(backend, shape, length, numbers);
        Queries queries(backend, shape, rows, numbers);
        for (Limits limits : kLimits) {
          const Array out = attend(backend, sequence, queries, {rows}, limits);
          RelativeError error;
          for (uint32_t row = 0; row < rows; row += row + 7 < rows ? 7 : 1) {
            for (uint32_t head = 0; head < shape.heads; ++head) {
              const auto expected = reference(sequence, queries, row, head, limits);
              for (uint32_t i = 0; i < shape.head_dim; ++i) {
                error.add(out[size_t{row} * queries.width + head * shape.head_dim + i], expected[i]);
              }
            }
          }
          assert_small("attend within limits", error, largest_error(compute));
        }
      }
    }
  });
}

void a_row_with_a_window_has_the_same_bits_however_it_is_computed(void**) {
  each_compute_type([](Backend& backend) {
    Numbers numbers(519);
    for (KvShape shape : {KvShape{4, 2, 64}, {3, 1, 40}, {2, 1, 256}}) {
      Sequence sequence(backend, shape, 500, numbers);
      Queries queries(backend, shape, 170, numbers);
      for (Limits limits : kLimits) {
        const Array whole = attend(backend, sequence, queries, {170}, limits);
        for (const auto& chunks : {std::vector<uint32_t>{1}, {1, 2, 7, 8, 32}}) {
          expect_same(attend(backend, sequence, queries, chunks, limits), whole, "rows in chunks", shape);
        }
        for (uint32_t run : {1u, 3u}) {
          expect_same(attend_in_runs(backend, sequence, queries, run, limits), whole, "pieces in runs", shape);
        }
      }
    }
  });
}

void neighbours_in_a_batch_change_nothing(void**) {
  each_compute_type([](Backend& backend) {
    Numbers numbers(514);
    for (KvShape shape : {KvShape{6, 3, 32}, {4, 4, 128}}) {
      std::vector<std::unique_ptr<Sequence>> sequences;
      for (uint32_t length : {1u, 63u, 64u, 700u, 129u, 5u, 300u}) {
        sequences.push_back(std::make_unique<Sequence>(backend, shape, length, numbers));
      }
      // Three sequences of a row, one of 200 rows, then the others: both ways to compute in one operation.
      std::vector<uint32_t> rows = {1, 1, 1, 200, 1, 2, 1};
      uint32_t all = 0;
      for (uint32_t count : rows) all += count;
      Queries queries(backend, shape, all, numbers);
      std::vector<AttendSpan> spans;
      uint32_t row = 0;
      for (size_t s = 0; s < sequences.size(); ++s) {
        spans.push_back({row, rows[s], sequences[s]->length - rows[s], 0, sequences[s]->addresses});
        row += rows[s];
      }
      Array together = out_of(backend, queries);
      AttendArgs args{shape, scale_of(shape), queries.values.at(), queries.stride, together.at(), nullptr, spans};
      backend.attend(Queue::dense, args);
      together.get();
      for (const AttendSpan& span : spans) {
        Array alone = out_of(backend, queries);
        args.out = alone.at();
        args.spans = std::span(&span, 1);
        backend.attend(Queue::dense, args);
        alone.get();
        const size_t at = size_t{span.first_row} * queries.width;
        assert_true(alone.same(at, together, at, size_t{span.rows} * queries.width));
      }
    }
  });
}

// More results of pieces than there is room for at once.
void a_large_batch_is_cut_and_gives_the_same_bits(void**) {
  each_compute_type([](Backend& backend) {
    Numbers numbers(515);
    const KvShape shape{32, 32, 128};
    Sequence sequence(backend, shape, 64 * 6, numbers);
    constexpr uint32_t kRows = 2000;
    Queries queries(backend, shape, kRows, numbers);
    std::vector<AttendSpan> spans;
    for (uint32_t row = 0; row < kRows; ++row) spans.push_back({row, 1, 64 * 6 - 1, 0, sequence.addresses});
    Array together = out_of(backend, queries);
    AttendArgs args{shape, scale_of(shape), queries.values.at(), queries.stride, together.at(), nullptr, spans};
    backend.attend(Queue::dense, args);
    together.get();
    for (uint32_t row : {0u, 999u, kRows - 1}) {
      Array alone = out_of(backend, queries);
      args.out = alone.at();
      args.spans = std::span(&spans[row], 1);
      backend.attend(Queue::dense, args);
      alone.get();
      assert_true(alone.same(size_t{row} * queries.width, together, size_t{row} * queries.width, queries.width));
    }
  });
}

// Pinned host memory, a copy of an array.
class HostCopy {
 public:
  HostCopy(Backend& backend, const Array& array) : backend_(backend), bytes_(array.size() * size_of(array.type())) {
    data_ = static_cast<std::byte*>(std::aligned_alloc(4096, (bytes_ + 4095) / 4096 * 4096));
    assert_true(static_cast<bool>(backend_.pin(data_, (bytes_ + 4095) / 4096 * 4096)));
    backend_.copy(Queue::d2h, data_, array.at(), bytes_);
    finish(backend_, Queue::d2h);
  }
  ~HostCopy() {
    backend_.unpin(data_);
    std::free(data_);
  }
  HostCopy(const HostCopy&) = delete;
  HostCopy& operator=(const HostCopy&) = delete;
  std::byte* at(size_t byte = 0) const { return data_ + byte; }

 private:
  Backend& backend_;
  size_t bytes_;
  std::byte* data_ = nullptr;
};

// Of the last row of each sequence the host attends to the cached tokens from a block on. The device has the blocks before
// it, and one in which the row's own token is and nothing else but NaNs.
void expect_divided(Backend& backend, KvShape shape, const std::vector<uint32_t>& lengths, uint32_t run, Limits limits,
                    Numbers& numbers) {
  const DType compute = backend.info().compute;
  const auto rows = static_cast<uint32_t>(lengths.size());
  const size_t element = size_of(compute), floats = attend_state_floats(shape.head_dim), width = shape.heads * shape.head_dim;
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::vector<std::unique_ptr<HostCopy>> copies;
  std::vector<std::unique_ptr<Array>> own;
  Queries queries(backend, shape, rows, numbers);
  Array out = out_of(backend, queries), state(backend, DType::f32, rows * shape.heads * floats);
  HostCopy host_q(backend, Array(backend, compute, rows * width)), host_state(backend, state);
  struct Divided {
    uint32_t row, host_from;
    std::vector<const void*> device, host;
  };
  std::vector<Divided> divided;
  std::vector<uint32_t> divided_rows;
  for (uint32_t row = 0; row < rows; ++row) {
    sequences.push_back(std::make_unique<Sequence>(backend, shape, lengths[row], numbers));
    Sequence& sequence = *sequences.back();
    copies.push_back(std::make_unique<HostCopy>(backend, sequence.blocks));
    own.push_back(std::make_unique<Array>(backend, compute, shape.block_elements()));
    const uint32_t position = sequence.length - 1;
    if (position == 0 || row % 4 == 3) {
      divided.push_back({row, kAllOnDevice, sequence.addresses, {}});  // this one is the device's alone
      continue;
    }
    const uint32_t blocks = blocks_for(Tokens(position)).value, host_from = numbers.below(blocks) * kBlockTokens;
    for (uint32_t head = 0; head < shape.kv_heads; ++head) {
      for (uint32_t i = 0; i < shape.head_dim; ++i) {
        const size_t at = (size_t{head} * 2 * kBlockTokens + position % kBlockTokens) * shape.head_dim + i;
        own.back()->set(at, static_cast<float>(sequence.blocks[sequence.k_at(position, head) + i]));
        own.back()->set(at + size_t{kBlockTokens} * shape.head_dim,
                        static_cast<float>(sequence.blocks[sequence.v_at(position, head) + i]));
      }
    }
    own.back()->put();
    Divided one{row, host_from, {}, {}};
    one.device.assign(sequence.addresses.begin(), sequence.addresses.begin() + host_from / kBlockTokens);
    one.device.push_back(own.back()->at());
    for (uint32_t b = host_from / kBlockTokens; b < blocks; ++b) one.host.push_back(copies.back()->at(sequence.start[b] * element));
    divided_rows.push_back(row);
    divided.push_back(std::move(one));
  }

  backend.hand_over(Queue::dense, {queries.values.at(), queries.stride * element, width * element, divided_rows, host_q.at()});
  backend.wait(Queue::host, backend.record(Queue::dense));
  AttendArgs args{shape, scale_of(shape), host_q.at(), static_cast<uint32_t>(width), nullptr,
                  reinterpret_cast<float*>(host_state.at()), {}, limits.window, limits.score_cap};
  std::vector<AttendSpan> spans;
  for (const Divided& one : divided) {
    if (one.host.empty()) continue;
    spans.push_back({static_cast<uint32_t>(spans.size()), 1, lengths[one.row] - 1, one.host_from / kBlockTokens, one.host,
                     one.host_from});
  }
  args.spans = spans;
  backend.attend(Queue::host, args);
  const Ticket attended = backend.record(Queue::host);

  args.q = queries.values.at(), args.q_stride = queries.stride, args.out = out.at(), args.state = state.floats();
  size_t most = 0;
  for (const Divided& one : divided) most = std::max(most, one.device.size());
  for (uint32_t first = 0; first < most; first += run) {
    spans.clear();
    for (const Divided& one : divided) {
      if (first >= one.device.size()) continue;
      const size_t pieces = std::min<size_t>(run, one.device.size() - first);
      spans.push_back({one.row, 1, lengths[one.row] - 1, first, std::span(one.device).subspan(first, pieces), one.host_from});
    }
    args.spans = spans;
    backend.attend(Queue::dense, args);
  }
  backend.wait(Queue::dense, attended);
  backend.merge(Queue::dense, {shape, divided_rows, state.floats(), reinterpret_cast<const float*>(host_state.at()), out.at()});
  out.get();

  RelativeError error;
  for (uint32_t row = 0; row < rows; ++row) {
    const Queries last(backend, queries, row);
    for (uint32_t head = 0; head < shape.heads; ++head) {
      const auto expected = reference(*sequences[row], last, 0, head, limits);
      for (uint32_t i = 0; i < shape.head_dim; ++i) error.add(out[row * width + head * shape.head_dim + i], expected[i]);
    }
  }
  assert_small("attend, divided with the host", error, largest_error(compute));
}

void rows_that_the_host_has_a_part_in_are_right(void**) {
  each_compute_type([](Backend& backend) {
    if (backend.info().host_threads == 0) {
      const int cpus[] = {0, 1};
      Status started = backend.attend_on_host(cpus);
      if (!started) std::printf("%s\n", started.failure().message.c_str());
      assert_true(static_cast<bool>(started));
    }
    Numbers numbers(520);
    for (KvShape shape : {KvShape{4, 4, 128}, {8, 2, 64}, {9, 3, 64}, {8, 1, 128}, {2, 2, 80}, {4, 2, 96}, {2, 1, 256}}) {
      for (uint32_t run : {1u, 3u, 1000u}) {
        expect_divided(backend, shape, {700, 2, 65, 64, 128, 129, 1, 300, 1000}, run, {}, numbers);
        for (Limits limits : kLimits) expect_divided(backend, shape, {500, 66, 200, 64, 97}, run, limits, numbers);
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
      cmocka_unit_test(every_row_is_the_softmax_of_what_is_not_after_it),
      cmocka_unit_test(a_row_has_the_same_bits_alone_in_a_chunk_and_in_the_whole),
      cmocka_unit_test(pieces_that_come_in_several_operations_give_the_same_bits),
      cmocka_unit_test(a_long_sequence_is_right_and_takes_a_large_table),
      cmocka_unit_test(a_window_and_a_cap_limit_what_a_row_sees),
      cmocka_unit_test(a_row_with_a_window_has_the_same_bits_however_it_is_computed),
      cmocka_unit_test(neighbours_in_a_batch_change_nothing),
      cmocka_unit_test(rows_that_the_host_has_a_part_in_are_right),
      cmocka_unit_test(a_large_batch_is_cut_and_gives_the_same_bits),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
