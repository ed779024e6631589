// SPDX-License-Identifier: Apache-2.0
// How fast what the pool hands out can be copied once ten thousand sequences have lived in it: grown side by side from
// prompts to random lengths, forked, cut, preempted and closed, while it is 70 to 95 % full. A fresh pool is one that a
// sequence has to itself, so that every stretch of one form is one run. The arithmetic is that of the link measured on
// an H200 (daemon/backend/modelled/hardware/h200.toml, modelled_backend.h).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <optional>
#include <vector>

#include "daemon/base/units.h"
#include "daemon/pool/block_pool.h"
#include "daemon/sched/form_choice.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

constexpr double kNsPerByte = 1e9 / 55.5e9, kCopyNs = 2540, kPieceNs = 150;
constexpr uint32_t kTileBlocks = 4096 / kBlockTokens;  // of a batched copy: kLargestSlotTokens (runtime/staging.h)

struct Model {
  const char* name;
  double kv_bytes, x_bytes;  // of a block of one layer
  PoolShape shape;
  double least_in_copies;  // of the fresh rate. A copy of 2.6 MiB is at 95 % of the link's rate: 54 blocks of SmolLM2
};
// 128 GiB of OPT-6.7B's 32 layers, as many blocks of OPT-13B, and 16 GiB of SmolLM2-135M's 30. The runtime copies in
// batches (runtime/pipeline.cpp).
constexpr Model kModels[] = {
    {"OPT-6.7B", 1 << 20, 1 << 19, {8192, 2, 1}, 0.95},
    {"OPT-13B", 1.25 * (1 << 20), 1.25 * (1 << 19), {8192, 2, 1}, 0.95},
    {"SmolLM2-135M", 48 << 10, 72 << 10, {23296, 2, 3}, 0.90},
};

struct Block {
  uint32_t id;
  BlockForm form;
};

struct Life {
  std::vector<Block> blocks;
  uint32_t expected = 0;  // blocks at its end, if nothing stops it
  uint32_t end = 0;       // blocks at its end
};

class Lives {
 public:
  Lives(const PoolShape& shape, double x_share, std::mt19937_64& random)
      : pool(shape), shape_(shape), random_(random), forms_(x_share) {}

  // Every growing sequence takes a block; new ones begin, and others make room.
  void step() {
    if (below(200) == 0) target_ = 0.70 + 0.25 * uniform();
    while (growing_.size() < kGrowing && used() < target_) begin();
    std::shuffle(growing_.begin(), growing_.end(), random_);
    for (size_t i = 0; i < growing_.size();) {
      Life& life = growing_[i];
      if (life.blocks.size() < life.end && !grow(life, 1)) return;  // it has made room by leaving
      if (life.blocks.size() < life.end) {
        i++;
        continue;
      }
      end(i);
    }
    while (used() > target_ && !idle_.empty()) drop_idle();
  }

  double used() const {
    return 1 - static_cast<double>(pool.free_units().value) / static_cast<double>(pool.total_units().value);
  }
  template <typename Do>
  void each(const Do& act) const {
    for (const Life& life : growing_) act(life);
    for (const Life& life : idle_) act(life);
  }
  void close_all() {
    for (auto* lives : {&growing_, &idle_}) {
      for (Life& life : *lives) cut(life, 0);
      lives->clear();
    }
  }
  uint64_t begun() const { return begun_; }
  uint64_t acquired() const { return acquired_; }

  BlockPool pool;

 private:
  static constexpr size_t kGrowing = 32;

  double uniform() { return std::uniform_real_distribution<double>()(random_); }
  uint32_t below(uint64_t end) { return static_cast<uint32_t>(random_() % end); }
  // 64 ... 32,768 tokens, as many lengths of each magnitude.
  uint32_t blocks_of_random_length() {
    return blocks_for(Tokens(static_cast<uint32_t>(64 * std::exp2(9 * uniform())))).value;
  }

  void begin() {
    Life life;
    const uint32_t kind = below(100);
    if (kind < 20 && !idle_.empty()) {  // the next turn of one that has paused
      std::swap(idle_[below(idle_.size())], idle_.back());
      life = std::move(idle_.back());
      idle_.pop_back();
    } else if (kind < 30 && !idle_.empty()) {
      const Life& parent = idle_[below(idle_.size())];
      if (!parent.blocks.empty()) {
        life.blocks.assign(parent.blocks.begin(), parent.blocks.begin() + 1 + below(parent.blocks.size()));
      }
      for (const Block& block : life.blocks) pool.retain(block.id);
    }
    begun_++;
    const auto before = std::max(static_cast<uint32_t>(life.blocks.size()), life.end);
    life.expected = before + blocks_of_random_length();
    if (life.expected > 512) life.expected = std::max(before, 512u);
    const uint32_t prompt = before + below(life.expected - before + 1);
    life.end = below(2) == 0 ? life.expected : prompt + below(life.expected - prompt + 1);  // half meet a stop token
    const auto missing = prompt - std::min<uint32_t>(prompt, static_cast<uint32_t>(life.blocks.size()));
    growing_.push_back(std::move(life));
    // What it cannot have now it gets block by block.
    (void)grow(growing_.back(), missing);
  }

  // false: there was no room, and it has lost all it had.
  bool grow(Life& life, uint32_t blocks) {
    std::optional<BlockForm> last;
    if (!life.blocks.empty()) last = life.blocks.back().form;
    uint32_t as_x = forms_.x_of(blocks, last);
    for (; blocks > 0; blocks--) {
      BlockForm form = as_x > 0 ? BlockForm::x : BlockForm::kv;
      if (as_x > 0) as_x--;
      const uint32_t hint = life.blocks.empty() ? UINT32_MAX : life.blocks.back().id;
      const auto to_come = life.expected - std::min<uint32_t>(life.expected, static_cast<uint32_t>(life.blocks.size()));
      auto id = acquire(form, hint, to_come);
      while (!id && !idle_.empty()) {
        drop_idle();
        id = acquire(form, hint, to_come);
      }
      if (!id) {
        cut(life, 0);  // preempted: it begins anew
        return false;
      }
      forms_.added(form);
      life.blocks.push_back({*id, form});
    }
    return true;
  }

  std::optional<uint32_t> acquire(BlockForm form, uint32_t hint, uint32_t to_come) {
    acquired_++;
    return pool.acquire(form, hint, Blocks(to_come));
  }

  void end(size_t index) {
    std::swap(growing_[index], growing_.back());
    Life life = std::move(growing_.back());
    growing_.pop_back();
    if (below(10) == 0) cut(life, below(life.blocks.size() + 1));
    if (below(2) == 0) return cut(life, 0);
    idle_.push_back(std::move(life));
  }

  void drop_idle() {
    std::swap(idle_[below(idle_.size())], idle_.back());
    if (below(4) == 0) {  // preempted: all is computed again in its next turn
      cut(idle_.back(), 0);
      std::swap(idle_[below(idle_.size())], idle_.back());
    }
    cut(idle_.back(), 0);
    idle_.pop_back();
  }

  void cut(Life& life, size_t keep) {
    while (life.blocks.size() > keep) {
      const Block block = life.blocks.back();
      if (pool.references(block.id) == 1) forms_.removed(block.form);
      pool.release(block.id);
      life.blocks.pop_back();
    }
  }

  const PoolShape shape_;
  std::mt19937_64& random_;
  FormChooser forms_;
  double target_ = 0.8;
  std::deque<Life> growing_, idle_;
  uint64_t begun_ = 0, acquired_ = 0;
};

// What bringing every sequence takes, each of its blocks once, from this pool and from a fresh one: a copy for each run,
// or a copy for each tile with its runs as pieces.
struct Times {
  double copies = 0, fresh_copies = 0, batched = 0, fresh_batched = 0;
  uint64_t runs = 0, stretches = 0;
};

void add(const Model& model, const Life& life, Times& times) {
  const auto units = [&](BlockForm form) { return form == BlockForm::kv ? model.shape.kv_units : model.shape.x_units; };
  for (size_t i = 0, stretch = 0; i < life.blocks.size(); i++) {
    const Block& block = life.blocks[i];
    const bool changes = i == 0 || life.blocks[i - 1].form != block.form;
    const bool jumps = changes || life.blocks[i - 1].id + units(block.form) != block.id;
    stretch = changes ? 0 : stretch + 1;
    const bool tile = stretch % kTileBlocks == 0;
    const double bytes_ns = (block.form == BlockForm::kv ? model.kv_bytes : model.x_bytes) * kNsPerByte;
    times.stretches += changes;
    times.runs += jumps;
    times.fresh_copies += bytes_ns + (changes ? kCopyNs : 0);
    times.copies += bytes_ns + (jumps ? kCopyNs : 0);
    times.fresh_batched += bytes_ns + (tile ? kCopyNs : 0);
    times.batched += bytes_ns + (tile ? kCopyNs : jumps ? kPieceNs : 0);
  }
}

void runs_copy_at_95_percent_of_the_fresh_rate_after_10000_lives(void**) {
  const uint64_t seed = test_seed();
  for (const Model& model : kModels) {
    for (double x_share : {0.0, 0.5, 1.0}) {
      std::mt19937_64 random(seed);
      Lives lives(model.shape, x_share, random);
      const auto began = std::chrono::steady_clock::now();
      while (lives.begun() < 10'000) lives.step();
      const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - began;
      lives.pool.verify();
      const double each_ns = taken.count() / static_cast<double>(lives.acquired());
      Times times;
      double used = 0;
      constexpr int kLooks = 500;
      for (int look = 0; look < kLooks; look++) {
        for (int i = 0; i < 20; i++) lives.step();
        used += lives.used() / kLooks;
        lives.each([&](const Life& life) { add(model, life, times); });
      }
      const double copies = times.fresh_copies / times.copies, batched = times.fresh_batched / times.batched;
      std::printf("%-12s %3.0f %% X, %2.0f %% full: %5.1f runs a stretch; of the fresh rate %.3f in copies, %.3f in batches"
                  " (%.0f ns a block)\n",
                  model.name, 100 * x_share, 100 * used,
                  static_cast<double>(times.runs) / static_cast<double>(times.stretches), copies, batched, each_ns);
      assert_true(batched >= 0.95 && copies >= model.least_in_copies);
      lives.close_all();
      lives.pool.verify();
      assert_int_equal(lives.pool.free_units().value, lives.pool.total_units().value);
    }
  }
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(runs_copy_at_95_percent_of_the_fresh_rate_after_10000_lives),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
