// SPDX-License-Identifier: Apache-2.0
// The modelled device against closed forms, against a simulator that steps through time in sixty-fourths of a
// nanosecond, and, with a whole model's forward pass, against the profile that the planner is given.
#include "daemon/backend/modelled/modelled_backend.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "daemon/model/blank_weights.h"
#include "daemon/model/layers.h"
#include "daemon/model/shapes.h"
#include "daemon/runtime/executor.h"
#include "daemon/runtime/expected_profile.h"
#include "daemon/sched/plan_build.h"
#include "daemon/sched/cost.h"

#include "tests/cmocka_cpp.h"

namespace {
size_t allocations = 0;
}

// Not inlined, or the compiler takes malloc and delete for a mismatch.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

using namespace iokv;

namespace {

// A byte a nanosecond to the device, two back, four from its memory; a hundred operations a nanosecond.
ModelledOptions small_device() {
  ModelledOptions options;
  options.hardware.name = "small";
  options.hardware.memory_bytes = 1e9;
  options.hardware.h2d_bytes_per_s = 1e9;
  options.hardware.d2h_bytes_per_s = 2e9;
  options.hardware.copy_ns = 10;
  options.hardware.duplex = 1.25;
  options.hardware.matrix_flop_per_s = 100e9;
  options.hardware.memory_bytes_per_s = 4e9;
  options.hardware.launch_ns = 3;
  options.hardware.contention = 0.5;
  options.piece_ns = 5;
  return options;
}

// Addresses of nothing.
void* at(size_t address) { return reinterpret_cast<void*>(address); }

void copy(Backend& backend, Queue queue, size_t bytes) { backend.copy(queue, at(1 << 20), at(1 << 22), bytes); }

uint64_t done_ns(Backend& backend, Ticket ticket) {
  Result<bool> reached = backend.poll(ticket, true);
  assert_true(reached && *reached);
  assert_true(backend.now_ns() >= backend.reached_ns(ticket));
  return backend.reached_ns(ticket);
}
uint64_t done_ns(Backend& backend, Queue queue) { return done_ns(backend, backend.record(queue)); }

// What one operation takes on a device that is idle.
uint64_t lasts_ns(const std::function<void(ModelledBackend&)>& issue, Queue queue = Queue::dense) {
  ModelledBackend backend(small_device());
  issue(backend);
  return done_ns(backend, queue);
}

std::unique_ptr<Matrix> matrix(Backend& backend, uint32_t n, uint32_t k) {
  struct : RowSource {
    void read_row(uint32_t, float*) const override { fail(); }
  } unread;
  auto made = backend.load(n, k, unread);
  assert_true(static_cast<bool>(made));
  return *std::move(made);
}

void product(Backend& backend, const Matrix& weight, uint32_t rows, uint32_t first_column, uint32_t columns) {
  GemmArgs args;
  args.weight = &weight;
  args.rows = rows;
  args.first_column = first_column;
  args.columns = args.y_stride = columns;
  backend.gemm(Queue::dense, args);
}

void a_copy_takes_its_pieces_and_its_bytes(void**) {
  auto copies = [](std::vector<CopyRun> runs, Queue queue) {
    return lasts_ns([&](ModelledBackend& backend) { backend.copy(queue, runs); }, queue);
  };
  assert_int_equal(copies({{at(4096), at(8192), 100}}, Queue::h2d), 10 + 100);
  assert_int_equal(copies({{at(4096), at(8192), 100}}, Queue::d2h), 10 + 50);
  // Apart: a piece more. Next to each other on both sides: one.
  assert_int_equal(copies({{at(4096), at(8192), 100}, {at(5000), at(8292), 60}}, Queue::h2d), 10 + 5 + 160);
  assert_int_equal(copies({{at(4096), at(8192), 100}, {at(4196), at(8292), 60}}, Queue::h2d), 10 + 160);
  // Rows with gaps are pieces, without gaps one.
  assert_int_equal(copies({{at(4096), at(8192), 20, 4, 20, 64}}, Queue::h2d), 10 + 3 * 5 + 80);
  assert_int_equal(copies({{at(4096), at(8192), 20, 4, 20, 20}}, Queue::h2d), 10 + 80);
  // Within the device: read and written; a launch at least.
  assert_int_equal(copies({{at(4096), at(8192), 100}}, Queue::dense), 50);
  assert_int_equal(copies({{at(4096), at(8192), 4}}, Queue::recompute), 3);
  assert_int_equal(copies({}, Queue::h2d), 0);
  assert_int_equal(copies({{at(4096), at(8192), 100, 0}}, Queue::dense), 0);
}

void a_product_takes_its_weights_or_its_arithmetic(void**) {
  auto lasts = [](uint32_t rows, uint32_t first_column, uint32_t columns) {
    return lasts_ns([&](ModelledBackend& backend) {
      product(backend, *matrix(backend, 64, 100), rows, first_column, columns);
    });
  };
  assert_int_equal(lasts(1, 0, 64), 64 * 100 * 2 / 4);
  assert_int_equal(lasts(25, 0, 64), 25 * 2 * 64 * 100 / 100);  // as long for its weights
  assert_int_equal(lasts(100, 0, 64), 100 * 2 * 64 * 100 / 100);
  assert_int_equal(lasts(1, 32, 16), 16 * 100 * 2 / 4);
  assert_int_equal(lasts(0, 0, 64), 0);
  const uint64_t tiny = lasts_ns([](ModelledBackend& backend) { product(backend, *matrix(backend, 2, 2), 1, 0, 2); });
  assert_int_equal(tiny, 3);
}

void rows_take_their_bytes_and_at_least_a_launch(void**) {
  const uint64_t embedded = lasts_ns([](ModelledBackend& backend) {
    const std::unique_ptr<Matrix> table = matrix(backend, 10, 20);
    const std::vector<int32_t> tokens(6);
    EmbedArgs args;
    args.table = args.position_table = table.get();
    args.tokens = tokens;
    backend.embed(Queue::dense, args);
  });
  assert_int_equal(embedded, 6 * 20 * (4 + 2 * 2) / 4);
  auto normed = [](uint32_t rows) {
    return lasts_ns([&](ModelledBackend& backend) {
      NormArgs args;
      args.rows = rows;
      args.columns = 8;
      backend.norm(Queue::dense, args);
    });
  };
  assert_int_equal(normed(100), 100 * 8 * (4 + 2) / 4);
  assert_int_equal(normed(1), 12);
  assert_int_equal(normed(0), 0);
  const uint64_t fused = lasts_ns([](ModelledBackend& backend) {
    ActivateArgs activate;
    activate.rows = activate.columns = 1000;
    backend.activate(Queue::dense, activate);
    backend.rope(Queue::dense, {});
    assert_int_equal(backend.counters(Queue::dense).operations, 2);
  });
  assert_int_equal(fused, 0);
}

// Of the K,V read and of the tokens attended to, counted one by one.
void attention_takes_the_tokens_that_it_reads(void**) {
  std::mt19937_64 random(test_seed());
  const KvShape shape{8, 2, 16};
  for (int round = 0; round < 2000; ++round) {
    std::vector<const void*> blocks(40, at(4096));  // one block for all: each is read all the same
    std::vector<AttendSpan> spans(1 + random() % 3);
    uint64_t read = 0, attended = 0;
    for (AttendSpan& span : spans) {
      span.rows = 1 + static_cast<uint32_t>(random() % 200);
      span.first_position = static_cast<uint32_t>(random() % 300);
      span.first_piece = static_cast<uint32_t>(random() % span.pieces());
      const uint64_t pieces = 1 + random() % (span.pieces() - span.first_piece);
      span.kv_blocks = std::span(blocks).first(pieces);
      uint64_t seen = 0;
      for (uint32_t token = span.first_piece * 64; token < (span.first_piece + pieces) * 64; ++token) {
        uint64_t rows = 0;
        for (uint32_t row = 0; row < span.rows; ++row) rows += token <= span.first_position + row;
        seen += rows != 0;
        attended += rows;
      }
      read += seen;
    }
    const double bytes = static_cast<double>(read) * 2 * 2 * 16 * 2, flop = static_cast<double>(attended) * 4 * 8 * 16;
    const double expected = std::max({3.0, bytes / 4, flop / 100});
    const uint64_t lasts = lasts_ns([&](ModelledBackend& backend) {
      AttendArgs args;
      args.shape = shape;
      args.spans = spans;
      backend.attend(Queue::dense, args);
    });
    assert_true(std::abs(static_cast<double>(lasts) - expected) <= 1);
  }
}

void sampling_gives_valid_constants(void**) {
  ModelledBackend backend(small_device());
  std::vector<SampleRow> rows(50);
  for (size_t i = 0; i < rows.size(); ++i) rows[i].position = i * i;
  std::vector<int32_t> tokens(rows.size(), -1), again(rows.size(), -1);
  std::vector<float> logprobs(rows.size());
  SampleArgs args;
  args.vocab = 100;
  args.rows = rows;
  args.tokens = tokens.data();
  args.logprobs = logprobs.data();
  backend.sample(Queue::dense, args);
  assert_int_equal(done_ns(backend, Queue::dense), 50 * 100 * 4 / 4);
  args.tokens = again.data();
  args.logprobs = nullptr;
  backend.sample(Queue::dense, args);
  for (size_t i = 0; i < rows.size(); ++i) {
    assert_true(tokens[i] >= 0 && tokens[i] < 100 && tokens[i] == ModelledBackend::token_at(i * i, 100));
    assert_true(tokens[i] == again[i] && std::abs(logprobs[i] + std::log(100.0f)) < 1e-6f);
  }
  std::sort(tokens.begin(), tokens.end());
  assert_true(std::unique(tokens.begin(), tokens.end()) - tokens.begin() > 20);
}

// a <= b: b + contention·a, and the shorter one ends after (1 + contention)·a.
void overlapped_work_contends(void**) {
  for (const auto& [first, second] : {std::pair(Queue::dense, Queue::recompute), {Queue::recompute, Queue::dense}}) {
    ModelledBackend backend(small_device());
    copy(backend, first, 200);    // 100 ns
    copy(backend, second, 2000);  // 1000 ns
    const Ticket shorter = backend.record(first), longer = backend.record(second);
    assert_int_equal(done_ns(backend, longer), 1000 + 100 / 2);
    assert_int_equal(done_ns(backend, shorter), 150);
    assert_int_equal(backend.counters(first).busy_ns, 150);
    assert_int_equal(backend.counters(second).busy_ns, 1050);
  }
}

void both_directions_of_the_link_slow_each_other(void**) {
  ModelledBackend backend(small_device());
  copy(backend, Queue::h2d, 990);   // 1000 ns
  copy(backend, Queue::d2h, 380);   // 200 ns
  copy(backend, Queue::dense, 200);  // 100 ns, beside them
  const Ticket up = backend.record(Queue::h2d), down = backend.record(Queue::d2h), dense = backend.record(Queue::dense);
  assert_int_equal(done_ns(backend, up), 1000 + 200 / 4);
  assert_int_equal(done_ns(backend, down), 250);
  assert_int_equal(done_ns(backend, dense), 100);
  assert_int_equal(backend.counters(Queue::h2d).copied_bytes, 990);
  assert_int_equal(backend.counters(Queue::d2h).copied_bytes, 380);
  assert_int_equal(backend.counters(Queue::dense).copied_bytes, 200);
}

void tickets_order_work_across_queues(void**) {
  ModelledBackend backend(small_device());
  copy(backend, Queue::h2d, 90);  // until 100
  const Ticket here = backend.record(Queue::h2d);
  backend.wait(Queue::recompute, here);
  copy(backend, Queue::recompute, 60);  // 100 ... 130
  const Ticket recomputed = backend.record(Queue::recompute);
  backend.wait(Queue::dense, recomputed);
  backend.wait(Queue::dense, here);
  copy(backend, Queue::dense, 40);  // 130 ... 150
  const Ticket computed = backend.record(Queue::dense);
  backend.wait(Queue::h2d, computed);
  copy(backend, Queue::h2d, 190);  // 150 ... 350
  const Ticket last = backend.record(Queue::h2d);
  backend.wait(Queue::h2d, last);  // its own: nothing
  assert_false(*backend.poll(here, false));
  assert_int_equal(backend.now_ns(), 0);
  assert_int_equal(done_ns(backend, last), 350);
  assert_int_equal(done_ns(backend, computed), 150);
  assert_int_equal(done_ns(backend, recomputed), 130);
  assert_int_equal(done_ns(backend, here), 100);
  assert_int_equal(backend.now_ns(), 350);
  assert_true(*backend.poll({}, false));  // a ticket of nothing
}

void the_driver_moves_the_clock_from_end_to_end(void**) {
  ModelledBackend backend(small_device());
  assert_false(backend.next_end_ns().has_value());
  copy(backend, Queue::h2d, 90);
  const Ticket first = backend.record(Queue::h2d);
  assert_int_equal(*backend.next_end_ns(), 100);
  backend.advance_to(40);
  copy(backend, Queue::dense, 61);  // 30.5 ns from 40 on
  const Ticket second = backend.record(Queue::dense);
  assert_int_equal(*backend.next_end_ns(), 71);
  backend.advance_to(70);
  assert_false(*backend.poll(second, false));
  backend.advance_to(71);
  assert_true(*backend.poll(second, false));
  assert_int_equal(backend.reached_ns(second), 71);
  backend.advance_to(12);  // has passed
  assert_int_equal(backend.now_ns(), 71);
  backend.advance_to(1000);
  assert_true(*backend.poll(first, false));
  assert_int_equal(backend.reached_ns(first), 100);
  assert_int_equal(backend.now_ns(), 1000);
  assert_false(backend.next_end_ns().has_value());
  assert_int_equal(done_ns(backend, Queue::d2h), 1000);
}

void issuing_may_take_the_host_time(void**) {
  ModelledOptions options = small_device();
  options.host_issue_ns = 7;
  ModelledBackend backend(options);
  for (int i = 0; i < 10; ++i) copy(backend, Queue::dense, 4);  // 3 ns each: the device waits for the host
  assert_int_equal(backend.now_ns(), 70);
  assert_int_equal(done_ns(backend, Queue::dense), 73);
  for (int i = 0; i < 10; ++i) copy(backend, Queue::dense, 40);  // 20 ns each: the host runs ahead
  assert_int_equal(done_ns(backend, Queue::dense), 73 + 7 + 200);
}

// One operation, record or wait, as a random schedule issues it.
struct Issued {
  enum class Kind { copy, record, wait } kind = Kind::copy;
  uint64_t at_ns = 0;
  double lasts_ns = 0;
  Ticket ticket;
};

constexpr double kStepNs = 1.0 / 64;

// By steps of time: in each, every queue that has work does a part of it. When each ticket is reached, by queue.
std::vector<std::vector<double>> step_through(std::vector<std::vector<Issued>> queues, double contention,
                                              double duplex) {
  std::vector<std::vector<double>> reached(kQueues);
  std::vector<size_t> next(kQueues);
  bool left = true;
  for (uint64_t step = 0; left; ++step) {
    const double now = static_cast<double>(step) * kStepNs;
    bool busy[kQueues] = {};
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t q = 0; q < kQueues; ++q) {
        while (next[q] < queues[q].size() && static_cast<double>(queues[q][next[q]].at_ns) <= now) {
          const Issued& one = queues[q][next[q]];
          busy[q] = one.kind == Issued::Kind::copy && one.lasts_ns > 0;
          if (busy[q]) break;
          if (one.kind == Issued::Kind::wait && reached[size_t(one.ticket.queue)].size() < one.ticket.value) break;
          if (one.kind == Issued::Kind::record) reached[q].push_back(now);
          ++next[q];
          moved = true;
        }
      }
    }
    left = false;
    for (size_t q = 0; q < kQueues; ++q) {
      left = left || next[q] < queues[q].size();
      if (!busy[q]) continue;
      const size_t partner = q < 4 ? q ^ 1 : q;  // of the host: none
      const double slow = partner == q || !busy[partner] ? 1 : q < 2 ? 1 + contention : duplex;
      queues[q][next[q]].lasts_ns -= kStepNs / slow;
    }
  }
  return reached;
}

// Issues some of everything, the clock moving between; what was issued, and when the tickets were reached.
std::vector<std::vector<uint64_t>> issue_at_random(uint64_t seed, const ModelledOptions& options,
                                                   std::vector<std::vector<Issued>>& queues) {
  std::mt19937_64 random(seed);
  ModelledBackend backend(options);
  std::vector<Ticket> tickets;
  queues.assign(kQueues, {});
  for (int i = 0; i < 60; ++i) {
    const auto queue = static_cast<Queue>(random() % kQueues);
    auto issued = [&](Issued::Kind kind, double lasts_ns, Ticket ticket) {
      queues[static_cast<size_t>(queue)].push_back({kind, backend.now_ns(), lasts_ns, ticket});
    };
    switch (random() % 8) {
      case 0: case 1: case 2: {
        const size_t bytes = 1 + random() % 200;
        copy(backend, queue, bytes);
        const double rate = queue == Queue::h2d ? 1 : 2;  // within the device: two of four, as read and written
        const double fixed = queue == Queue::h2d || queue == Queue::d2h ? 10 : 0;
        const double ns = fixed + static_cast<double>(bytes) / rate;
        issued(Issued::Kind::copy, fixed == 0 ? std::max(3.0, ns) : ns, {});
        break;
      }
      case 3: case 4:
        tickets.push_back(backend.record(queue));
        issued(Issued::Kind::record, 0, {});
        break;
      case 5: case 6:
        if (tickets.empty()) break;
        issued(Issued::Kind::wait, 0, tickets[random() % tickets.size()]);
        backend.wait(queue, queues[static_cast<size_t>(queue)].back().ticket);
        break;
      case 7:
        if (random() % 2 == 0) {
          backend.advance_to(backend.now_ns() + random() % 100);
        } else if (!tickets.empty()) {
          done_ns(backend, tickets[random() % tickets.size()]);
          backend.advance_to(backend.now_ns());  // to a whole nanosecond, which is what the other simulator knows
        }
        break;
    }
  }
  for (size_t q = 0; q < kQueues; ++q) {
    tickets.push_back(backend.record(static_cast<Queue>(q)));
    queues[q].push_back({Issued::Kind::record, backend.now_ns(), 0, {}});
  }
  std::vector<std::vector<uint64_t>> reached(kQueues);
  for (const Ticket& ticket : tickets) reached[static_cast<size_t>(ticket.queue)].push_back(done_ns(backend, ticket));
  return reached;
}

void random_schedules_take_what_stepping_through_time_takes(void**) {
  const uint64_t seed = test_seed();
  std::mt19937_64 random(seed);
  double worst = 0;
  for (int round = 0; round < 200; ++round) {
    ModelledOptions options = small_device();
    options.hardware.contention = static_cast<double>(random() % 101) / 100;
    options.hardware.duplex = 1 + static_cast<double>(random() % 101) / 100;
    const uint64_t stream = random();
    std::vector<std::vector<Issued>> queues;
    const auto reached = issue_at_random(stream, options, queues);
    const auto stepped = step_through(queues, options.hardware.contention, options.hardware.duplex);
    for (size_t q = 0; q < kQueues; ++q) {
      assert_int_equal(reached[q].size(), stepped[q].size());
      for (size_t i = 0; i < reached[q].size(); ++i) {
        // Each operation before it may have ended a step late, at twice the time; times are rounded up.
        const double apart = std::abs(static_cast<double>(reached[q][i]) - stepped[q][i]);
        worst = std::max(worst, apart);
        if (apart > 1 + 60 * kStepNs * 2) {
          fail_msg("round %d: queue %zu's ticket %zu at %llu ns, by steps at %g", round, q, i + 1,
                   static_cast<unsigned long long>(reached[q][i]), stepped[q][i]);
        }
      }
    }
    std::vector<std::vector<Issued>> again;
    assert_true(issue_at_random(stream, options, again) == reached);
  }
  std::printf("at most %.2f ns apart\n", worst);
}

void memory_that_is_not_there_is_refused_by_how_much(void**) {
  ModelledBackend backend(small_device());
  assert_int_equal(backend.info().memory_bytes, 1'000'000'000);
  auto first = backend.alloc(600'000'000);
  assert_true(static_cast<bool>(first));
  assert_int_equal(reinterpret_cast<uintptr_t>((*first)->data()) % 64, 0);
  auto second = backend.alloc(400'000'001);
  assert_false(static_cast<bool>(second));
  assert_string_equal(second.failure().message.c_str(),
                      "no memory for 400000001 bytes on modelled (small): of its 1000000000 bytes 400000000 are free, "
                      "1 too few; use a smaller batch or model");
  {
    const std::unique_ptr<Matrix> weight = matrix(backend, 10'000, 20'000);  // 400 MB
    assert_int_equal(backend.used_bytes(), 1'000'000'000);
    assert_false(static_cast<bool>(backend.alloc(1)));
  }
  assert_true(static_cast<bool>(backend.alloc(400'000'000)));
  assert_int_equal(backend.used_bytes(), 600'000'000);
  (*first).reset();
  assert_int_equal(backend.used_bytes(), 0);
}

// The signal that ends it, or 0.
int signal_of(const std::function<void()>& run) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    for (int one : {SIGABRT, SIGSEGV}) std::signal(one, SIG_DFL);
    std::fclose(stderr);
    run();
    ::_exit(0);
  }
  int status = 0;
  assert_int_equal(::waitpid(child, &status, 0), child);
  assert_true(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

bool aborts(const std::function<void()>& run) {
  const int signal = signal_of(run);
  assert_true(signal == 0 || signal == SIGABRT);
  return signal != 0;
}

void device_memory_cannot_be_touched(void**) {
  ModelledBackend backend(small_device());
  auto memory = backend.alloc(4096);
  assert_true(static_cast<bool>(memory));
  auto* device = static_cast<volatile char*>((*memory)->data());
  assert_int_equal(signal_of([&] { device[100] = 1; }), SIGSEGV);
}

void strict_ends_what_names_the_wrong_memory(void**) {
  ModelledOptions options = small_device();
  options.strict = true;
  ModelledBackend backend(options);
  auto memory = backend.alloc(4096);
  assert_true(static_cast<bool>(memory));
  auto* device = static_cast<std::byte*>((*memory)->data());
  std::vector<std::byte> pinned(4096), other(4096);
  assert_true(static_cast<bool>(backend.pin(pinned.data(), pinned.size())));
  assert_false(static_cast<bool>(backend.pin(pinned.data() + 100, 10)));

  auto copy_aborts = [&](Queue queue, void* to, const void* from, size_t bytes) {
    return aborts([&] { backend.copy(queue, to, from, bytes); });
  };
  assert_false(copy_aborts(Queue::h2d, device, pinned.data(), 4096));
  assert_false(copy_aborts(Queue::d2h, pinned.data() + 96, device, 4000));
  assert_false(copy_aborts(Queue::dense, device, device + 2048, 2048));
  assert_true(copy_aborts(Queue::h2d, device, other.data(), 4096));
  assert_true(copy_aborts(Queue::d2h, other.data(), device, 4096));
  assert_true(copy_aborts(Queue::d2h, device, pinned.data(), 4096));
  assert_true(copy_aborts(Queue::h2d, device + 1, pinned.data(), 4096));
  assert_true(copy_aborts(Queue::h2d, device, pinned.data() + 1, 4096));
  assert_true(copy_aborts(Queue::dense, pinned.data(), device, 10));
  const CopyRun rows{device, pinned.data(), 16, 5, 1024, 16};  // the fifth begins at the end
  assert_true(aborts([&] { backend.copy(Queue::h2d, std::span(&rows, 1)); }));

  NormArgs norm;
  norm.rows = norm.columns = 1;
  norm.x = reinterpret_cast<const float*>(device);
  norm.y = device;
  assert_false(aborts([&] { backend.norm(Queue::dense, norm); }));
  norm.y = pinned.data();
  assert_true(aborts([&] { backend.norm(Queue::dense, norm); }));

  backend.unpin(pinned.data());
  assert_true(copy_aborts(Queue::h2d, device, pinned.data(), 4096));
  assert_true(aborts([&] { backend.unpin(pinned.data()); }));
}

void only_recorded_tickets_can_be_waited_for(void**) {
  assert_true(aborts([] { ModelledBackend(small_device()).wait(Queue::h2d, {Queue::dense, 1}); }));
  assert_true(aborts([] { (void)ModelledBackend(small_device()).poll({Queue::dense, 1}, true); }));
}

ModelSpec model_of(const char* name) {
  Result<ModelSpec> spec = known_shape(name);
  assert_true(static_cast<bool>(spec));
  if (spec->family == "opt") {
    spec->norm = NormKind::layer;
    spec->positions = PositionKind::learned;
    spec->learned_position_offset = 2;
  }
  return *spec;
}

// A token each of some sequences with as long a context, all of it on the device as K,V. How long that takes.
uint64_t decode_step_ns(ModelledBackend& backend, std::unique_ptr<Model> model, uint32_t sequences, uint32_t context) {
  const ModelSpec spec = model->spec();
  const uint32_t blocks_each = blocks_for(Tokens(context)).value;
  const size_t kv_bytes = block_bytes(spec, DType::f16, BlockForm::kv);
  auto cache = backend.alloc(kv_bytes * spec.layers * blocks_each * sequences);
  assert_true(static_cast<bool>(cache));
  PipelineOptions options;
  options.device = {static_cast<std::byte*>((*cache)->data()), kv_bytes * blocks_each * sequences, kv_bytes};
  options.staging.in_place = true;  // nothing is written back
  options.poison = false;
  auto executor = Executor::make(backend, std::move(model), options, {sequences, sequences});
  assert_true(static_cast<bool>(executor));

  Plan plan;
  for (uint32_t i = 0; i < sequences; ++i) {
    PlanSpan span;
    span.first_row = span.first_run = span.first_draw = i;
    span.rows = span.runs = span.draws = 1;
    span.first_position = context - 1;
    plan.spans.push_back(span);
    BlockRun run;
    run.id = run.device_id = i * blocks_each;
    run.blocks = blocks_each;
    plan.runs.push_back(run);
    plan.tokens.push_back(0);
    plan.positions.push_back(context - 1);
    PlanDraw draw;
    draw.row = i;
    plan.draws.push_back(draw);
  }
  PlanBuilder(options.staging).build(plan);
  const uint64_t begin = backend.now_ns();
  (*executor)->run(plan);
  assert_true(plan.failure.empty());
  return backend.now_ns() - begin;
}

void a_models_step_takes_what_its_expected_profile_says(void**) {
  Result<Hardware> h200 = find_hardware("h200");
  assert_true(static_cast<bool>(h200));
  ModelledOptions options;
  options.hardware = *h200;
  options.hardware.memory_bytes = 1e12;  // room for caches that a real one has not
  options.strict = true;
  for (const char* name : {"opt-6.7b", "llama-3-8b", "opt-30b", "llama-3-70b"}) {
    const ModelSpec spec = model_of(name);
    const Profile profile = expected_profile(*h200, spec, 2);
    for (uint32_t rows : {1u, 32u, 64u}) {
      for (uint32_t context : {256u, 1024u, 2048u}) {
        ModelledBackend backend(options);
        Result<Weights> weights = blank_weights(backend, spec);
        assert_true(static_cast<bool>(weights));
        assert_int_equal(weights->stored_bytes, backend.used_bytes());
        const double stored = static_cast<double>(weights->stored_bytes);
        assert_true(std::abs(stored / static_cast<double>(weight_bytes(spec, 2)) - 1) < 0.01);
        ModelLimits limits;
        limits.recompute_rows = 0;
        auto model = Model::make(backend, spec, *std::move(weights), limits);
        assert_true(static_cast<bool>(model));
        const double expected = spec.layers * (profile.dense.at(rows) + profile.attend.at(uint64_t{rows} * context)) +
                                profile.head.at(rows);
        const double lasts = static_cast<double>(decode_step_ns(backend, *std::move(model), rows, context));
        std::printf("%-11s %2u x %4u: %7.3f ms, expected %7.3f (%+.2f %%)\n", name, rows, context, lasts / 1e6,
                    expected / 1e6, (lasts / expected - 1) * 100);
        assert_true(std::abs(lasts / expected - 1) < 0.02);
      }
    }
  }
}

// Layers of a decode step whose queues never wait for each other but for what a layer's attention needs.
class StreamedLayers {
 public:
  StreamedLayers(ModelledBackend& backend, const ModelSpec& spec, const LayerWork& work, uint32_t context)
      : backend_(backend), spec_(spec), shape_(cache_shape_of(spec, 2)), work_(work), blocks_((context + 63) / 64) {
    qkv_ = matrix(backend, spec.q_width() + 2 * spec.kv_width(), spec.hidden);
    o_ = matrix(backend, spec.hidden, spec.q_width());
    gate_up_ = matrix(backend, spec.ffn * (is_gated(spec.activation) ? 2 : 1), spec.hidden);
    down_ = matrix(backend, spec.hidden, spec.ffn);
    spans_.assign(work.rows, {0, 1, context - 1, 0, blocks_});
  }

  Ticket layer() {
    copy(backend_, Queue::h2d, work_.x_host * shape_.x_bytes);
    backend_.wait(Queue::recompute, backend_.record(Queue::h2d));
    product(Queue::recompute, *qkv_, static_cast<uint32_t>(work_.x_host + work_.x_device), spec_.q_width());
    const Ticket recomputed = backend_.record(Queue::recompute);
    copy(backend_, Queue::h2d, work_.kv_host * shape_.kv_bytes);
    const Ticket here = backend_.record(Queue::h2d);

    norm_and_product(*qkv_);
    backend_.wait(Queue::d2h, backend_.record(Queue::dense));
    copy(backend_, Queue::d2h, work_.new_kv * shape_.kv_bytes);
    for (const Ticket ticket : {recomputed, here}) backend_.wait(Queue::dense, ticket);
    AttendArgs attend;
    attend.shape = spec_.kv_shape();
    attend.spans = spans_;
    backend_.attend(Queue::dense, attend);
    product(Queue::dense, *o_, static_cast<uint32_t>(work_.rows), 0);
    norm_and_product(*gate_up_);
    product(Queue::dense, *down_, static_cast<uint32_t>(work_.rows), 0);
    return backend_.record(Queue::dense);
  }

 private:
  void norm_and_product(const Matrix& weight) {
    NormArgs norm;
    norm.rows = static_cast<uint32_t>(work_.rows);
    norm.columns = spec_.hidden;
    backend_.norm(Queue::dense, norm);
    product(Queue::dense, weight, norm.rows, 0);
  }
  void product(Queue queue, const Matrix& weight, uint32_t rows, uint32_t first_column) {
    GemmArgs args;
    args.weight = &weight;
    args.rows = rows;
    args.first_column = first_column;
    args.columns = args.y_stride = weight.n - first_column;
    backend_.gemm(queue, args);
  }

  ModelledBackend& backend_;
  const ModelSpec& spec_;
  const CacheShape shape_;
  const LayerWork work_;
  const std::vector<const void*> blocks_;
  std::vector<AttendSpan> spans_;
  std::unique_ptr<Matrix> qkv_, o_, gate_up_, down_;
};

// 200 layers, so that what the first one waits for is a part of a hundred at most.
void streamed_layers_take_what_the_planner_predicts(void**) {
  constexpr uint32_t kLayers = 200;
  const struct {
    const char *hardware, *model;
    uint64_t x_host, kv_host, x_device;  // tokens of 16 sequences of 1,024
    Bound bound;
  } rows[] = {
      {"h200", "opt-6.7b", 0, 16384, 0, Bound::link},          {"h200", "opt-6.7b", 16384, 0, 0, Bound::link},
      {"h200", "opt-30b", 8192, 8192, 0, Bound::link},         {"a100-pcie4", "opt-13b", 16384, 0, 0, Bound::recompute},
      {"h200", "opt-6.7b", 0, 0, 16384, Bound::recompute},     {"grace-hopper", "opt-30b", 16384, 0, 0, Bound::recompute},
      {"grace-hopper", "llama-3-8b", 0, 16384, 0, Bound::link}, {"grace-hopper", "opt-13b", 0, 1024, 1024, Bound::dense},
      {"rtx4090-pcie4", "llama-2-7b", 4096, 12288, 0, Bound::link},
  };
  for (const auto& row : rows) {
    Result<Hardware> hardware = find_hardware(row.hardware);
    assert_true(static_cast<bool>(hardware));
    ModelledOptions options;
    options.hardware = *hardware;
    ModelledBackend backend(options);
    const ModelSpec spec = model_of(row.model);
    LayerWork work;
    work.rows = work.new_kv = 16;
    work.attended = work.products = 16384;
    work.x_host = row.x_host;
    work.kv_host = row.kv_host;
    work.x_device = row.x_device;
    CacheShape shape = cache_shape_of(spec, 2);
    shape.layers = kLayers;
    Profile profile = expected_profile(*hardware, spec, 2);
    profile.head = {};
    const StepCost cost = streaming_cost(profile, shape, work);

    StreamedLayers layers(backend, spec, work, 1024);
    Ticket last;
    for (uint32_t i = 0; i < kLayers; ++i) last = layers.layer();
    const double lasts = static_cast<double>(done_ns(backend, last));
    std::printf("%-13s %-11s %-9s %8.3f ms, predicted %8.3f (%+.2f %%)\n", row.hardware, row.model, name_of(cost.bound),
                lasts / 1e6, cost.total_ns / 1e6, (lasts / cost.total_ns - 1) * 100);
    assert_int_equal(cost.bound, row.bound);
    assert_true(std::abs(lasts / cost.total_ns - 1) < 0.02);
  }
}

// A layer of a streamed step, over and over: a tile comes, is recomputed, attended to; products; something goes back.
void a_million_operations_take_little_time_and_no_memory(void**) {
  Result<Hardware> h200 = find_hardware("h200");
  assert_true(static_cast<bool>(h200));
  ModelledOptions options;
  options.hardware = *h200;
  ModelledBackend backend(options);
  const std::unique_ptr<Matrix> weight = matrix(backend, 4096, 4096);
  const std::vector<const void*> blocks(16, at(4096));
  AttendSpan span;
  span.rows = 1;
  span.first_position = 1023;
  span.kv_blocks = blocks;
  AttendArgs attend;
  attend.shape = {32, 32, 128};
  attend.spans = std::span(&span, 1);
  GemmArgs gemm;
  gemm.weight = weight.get();
  gemm.columns = gemm.y_stride = 4096;
  auto layer = [&](uint32_t rows) {
    copy(backend, Queue::h2d, 1 << 20);
    backend.wait(Queue::recompute, backend.record(Queue::h2d));
    gemm.rows = 1024;
    backend.gemm(Queue::recompute, gemm);
    backend.wait(Queue::dense, backend.record(Queue::recompute));
    gemm.rows = rows;
    for (int i = 0; i < 4; ++i) backend.gemm(Queue::dense, gemm);
    backend.attend(Queue::dense, attend);
    const Ticket computed = backend.record(Queue::dense);
    backend.wait(Queue::d2h, computed);
    copy(backend, Queue::d2h, 8192);
    return computed;
  };
  constexpr uint32_t kLayers = 1'000'000 / 8;  // of eight operations, with three tickets and waits
  size_t before = 0;
  auto begin = std::chrono::steady_clock::now();
  Ticket last;
  for (uint32_t i = 0; i < kLayers + 1000; ++i) {
    if (i == 1000) {
      before = allocations;
      begin = std::chrono::steady_clock::now();
    }
    const Ticket ticket = layer(32);
    if (i % 32 == 0) done_ns(backend, last);  // runs a step ahead
    if (i % 32 == 0) last = ticket;
  }
  done_ns(backend, Queue::d2h);
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  std::printf("%.2f million operations/s; %.3f s of the device's time\n", 1.0 / taken.count(),
              static_cast<double>(backend.now_ns()) / 1e9);
  assert_int_equal(allocations, before);
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_copy_takes_its_pieces_and_its_bytes),
      cmocka_unit_test(a_product_takes_its_weights_or_its_arithmetic),
      cmocka_unit_test(rows_take_their_bytes_and_at_least_a_launch),
      cmocka_unit_test(attention_takes_the_tokens_that_it_reads),
      cmocka_unit_test(sampling_gives_valid_constants),
      cmocka_unit_test(overlapped_work_contends),
      cmocka_unit_test(both_directions_of_the_link_slow_each_other),
      cmocka_unit_test(tickets_order_work_across_queues),
      cmocka_unit_test(the_driver_moves_the_clock_from_end_to_end),
      cmocka_unit_test(issuing_may_take_the_host_time),
      cmocka_unit_test(random_schedules_take_what_stepping_through_time_takes),
      cmocka_unit_test(memory_that_is_not_there_is_refused_by_how_much),
      cmocka_unit_test(strict_ends_what_names_the_wrong_memory),
      cmocka_unit_test(device_memory_cannot_be_touched),
      cmocka_unit_test(only_recorded_tickets_can_be_waited_for),
      cmocka_unit_test(a_models_step_takes_what_its_expected_profile_says),
      cmocka_unit_test(streamed_layers_take_what_the_planner_predicts),
      cmocka_unit_test(a_million_operations_take_little_time_and_no_memory),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
