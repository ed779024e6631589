// SPDX-License-Identifier: Apache-2.0
// Plans of random batches are what check_plans demands, and what arithmetic on their runs says.
#include <cstdio>
#include <set>
#include <string>
#include <utility>

#include "daemon/sched/plan_check.h"
#include "tests/sched/plan_world.h"

#include "tests/cmocka_cpp.h"

namespace iokv::test {
namespace {

uint32_t ceil_of(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

size_t count_of(const Plan& plan, OpKind kind) {
  return static_cast<size_t>(std::count_if(plan.ops.begin(), plan.ops.end(), [=](const PlanOp& op) { return op.kind == kind; }));
}

// What the runs say that has to be done: in each micro-batch each block once, whoever refers to it.
struct Demand {
  uint64_t x = 0, kv = 0, resident_x = 0, new_x = 0, new_kv = 0;
  uint64_t rounds = 0;  // with areas
  uint64_t on_host = 0, divided = 0;  // tokens that the host attends to, and rows of theirs
};

// Blocks [first, end) of each span whose K,V are kept from one micro-batch to the next: of the spans that are cut, one
// after the other, whole blocks of new rows up to the last cut, as long as there are areas for them.
std::vector<std::pair<uint32_t, uint32_t>> kept_blocks(const Plan& plan, const StagingShape& shape) {
  std::vector<std::pair<uint32_t, uint32_t>> kept(plan.spans.size());
  uint32_t left = shape.kept_blocks;
  for (size_t s = 0; s < plan.spans.size(); ++s) {
    const PlanSpan& span = plan.spans[s];
    uint32_t last_cut = 0;  // position
    for (const PlanBatch& batch : plan.batches) {
      const SpanPart part = part_of(span, batch);
      if (part.rows > 0 && part.first_row > span.first_row) last_cut = part.first_position;
    }
    if (last_cut == 0) continue;
    assert_int_equal(last_cut % kBlockTokens, 0);
    const uint32_t first = ceil_of(span.first_position, kBlockTokens);
    const uint32_t count = std::min(left, last_cut / kBlockTokens - first);
    kept[s] = {first, first + count};
    left -= count;
  }
  return kept;
}

Demand demand_of(const Plan& plan, const StagingShape& shape) {
  Demand demand;
  const auto kept = kept_blocks(plan, shape);
  for (const PlanBatch& batch : plan.batches) {
    std::set<std::pair<uint32_t, bool>> brought;
    uint32_t areas = 0;
    for (size_t s = 0; s < plan.spans.size(); ++s) {
      const PlanSpan& span = plan.spans[s];
      const SpanPart part = part_of(span, batch);
      demand.divided += part.rows > 0 && span.host_from != kAllOnDevice;
      uint32_t position = 0;
      const uint32_t part_end = part.first_position + part.rows;
      for (uint32_t r = span.first_run; r < span.first_run + span.runs && part.rows > 0; ++r) {
        const BlockRun& run = plan.runs[r];
        const BlockForm form = run.used_form();
        for (uint32_t b = 0; b < run.blocks && position < part_end; ++b, position += kBlockTokens) {
          const uint32_t end = std::min(part_end, position + kBlockTokens);
          const uint32_t cached = part.first_position - std::min(part.first_position, position);
          uint32_t tokens = std::min(cached, kBlockTokens);
          const uint32_t fresh = end - position - tokens;
          const bool hosts = position >= span.host_from;
          if (hosts) demand.on_host += std::exchange(tokens, 0);
          if (!shape.in_place) (run.form == BlockForm::x ? demand.new_x : demand.new_kv) += fresh;
          if (run.resident() && form == BlockForm::kv) continue;
          if (hosts && fresh == 0) continue;
          const uint32_t block = position / kBlockTokens;
          if (block >= kept[s].first && block < kept[s].second) continue;
          const uint32_t units = form == BlockForm::x ? shape.x_units : shape.kv_units;
          const uint32_t id = (run.resident() ? run.device_id : run.id) + b * units;
          if (!brought.insert({id, run.resident()}).second) continue;
          ++areas;
          if (run.kv_id != kNoBlock) {
            demand.x += std::min(tokens, run.x_tokens);
            demand.kv += tokens - std::min(tokens, run.x_tokens);
          } else {
            (run.resident() ? demand.resident_x : form == BlockForm::x ? demand.x : demand.kv) += tokens;
          }
        }
      }
    }
    demand.rounds += ceil_of(areas, shape.slot_blocks);
  }
  return demand;
}

// Every token once a micro-batch, in as few rounds and tiles as there can be; and as few micro-batches.
void expect_demand(const Plan& plan, const StagingShape& shape) {
  const Demand demand = demand_of(plan, shape);
  assert_int_equal(plan.work.x_host, demand.x);
  assert_int_equal(plan.work.kv_host, demand.kv);
  assert_int_equal(plan.work.x_device, demand.resident_x);
  assert_int_equal(plan.work.new_x, demand.new_x);
  assert_int_equal(plan.work.new_kv, demand.new_kv);
  assert_int_equal(plan.work.kv_attended, demand.on_host);
  assert_int_equal(plan.work.divided, demand.divided);
  // A span is cut at a block's end, which wastes less than a block of rows.
  for (size_t i = 0; i + 1 < plan.batches.size(); ++i) {
    assert_true(plan.batches[i].rows + kBlockTokens > shape.batch_rows);
  }
  uint32_t taken = 0, extra = 0;
  for (const PlanRound& round : plan.rounds) (round.areas > 0 ? taken : extra) += 1;
  assert_int_equal(taken, demand.rounds);
  assert_in_range(extra, 0, plan.batches.size());  // for resident and kept blocks alone
  for (uint32_t r = 0; r < plan.rounds.size(); ++r) {
    uint32_t x_tiles = 0, x = 0, kv_tiles = 0, kv = 0, products = 0, resident = 0, joined = 0;
    for (const PlanOp& op : plan.ops) {
      if (op.round != r) continue;
      if (op.kind == OpKind::fetch_x) ++x_tiles, x += op.tokens;
      if (op.kind == OpKind::fetch_kv) ++kv_tiles, kv += op.tokens;
      if (op.kind != OpKind::recompute) continue;
      ++products;
      if (op.after[0].what != PlanWait::For::operation) resident += op.tokens;
      for (uint32_t p = op.first; p < op.first + op.count; ++p) joined += plan.parts[p].resident ? plan.parts[p].tokens : 0;
    }
    resident += joined;
    // The first tile of resident X goes with the last one of what is staged, where one product holds both.
    const uint32_t last_x = x_tiles == 0 ? 0 : x - (x_tiles - 1) * shape.tile_tokens;
    const uint32_t first_resident = std::min(resident, shape.tile_tokens);
    const bool joins = x_tiles > 0 && resident > 0 && last_x + first_resident <= shape.tile_tokens;
    assert_int_equal(joined, joins ? first_resident : 0);
    assert_int_equal(x_tiles, ceil_of(x, shape.tile_tokens));
    assert_int_equal(kv_tiles, ceil_of(kv, shape.tile_tokens));
    assert_int_equal(products, x_tiles + ceil_of(resident, shape.tile_tokens) - (joins ? 1 : 0));
    assert_int_equal(plan.rounds[r].x_rows, x + joined);
  }
}

void random_plans_are_sound_and_do_no_more_than_needed(void**) {
  std::mt19937_64 random(test_seed());
  uint64_t cut = 0, kept = 0, divided = 0, plans_checked = 0, shared = 0, split = 0, resident_x = 0, spans = 0;
  for (int world = 0; world < 500; ++world) {
    const StagingShape shape = random_shape(random);
    const std::vector<Plan> plans = random_plans(random(), shape, 5);
    const std::string violation = check_plans(pointers_to(plans), shape, 3);
    if (!violation.empty()) std::printf("world %d: %s\n", world, violation.c_str());
    assert_true(violation.empty());
    for (const Plan& plan : plans) {
      expect_demand(plan, shape);
      cut += plan.batches.size() > 1;
      divided += plan.work.divided;
      for (const PlanStore& store : plan.stores) kept += store.kept;
      ++plans_checked, spans += plan.spans.size(), resident_x += plan.work.x_device;
      for (const BlockRun& run : plan.runs) shared += run.shared, split += run.kv_id != kNoBlock;
    }
  }
  std::printf("%lu plans of %lu spans: %lu shared runs, %lu blocks stored twice, %lu tokens of resident X\n", plans_checked,
              spans, shared, split, resident_x);
  std::printf("%lu of several micro-batches, which keep %lu blocks; %lu divided rows\n", cut, kept, divided);
  assert_true(cut > 100 && kept > 100 && divided > 100 && shared > 100 && split > 100 && resident_x > 100);
}

// ---- closed forms ---------------------------------------------------------------------------------------------------

StagingShape roomy() {
  StagingShape shape;
  shape.slot_blocks = 64;
  shape.tile_tokens = 64 * kBlockTokens;
  return shape;
}

struct Built {
  Plan cached, next;
};

// `sequences` contexts, the first `x_blocks` blocks of each as X and `kv_blocks` as K,V, the last of them with room;
// then a step of a token each.
Built decode(const StagingShape& shape, uint32_t sequences, uint32_t x_blocks, uint32_t kv_blocks, bool splits = false) {
  World world(1, shape);
  PlanBuilder builder(shape);
  Built built;
  for (uint32_t i = 0; i < sequences; ++i) {
    WorldSequence& sequence = world.open();
    if (kv_blocks > 0) {
      Plan before;
      world.add(before, sequence, x_blocks * kBlockTokens, true);
      if (splits) world.split(sequence.blocks.back().id, 20);
      world.add(built.cached, sequence, kv_blocks * kBlockTokens - 1, false);
    } else {
      world.add(built.cached, sequence, x_blocks * kBlockTokens - 1, true);
    }
  }
  for (WorldSequence& sequence : world.sequences) world.add(built.next, sequence, 1, kv_blocks == 0);
  builder.build(built.next);
  return built;
}

void all_clients_x_is_one_product(void**) {
  const Plan plan = decode(roomy(), 16, 4, 0).next;
  assert_int_equal(count_of(plan, OpKind::fetch_x), 1);
  assert_int_equal(count_of(plan, OpKind::recompute), 1);
  assert_int_equal(plan.work.x_host, 16 * (4 * kBlockTokens - 1));
  assert_int_equal(plan.rounds.size(), 1);
}

void blocks_that_are_split_keep_it_one_product(void**) {
  const Plan plan = decode(roomy(), 8, 3, 2, true).next;
  assert_int_equal(count_of(plan, OpKind::fetch_x), 1);
  assert_int_equal(count_of(plan, OpKind::recompute), 1);
  assert_int_equal(count_of(plan, OpKind::fetch_kv), 1);
  assert_int_equal(plan.work.x_host, 8 * (2 * kBlockTokens + 20));
  assert_int_equal(plan.work.kv_host, 8 * (kBlockTokens - 20 + 2 * kBlockTokens - 1));
}

// Of a batch many times as large as the ring, X and K,V in every round as in the whole: whoever is short of one of them in
// a round waits, link or device.
void every_round_has_its_share_of_both(void**) {
  StagingShape shape = roomy();
  shape.slot_blocks = 16;
  shape.tile_tokens = 16 * kBlockTokens;
  const Plan plan = decode(shape, 24, 3, 5).next;
  assert_int_equal(plan.rounds.size(), 24 * 8 / 16);
  for (const PlanRound& round : plan.rounds) {
    assert_int_equal(round.areas, 16);
    assert_int_equal(round.x_rows, 2 * 3 * kBlockTokens);
  }
  // Within a round X first, so that it is recomputed while K,V come.
  for (size_t i = 1; i < plan.ops.size(); ++i) {
    const PlanOp &before = plan.ops[i - 1], &op = plan.ops[i];
    assert_false(before.kind == OpKind::fetch_kv && op.kind == OpKind::fetch_x && before.round == op.round);
  }
}

// As it is where copies on the device went to those who came first: of these only products are needed, of the others only
// the link.
void spans_of_either_kind_take_turns(void**) {
  constexpr uint32_t kSequences = 12, kResident = 8, kBlocks = 4;
  constexpr uint32_t kTogether = 3;  // sequences of a round
  StagingShape shape = roomy();
  shape.slot_blocks = kTogether * (kBlocks + 1);  // and a block for the new row of each
  shape.kv_units = 2;
  shape.tile_tokens = shape.slot_blocks * kBlockTokens;
  Plan plan;
  for (uint32_t s = 0; s < kSequences; ++s) {
    PlanSpan span;
    span.slot = span.first_row = s;
    span.rows = 1;
    span.first_position = kBlocks * kBlockTokens;
    span.first_run = 2 * s;
    span.runs = 2;
    const bool resident = s < kResident;
    span.load = {kBlocks + 1, resident ? 2 : 2 * (kBlocks + 1)};
    plan.spans.push_back(span);
    const BlockForm form = resident ? BlockForm::x : BlockForm::kv;
    plan.runs.push_back({s * 100, resident ? s * 100 : kNoBlock, kBlocks, form, form});
    plan.runs.push_back({.id = s * 100 + 50, .blocks = 1});
  }
  PlanBuilder(shape).build(plan);
  assert_string_equal(check_plans(pointers_to({plan}), shape, 2).c_str(), "");
  assert_int_equal(plan.rounds.size(), kSequences / kTogether);
  std::vector<uint32_t> fetched(plan.rounds.size()), recomputed(plan.rounds.size());
  for (const PlanOp& op : plan.ops) {
    if (op.kind == OpKind::fetch_kv) fetched[op.round] += op.tokens;
    if (op.kind == OpKind::recompute) recomputed[op.round] += op.tokens;
  }
  const uint32_t each = kBlocks * kBlockTokens;
  for (size_t r = 0; r < plan.rounds.size(); ++r) {
    assert_int_equal(fetched[r], each);
    assert_int_equal(recomputed[r], 2 * each);
  }
}

void a_common_prefix_crosses_the_link_once(void**) {
  for (BlockForm form : {BlockForm::x, BlockForm::kv}) {
    const StagingShape shape = roomy();
    World world(1, shape);
    PlanBuilder builder(shape);
    Plan before, plan;
    world.add(before, world.open(), 5 * kBlockTokens + 10, form == BlockForm::x);
    for (uint32_t child = 1; child < 9; ++child) {
      // Some of them fork off earlier: their runs begin alike and end elsewhere.
      world.fork(0, (child % 2 ? 5 : 3) * kBlockTokens);
    }
    for (WorldSequence& sequence : world.sequences) world.add(plan, sequence, 1, form == BlockForm::x);
    builder.build(plan);
    assert_int_equal(form == BlockForm::x ? plan.work.x_host : plan.work.kv_host, 5 * kBlockTokens + 10);
    assert_int_equal(plan.rounds.size(), 1);
    assert_int_equal(plan.rounds[0].areas, 5 + 9);
    const Plan* only = &plan;
    assert_string_equal(check_plans({&only, 1}, shape, 2).c_str(), "");
  }
}

// Resident blocks between the shared ones do not make a later sequence miss the round of the earlier one.
void a_prefix_that_is_partly_resident_crosses_once(void**) {
  StagingShape shape = roomy();
  shape.slot_blocks = 2;
  Plan plan;
  for (uint32_t s = 0; s < 3; ++s) {
    PlanSpan span;
    span.first_row = s, span.rows = 1, span.first_position = 3 * kBlockTokens;
    span.first_run = 4 * s, span.runs = 4;
    plan.spans.push_back(span);
    BlockRun run;
    run.blocks = 1;
    for (uint32_t id : {0u, 1u, 2u}) {
      run.id = id, run.shared = true, run.device_id = id == 1 ? 0 : kNoBlock;
      plan.runs.push_back(run);
    }
    run.id = 10 + s, run.shared = false, run.device_id = kNoBlock;
    plan.runs.push_back(run);
  }
  PlanBuilder(shape).build(plan);
  assert_int_equal(plan.work.kv_host, 2 * kBlockTokens);
  const Plan* only = &plan;
  assert_string_equal(check_plans({&only, 1}, shape, 2).c_str(), "");
}

void rounds_are_as_few_as_blocks_and_slots_allow(void**) {
  for (uint32_t slot : {1u, 3u, 8u, 64u}) {
    for (uint32_t sequences : {1u, 5u, 20u}) {
      StagingShape shape = roomy();
      shape.slot_blocks = slot;
      shape.tile_tokens = slot * kBlockTokens;
      const Plan plan = decode(shape, sequences, 3, 5).next;
      assert_int_equal(plan.rounds.size(), ceil_of(8 * sequences, slot));
      const size_t with_x = static_cast<size_t>(std::ranges::count_if(plan.rounds, [](auto& r) { return r.x_rows > 0; }));
      assert_int_equal(count_of(plan, OpKind::fetch_x), with_x);
      assert_int_equal(count_of(plan, OpKind::recompute), with_x);
      assert_int_equal(plan.work.new_kv, sequences);
      assert_int_equal(plan.work.attended, sequences * 8 * kBlockTokens);
    }
  }
}

// X in blocks of one unit, and K,V of two right behind them: what was brought of the one is not taken for the other.
void shared_blocks_of_two_forms_are_told_apart(void**) {
  StagingShape shape = roomy();
  shape.kv_units = 2;
  Plan plan;
  for (uint32_t s = 0; s < 2; ++s) {
    PlanSpan span;
    span.slot = span.first_row = s;
    span.rows = 1;
    span.first_position = 4 * kBlockTokens;
    span.first_run = static_cast<uint32_t>(plan.runs.size());
    span.runs = 3;
    plan.spans.push_back(span);
    plan.runs.push_back({.id = 4, .blocks = 3, .form = BlockForm::x, .shared = true});
    plan.runs.push_back({.id = 7, .blocks = 1, .form = BlockForm::kv, .shared = true});
    plan.runs.push_back({.id = 20 + 2 * s, .blocks = 1});
  }
  PlanBuilder(shape).build(plan);
  assert_string_equal(check_plans(pointers_to({plan}), shape, 2).c_str(), "");
  assert_int_equal(plan.work.x_host, 3 * kBlockTokens);
  assert_int_equal(plan.work.kv_host, kBlockTokens);
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(random_plans_are_sound_and_do_no_more_than_needed),
      cmocka_unit_test(all_clients_x_is_one_product),
      cmocka_unit_test(blocks_that_are_split_keep_it_one_product),
      cmocka_unit_test(every_round_has_its_share_of_both),
      cmocka_unit_test(spans_of_either_kind_take_turns),
      cmocka_unit_test(a_common_prefix_crosses_the_link_once),
      cmocka_unit_test(a_prefix_that_is_partly_resident_crosses_once),
      cmocka_unit_test(rounds_are_as_few_as_blocks_and_slots_allow),
      cmocka_unit_test(shared_blocks_of_two_forms_are_told_apart),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
