// SPDX-License-Identifier: Apache-2.0
// Time is a vector of counts, one a queue: an operation has happened before another if the other one's vector has
// counted it. Locations are single tokens.
#include "daemon/sched/plan_check.h"

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/base/units.h"

namespace iokv {
namespace {

using Clock = std::array<uint32_t, kQueues>;

struct Instance {
  Queue queue = Queue::dense;
  uint32_t index = 0;  // in its queue, from 1
};

// What a location holds: a token of a block of the pool, or of a resident one, and what it was brought for: the position
// and the micro-batch of a layer, or the whole layer. What an earlier one has left in a slot is not this one's, be it of
// the same block.
struct Content {
  uint32_t block = kNoBlock, token = 0;
  bool x = false, device = false;
  uint32_t position = 0;
  uint64_t purpose = 0;
  auto operator<=>(const Content&) const = default;
};

struct Location {
  Content content;
  Instance writer;              // index 0: nobody
  std::vector<Instance> readers;
};

enum class Memory : uint64_t { x_slot, kv_slot, host_x, host_kv, device, kept_x, kept_kv, weights, host_q, host_state };

// Places in a slot of weights.
constexpr uint64_t kKeyValue = 0, kRest = 1;

class Checker {
 public:
  Checker(const StagingShape& shape, uint32_t layers) : shape_(shape), layers_(layers), appended_(layers) {}

  std::string run(std::span<const Plan* const> plans) {
    for (const Plan* plan : plans) {
      plan_ = plan;
      static_checks();
      for (layer_ = 0; layer_ < layers_ && problem_.empty(); ++layer_) layer();
      appended_before_ = appended_;
      if (!problem_.empty()) return "plan " + std::to_string(plan->id) + ": " + problem_;
    }
    return {};
  }

 private:
  void violated(const std::string& what) {
    if (problem_.empty()) problem_ = "layer " + std::to_string(layer_) + ", operation " + std::to_string(op_) + ": " + what;
  }
  void require(bool holds, const char* what) {
    if (!holds) violated(what);
  }

  // What needs no time to be told. Nothing of the program is out of range behind it.
  void static_checks() {
    layer_ = 0;
    for (const PlanRound& round : plan_->rounds) {
      require(round.areas <= shape_.slot_blocks, "a round has more areas than a slot");
      require(round.x_rows <= shape_.slot_blocks * kBlockTokens, "a round has more rows of X than a slot");
    }
    const size_t ops = plan_->ops.size();
    for (op_ = 0; op_ < ops; ++op_) {
      const PlanOp& op = plan_->ops[op_];
      require(op.batch < plan_->batches.size(), "is of no micro-batch");
      require(op.queue == queue_of(op.kind), "is on another queue than its kind");
      require(size_t{op.first} + op.count <= things_of(op.kind), "is about more than there is");
      for (const PlanWait& wait : op.after) {
        require(wait.what != PlanWait::For::operation || wait.op < op_, "waits for what is issued after it");
      }
    }
    require(ops >= 2, "there is no program");
    rows_of_batches();
    if (!problem_.empty()) return;
    order_of_batches();
    order_of_host();
    divided_spans();
    order_of_weights();
    order_of_rounds();
    for (const PlanAttend& attend : plan_->attends) require(attend.span < plan_->spans.size(), "attends for no span");
    for (const PlanStore& store : plan_->stores) require(span_of(store) != nullptr, "stores rows of no span");
  }

  static bool is_of_weights(OpKind kind) { return kind == OpKind::fetch_kv_weights || kind == OpKind::fetch_weights; }
  static bool is_of_host(OpKind kind) {
    return kind == OpKind::hand_over || kind == OpKind::attend_host || kind == OpKind::merge;
  }
  static bool is_of_a_round(OpKind kind) {
    return !is_of_weights(kind) && !is_of_host(kind) && kind != OpKind::project && kind != OpKind::finish;
  }

  void rows_of_batches() {
    uint32_t rows = 0, all = 0;
    for (const PlanSpan& span : plan_->spans) {
      require(span.first_row == all, "spans are not behind each other");
      all += span.rows;
    }
    for (const PlanBatch& batch : plan_->batches) {
      require(batch.first_row == rows && batch.rows > 0, "micro-batches are not all rows, in order");
      require(batch.rows <= shape_.batch_rows, "a micro-batch has too many rows");
      rows += batch.rows;
    }
    require(rows == all, "micro-batches are not all rows, in order");
  }

  // Of each micro-batch project is first, but for what weights are waited for in the first one, and finish is last.
  void order_of_batches() {
    uint32_t batch = 0;
    bool projected = false;
    for (op_ = 0; op_ < plan_->ops.size() && problem_.empty(); ++op_) {
      const PlanOp& op = plan_->ops[op_];
      require(op.batch == batch, "micro-batches are not in order");
      const bool may_precede = batch == 0 && shape_.weights.used() &&
                               (is_of_weights(op.kind) || op.kind == OpKind::fetch_x || op.kind == OpKind::recompute);
      if (op.kind == OpKind::project) {
        require(!projected, "projects twice");
        projected = true;
      } else {
        require(projected || may_precede, "project is not first");
      }
      if (op.kind != OpKind::finish) continue;
      ++batch;
      projected = false;
    }
    require(batch == plan_->batches.size() && !projected && plan_->ops.back().kind == OpKind::finish, "finish is not last");
  }

  // Of a micro-batch, where it has divided spans: their queries right behind the projection, the host's part, and right
  // before finish the merge, all of the same spans.
  void order_of_host() {
    uint32_t first = 0;
    for (op_ = 0; op_ < plan_->ops.size() && problem_.empty(); ++op_) {
      const PlanOp& op = plan_->ops[op_];
      if (!is_of_host(op.kind)) continue;
      const auto behind = [&](OpKind kind) { return op_ > 0 && plan_->ops[op_ - 1].kind == kind; };
      const bool merges = op.kind == OpKind::merge;
      require(op.first == first && op.count > 0, "the host's spans are not in order");
      require(op.kind != OpKind::hand_over || behind(OpKind::project), "queries are not handed over behind project");
      require(op.kind != OpKind::attend_host || behind(OpKind::hand_over), "the host attends without its queries");
      require(!merges || plan_->ops[op_ + 1].kind == OpKind::finish, "merge is not right before finish");
      if (merges) first += op.count;
    }
    require(first == plan_->divided.size(), "divided spans are not merged");
  }

  // Each of the micro-batch's that is divided, once; of rows that decode, and of K,V in the host pool.
  void divided_spans() {
    std::vector<uint8_t> listed(plan_->spans.size());
    for (op_ = 0; op_ < plan_->ops.size() && problem_.empty(); ++op_) {
      const PlanOp& op = plan_->ops[op_];
      if (op.kind != OpKind::merge) continue;
      for (uint32_t i = op.first; i < op.first + op.count; ++i) {
        const uint32_t s = plan_->divided[i];
        if (s >= listed.size()) return violated("divides a span that there is not");
        require(listed[s]++ == 0 && part_of(plan_->spans[s], plan_->batches[op.batch]).rows > 0, "divides a span twice, or elsewhere");
      }
    }
    for (size_t s = 0; s < listed.size() && problem_.empty(); ++s) {
      const PlanSpan& span = plan_->spans[s];
      require((span.host_from != kAllOnDevice) == (listed[s] == 1), "a divided span is not among the divided");
      if (listed[s] == 0) continue;
      require(span.rows == 1 && span.host_from % kBlockTokens == 0 && span.host_from < span.first_position && !shape_.in_place,
              "a span is divided that cannot be");
      for (uint32_t position = span.host_from; position < span.first_position && problem_.empty(); position += kBlockTokens) {
        const BlockRun* run = run_of(span, position / kBlockTokens).first;
        require(run != nullptr && run->form == BlockForm::kv && !run->resident() && run->kv_id == kNoBlock,
                "the host attends to what is not K,V of its pool");
      }
    }
  }

  // W_K and W_V, the first round's X, all other weights, project; and nothing else of weights.
  void order_of_weights() {
    const size_t ops = plan_->ops.size();
    size_t kv = ops, rest = ops, project = ops;
    for (op_ = ops; op_-- > 0;) {
      const PlanOp& op = plan_->ops[op_];
      if (op.kind == OpKind::project) project = op_;
      if (!is_of_weights(op.kind)) continue;
      size_t& place = op.kind == OpKind::fetch_weights ? rest : kv;
      require(place == ops, "fetches weights twice");
      place = op_;
    }
    op_ = 0;
    if (!shape_.weights.used()) return require(kv == ops && rest == ops, "weights are fetched that are there");
    require(kv == 0 && rest < ops && project == rest + 1, "W_K and W_V are not first, or project does not follow the others");
    for (op_ = 0; op_ < ops && problem_.empty(); ++op_) {
      const PlanOp& op = plan_->ops[op_];
      const bool of_first_x = op.round == 0 && (op.kind == OpKind::fetch_x || op.kind == OpKind::recompute);
      if (op_ > kv && op_ < rest) require(of_first_x, "weights follow more than the first round's X");
      if (op_ > project) require(!of_first_x, "weights do not follow all X of the first round");
    }
  }

  // Parts, then one store at most, one attend, and behind it one append at most: the runtime gives slots back by that.
  void order_of_rounds() {
    uint32_t round = 0, batch = 0;
    OpKind last = OpKind::append;  // as if another round had ended
    for (op_ = 0; op_ < plan_->ops.size() && problem_.empty(); ++op_) {
      const PlanOp& op = plan_->ops[op_];
      if (!is_of_a_round(op.kind)) continue;
      require(op.batch == batch || last == OpKind::attend || last == OpKind::append, "a round is of two micro-batches");
      batch = op.batch;
      const bool ended = last == OpKind::attend || last == OpKind::append;
      if (op.kind == OpKind::append) {
        require(op_ > 1 && last == OpKind::attend && op.round + 1 == round, "an append is not behind its round's attend");
      } else {
        require(op.round == round && round < plan_->rounds.size(), "rounds are not in order");
        require(op.kind == OpKind::attend || ended || last != OpKind::store, "brings or stores behind a round's store");
        if (op.kind == OpKind::attend) ++round;
      }
      last = op.kind;
    }
    require(round == plan_->rounds.size(), "a round is not attended to");
  }

  Queue queue_of(OpKind kind) const {
    switch (kind) {
      case OpKind::fetch_x:
      case OpKind::fetch_kv:
      case OpKind::fetch_kv_weights:
      case OpKind::fetch_weights: return Queue::h2d;
      case OpKind::recompute: return Queue::recompute;
      case OpKind::append: return shape_.in_place ? Queue::dense : Queue::d2h;
      case OpKind::attend_host: return Queue::host;
      default: return Queue::dense;
    }
  }
  size_t things_of(OpKind kind) const {
    switch (kind) {
      case OpKind::fetch_x:
      case OpKind::fetch_kv:
      case OpKind::recompute: return plan_->parts.size();
      case OpKind::store:
      case OpKind::append: return plan_->stores.size();
      case OpKind::attend: return plan_->attends.size();
      case OpKind::hand_over:
      case OpKind::attend_host:
      case OpKind::merge: return plan_->divided.size();
      default: return 0;
    }
  }
  const PlanSpan* span_of(const PlanStore& store) const {
    for (const PlanSpan& span : plan_->spans) {
      if (store.row >= span.first_row && store.row + store.rows <= span.first_row + span.rows) return &span;
    }
    return nullptr;
  }

  // ---- time ----

  const Clock& clock_of(Instance instance) const { return clocks_[index(instance.queue)][instance.index - 1]; }
  static size_t index(Queue queue) { return static_cast<size_t>(queue); }

  void wait(Clock& clock, Instance instance) const {
    if (instance.index == 0) return;
    const Clock& other = clock_of(instance);
    for (size_t i = 0; i < kQueues; ++i) clock[i] = std::max(clock[i], other[i]);
  }

  void begin(const PlanOp& op) {
    auto& queue = clocks_[index(op.queue)];
    now_ = {op.queue, static_cast<uint32_t>(queue.size()) + 1};
    Clock clock = queue.empty() ? Clock{} : queue.back();
    for (const PlanWait& wanted : op.after) {
      switch (wanted.what) {
        case PlanWait::For::nothing: break;
        case PlanWait::For::operation: wait(clock, instances_[wanted.op]); break;
        case PlanWait::For::x_slot: wait(clock, x_free_[x_slot(op.round)]); break;
        case PlanWait::For::kv_slot:
          for (const Instance& user : kv_free_[kv_slot(op.round)]) wait(clock, user);
          break;
        case PlanWait::For::appended: wait(clock, appended_before_.empty() ? Instance{} : appended_before_[layer_]); break;
        case PlanWait::For::kept_x: wait(clock, kept_free_[kept_ % 2]); break;
        case PlanWait::For::weight_slot: wait(clock, weights_free_[weight_slot()]); break;
      }
    }
    clock[index(op.queue)] = now_.index;
    queue.push_back(clock);
  }

  bool happened(Instance instance) const {
    return instance.index <= clocks_[index(now_.queue)][now_.index - 1][index(instance.queue)];
  }

  // ---- memory ----

  static uint64_t key(Memory memory, uint64_t slot, uint64_t place) {
    return static_cast<uint64_t>(memory) << 60 | slot << 40 | place;
  }
  Location& at(Memory memory, uint64_t slot, uint64_t place) { return memory_[key(memory, slot, place)]; }

  void read(Location& location, const Content& content, const char* what) {
    require(location.content == content, what);
    require(location.writer.index == 0 || happened(location.writer), "reads what may not have been written yet");
    location.readers.push_back(now_);
  }
  void write(Location& location, const Content& content) {
    require(location.writer.index == 0 || happened(location.writer), "writes where something else may still write");
    for (const Instance& reader : location.readers) require(happened(reader), "overwrites what may still be read");
    location = {content, now_, {}};
  }

  // Pools hold what was written before the first Plan, unless a Plan has written it.
  void read_pool(Memory memory, uint32_t block, uint32_t token) {
    Location& location = at(memory, layer_, uint64_t{block} * kBlockTokens + token);
    if (location.writer.index != 0) require(happened(location.writer), "fetches before the write-back has ended");
    location.readers.push_back(now_);
  }
  void write_pool(Memory memory, uint32_t block, uint32_t token) {
    Location& location = at(memory, layer_, uint64_t{block} * kBlockTokens + token);
    for (const Instance& reader : location.readers) require(happened(reader), "writes back over what may still be read");
    require(location.writer.index == 0 || happened(location.writer), "writes back twice at once");
    location.writer = now_;
    location.readers.clear();
  }

  // ---- a layer ----

  uint32_t x_slot(uint32_t round) const { return (x_rounds_ + x_before_[round]) % shape_.x_slots; }
  uint32_t kv_slot(uint32_t round) const { return (kv_rounds_ + kv_before_[round]) % shape_.kv_slots; }

  bool streams() const { return shape_.weights.layers.streams(layer_); }
  uint64_t weight_slot() const { return streamed_ % shape_.weights.slots; }
  Content weights() const { return {kNoBlock, 0, false, true, 0, for_layer()}; }
  void read_weights(uint64_t part) {
    if (streams()) read(at(Memory::weights, weight_slot(), part), weights(), "computes with weights of another layer");
  }

  void layer() {
    weights_free_.resize(shape_.weights.slots);
    const auto rounds = plan_->rounds.size();
    x_before_.assign(rounds, 0), kv_before_.assign(rounds, 0);
    uint32_t x = 0, kv = 0;
    for (size_t r = 0; r < rounds; ++r) {
      x_before_[r] = x, kv_before_[r] = kv;
      x += plan_->rounds[r].x_rows > 0 ? 1 : 0;
      kv += plan_->rounds[r].areas > 0 ? 1 : 0;
    }
    x_free_.resize(shape_.x_slots), kv_free_.resize(shape_.kv_slots);
    instances_.assign(plan_->ops.size(), {});
    fetched_.clear(), attended_.clear(), stored_.clear(), written_back_.clear();
    work_ = {};
    next_piece_.assign(plan_->spans.size(), 0);
    for (op_ = 0; op_ < plan_->ops.size() && problem_.empty(); ++op_) {
      const PlanOp& op = plan_->ops[op_];
      const bool nothing = !streams() && (op.kind == OpKind::fetch_kv_weights || op.kind == OpKind::fetch_weights);
      if (nothing) continue;
      begin(op);
      instances_[op_] = now_;
      run_op(op);
    }
    for (size_t s = 0; s < plan_->spans.size() && problem_.empty(); ++s) {
      const PlanSpan& span = plan_->spans[s];
      for (uint32_t row = 0; row < span.rows; ++row) {
        require(stored_[span.first_row + row] == 1, "a new row is not stored once");
        require(written_back_[span.first_row + row] == (needs_append(span, row) ? 1u : 0u), "a new row is not written back once");
      }
    }
    check_work();
    x_rounds_ += x, kv_rounds_ += kv;
    streamed_ += streams() ? 1 : 0;
    ++layers_run_;
  }

  void check_work() {
    work_.batches = plan_->batches.size();
    for (const PlanSpan& span : plan_->spans) {
      work_.rows += span.rows;
      for (const PlanBatch& batch : plan_->batches) {
        const SpanPart part = part_of(span, batch);
        if (part.rows > 0) work_.attended += part.first_position + part.rows - span.host_tokens();
      }
      for (uint32_t row = 0; row < span.rows; ++row) work_.products += span.first_position + row + 1 - span.host_tokens();
    }
    const LayerWork& said = plan_->work;
    require(said.batches == work_.batches, "the work's micro-batches are others");
    require(said.rows == work_.rows && said.attended == work_.attended && said.products == work_.products,
            "the work's rows are not the spans'");
    require(said.x_host == work_.x_host && said.kv_host == work_.kv_host && said.x_device == work_.x_device &&
                said.kv_attended == work_.kv_attended && said.divided == work_.divided,
            "the work's tokens are not those of the parts");
    const StreamedLayers& layers = shape_.weights.layers;
    require(said.weight_bytes == (layers.layers == 0 ? 0 : layers.streamed * shape_.weights.layer_bytes() / layers.layers),
            "the work's weights are not those that stream");
    require(said.new_x == work_.new_x && said.new_kv == work_.new_kv, "the work's new tokens are not those written back");
  }

  bool needs_append(const PlanSpan& span, uint32_t row) const {
    return !shape_.in_place || run_of(span, (span.first_position + row) / kBlockTokens).first->form == BlockForm::x;
  }

  // The run of a span's block, and the block's place in it.
  std::pair<const BlockRun*, uint32_t> run_of(const PlanSpan& span, uint32_t block) const {
    for (uint32_t r = 0; r < span.runs; ++r) {
      const BlockRun& run = plan_->runs[span.first_run + r];
      if (block < run.blocks) return {&run, block};
      block -= run.blocks;
    }
    return {nullptr, 0};
  }
  uint32_t units(BlockForm form) const { return form == BlockForm::kv ? shape_.kv_units : shape_.x_units; }

  // Where K,V of a span's cached token come from.
  Content source_of(const PlanSpan& span, uint32_t position) const {
    const auto [run, offset] = run_of(span, position / kBlockTokens);
    if (run == nullptr) return {};
    const uint32_t token = position % kBlockTokens;
    if (run->kv_id != kNoBlock && token >= run->x_tokens) return {run->kv_id, token, false, false, position, for_batch()};
    const BlockForm form = run->used_form();
    return {(run->resident() ? run->device_id : run->id) + offset * units(form), token, form == BlockForm::x,
            run->resident(), position, for_batch()};
  }
  Content kept() const { return {kNoBlock, 0, true, false, 0, for_batch()}; }
  uint64_t for_batch() const { return 2 * kept_; }
  uint64_t for_layer() const { return 2 * layers_run_ + 1; }
  // A new row is told from the block that it is written back to.
  Content new_row(const PlanStore& store, uint32_t i) const {
    return {store.id, (store.position + i) % kBlockTokens, store.form == BlockForm::x, false, store.position + i,
            store.kept ? for_layer() : for_batch()};
  }

  template <typename Do>
  void each_token(const PlanPart& part, uint32_t unit, const Do& act) {
    for (uint32_t i = 0; i < part.tokens; ++i) {
      const uint32_t token = part.first_token + i;
      act(i, part.id + token / kBlockTokens * unit, token % kBlockTokens, part.area + token / kBlockTokens);
    }
  }

  void run_op(const PlanOp& op) {
    switch (op.kind) {
      case OpKind::project:
        for (uint64_t part : {kKeyValue, kRest}) read_weights(part);
        write(at(Memory::kept_x, 0, kept_ % 2), kept());
        return;
      case OpKind::finish:
        read_weights(kRest);
        if (streams()) weights_free_[weight_slot()] = now_;
        return end_batch(op.batch);
      case OpKind::hand_over:
        for (uint32_t i = 0; i < op.count; ++i) write(at(Memory::host_q, 0, i), of_host(op, i));
        return;
      case OpKind::attend_host:
        for (uint32_t i = 0; i < op.count; ++i) attend_host(op, i);
        return;
      case OpKind::merge:
        for (uint32_t i = 0; i < op.count; ++i) {
          read(at(Memory::host_state, 0, i), of_host(op, i), "merges something else than the host's part");
          merged_.insert(plan_->divided[op.first + i]);
        }
        return;
      case OpKind::fetch_kv_weights:
        return write(at(Memory::weights, weight_slot(), kKeyValue), weights());
      case OpKind::fetch_weights:
        return write(at(Memory::weights, weight_slot(), kRest), weights());
      case OpKind::fetch_x:
      case OpKind::fetch_kv:
      case OpKind::recompute:
        return parts_of(op);
      case OpKind::store:
        for (uint32_t i = 0; i < op.count; ++i) store(op, plan_->stores[op.first + i]);
        return;
      case OpKind::attend:
        for (uint32_t i = 0; i < op.count; ++i) attend(op, plan_->attends[op.first + i]);
        if (plan_->rounds[op.round].areas > 0) kv_free_[kv_slot(op.round)] = {now_};
        return;
      case OpKind::append:
        for (uint32_t i = 0; i < op.count; ++i) append(op, plan_->stores[op.first + i]);
        if (plan_->rounds[op.round].areas > 0) kv_free_[kv_slot(op.round)].push_back(now_);
        appended_[layer_] = kept_free_[kept_ % 2] = now_;
        return;
    }
  }

  // Every span with rows in it has been attended for up to its last.
  void end_batch(uint32_t batch) {
    for (size_t s = 0; s < plan_->spans.size(); ++s) {
      const SpanPart part = part_of(plan_->spans[s], plan_->batches[batch]);
      const PlanSpan& span = plan_->spans[s];
      const bool divided = span.host_from != kAllOnDevice;
      const uint32_t pieces = part.rows == 0 ? 0
                              : divided      ? span.host_from / kBlockTokens + 1
                                             : blocks_for(Tokens(part.first_position + part.rows)).value;
      require(next_piece_[s] == pieces, "a span's last pieces are not attended to");
      require(part.rows == 0 || !divided || merged_.count(static_cast<uint32_t>(s)) == 1, "a divided span is not merged");
      next_piece_[s] = 0;
    }
    fetched_.clear();
    merged_.clear();
    ++kept_;
  }

  Content of_host(const PlanOp& op, uint32_t i) const { return {plan_->divided[op.first + i], 0, false, false, 0, for_batch()}; }

  void attend_host(const PlanOp& op, uint32_t i) {
    const PlanSpan& span = plan_->spans[plan_->divided[op.first + i]];
    read(at(Memory::host_q, 0, i), of_host(op, i), "the host attends with other queries than the span's");
    for (uint32_t position = span.host_from; position < span.first_position; ++position) {
      const auto [run, offset] = run_of(span, position / kBlockTokens);
      read_pool(Memory::host_kv, run->id + offset * units(BlockForm::kv), position % kBlockTokens);
    }
    work_.kv_attended += span.host_tokens();
    ++work_.divided;
    write(at(Memory::host_state, 0, i), of_host(op, i));
  }

  void parts_of(const PlanOp& op) {
    require(op.tokens <= shape_.tile_tokens, "a tile is too large");
    if (op.kind == OpKind::recompute) read_weights(kKeyValue);
    uint32_t tokens = 0;
    const bool x = op.kind != OpKind::fetch_kv;
    const PlanRound& round = plan_->rounds[op.round];
    // As the runtime tells it.
    const bool staged = round.x_rows > 0 && op.after[0].what == PlanWait::For::operation;
    const Memory resident = shape_.in_place ? Memory::host_x : Memory::device;
    for (uint32_t p = op.first; p < op.first + op.count; ++p) {
      const PlanPart& part = plan_->parts[p];
      const bool behind = !staged || op.kind != OpKind::recompute || part.x_row == plan_->parts[op.first].x_row + tokens;
      require(behind, "recomputes rows that do not follow each other");
      tokens += part.tokens;
      each_token(part, units(x ? BlockForm::x : BlockForm::kv), [&](uint32_t i, uint32_t block, uint32_t token, uint32_t area) {
        require(area < round.areas, "a part is outside of its round's areas");
        Location& in_area = at(Memory::kv_slot, kv_slot(op.round), uint64_t{area} * kBlockTokens + token);
        if (op.kind == OpKind::fetch_kv) {
          read_pool(Memory::host_kv, block, token);
          fetch_once(block, token, false);
          ++work_.kv_host;
          return write(in_area, {block, token, false, false, part.position + i, for_batch()});
        }
        if (op.kind == OpKind::recompute && !staged) {
          read_pool(resident, block, token);
          ++work_.x_device;
          return write(in_area, {block, token, true, true, part.position + i, for_batch()});
        }
        const uint32_t row = part.x_row + i;
        const Content content{block, token, true, false, part.position + i, for_batch()};
        require(row < round.x_rows, "a part is outside of its round's X");
        Location& in_x = at(Memory::x_slot, x_slot(op.round), row);
        if (part.resident) {
          require(op.kind == OpKind::recompute, "fetches what is on the device");
          read_pool(resident, block, token);
          ++work_.x_device;
          const Content copied{block, token, true, true, part.position + i, for_batch()};
          write(in_x, copied);
          return write(in_area, copied);
        }
        if (op.kind == OpKind::fetch_x) {
          read_pool(Memory::host_x, block, token);
          fetch_once(block, token, true);
          ++work_.x_host;
          return write(in_x, content);
        }
        read(in_x, content, "recomputes from other X than its own");
        write(in_area, content);
      });
    }
    require(tokens == op.tokens, "a tile's tokens are not those of its parts");
    if (op.kind == OpKind::recompute && round.x_rows > 0) x_free_[x_slot(op.round)] = now_;
  }

  void fetch_once(uint32_t block, uint32_t token, bool x) {
    require(fetched_.insert({block, token, x, false, 0, 0}).second, "a token crosses the link twice");
  }

  void store(const PlanOp& op, const PlanStore& store) {
    places_of(store);
    for (uint32_t i = 0; i < store.rows; ++i) {
      ++stored_[store.row + i];
      const uint32_t token = (store.position + i) % kBlockTokens;
      require(token >= store.position % kBlockTokens, "a store goes beyond its block");
      if (store.device_id != kNoBlock) {
        write_pool(Memory::device, store.device_id, token);
      } else if (store.kept) {
        require(store.area < shape_.kept_blocks, "keeps K,V outside of the areas for them");
        write(at(Memory::kept_kv, 0, uint64_t{store.area} * kBlockTokens + token), new_row(store, i));
      } else {
        require(store.area < plan_->rounds[op.round].areas, "a store is outside of its round's areas");
        write(at(Memory::kv_slot, kv_slot(op.round), uint64_t{store.area} * kBlockTokens + token), new_row(store, i));
      }
      if (store.device_x_id != kNoBlock) write_pool(Memory::device, store.device_x_id, token);
    }
  }

  // A store's rows, positions and blocks belong together.
  void places_of(const PlanStore& store) {
    const PlanSpan& span = *span_of(store);
    require(store.position == span.first_position + store.row - span.first_row, "stores a row for another position");
    const auto [run, offset] = run_of(span, store.position / kBlockTokens);
    if (run == nullptr) return violated("stores to a block that the span does not have");
    const bool device = run->resident() && run->device_form == BlockForm::kv;
    require(store.form == run->form && store.id == run->id + offset * units(run->form), "writes back to another block");
    require(store.device_id == (device ? run->device_id + offset * units(BlockForm::kv) : kNoBlock),
            "stores to another resident block");
    const bool x_copy = run->resident() && !device && !shape_.in_place;
    require(store.device_x_id == (x_copy ? run->device_id + offset * units(BlockForm::x) : kNoBlock),
            "leaves a copy on the device without the new rows");
  }

  void append(const PlanOp& op, const PlanStore& store) {
    const bool x = store.form == BlockForm::x;
    if (!x && shape_.in_place) return;
    for (uint32_t i = 0; i < store.rows; ++i) {
      ++written_back_[store.row + i];
      if (!shape_.in_place) ++(x ? work_.new_x : work_.new_kv);
      const uint32_t token = (store.position + i) % kBlockTokens;
      if (x) {
        read(at(Memory::kept_x, 0, kept_ % 2), kept(), "writes back other X than the projection's");
      } else if (store.kept) {
        read(at(Memory::kept_kv, 0, uint64_t{store.area} * kBlockTokens + token), new_row(store, i),
             "writes back something else than the new row");
      } else if (store.device_id == kNoBlock) {
        read(at(Memory::kv_slot, kv_slot(op.round), uint64_t{store.area} * kBlockTokens + token), new_row(store, i),
             "writes back something else than the new row");
      } else {
        read_pool(Memory::device, store.device_id, token);
      }
      write_pool(x ? Memory::host_x : Memory::host_kv, store.id, token);
    }
  }

  void attend(const PlanOp& op, const PlanAttend& attend) {
    require(attend.round == op.round, "attends in another round");
    const PlanSpan& span = plan_->spans[attend.span];
    const SpanPart part = part_of(span, plan_->batches[op.batch]);
    require(part.rows > 0, "attends for a span without rows in the micro-batch");
    require(attend.first_piece == next_piece_[attend.span], "pieces are not attended to in order");
    next_piece_[attend.span] = attend.first_piece + attend.pieces;
    const uint32_t end = part.first_position + part.rows;
    const PlanAttend* before = &attend == &plan_->attends[op.first] ? nullptr : &attend - 1;
    if (before == nullptr || before->span != attend.span) {
      require(attended_.emplace(attend.span, op.round).second, "a span is attended for twice in a round");
    }
    // Of a divided span the piece behind those of the device is the one with its own row, and has nothing else.
    const bool divided = span.host_from != kAllOnDevice;
    const uint32_t own_piece = span.host_from / kBlockTokens;
    require(attend.pieces > 0 && attend.first_piece + attend.pieces <= (divided ? own_piece + 1 : blocks_for(Tokens(end)).value),
            "attends beyond the span");
    if (!problem_.empty()) return;
    for (uint32_t i = 0; i < attend.pieces * kBlockTokens; ++i) {
      uint32_t position = attend.first_piece * kBlockTokens + i;
      const uint32_t token = i % kBlockTokens;
      if (divided && position / kBlockTokens == own_piece) {
        position = span.first_position / kBlockTokens * kBlockTokens + token;
        if (position < span.first_position) continue;
      }
      if (position >= end) break;
      const auto [run, offset] = run_of(span, position / kBlockTokens);
      if (run == nullptr) return violated("attends to a block that the span does not have");
      if (attend.device_id != kNoBlock) {
        require(run->resident() && run->device_form == BlockForm::kv &&
                    attend.device_id + i / kBlockTokens * shape_.kv_units == run->device_id + offset * shape_.kv_units,
                "attends to another resident block than the span's");
        Location& location = at(Memory::device, layer_, uint64_t{run->device_id + offset * shape_.kv_units} * kBlockTokens + token);
        require(position < span.first_position || stored_[span.first_row + position - span.first_position] == 1,
                "attends to a row before it is stored");
        require(location.writer.index == 0 || happened(location.writer), "attends to a row before it is stored");
        location.readers.push_back(now_);
        continue;
      }
      Content expected = source_of(span, position);
      if (position >= part.first_position || attend.kept) {
        expected = {run->id + offset * units(run->form), token, run->form == BlockForm::x, false, position,
                    attend.kept ? for_layer() : for_batch()};
      }
      const uint32_t areas = attend.kept ? shape_.kept_blocks : plan_->rounds[op.round].areas;
      require(attend.area + i / kBlockTokens < areas, "attends outside of its round's areas, or of those for kept K,V");
      Location& location = attend.kept ? at(Memory::kept_kv, 0, uint64_t{attend.area} * kBlockTokens + i)
                                       : at(Memory::kv_slot, kv_slot(op.round), uint64_t{attend.area} * kBlockTokens + i);
      read(location, expected, "attends to something else than the span's token");
    }
  }

  const StagingShape shape_;
  const uint32_t layers_;
  const Plan* plan_ = nullptr;
  uint32_t layer_ = 0;
  uint64_t layers_run_ = 0;     // of all Plans
  size_t op_ = 0;
  std::string problem_;

  std::array<std::vector<Clock>, kQueues> clocks_;
  Instance now_;
  std::vector<Instance> instances_;  // of the layer's operations
  std::vector<Instance> x_free_, appended_, appended_before_;
  std::vector<std::vector<Instance>> kv_free_;
  std::vector<Instance> weights_free_;  // by slot: the layer that had it has finished
  uint64_t streamed_ = 0;               // layers of which weights were fetched
  std::array<Instance, 2> kept_free_;
  uint64_t kept_ = 0;                   // micro-batches of all layers that have ended
  uint32_t x_rounds_ = 0, kv_rounds_ = 0;
  std::vector<uint32_t> x_before_, kv_before_;

  std::unordered_map<uint64_t, Location> memory_;
  LayerWork work_;
  std::set<Content> fetched_;
  std::set<std::pair<uint32_t, uint32_t>> attended_;              // span and round
  std::set<uint32_t> merged_;                                     // spans of the micro-batch
  std::unordered_map<uint32_t, uint32_t> stored_, written_back_;  // by row: how often
  std::vector<uint32_t> next_piece_;                              // by span
};

}  // namespace

std::string check_plans(std::span<const Plan* const> plans, const StagingShape& shape, uint32_t layers) {
  return Checker(shape, layers).run(plans);
}

}  // namespace iokv
