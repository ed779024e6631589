// SPDX-License-Identifier: Apache-2.0
// What a step of many sequences costs the conductor: from sequences that have each gained a token, one of 64 a block as
// well, to an executable Plan. That is: the block tables of those that grew, every sequence's span and runs, and the
// program. All layers share one program, so that their number changes nothing: only the executor counts them.
//
// The model is one of 80 layers with 8 K,V heads of 128, in two bytes: 256 KiB of K,V a block and layer. A slot of the
// staging ring takes 256 of them, 64 MiB, where one copy runs at the link's full speed. Prompts are drawn log-uniformly
// from [64, 32768] tokens. A pool hands their blocks out in one go and those of the answers as they grow, all sequences
// in turn; an answer of kAnswerBlocks blocks ends, and another one to the same prompt takes its place.
//
// usage: bench_plan STEPS; prints one JSON object
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "bench/client.h"
#include "daemon/base/units.h"
#include "daemon/pool/block_pool.h"
#include "daemon/sched/block_table.h"
#include "daemon/sched/host_division.h"
#include "daemon/sched/plan_build.h"

#include "tests/counted_allocations.h"

namespace {

using namespace iokv;
using bench::now_ns;

constexpr uint32_t kAnswerBlocks = 8;  // 512 tokens
constexpr uint32_t kPrefixBlocks = 32;
constexpr uint32_t kPoolBlocksEach = 160;  // a prompt takes 82 on average, a prefix and an answer 40 at most
constexpr uint32_t kAhead = 16;  // sequences, of 20 ns each: as long as memory takes

// How the cached tokens are kept.
enum class Cache : uint8_t {
  fresh,     // as K,V; nobody has decoded yet, so that every context is one run
  decoded,   // as K,V; 0 to kAnswerBlocks blocks of an answer are there
  as_both,   // the same, and the first half of every prompt as X
  shared,    // as decoded, and every eight sequences share kPrefixBlocks blocks in front
  in_place,  // as decoded, where the device attends to the pool as it lies
  divided    // as decoded, and the host attends to its part
};

struct Live {
  BlockTable blocks;
  uint32_t prompt_blocks = 0;
  uint32_t length = 0;
};

class Batch {
 public:
  Batch(uint32_t sequences, Cache cache)
      : pool_({sequences * kPoolBlocksEach, 1, 1}), builder_(shape_of(cache)), division_(shape_of(cache)), divides_(cache == Cache::divided) {
    std::mt19937 random(sequences);
    std::uniform_real_distribution<double> exponent(std::log(64.0), std::log(32768.0));
    live_.resize(sequences);
    for (uint32_t i = 0; i < sequences; ++i) {
      Live& live = live_[i];
      live.blocks = BlockTable({1, 1}, cache == Cache::in_place);
      const auto tokens = static_cast<uint32_t>(std::exp(exponent(random)));
      live.prompt_blocks = blocks_for(Tokens(tokens)).value;
      if (cache == Cache::shared) add_prefix(live, i);
      for (uint32_t b = 0; b < live.prompt_blocks; ++b) {
        push(live, cache == Cache::as_both && b < live.prompt_blocks / 2 ? BlockForm::x : BlockForm::kv);
      }
      live.prompt_blocks = live.blocks.size();
      // Spread over the blocks, so that in each step one of 64 gains one.
      live.length = live.prompt_blocks * kBlockTokens - random() % kBlockTokens;
    }
    if (cache == Cache::fresh) return;
    std::vector<uint32_t> answers(sequences);
    for (uint32_t& blocks : answers) blocks = random() % (kAnswerBlocks + 1);
    for (uint32_t b = 0; b < kAnswerBlocks; ++b) {
      for (uint32_t i = 0; i < sequences; ++i) {
        if (b >= answers[i]) continue;
        push(live_[i], BlockForm::kv);
        live_[i].length += kBlockTokens;
      }
    }
  }

  // Every sequence gains a token. Returns how long the Plan has taken.
  uint64_t step(Plan& plan) {
    gained_.clear();
    for (uint32_t i = 0; i < live_.size(); ++i) {
      Live& live = live_[i];
      if (live.length % kBlockTokens != 0) continue;
      if (live.blocks.size() == live.prompt_blocks + kAnswerBlocks) end_answer(live);
      gained_.push_back({i, pool_.acquire(BlockForm::kv, live.blocks.back().id).value()});
    }
    const uint64_t start_ns = now_ns();
    for (const Gained& gained : gained_) live_[gained.sequence].blocks.push_back({gained.id, BlockForm::kv});
    // A table that is longer than ever takes memory as its sequence does; a Plan takes none.
    const uint64_t allocated = allocations;
    plan.clear();
    for (uint32_t i = 0; i < live_.size(); ++i) {
      if (i + kAhead < live_.size()) live_[i + kAhead].blocks.prefetch();
      add_span(plan, i);
    }
    if (divides_) division_.divide(plan, model());
    const uint64_t collected_ns = now_ns();
    builder_.build(plan);
    const uint64_t took_ns = now_ns() - start_ns;
    build_ns = took_ns - (collected_ns - start_ns);
    step_allocations = allocations - allocated;
    for (Live& live : live_) ++live.length;
    return took_ns;
  }

  uint64_t runs() const {
    uint64_t runs = 0;
    for (const Live& live : live_) runs += live.blocks.runs().size();
    return runs;
  }

  // Of the latest step.
  uint64_t step_allocations = 0;
  uint64_t build_ns = 0;

 private:
  struct Gained {
    uint32_t sequence = 0, id = 0;
  };

  static StagingShape shape_of(Cache cache) {
    StagingShape shape;
    shape.slot_blocks = 256;
    shape.kv_slots = shape.x_slots = 3;
    shape.tile_tokens = shape.slot_blocks * kBlockTokens;
    shape.in_place = cache == Cache::in_place;
    return shape;
  }

  // A link of 55 GB/s and a host that attends to 84.
  static const StepModel& model() {
    static const StepModel known = [] {
      StepModel made;
      made.shape = {80, 16384, 4096, 16};
      made.profile.h2d = {0, 2500, 1 / 55.5};
      made.profile.dense = {400'000, 0, 2000};
      made.profile.attend = {3000, 0, 4096 / 3400.0};
      made.profile.host_attend = {0, 15'000, 4096 / 84.0};
      made.profile.exchange = {0, 20'000, 300};
      return made;
    }();
    return known;
  }

  void push(Live& live, BlockForm form) {
    const uint32_t hint = live.blocks.empty() ? UINT32_MAX : live.blocks.back().id;
    live.blocks.push_back({pool_.acquire(form, hint).value(), form});
  }

  void add_prefix(Live& live, uint32_t sequence) {
    if (sequence % 8 == 0) {
      prefix_.clear();
      for (uint32_t b = 0; b < kPrefixBlocks; ++b) {
        prefix_.push_back(pool_.acquire(BlockForm::kv, prefix_.empty() ? UINT32_MAX : prefix_.back()).value());
      }
    }
    for (uint32_t id : prefix_) live.blocks.push_back({id, BlockForm::kv});
    live.blocks.share(kPrefixBlocks);
  }

  void end_answer(Live& live) {
    while (live.blocks.size() > live.prompt_blocks) {
      pool_.release(live.blocks.back().id);
      live.blocks.pop_back();
    }
    live.length = live.blocks.size() * kBlockTokens;
  }

  // What Conductor::add_span does for a token that the step before is drawing.
  void add_span(Plan& plan, uint32_t sequence) {
    const Live& live = live_[sequence];
    PlanSpan& span = plan.spans.emplace_back();
    span.slot = sequence;
    span.first_row = static_cast<uint32_t>(plan.tokens.size());
    span.rows = 1;
    span.first_position = live.length;
    span.token_from_draw = span.decode = true;
    plan.tokens.push_back(0);
    plan.positions.push_back(live.length);
    span.first_run = static_cast<uint32_t>(plan.runs.size());
    const std::span<const BlockRun> runs = live.blocks.runs();
    plan.runs.insert(plan.runs.end(), runs.begin(), runs.end());
    span.runs = static_cast<uint32_t>(runs.size());
    span.load = live.blocks.load();
  }

  BlockPool pool_;
  PlanBuilder builder_;
  HostDivision division_;
  const bool divides_;
  std::vector<Live> live_;
  std::vector<Gained> gained_;
  std::vector<uint32_t> prefix_;
};

struct Figure {
  double ms = 0, build_ms = 0;
  double runs_a_sequence = 0;
  size_t rounds = 0, ops = 0;
  uint64_t allocations = 0;
};

Figure measure(uint32_t sequences, Cache cache, int steps) {
  Batch batch(sequences, cache);
  Plan plans[2];  // one is carried out while the other one is made
  for (Plan& plan : plans) {
    // As many as there can be: a pool that is used for long scatters what it hands out more and more.
    plan.runs.reserve(size_t{sequences} * (kAnswerBlocks + 3));
    plan.parts.reserve(plan.runs.capacity());
  }
  // Every sequence has been through an answer: nothing can become larger.
  const int warm = cache == Cache::fresh ? 2 : static_cast<int>(2 * kAnswerBlocks * kBlockTokens);
  for (int i = 0; i < warm; ++i) (void)batch.step(plans[i % 2]);
  Figure figure;
  std::vector<uint64_t> times_ns, builds_ns;
  for (int i = 0; i < steps; ++i) {
    times_ns.push_back(batch.step(plans[i % 2]));
    builds_ns.push_back(batch.build_ns);
    figure.allocations += batch.step_allocations;
  }
  figure.ms = static_cast<double>(bench::percentile(times_ns, 50)) / 1e6;
  figure.build_ms = static_cast<double>(bench::percentile(builds_ns, 50)) / 1e6;
  figure.runs_a_sequence = static_cast<double>(batch.runs()) / sequences;
  figure.rounds = plans[0].rounds.size();
  figure.ops = plans[0].ops.size();
  return figure;
}

// The slope of log(ms) over log(sequences): 1 is linear.
double exponent(const std::vector<uint32_t>& sequences, const std::vector<double>& ms) {
  double x = 0, y = 0, xx = 0, xy = 0;
  for (size_t i = 0; i < ms.size(); ++i) {
    const double a = std::log(sequences[i]), b = std::log(ms[i]);
    x += a, y += b, xx += a * a, xy += a * b;
  }
  const auto n = static_cast<double>(ms.size());
  return (n * xy - x * y) / (n * xx - x * x);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: bench_plan STEPS\n");
    return 2;
  }
  const int steps = std::atoi(argv[1]);
  uint64_t allocated = 0;
  std::printf("{");
  auto print = [&](const char* name, const Figure& figure) {
    std::printf("\"plan_ms_%s\": %.4f, \"build_ms_%s\": %.4f, \"runs_%s\": %.2f, \"rounds_%s\": %zu, \"ops_%s\": %zu, ",
                name, figure.ms, name, figure.build_ms, name, figure.runs_a_sequence, name, figure.rounds, name, figure.ops);
    allocated += figure.allocations;
  };
  const std::vector<uint32_t> sizes = {1000, 2000, 5000, 10'000, 20'000};
  std::vector<double> ms;
  for (uint32_t sequences : sizes) {
    const Figure figure = measure(sequences, Cache::decoded, steps);
    print((std::to_string(sequences / 1000) + "k_x_80").c_str(), figure);
    ms.push_back(figure.ms);
  }
  print("fresh", measure(10'000, Cache::fresh, std::min(steps, 60)));
  print("as_both", measure(10'000, Cache::as_both, steps));
  print("shared", measure(10'000, Cache::shared, steps));
  print("in_place", measure(10'000, Cache::in_place, steps));
  print("divided", measure(10'000, Cache::divided, steps));
  std::printf("\"growth_exponent\": %.3f, \"allocations\": %lu}\n", exponent(sizes, ms),
              static_cast<unsigned long>(allocated));
  return 0;
}
