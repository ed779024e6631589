// SPDX-License-Identifier: Apache-2.0
// Random sequences for tests of Plans: they grow, fork, are cut and end as the conductor has it, with blocks of both
// forms, copies on the device and blocks that are stored twice. Nothing here knows how Plans are built.
#pragma once

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "daemon/base/units.h"
#include "daemon/sched/block_table.h"
#include "daemon/sched/plan_build.h"

namespace iokv::test {

struct WorldSequence {
  BlockTable blocks;
  uint32_t cached = 0;
};

class World {
 public:
  World(uint64_t seed, const StagingShape& shape) : random(seed), shape_(shape) {}

  uint32_t below(uint32_t end) { return static_cast<uint32_t>(random() % end); }
  bool chance(uint32_t percent) { return below(100) < percent; }

  WorldSequence& open() {
    sequences.push_back({BlockTable({shape_.kv_units, shape_.x_units}, shape_.in_place), 0});
    return sequences.back();
  }

  // Adds a span of the sequence to a Plan, whose rows are cached from then on.
  void add(Plan& plan, WorldSequence& sequence, uint32_t rows, bool x_form, bool neighbours = true) {
    const uint32_t length = sequence.cached + rows;
    while (sequence.blocks.size() * kBlockTokens < length) {
      const BlockForm form = x_form ? BlockForm::x : BlockForm::kv;
      const uint32_t id = take(form, neighbours);
      references_[id] = 1;
      sequence.blocks.push_back({id, form});
      if (!shape_.in_place && residents_percent > 0 && chance(residents_percent)) {
        copies_[id] = {device_id(), chance(50) ? form : BlockForm::kv};
      }
    }
    PlanSpan span;
    span.slot = static_cast<uint32_t>(plan.spans.size());
    span.first_row = plan.spans.empty() ? 0 : plan.spans.back().first_row + plan.spans.back().rows;
    span.rows = rows;
    span.first_position = sequence.cached;
    span.first_run = static_cast<uint32_t>(plan.runs.size());
    add_runs(plan, sequence, blocks_for(Tokens(length)).value);
    span.runs = static_cast<uint32_t>(plan.runs.size()) - span.first_run;
    if (loads && chance(50)) span.load = sequence.blocks.load();  // it decides about order, and may be wrong
    plan.spans.push_back(span);
    sequence.cached = length;
  }

  // A child with the full blocks of the first `tokens` tokens. The parent may have moved.
  WorldSequence& fork(size_t parent_index, uint32_t tokens) {
    open();
    WorldSequence &parent = sequences[parent_index], &child = sequences.back();
    const uint32_t full = std::min(tokens, parent.cached) / kBlockTokens;
    for (uint32_t i = 0; i < full; ++i) {
      ++references_[parent.blocks[i].id];
      child.blocks.push_back(parent.blocks[i]);
    }
    parent.blocks.share(full);
    child.blocks.share(full);
    child.cached = full * kBlockTokens;
    return child;
  }

  // Keeps what the conductor would keep.
  void truncate(WorldSequence& sequence, uint32_t tokens) {
    uint32_t keep = blocks_for(Tokens(tokens)).value;
    if (tokens % kBlockTokens != 0 && references_[sequence.blocks[keep - 1].id] > 1) tokens = --keep * kBlockTokens;
    while (sequence.blocks.size() > keep) {
      const SequenceBlock block = sequence.blocks.back();
      sequence.blocks.pop_back();
      if (--references_[block.id] > 0) continue;
      copies_.erase(block.id), twins_.erase(block.id);
      free_[static_cast<size_t>(block.form)].push_back(block.id);
    }
    if (keep > 0 && tokens % kBlockTokens != 0) {
      twins_.erase(sequence.blocks.back().id);
    }
    sequence.cached = tokens;
  }

  // Copies of some full blocks come and go, and X blocks are stored as K,V as well.
  void shuffle_copies() {
    if (shape_.in_place) return;
    for (const WorldSequence& sequence : sequences) {
      uint32_t block = 0;
      sequence.blocks.each([&](SequenceBlock at) {
        const uint32_t begin = block++ * kBlockTokens;
        if (begin + kBlockTokens > sequence.cached) return;
        if (chance(residents_percent)) {
          copies_[at.id] = {device_id(), chance(50) ? at.form : BlockForm::kv};
        } else if (chance(20)) {
          copies_.erase(at.id);
        }
        if (at.form == BlockForm::x && chance(twins_percent)) split(at.id, below(kBlockTokens + 1));
      });
    }
  }

  // Stores a full block of X as K,V, too.
  void split(uint32_t id, uint32_t x_tokens) { twins_[id] = {take(BlockForm::kv, true), x_tokens}; }

  std::vector<WorldSequence> sequences;
  std::mt19937_64 random;
  uint32_t residents_percent = 0, twins_percent = 0;
  bool loads = false;  // spans say what they need of ring and link

 private:
  struct Copy {
    uint32_t id = 0;
    BlockForm form = BlockForm::kv;
  };
  struct Twin {
    uint32_t kv_id = 0, x_tokens = 0;
  };

  uint32_t units(BlockForm form) const { return form == BlockForm::kv ? shape_.kv_units : shape_.x_units; }

  // A block that was given back, or one behind all others.
  uint32_t take(BlockForm form, bool neighbours) {
    auto& free = free_[static_cast<size_t>(form)];
    if (!free.empty() && chance(50)) {
      const uint32_t id = free.back();
      free.pop_back();
      return id;
    }
    if (!neighbours) next_id_ += units(form) * (1 + below(2));
    const uint32_t id = next_id_;
    next_id_ += units(form);
    return id;
  }
  uint32_t device_id() {
    if (chance(30)) next_device_id_ += 7;
    const uint32_t id = next_device_id_;
    next_device_id_ += std::max(shape_.kv_units, shape_.x_units);
    return id;
  }

  void add_runs(Plan& plan, const WorldSequence& sequence, uint32_t blocks) {
    for (BlockRun run : sequence.blocks.runs()) {
      run.blocks = std::min(run.blocks, blocks);
      blocks -= run.blocks;
      if (run.blocks > 0) shape_.in_place ? plan.runs.push_back(run) : add_copied(plan, run);
    }
  }

  // The run, cut where its blocks are kept differently.
  void add_copied(Plan& plan, const BlockRun& whole) {
    bool first = true;
    for (uint32_t i = 0; i < whole.blocks; ++i) {
      BlockRun run = whole;
      run.id += i * units(run.form);
      run.blocks = 1;
      if (auto copy = copies_.find(run.id); copy != copies_.end()) {
        run.device_id = copy->second.id;
        run.device_form = copy->second.form;
      } else if (auto twin = twins_.find(run.id); twin != twins_.end()) {
        run.kv_id = twin->second.kv_id;
        run.x_tokens = twin->second.x_tokens;
      }
      BlockRun* last = first ? nullptr : &plan.runs.back();
      const bool joins = last != nullptr && last->kv_id == kNoBlock && run.kv_id == kNoBlock &&
                         last->resident() == run.resident() &&
                         (!run.resident() || (last->device_form == run.device_form &&
                                              last->device_id + last->blocks * units(run.device_form) == run.device_id));
      if (joins) {
        ++last->blocks;
      } else {
        plan.runs.push_back(run);
      }
      first = false;
    }
  }

  const StagingShape shape_;
  std::array<std::vector<uint32_t>, 2> free_;
  std::map<uint32_t, uint32_t> references_;
  std::map<uint32_t, Copy> copies_;  // by id in the host pool
  std::map<uint32_t, Twin> twins_;
  uint32_t next_id_ = 0, next_device_id_ = 0;
};

// Of kCheckedLayers layers one, some or all stream.
inline constexpr uint32_t kCheckedLayers = 3;
inline WeightRing random_weights(std::mt19937_64& random) {
  WeightRing weights;
  weights.layers = {kCheckedLayers, static_cast<uint32_t>(1 + random() % kCheckedLayers)};
  weights.slots = 1 + random() % 3;
  weights.kv_bytes = 1000 + random() % 1000;
  weights.rest_bytes = 5000 + random() % 1000;
  return weights;
}

inline StagingShape random_shape(std::mt19937_64& random) {
  StagingShape shape;
  shape.slot_blocks = 1 + random() % 8;
  shape.kv_slots = 1 + random() % 4;
  shape.x_slots = 1 + random() % 6;
  shape.tile_tokens = 16u << random() % 5;
  if (random() % 4 == 0) shape.tile_tokens = 16 + random() % 241;
  shape.kv_units = 1 + random() % 2;
  shape.x_units = shape.kv_units == 2 ? 1 + random() % 2 : 1;
  shape.in_place = random() % 4 == 0;
  if (random() % 3 == 0) {
    shape.batch_rows = 64 + random() % 200;
    shape.kept_blocks = random() % 6;
  }
  if (!shape.in_place && random() % 3 == 0) shape.weights = random_weights(random);
  return shape;
}

// Where the K,V that end a span's cached tokens begin, of what lies in the host pool alone; kAllOnDevice: nowhere.
inline uint32_t first_of_end(const Plan& plan, const PlanSpan& span) {
  uint32_t from = kAllOnDevice, begin = 0;
  for (uint32_t r = span.first_run; r < span.first_run + span.runs && begin < span.first_position; ++r) {
    const BlockRun& run = plan.runs[r];
    const bool attendable = run.form == BlockForm::kv && !run.resident() && run.kv_id == kNoBlock;
    if (!attendable) from = kAllOnDevice;
    if (attendable && from == kAllOnDevice) from = begin;
    begin += run.blocks * kBlockTokens;
  }
  return from;
}

// Some of the rows that can be divided are, from any block on.
inline void divide_some(Plan& plan, World& world) {
  for (PlanSpan& span : plan.spans) {
    const uint32_t from = first_of_end(plan, span);
    if (span.rows != 1 || from == kAllOnDevice || world.chance(15)) continue;
    const uint32_t blocks = blocks_for(Tokens(span.first_position - from)).value;
    span.host_from = from + world.below(world.chance(50) ? 1 : blocks) * kBlockTokens;
  }
}

// Plans that are issued one after the other, over sequences that live on.
inline std::vector<Plan> random_plans(uint64_t seed, const StagingShape& shape, size_t count) {
  World world(seed, shape);
  if (world.chance(50)) world.residents_percent = 20;
  if (world.chance(50)) world.twins_percent = 20;
  world.loads = true;
  const bool neighbours = world.chance(70), divides = !shape.in_place && world.chance(80);
  const uint32_t forms = world.below(4);  // K,V; X; X in front of K,V; any
  for (uint32_t i = 0; i < 1 + world.below(4); ++i) world.open();
  PlanBuilder builder(shape);
  std::vector<Plan> plans(count);
  for (Plan& plan : plans) {
    plan.id = static_cast<uint64_t>(&plan - plans.data()) + 1;
    if (world.chance(40)) {
      const size_t parent = world.below(static_cast<uint32_t>(world.sequences.size()));
      const uint32_t tokens = world.sequences[parent].cached + 1;
      world.fork(parent, world.below(tokens + 1));
    }
    for (WorldSequence& sequence : world.sequences) {
      if (sequence.cached > 0 && world.chance(10)) world.truncate(sequence, world.below(sequence.cached));
    }
    world.shuffle_copies();
    for (WorldSequence& sequence : world.sequences) {
      if (!plan.spans.empty() && world.chance(20)) continue;
      const uint32_t rows = sequence.cached == 0 || world.chance(15) ? 1 + world.below(250) : 1 + world.below(world.chance(80) ? 1 : 5);
      const bool x_form = forms == 1 || (forms == 2 && sequence.cached < 130) || (forms == 3 && world.chance(50));
      world.add(plan, sequence, rows, x_form, neighbours);
    }
    if (divides) divide_some(plan, world);
    builder.build(plan);
  }
  return plans;
}

inline std::vector<const Plan*> pointers_to(const std::vector<Plan>& plans) {
  std::vector<const Plan*> pointers;
  for (const Plan& plan : plans) pointers.push_back(&plan);
  return pointers;
}

}  // namespace iokv::test
