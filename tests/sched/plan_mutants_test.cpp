// SPDX-License-Identifier: Apache-2.0
// check_plans must find any single damage to Plans that are right. How many mutants of each kind were tried, and how many
// were found, is printed: of 150 worlds about 40 to 150 of each, all found; the test fails where a kind is never tried or
// once not found. Waits are another matter than the rest: whether one is missed depends on what else is waited for, so
// that they are removed in settings where each is the only one to order what it orders: 14 kinds, 3 to 56 of each.
#include <cstdio>
#include <functional>
#include <map>
#include <string>

#include "daemon/sched/plan_check.h"
#include "tests/sched/plan_world.h"

#include "tests/cmocka_cpp.h"

namespace iokv::test {
namespace {

constexpr uint32_t kLayers = kCheckedLayers;

using Random = std::mt19937_64;

// ---- single damages; false: the Plan has nothing to be damaged like that --------------------------------------------

template <typename T, typename Like>
T* one_of(std::vector<T>& things, Random& random, const Like& like) {
  std::vector<T*> found;
  for (T& thing : things) {
    if (like(thing)) found.push_back(&thing);
  }
  return found.empty() ? nullptr : found[random() % found.size()];
}

PlanOp* op_like(Plan& plan, Random& random, OpKind kind, uint32_t least = 1) {
  return one_of(plan.ops, random, [=](const PlanOp& op) { return op.kind == kind && op.count >= least; });
}
PlanOp* tile_of(Plan& plan, Random& random) {
  return one_of(plan.ops, random, [](const PlanOp& op) { return op.tokens > 0; });
}
PlanPart* part_of(Plan& plan, Random& random) { return one_of(plan.parts, random, [](const PlanPart&) { return true; }); }
PlanStore* store_of(Plan& plan, Random& random) { return one_of(plan.stores, random, [](const PlanStore&) { return true; }); }
PlanAttend* attend_of(Plan& plan, Random& random) {
  return one_of(plan.attends, random, [](const PlanAttend&) { return true; });
}

PlanSpan* divided_span(Plan& plan, Random& random) {
  return one_of(plan.spans, random, [](const PlanSpan& span) { return span.host_from != kAllOnDevice; });
}

// Into, or out of, the things that operations of some kinds are about.
template <typename T, typename Kind>
void insert_at(Plan& plan, std::vector<T>& things, size_t at, const T& thing, const Kind& about) {
  const T copy = thing;
  things.insert(things.begin() + static_cast<long>(at) + 1, copy);
  for (PlanOp& op : plan.ops) {
    if (!about(op.kind)) continue;
    if (op.first > at) ++op.first;
    else if (op.first + op.count > at) ++op.count;
  }
}
template <typename T, typename Kind>
void erase_at(Plan& plan, std::vector<T>& things, size_t at, const Kind& about) {
  things.erase(things.begin() + static_cast<long>(at));
  for (PlanOp& op : plan.ops) {
    if (!about(op.kind)) continue;
    if (op.first > at) --op.first;
    else if (op.first + op.count > at) --op.count;
  }
}
bool of_parts(OpKind kind) { return kind == OpKind::fetch_x || kind == OpKind::fetch_kv || kind == OpKind::recompute; }
bool of_stores(OpKind kind) { return kind == OpKind::store || kind == OpKind::append; }
bool of_attends(OpKind kind) { return kind == OpKind::attend; }

// An operation, with the waits for those behind it.
void erase_op(Plan& plan, size_t at) {
  plan.ops.erase(plan.ops.begin() + static_cast<long>(at));
  for (PlanOp& op : plan.ops) {
    for (PlanWait& wait : op.after) {
      if (wait.what != PlanWait::For::operation) continue;
      if (wait.op == at) wait = {};
      else if (wait.op > at) --wait.op;
    }
  }
}
void swap_ops(Plan& plan, size_t at) {
  std::swap(plan.ops[at], plan.ops[at + 1]);
  for (PlanOp& op : plan.ops) {
    for (PlanWait& wait : op.after) {
      if (wait.what != PlanWait::For::operation) continue;
      if (wait.op == at) wait.op = static_cast<uint32_t>(at + 1);
      else if (wait.op == at + 1) wait.op = static_cast<uint32_t>(at);
    }
  }
}
void insert_op(Plan& plan, size_t at, const PlanOp& op) {
  const PlanOp copy = op;
  for (PlanOp& other : plan.ops) {
    for (PlanWait& wait : other.after) {
      if (wait.what == PlanWait::For::operation && wait.op >= at) ++wait.op;
    }
  }
  plan.ops.insert(plan.ops.begin() + static_cast<long>(at), copy);
}
bool drop_op(Plan& plan, Random& random, OpKind kind, uint32_t least = 1) {
  PlanOp* op = op_like(plan, random, kind, least);
  if (op != nullptr) erase_op(plan, static_cast<size_t>(op - plan.ops.data()));
  return op != nullptr;
}
bool swap_ops_of(Plan& plan, Random& random, OpKind first, OpKind second) {
  std::vector<size_t> found;
  for (size_t i = 0; i + 1 < plan.ops.size(); ++i) {
    if (plan.ops[i].kind == first && plan.ops[i + 1].kind == second && plan.ops[i].round == plan.ops[i + 1].round) found.push_back(i);
  }
  if (!found.empty()) swap_ops(plan, found[random() % found.size()]);
  return !found.empty();
}

template <typename T, typename Change>
bool change(T* thing, const Change& change_it) {
  if (thing != nullptr) change_it(*thing);
  return thing != nullptr;
}

struct Damage {
  const char* name;
  std::function<bool(Plan&, Random&, const StagingShape&)> apply;
};

#define IOKV_DAMAGE(name, ...)                                                               \
  Damage {                                                                                   \
    name, []([[maybe_unused]] Plan& plan, [[maybe_unused]] Random& random,                   \
             [[maybe_unused]] const StagingShape& shape) -> bool __VA_ARGS__                 \
  }

const Damage kDamages[] = {
    IOKV_DAMAGE("part: dropped", {
      if (plan.parts.empty()) return false;
      const size_t at = random() % plan.parts.size();
      for (PlanOp& op : plan.ops) {
        if (of_parts(op.kind) && op.first <= at && at < op.first + op.count) op.tokens -= plan.parts[at].tokens;
      }
      erase_at(plan, plan.parts, at, of_parts);
      return true;
    }),
    IOKV_DAMAGE("part: doubled", {
      if (plan.parts.empty()) return false;
      const size_t at = random() % plan.parts.size();
      for (PlanOp& op : plan.ops) {
        if (of_parts(op.kind) && op.first <= at && at < op.first + op.count) op.tokens += plan.parts[at].tokens;
      }
      insert_at(plan, plan.parts, at, plan.parts[at], of_parts);
      return true;
    }),
    IOKV_DAMAGE("part: another area", { return change(part_of(plan, random), [](PlanPart& part) { ++part.area; }); }),
    IOKV_DAMAGE("part: another position", { return change(part_of(plan, random), [](PlanPart& part) { part.position += 64; }); }),
    IOKV_DAMAGE("part: another block", { return change(part_of(plan, random), [](PlanPart& part) { ++part.id; }); }),
    IOKV_DAMAGE("part: other tokens", { return change(part_of(plan, random), [](PlanPart& part) { ++part.first_token; }); }),
    IOKV_DAMAGE("part: a token less", { return change(part_of(plan, random), [](PlanPart& part) { --part.tokens; }); }),
    IOKV_DAMAGE("part: a token more", { return change(part_of(plan, random), [](PlanPart& part) { ++part.tokens; }); }),
    IOKV_DAMAGE("part: a token less, counted so", {
      PlanOp* op = tile_of(plan, random);
      if (op == nullptr) return false;
      PlanPart& part = plan.parts[op->first];
      --part.tokens;
      for (PlanOp& other : plan.ops) {
        if (of_parts(other.kind) && other.first == op->first) --other.tokens;
      }
      return true;
    }),
    IOKV_DAMAGE("part: X rows that overlap", {
      PlanOp* op = op_like(plan, random, OpKind::fetch_x, 2);
      return change(op, [&](PlanOp& it) { plan.parts[it.first + 1].x_row = plan.parts[it.first].x_row; });
    }),
    IOKV_DAMAGE("tile: X recomputed from another row", {
      PlanOp* op = op_like(plan, random, OpKind::fetch_x);
      return change(op, [&](PlanOp& it) { ++plan.parts[it.first].x_row; });
    }),
    IOKV_DAMAGE("tile: other parts than were fetched", {
      return change(op_like(plan, random, OpKind::fetch_x), [](PlanOp& op) { --op.count; });
    }),
    IOKV_DAMAGE("tile: wrong count of tokens", { return change(tile_of(plan, random), [](PlanOp& op) { --op.tokens; }); }),
    IOKV_DAMAGE("tile: X not fetched", { return drop_op(plan, random, OpKind::fetch_x); }),
    IOKV_DAMAGE("tile: K,V not fetched", { return drop_op(plan, random, OpKind::fetch_kv); }),
    IOKV_DAMAGE("tile: not recomputed", { return drop_op(plan, random, OpKind::recompute); }),
    IOKV_DAMAGE("round: fewer areas", {
      auto with_areas = [](const PlanRound& round) { return round.areas > 0; };
      return change(one_of(plan.rounds, random, with_areas), [](PlanRound& round) { --round.areas; });
    }),
    IOKV_DAMAGE("round: more areas than a slot", {
      auto any = [](const PlanRound&) { return true; };
      return change(one_of(plan.rounds, random, any), [&](PlanRound& round) { round.areas = shape.slot_blocks + 1; });
    }),
    IOKV_DAMAGE("round: fewer rows of X", {
      auto with_x = [](const PlanRound& round) { return round.x_rows > 0; };
      return change(one_of(plan.rounds, random, with_x), [](PlanRound& round) { --round.x_rows; });
    }),
    IOKV_DAMAGE("round: more rows of X than a slot", {
      auto any = [](const PlanRound&) { return true; };
      return change(one_of(plan.rounds, random, any), [&](PlanRound& round) { round.x_rows = shape.slot_blocks * kBlockTokens + 1; });
    }),
    IOKV_DAMAGE("round: one without an attend", { plan.rounds.push_back({}); return true; }),
    IOKV_DAMAGE("attend: dropped", {
      const size_t at = random() % plan.attends.size();
      erase_at(plan, plan.attends, at, of_attends);
      return true;
    }),
    IOKV_DAMAGE("attend: twice", {
      const size_t at = random() % plan.attends.size();
      insert_at(plan, plan.attends, at, plan.attends[at], of_attends);
      return true;
    }),
    IOKV_DAMAGE("attend: reordered", {
      std::vector<size_t> found;
      for (size_t i = 0; i + 1 < plan.attends.size(); ++i) {
        if (plan.attends[i].span == plan.attends[i + 1].span) found.push_back(i);
      }
      if (found.empty()) return false;
      const size_t at = found[random() % found.size()];
      std::swap(plan.attends[at], plan.attends[at + 1]);
      return true;
    }),
    IOKV_DAMAGE("attend: a span twice in a round", {
      PlanOp* op = op_like(plan, random, OpKind::attend, 2);
      if (op == nullptr || plan.attends[op->first].span == plan.attends[op->first + op->count - 1].span) return false;
      PlanAttend& first = plan.attends[op->first];
      if (first.pieces < 2) return false;
      PlanAttend rest = first;
      const uint32_t units = first.device_id != kNoBlock ? shape.kv_units : 0;
      first.pieces = 1;
      rest.first_piece += 1, rest.pieces -= 1, rest.area += 1, rest.device_id += units;
      const size_t behind = op->first + op->count - 1;
      insert_at(plan, plan.attends, behind, rest, of_attends);
      return true;
    }),
    IOKV_DAMAGE("attend: another area", {
      auto in_area = [](const PlanAttend& attend) { return attend.device_id == kNoBlock; };
      return change(one_of(plan.attends, random, in_area), [](PlanAttend& attend) { ++attend.area; });
    }),
    IOKV_DAMAGE("attend: another resident block", {
      auto resident = [](const PlanAttend& attend) { return attend.device_id != kNoBlock; };
      return change(one_of(plan.attends, random, resident), [](PlanAttend& attend) { ++attend.device_id; });
    }),
    IOKV_DAMAGE("attend: a piece less", { return change(attend_of(plan, random), [](PlanAttend& attend) { --attend.pieces; }); }),
    IOKV_DAMAGE("attend: a piece more", { return change(attend_of(plan, random), [](PlanAttend& attend) { ++attend.pieces; }); }),
    IOKV_DAMAGE("attend: for another span", { return change(attend_of(plan, random), [](PlanAttend& attend) { ++attend.span; }); }),
    IOKV_DAMAGE("attend: in another round", { return change(attend_of(plan, random), [](PlanAttend& attend) { ++attend.round; }); }),
    IOKV_DAMAGE("attend: operation dropped", { return drop_op(plan, random, OpKind::attend); }),
    IOKV_DAMAGE("store: dropped", {
      erase_at(plan, plan.stores, random() % plan.stores.size(), of_stores);
      return true;
    }),
    IOKV_DAMAGE("store: twice", {
      const size_t at = random() % plan.stores.size();
      insert_at(plan, plan.stores, at, plan.stores[at], of_stores);
      return true;
    }),
    IOKV_DAMAGE("store: another row", { return change(store_of(plan, random), [](PlanStore& store) { store.row ^= 1; }); }),
    IOKV_DAMAGE("store: a row less", { return change(store_of(plan, random), [](PlanStore& store) { --store.rows; }); }),
    IOKV_DAMAGE("store: another position", { return change(store_of(plan, random), [](PlanStore& store) { ++store.position; }); }),
    IOKV_DAMAGE("store: another area", {
      auto in_area = [](const PlanStore& store) { return store.device_id == kNoBlock; };
      return change(one_of(plan.stores, random, in_area), [](PlanStore& store) { ++store.area; });
    }),
    IOKV_DAMAGE("store: another block", { return change(store_of(plan, random), [](PlanStore& store) { ++store.id; }); }),
    IOKV_DAMAGE("store: another resident block", {
      auto resident = [](const PlanStore& store) { return store.device_id != kNoBlock; };
      return change(one_of(plan.stores, random, resident), [](PlanStore& store) { ++store.device_id; });
    }),
    IOKV_DAMAGE("store: not to the resident block", {
      auto resident = [](const PlanStore& store) { return store.device_id != kNoBlock; };
      return change(one_of(plan.stores, random, resident), [](PlanStore& store) { store.device_id = kNoBlock; });
    }),
    IOKV_DAMAGE("store: as the other form", {
      return change(store_of(plan, random), [](PlanStore& store) { store.form = store.form == BlockForm::x ? BlockForm::kv : BlockForm::x; });
    }),
    IOKV_DAMAGE("store: operation dropped", { return drop_op(plan, random, OpKind::store); }),
    IOKV_DAMAGE("append: dropped", { return drop_op(plan, random, OpKind::append); }),
    IOKV_DAMAGE("append: a store less", {
      // In place rows of K,V are where they belong once they are stored.
      PlanOp* op = one_of(plan.ops, random, [&](const PlanOp& it) {
        return it.kind == OpKind::append && (!shape.in_place || plan.stores[it.first].form == BlockForm::x);
      });
      return change(op, [](PlanOp& it) { ++it.first, --it.count; });
    }),
    IOKV_DAMAGE("order: attend before store", { return swap_ops_of(plan, random, OpKind::store, OpKind::attend); }),
    IOKV_DAMAGE("order: append before attend", { return swap_ops_of(plan, random, OpKind::attend, OpKind::append); }),
    IOKV_DAMAGE("order: recompute before its fetch", { return swap_ops_of(plan, random, OpKind::fetch_x, OpKind::recompute); }),
    IOKV_DAMAGE("order: attend before its fetch", {
      PlanOp* op = op_like(plan, random, OpKind::fetch_kv);
      if (op == nullptr) return false;
      size_t at = static_cast<size_t>(op - plan.ops.data());
      do {
        swap_ops(plan, at);
      } while (plan.ops[at++].kind != OpKind::attend);
      return true;
    }),
    IOKV_DAMAGE("order: project is not first", { swap_ops(plan, 0); return true; }),
    IOKV_DAMAGE("order: finish is not last", { swap_ops(plan, plan.ops.size() - 2); return true; }),
    IOKV_DAMAGE("order: rounds swapped", {
      auto later = [](const PlanOp& op) { return op.round > 0 && op.kind == OpKind::attend; };
      return change(one_of(plan.ops, random, later), [](PlanOp& op) { --op.round; });
    }),
    IOKV_DAMAGE("weights: W_K and W_V not fetched", { return drop_op(plan, random, OpKind::fetch_kv_weights, 0); }),
    IOKV_DAMAGE("weights: all others not fetched", { return drop_op(plan, random, OpKind::fetch_weights, 0); }),
    IOKV_DAMAGE("weights: fetched twice", {
      PlanOp* op = op_like(plan, random, OpKind::fetch_weights, 0);
      if (op == nullptr) return false;
      insert_op(plan, static_cast<size_t>(op - plan.ops.data()), *op);
      return true;
    }),
    IOKV_DAMAGE("weights: W_K and W_V behind X", { return swap_ops_of(plan, random, OpKind::fetch_kv_weights, OpKind::fetch_x); }),
    IOKV_DAMAGE("weights: all others before the last X", {
      const PlanOp* op = op_like(plan, random, OpKind::fetch_weights, 0);
      const size_t at = op == nullptr ? 0 : static_cast<size_t>(op - plan.ops.data());
      if (at < 2 || plan.ops[at - 1].kind != OpKind::recompute) return false;
      swap_ops(plan, at - 1);
      return true;
    }),
    IOKV_DAMAGE("weights: all others behind K,V", {
      PlanOp* op = op_like(plan, random, OpKind::fetch_weights, 0);
      if (op == nullptr) return false;
      const size_t at = static_cast<size_t>(op - plan.ops.data());
      if (plan.ops[at + 2].kind != OpKind::fetch_kv) return false;
      swap_ops(plan, at + 1);
      swap_ops(plan, at);
      return true;
    }),
    IOKV_DAMAGE("weights: project before them", { return swap_ops_of(plan, random, OpKind::fetch_weights, OpKind::project); }),
    IOKV_DAMAGE("weights: other bytes in the work", {
      if (!shape.weights.used()) return false;
      --plan.work.weight_bytes;
      return true;
    }),
    IOKV_DAMAGE("batch: a row less", {
      --plan.batches[random() % plan.batches.size()].rows;
      return true;
    }),
    IOKV_DAMAGE("batch: two are one", {
      if (plan.batches.size() < 2) return false;
      plan.batches[0].rows += plan.batches[1].rows;
      plan.batches.erase(plan.batches.begin() + 1);
      return true;
    }),
    IOKV_DAMAGE("batch: an operation in another one", {
      if (plan.batches.size() < 2) return false;
      PlanOp& op = plan.ops[random() % plan.ops.size()];
      op.batch = static_cast<uint16_t>(op.batch == 0 ? 1 : op.batch - 1);
      return true;
    }),
    IOKV_DAMAGE("batch: not projected", {
      return plan.batches.size() > 1 && drop_op(plan, random, OpKind::project, 0);
    }),
    IOKV_DAMAGE("batch: not finished", { return plan.batches.size() > 1 && drop_op(plan, random, OpKind::finish, 0); }),
    IOKV_DAMAGE("kept: stored to the ring", {
      return change(one_of(plan.stores, random, [](const PlanStore& store) { return store.kept; }),
                    [](PlanStore& store) { store.kept = false; });
    }),
    IOKV_DAMAGE("kept: stored to another area", {
      return change(one_of(plan.stores, random, [](const PlanStore& store) { return store.kept; }),
                    [](PlanStore& store) { ++store.area; });
    }),
    IOKV_DAMAGE("kept: attended to in the ring", {
      return change(one_of(plan.attends, random, [](const PlanAttend& attend) { return attend.kept; }),
                    [](PlanAttend& attend) { attend.kept = false; });
    }),
    IOKV_DAMAGE("kept: attended to in another area", {
      return change(one_of(plan.attends, random, [](const PlanAttend& attend) { return attend.kept; }),
                    [](PlanAttend& attend) { ++attend.area; });
    }),
    IOKV_DAMAGE("kept: more areas than there are", {
      return change(one_of(plan.stores, random, [](const PlanStore& store) { return store.kept; }),
                    [&](PlanStore& store) { store.area = shape.kept_blocks; });
    }),
    IOKV_DAMAGE("host: queries not handed over", { return drop_op(plan, random, OpKind::hand_over); }),
    IOKV_DAMAGE("host: does not attend", { return drop_op(plan, random, OpKind::attend_host); }),
    IOKV_DAMAGE("host: not merged", { return drop_op(plan, random, OpKind::merge); }),
    IOKV_DAMAGE("host: attends before it has queries", { return swap_ops_of(plan, random, OpKind::hand_over, OpKind::attend_host); }),
    IOKV_DAMAGE("host: merged before the last round", {
      PlanOp* op = op_like(plan, random, OpKind::merge);
      if (op == nullptr) return false;
      swap_ops(plan, static_cast<size_t>(op - plan.ops.data()) - 1);
      return true;
    }),
    IOKV_DAMAGE("host: queries of fewer rows", { return change(op_like(plan, random, OpKind::hand_over), [](PlanOp& op) { --op.count; }); }),
    IOKV_DAMAGE("host: attends for fewer rows", { return change(op_like(plan, random, OpKind::attend_host), [](PlanOp& op) { --op.count; }); }),
    IOKV_DAMAGE("host: fewer rows merged", { return change(op_like(plan, random, OpKind::merge), [](PlanOp& op) { --op.count; }); }),
    IOKV_DAMAGE("host: another row", {
      if (plan.divided.empty()) return false;
      plan.divided[random() % plan.divided.size()] ^= 1;
      return true;
    }),
    IOKV_DAMAGE("host: from another block", {
      return change(divided_span(plan, random), [](PlanSpan& span) { span.host_from += kBlockTokens; });
    }),
    IOKV_DAMAGE("host: from within a block", {
      return change(divided_span(plan, random), [](PlanSpan& span) { span.host_from += 1; });
    }),
    IOKV_DAMAGE("host: no part of a divided row", {
      return change(divided_span(plan, random), [](PlanSpan& span) { span.host_from = kAllOnDevice; });
    }),
    IOKV_DAMAGE("host: of blocks that are X", {
      PlanSpan* span = divided_span(plan, random);
      if (span == nullptr) return false;
      uint32_t block = 0;
      for (uint32_t r = span->first_run; r < span->first_run + span->runs; block += plan.runs[r++].blocks) {
        if ((block + plan.runs[r].blocks) * kBlockTokens <= span->host_from) continue;
        plan.runs[r].form = BlockForm::x;
        return true;
      }
      return false;
    }),
    IOKV_DAMAGE("host: other tokens in the work", {
      if (plan.divided.empty()) return false;
      --(random() % 2 == 0 ? plan.work.kv_attended : plan.work.divided);
      return true;
    }),
    IOKV_DAMAGE("queue: another one", {
      PlanOp& op = plan.ops[random() % plan.ops.size()];
      op.queue = static_cast<Queue>((static_cast<uint32_t>(op.queue) + 1 + random() % 3) % kQueues);
      return true;
    }),
    IOKV_DAMAGE("wait: for what comes later", { plan.ops[0].after[1] = {PlanWait::For::operation, 0}; return true; }),
    IOKV_DAMAGE("work: a token less", {
      uint64_t* counts[] = {&plan.work.rows, &plan.work.attended, &plan.work.x_host, &plan.work.kv_host,
                            &plan.work.x_device, &plan.work.new_x, &plan.work.new_kv};
      --*counts[random() % 7];
      return true;
    }),
};

struct Count {
  uint32_t tried = 0, found = 0;
};

void every_damage_is_found(void**) {
  Random random(test_seed());
  std::map<std::string, Count> counts;
  for (int world = 0; world < 150; ++world) {
    StagingShape shape = random_shape(random);
    const std::vector<Plan> plans = random_plans(random(), shape, 3);
    assert_string_equal(check_plans(pointers_to(plans), shape, kLayers).c_str(), "");
    for (const Damage& damage : kDamages) {
      const size_t at = random() % plans.size();
      Plan damaged = plans[at];
      if (!damage.apply(damaged, random, shape)) continue;
      std::vector<const Plan*> issued = pointers_to(plans);
      issued[at] = &damaged;
      Count& count = counts[damage.name];
      ++count.tried;
      count.found += !check_plans(issued, shape, kLayers).empty();
      if (count.found != count.tried) std::printf("world %d: not found: %s\n", world, damage.name);
      assert_int_equal(count.found, count.tried);
    }
    // A ring whose tiles are smaller than the Plans'.
    uint32_t largest = 0;
    for (const Plan& plan : plans) {
      for (const PlanOp& op : plan.ops) largest = std::max(largest, op.tokens);
    }
    if (largest < 2) continue;
    shape.tile_tokens = largest - 1;
    Count& count = counts["tile: larger than a tile"];
    ++count.tried;
    count.found += !check_plans(pointers_to(plans), shape, kLayers).empty();
    assert_int_equal(count.found, count.tried);
  }
  for (const auto& [name, count] : counts) std::printf("%-40s %u of %u\n", name.c_str(), count.found, count.tried);
  assert_int_equal(counts.size(), std::size(kDamages) + 1);
}

// ---- waits ----------------------------------------------------------------------------------------------------------

const char* name_of(PlanWait::For what) {
  switch (what) {
    case PlanWait::For::nothing: return "nothing";
    case PlanWait::For::operation: return "an operation";
    case PlanWait::For::x_slot: return "the X slot";
    case PlanWait::For::kv_slot: return "the K,V slot";
    case PlanWait::For::appended: return "earlier write-backs";
    case PlanWait::For::kept_x: return "kept X";
    case PlanWait::For::weight_slot: return "the slot of weights";
  }
  return "";
}

using WaitCounts = std::map<std::string, Count>;
using For = PlanWait::For;

// Removes each wait that `removes` names of each Plan from `first` on, one at a time.
void remove_waits(const std::vector<Plan>& plans, size_t first, const StagingShape& shape, WaitCounts& counts,
                  const std::function<bool(OpKind, For)>& removes, uint32_t layers = kLayers) {
  assert_string_equal(check_plans(pointers_to(plans), shape, layers).c_str(), "");
  for (size_t p = first; p < plans.size(); ++p) {
    for (size_t i = 0; i < plans[p].ops.size(); ++i) {
      const PlanOp& op = plans[p].ops[i];
      for (size_t w = 0; w < op.after.size(); ++w) {
        if (op.after[w].what == For::nothing || !removes(op.kind, op.after[w].what)) continue;
        Plan damaged = plans[p];
        damaged.ops[i].after[w] = {};
        std::vector<const Plan*> issued = pointers_to(plans);
        issued[p] = &damaged;
        const OpKind waited = op.after[w].what == For::operation ? plans[p].ops[op.after[w].op].kind : OpKind::finish;
        const bool weights = waited == OpKind::fetch_kv_weights || waited == OpKind::fetch_weights;
        Count& count = counts[std::string(iokv::name_of(op.kind)) + " for " +
                              (waited == OpKind::append ? "an earlier micro-batch"
                               : weights                ? "weights"
                                                        : name_of(op.after[w].what))];
        ++count.tried;
        count.found += !check_plans(issued, shape, layers).empty();
      }
    }
  }
}

void expect_all_found(const char* title, const WaitCounts& counts, size_t kinds) {
  std::printf("%s\n", title);
  for (const auto& [name, count] : counts) std::printf("  %-40s %u of %u\n", name.c_str(), count.found, count.tried);
  for (const auto& [name, count] : counts) assert_int_equal(count.found, count.tried);
  assert_int_equal(counts.size(), kinds);
}

StagingShape ring(uint32_t x_slots, uint32_t kv_slots, uint32_t slot_blocks, uint32_t tile_tokens, bool in_place = false) {
  StagingShape shape;
  shape.x_slots = x_slots;
  shape.kv_slots = kv_slots;
  shape.slot_blocks = slot_blocks;
  shape.tile_tokens = tile_tokens;
  shape.in_place = in_place;
  return shape;
}

constexpr uint32_t kEndless = 1000;  // slots: none is used twice

// Four Plans in which contexts of so many tokens, first X and then K,V, gain a row each.
std::vector<Plan> steady_plans(const StagingShape& shape, const std::vector<std::pair<uint32_t, uint32_t>>& contexts,
                               uint32_t residents_percent = 0) {
  World world(5, shape);
  world.residents_percent = residents_percent;
  PlanBuilder builder(shape);
  Plan ignored;
  for (const auto& [x, kv] : contexts) {
    WorldSequence& sequence = world.open();
    if (x > 0) world.add(ignored, sequence, x, true);
    if (kv > 0) world.add(ignored, sequence, kv, false);
  }
  std::vector<Plan> plans(4);
  for (Plan& plan : plans) {
    plan.id = static_cast<uint64_t>(&plan - plans.data()) + 1;
    for (WorldSequence& sequence : world.sequences) world.add(plan, sequence, 1, contexts[plan.spans.size()].second == 0);
    builder.build(plan);
  }
  return plans;
}

// With one slot of X, and K,V slots without end, nothing else orders fetches of X with the products that read it.
void waits_for_x_slots_matter(void**) {
  WaitCounts counts;
  for (uint32_t tile : {16u, 64u}) {
    const StagingShape shape = ring(1, kEndless, 1, tile);
    remove_waits(steady_plans(shape, {{70, 0}, {0, 122}, {64, 122}}), 0, shape, counts,
                 [](OpKind, For what) { return what == For::operation || what == For::x_slot; });
  }
  expect_all_found("one slot of X", counts, 4);
}

// With one slot of K,V each round needs what the one before it has. A store's wait is for write-back alone, so that it
// matters where every round writes back.
void waits_for_kv_slots_matter(void**) {
  WaitCounts counts, stores;
  for (uint32_t tile : {16u, 64u}) {
    const StagingShape shape = ring(kEndless, 1, 1, tile);
    remove_waits(steady_plans(shape, {{70, 0}, {0, 122}, {64, 122}}), 0, shape, counts,
                 [](OpKind kind, For what) { return what == For::kv_slot && kind != OpKind::store; });
    remove_waits(steady_plans(shape, {{0, 20}, {0, 20}, {0, 20}}), 0, shape, stores,
                 [](OpKind, For what) { return what == For::kv_slot || what == For::operation; });
  }
  expect_all_found("one slot of K,V", counts, 2);
  expect_all_found("one slot of K,V, each round with new rows", stores, 4);
}

// In rings without end all that orders Plans with each other is what they write back. Before the first one nobody has.
void waits_for_write_backs_matter(void**) {
  WaitCounts counts;
  const StagingShape apart = ring(kEndless, kEndless, 2, 64), in_place = ring(kEndless, kEndless, 2, 64, true);
  for (const auto& contexts : {std::vector<std::pair<uint32_t, uint32_t>>{{70, 0}, {100, 0}}, {{0, 70}, {0, 100}}}) {
    const bool x = contexts[0].first > 0;
    const std::vector<Plan> plans = steady_plans(apart, contexts);
    remove_waits(plans, 1, apart, counts, [](OpKind, For what) { return what == For::appended; });
    remove_waits(plans, 0, apart, counts, [=](OpKind, For what) { return x && what == For::kept_x; });
    if (!x) continue;
    remove_waits(steady_plans(in_place, contexts), 1, in_place, counts, [](OpKind, For what) { return what == For::appended; });
  }
  expect_all_found("rings without end", counts, 4);
}

// In rings of cached tokens without end, and one slot of weights. X that is fetched comes behind its weights; X on the
// device has to wait for them.
void waits_for_weights_matter(void**) {
  WaitCounts counts;
  StagingShape shape = ring(kEndless, kEndless, 2, 64);
  shape.weights.layers = {kLayers, kLayers};
  shape.weights.kv_bytes = shape.weights.rest_bytes = 1000;
  auto of_weights = [](OpKind kind, For what) {
    return what == For::weight_slot || (what == For::operation && (kind == OpKind::project || kind == OpKind::recompute));
  };
  remove_waits(steady_plans(shape, {{70, 0}, {0, 100}}), 0, shape, counts, of_weights);
  remove_waits(steady_plans(shape, {{200, 0}}, 100), 0, shape, counts, of_weights);
  expect_all_found("one slot of weights", counts, 4);
}

// Of rows whose last cached tokens are the host's, which an earlier Plan has written back.
void waits_for_the_host_matter(void**) {
  WaitCounts counts;
  const StagingShape shape = ring(kEndless, kEndless, 2, 64);
  World world(7, shape);
  PlanBuilder builder(shape);
  Plan ignored;
  for (uint32_t context : {100u, 64u, 200u}) world.add(ignored, world.open(), context, false);
  std::vector<Plan> plans(4);
  for (Plan& plan : plans) {
    plan.id = static_cast<uint64_t>(&plan - plans.data()) + 1;
    for (WorldSequence& sequence : world.sequences) {
      world.add(plan, sequence, 1, false);
      plan.spans.back().host_from = plan.spans.back().first_position / kBlockTokens * kBlockTokens;
      if (plan.spans.back().host_tokens() == 0) plan.spans.back().host_from = 0;
    }
    builder.build(plan);
  }
  auto of_host = [](OpKind kind, For) { return kind == OpKind::hand_over || kind == OpKind::attend_host || kind == OpKind::merge; };
  // Of more than one layer what is projected for waits for the write-back of kept X, which comes later still.
  remove_waits(plans, 1, shape, counts, of_host, 1);
  expect_all_found("rows that are divided", counts, 3);
}

// Prompts of 200 rows in micro-batches of 64, of which the second part is a sequence's first again.
std::vector<Plan> cut_plans(const StagingShape& shape, bool x_form, uint32_t residents_percent) {
  World world(6, shape);
  world.residents_percent = residents_percent;
  PlanBuilder builder(shape);
  std::vector<Plan> plans(3);
  for (Plan& plan : plans) {
    plan.id = static_cast<uint64_t>(&plan - plans.data()) + 1;
    world.add(plan, world.open(), 200, x_form);
    builder.build(plan);
    assert_int_equal(plan.batches.size(), 4);
  }
  return plans;
}

// Later micro-batches read what earlier ones have written back.
void waits_for_micro_batches_matter(void**) {
  WaitCounts counts;
  StagingShape shape = ring(kEndless, kEndless, 8, 512);
  shape.batch_rows = 64;
  auto of_batches = [](OpKind kind, For what) {
    return what == For::operation && (kind == OpKind::fetch_x || kind == OpKind::fetch_kv);
  };
  for (bool x : {false, true}) remove_waits(cut_plans(shape, x, 0), 0, shape, counts, of_batches);
  expect_all_found("micro-batches", counts, 2);
}

// Not all: a slot may be new, nobody may have written to the pool, X may be written back again by the same layer, or
// another wait may imply this one, as that for X does for the weights that came before it. That depends on the Plans before, so that no Plan can leave out a wait for it. Without
// what its own fetches and products give, however, no attention and no product is ever right.
void waits_are_found_in_random_plans_too(void**) {
  Random random(test_seed());
  WaitCounts counts;
  for (int world = 0; world < 60; ++world) {
    const StagingShape shape = random_shape(random);
    remove_waits(random_plans(random(), shape, 3), 0, shape, counts, [](OpKind, For) { return true; });
  }
  std::printf("random plans\n");
  for (const auto& [name, count] : counts) {
    std::printf("  %-40s %u of %u\n", name.c_str(), count.found, count.tried);
    if (name == "attend for an operation" || name == "recompute for an operation") assert_int_equal(count.found, count.tried);
  }
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_damage_is_found),
      cmocka_unit_test(waits_for_x_slots_matter),
      cmocka_unit_test(waits_for_kv_slots_matter),
      cmocka_unit_test(waits_for_write_backs_matter),
      cmocka_unit_test(waits_for_weights_matter),
      cmocka_unit_test(waits_for_micro_batches_matter),
      cmocka_unit_test(waits_for_the_host_matter),
      cmocka_unit_test(waits_are_found_in_random_plans_too),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
