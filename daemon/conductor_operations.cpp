// SPDX-License-Identifier: Apache-2.0
// Admission and the life of an operation: taken, admitted or refused, queued behind its sequence's earlier ones, started,
// advanced by Plans, finished or failed, delivered or parked until the client has room.
#include <algorithm>
#include <utility>

#include "daemon/conductor.h"
#include "iokv/iokv.h"

namespace iokv {

using wire::Counter;

void Conductor::on(RequestTaken& event) {
  Client* client = find(event.client);
  if (client == nullptr) return;
  bump(Counter::submissions);
  Request& request = event.request;
  if (!admit(*client, event.client, request)) return;
  switch (request.kind) {
    case RequestKind::nop: return answer(*client, event.client, request, request.refuse, 0);
    case RequestKind::open: return open(*client, event.client, request);
    case RequestKind::cancel: return cancel(*client, request);
    case RequestKind::close: return close(*client, request);
    case RequestKind::step:
    case RequestKind::fork:
    case RequestKind::truncate: return enqueue(*client, std::move(request));
  }
}

// Reserves the operation's final completion. A client that has more outstanding than it was told it may is ended: its
// library counts them, so only a broken or hostile one gets here.
bool Conductor::admit(Client& client, ClientId id, const Request& request) {
  if (request.part) return true;
  if (client.operations >= client.max_operations || !client.credits->can_reserve()) {
    effects_.end_client(id, IOKV_EPROTOCOL, "more operations outstanding than the limit in WELCOME");
    return false;
  }
  client.credits->reserve();
  client.operations++;
  operations_++;
  return true;
}

void Conductor::open(Client& client, ClientId id, const Request& request) {
  int32_t code = request.refuse;
  if (stopping_) code = IOKV_ESHUTDOWN;
  const iokv_limit limit = sequence_limit(client);
  if (code == 0 && limit != IOKV_LIMIT_NONE) code = IOKV_ELIMIT;
  if (code == 0 && client.sequences.contains(request.sequence)) code = IOKV_EINVAL;
  if (code == 0) {
    Sequence* sequence = add_sequence(client, id, request.sequence);
    sequence->sampling = request.sampling.value_or(SampleParams{});
    sequence->biases = request.biases;
    sequence->priority = request.priority;
  }
  answer(client, id, request, code, 0, limit);
}

// The one that keeps the client from another sequence.
iokv_limit Conductor::sequence_limit(const Client& client) const {
  if (client.sequences.size() >= config_.max_sequences) return IOKV_LIMIT_SEQUENCES;
  const uint32_t most = client.user->limits.sequences;
  return most != 0 && client.user->sequences >= most ? IOKV_LIMIT_USER_SEQUENCES : IOKV_LIMIT_NONE;
}

// The one that keeps the client from queueing so many tokens more.
iokv_limit Conductor::queue_limit(const Client& client, uint64_t tokens) const {
  if (client.queued_tokens + tokens > config_.max_queued_tokens) return IOKV_LIMIT_QUEUED_TOKENS;
  const uint64_t most = client.user->limits.queued_tokens;
  return most != 0 && client.user->queued_tokens + tokens > most ? IOKV_LIMIT_USER_QUEUED_TOKENS : IOKV_LIMIT_NONE;
}

void Conductor::queue_tokens(Client& client, int64_t tokens) {
  client.queued_tokens += static_cast<uint64_t>(tokens);
  client.user->queued_tokens += static_cast<uint64_t>(tokens);
}

void Conductor::enqueue(Client& client, Request&& request) {
  ClientId id{static_cast<uint32_t>(&client - clients_.data()), client.generation};
  uint64_t target = request.kind == RequestKind::fork ? request.parent : request.sequence;
  auto found = client.sequences.find(target);
  const bool exists = found != client.sequences.end();
  if (stopping_ || !exists) {
    const uint32_t length = exists ? static_cast<uint32_t>(sequences_[found->second]->tokens.size()) : 0;
    if (!request.part) answer(client, id, request, stopping_ ? IOKV_ESHUTDOWN : IOKV_ESEQUENCE, length);
    return;
  }
  request.limit = queue_limit(client, request.tokens.size());
  if (request.limit != IOKV_LIMIT_NONE) {
    request.refuse = IOKV_ELIMIT;
    request.tokens.clear();
  }
  if (request.deadline_ns != 0) deadlines_ = true;
  if (request.kind == RequestKind::fork && request.refuse == 0) request.refuse = add_child(client, id, request);
  Sequence& sequence = *sequences_[found->second];
  queue_tokens(client, static_cast<int64_t>(request.tokens.size()));
  sequence.operations.push_back(std::move(request));
  wake(sequence);
  if (sequence.operations.size() == 1) start_next(sequence);
}

// Runs operations from the front on until one needs the device. Not re-entered, however many end at once: a client
// chooses how many that are, and must not choose the depth of the stack.
void Conductor::start_next(Sequence& sequence) {
  if (sequence.starting || sequence.awaits_fork) return;
  sequence.starting = true;
  while (!sequence.operations.empty() && !sequence.started) run_front(sequence);
  sequence.starting = false;
}

void Conductor::run_front(Sequence& sequence) {
  Request& request = sequence.operations.front();
  Client& client = clients_[sequence.client.slot];
  int32_t code = request.refuse;
  if (code == 0 && request.deadline_ns != 0 && request.deadline_ns <= now_ns_) code = IOKV_EDEADLINE;
  if (code == 0 && sequence.failed_part != 0 && request.operation == sequence.failed_part) {
    code = sequence.failed_part_code;
  }
  const auto queued = static_cast<int64_t>(request.tokens.size());
  sequence.length_before = static_cast<uint32_t>(sequence.tokens.size());
  if (code == 0 && request.kind == RequestKind::step) code = start_step(sequence, request);
  if (code == 0 && request.kind == RequestKind::truncate) code = run_truncate(sequence, request);
  if (code == 0 && request.kind == RequestKind::fork) code = run_fork(sequence, request);
  queue_tokens(client, -queued);
  request.tokens.clear();
  if (request.part) {
    if (code != 0) fail_append(sequence, request.operation, code);
    sequence.operations.pop_front();
    return;
  }
  if (code != 0) return fail(sequence, code);
  if (sequence.started) return;
  const uint64_t forked = request.kind == RequestKind::fork ? request.sequence : 0;
  finish(sequence, 0);
  auto child = forked != 0 ? client.sequences.find(forked) : client.sequences.end();
  if (child != client.sequences.end()) start_next(*sequences_[child->second]);
}

int32_t Conductor::start_step(Sequence& sequence, Request& request) {
  uint64_t length = sequence.tokens.size() + request.tokens.size() + request.max_tokens;
  const Client& client = clients_[sequence.client.slot];
  if (int32_t code = refusal_by_length(client, length); code != 0) return code;
  if (sequence.tokens.empty() && request.tokens.empty() && request.max_tokens > 0) return IOKV_EINVAL;
  if (request.tokens.empty()) request.each = false;
  sequence.tokens.insert(sequence.tokens.end(), request.tokens.begin(), request.tokens.end());
  if (request.part) return 0;
  bool computes = request.max_tokens > 0 || sequence.cached < sequence.tokens.size();
  if (!computes) return 0;
  // A draw needs the last token's row in the step, so a last token that is cached already is computed again.
  uint32_t draws_from = static_cast<uint32_t>(sequence.tokens.size()) - 1;
  if (request.each) draws_from = sequence.length_before;
  if (request.max_tokens > 0 || request.each) forget_cache(sequence, std::min(sequence.cached, draws_from));
  sequence.started = true;
  sequence.epoch++;
  sequence.sampled = sequence.predicted = 0;
  sequence.draws_in_flight = 0;
  sequence.arrival = ++arrivals_;
  sequence.started_plan = issued_;
  sequence.taken_ns = sequence.ready_ns = sequence.token_ns = now_ns_;
  // The count of appended tokens outlives the tokens themselves: EACH predicts at every one of them.
  request.n = static_cast<uint32_t>(request.tokens.size());
  return 0;
}

int32_t Conductor::refusal_by_length(const Client& client, uint64_t length) const {
  if (length > config_.max_context) return IOKV_ECONTEXT;
  return most_units(blocks_for(Tokens(static_cast<uint32_t>(length)))).value > share_units(*client.user) ? IOKV_EPOOL : 0;
}

int32_t Conductor::run_truncate(Sequence& sequence, const Request& request) {
  if (request.n > sequence.tokens.size()) return IOKV_EINVAL;
  sequence.tokens.resize(request.n);
  forget_cache(sequence, std::min(sequence.cached, request.n));
  return 0;
}

// The child exists from the fork's admission on, so that it can be stepped at once; its operations wait for the fork.
int32_t Conductor::add_child(Client& client, ClientId id, Request& request) {
  request.limit = sequence_limit(client);
  if (request.limit != IOKV_LIMIT_NONE) return IOKV_ELIMIT;
  if (client.sequences.contains(request.sequence)) return IOKV_EINVAL;
  add_sequence(client, id, request.sequence)->awaits_fork = true;
  return 0;
}

// The child refers to the parent's full blocks; what is beyond them it computes again, to the same bits, when it is first
// stepped. Full blocks are never written, so neither disturbs the other.
int32_t Conductor::run_fork(Sequence& parent, const Request& request) {
  const uint32_t length = static_cast<uint32_t>(parent.tokens.size());
  const uint32_t shared = request.n == UINT32_MAX ? length : request.n;
  if (shared > length) return IOKV_EINVAL;
  const Client& client = clients_[parent.client.slot];
  auto found = client.sequences.find(request.sequence);
  if (found == client.sequences.end()) return 0;  // closed before it was made
  Sequence& child = *sequences_[found->second];
  child.awaits_fork = false;
  child.sampling = parent.sampling;
  child.biases = parent.biases;
  child.priority = parent.priority;
  child.tokens.assign(parent.tokens.begin(), parent.tokens.begin() + shared);
  const uint32_t full_blocks = std::min(parent.cached, shared) / kBlockTokens;
  for (uint32_t i = 0; i < full_blocks; i++) {
    pool_.retain(parent.blocks[i].id);
    child.blocks.push_back(parent.blocks[i]);
  }
  parent.blocks.share(full_blocks);
  child.blocks.share(full_blocks);
  child.cached = full_blocks * kBlockTokens;
  child.last_plan = parent.last_plan;  // as recently used
  wake(child);
  return 0;
}

// A fork that ends without having run takes its child with it.
void Conductor::disown(Client& client, const Request& fork) {
  if (fork.kind != RequestKind::fork || fork.refuse != 0) return;
  auto found = client.sequences.find(fork.sequence);
  if (found == client.sequences.end()) return;
  Sequence& child = *sequences_[found->second];
  if (!child.awaits_fork) return;
  fail(child, IOKV_ESEQUENCE);
  remove_sequence(child);
}

void Conductor::cancel(Client& client, const Request& request) {
  ClientId id{static_cast<uint32_t>(&client - clients_.data()), client.generation};
  auto found = client.sequences.find(request.sequence);
  if (found == client.sequences.end()) return answer(client, id, request, IOKV_ESEQUENCE, 0);
  Sequence& sequence = *sequences_[found->second];
  int32_t cancelled = 0;
  auto named = [&](const Request& r) { return request.target == 0 || r.operation == request.target; };
  const bool running = sequence.started;
  if (running && named(sequence.operations.front())) {
    cancelled++;
    abandon_front(sequence, IOKV_ECANCELED);
  }
  for (size_t i = sequence.started ? 1 : 0; i < sequence.operations.size();) {
    if (!named(sequence.operations[i])) {
      i++;
      continue;
    }
    cancelled += sequence.operations[i].part ? 0 : 1;
    drop(sequence, i, IOKV_ECANCELED);
  }
  start_next(sequence);
  answer(client, id, request, cancelled, static_cast<uint32_t>(sequence.tokens.size()));
}

void Conductor::close(Client& client, const Request& request) {
  ClientId id{static_cast<uint32_t>(&client - clients_.data()), client.generation};
  auto found = client.sequences.find(request.sequence);
  if (found == client.sequences.end()) return answer(client, id, request, IOKV_ESEQUENCE, 0);
  Sequence& sequence = *sequences_[found->second];
  fail(sequence, IOKV_ECANCELED);
  uint32_t length = static_cast<uint32_t>(sequence.tokens.size());
  remove_sequence(sequence);
  answer(client, id, request, 0, length);
}

// ---- ending ---------------------------------------------------------------------------------------------------------

// The front operation has done what was asked: its final completion carries no token.
void Conductor::finish(Sequence& sequence, int32_t result) {
  deliver(sequence, outcome_of(sequence, sequence.operations.front(), result));
}

// The front operation failed with `code`; everything queued behind it is cancelled.
void Conductor::fail(Sequence& sequence, int32_t code) {
  if (sequence.operations.empty()) return;
  abandon_front(sequence, code);
  while (!sequence.operations.empty()) drop(sequence, 0, IOKV_ECANCELED);
}

// Ends the front operation early. Tokens that were drawn but could not be delivered leave the sequence again, so that
// `length` in the final completion counts exactly what the client has seen.
void Conductor::abandon_front(Sequence& sequence, int32_t code) {
  Client& client = clients_[sequence.client.slot];
  if (!sequence.parked.empty()) {
    uint32_t undelivered = static_cast<uint32_t>(
        std::count_if(sequence.parked.begin(), sequence.parked.end(),
                      [](const Outcome& o) { return (o.flags & IOKV_COMPLETION_TOKEN) != 0; }));
    sequence.tokens.resize(sequence.tokens.size() - undelivered);
    sequence.parked.clear();
    client.parked--;
  }
  sequence.draws_in_flight = 0;
  forget_cache(sequence, std::min(sequence.cached, static_cast<uint32_t>(sequence.tokens.size())));
  Request& front = sequence.operations.front();
  queue_tokens(client, -static_cast<int64_t>(front.tokens.size()));
  front.tokens.clear();
  if (!front.part) {
    Outcome outcome = outcome_of(sequence, front, code);
    client.credits->post_final(0);
    effects_.post(sequence.client, outcome);
    bump(Counter::completions);
    if (code != IOKV_ECANCELED) bump(Counter::refusals);
    client.operations--;
    operations_--;
  }
  if (front.part) fail_append(sequence, front.operation, code);
  const Request ended = std::move(front);
  sequence.operations.pop_front();
  sequence.started = false;
  sequence.epoch++;
  disown(client, ended);
}

// A part of a longer append has failed, or was dropped: the STEP that ends the append, which may be yet to come, fails
// likewise, and so does what is left of its parts.
void Conductor::fail_append(Sequence& sequence, uint64_t operation, int32_t code) {
  sequence.failed_part = operation;
  sequence.failed_part_code = code;
}

// Takes an operation that has not started out of the queue.
void Conductor::drop(Sequence& sequence, size_t index, int32_t code) {
  Client& client = clients_[sequence.client.slot];
  const Request queued = std::move(sequence.operations[index]);
  sequence.operations.erase(sequence.operations.begin() + static_cast<long>(index));
  queue_tokens(client, -static_cast<int64_t>(queued.tokens.size()));
  if (queued.operation == sequence.failed_part) code = sequence.failed_part_code;
  if (queued.part) {
    fail_append(sequence, queued.operation, code);
  } else {
    answer(client, sequence.client, queued, code, static_cast<uint32_t>(sequence.tokens.size()));
  }
  disown(client, queued);
}

// ---- delivering -----------------------------------------------------------------------------------------------------

// Posts an outcome of the front operation, or parks it behind those that wait for room already.
void Conductor::deliver(Sequence& sequence, Outcome&& outcome) {
  Client& client = clients_[sequence.client.slot];
  bool was_parked = !sequence.parked.empty();
  sequence.parked.push_back(std::move(outcome));
  if (!was_parked) client.parked++;
  if (!was_parked) sequence.parked_since_ns = now_ns_;
  if (!was_parked) flush_parked(sequence);
}

// Posts what there is room for, in order. With the final completion the front operation ends and the next one starts.
void Conductor::flush_parked(Sequence& sequence) {
  Client& client = clients_[sequence.client.slot];
  bool ended = false;
  while (!sequence.parked.empty() && !ended) {
    Outcome& outcome = sequence.parked.front();
    const uint32_t bytes = result_bytes(outcome);
    bool more = (outcome.flags & IOKV_COMPLETION_MORE) != 0;
    if (more ? !client.credits->can_post_more(bytes) : !client.credits->can_post_final(bytes)) return;
    more ? client.credits->post_more(bytes) : client.credits->post_final(bytes);
    effects_.post(sequence.client, outcome);
    bump(Counter::completions);
    if ((outcome.flags & IOKV_COMPLETION_TOKEN) != 0) bump(Counter::sampled_tokens);
    if (outcome.result < 0) bump(Counter::refusals);
    sequence.parked.pop_front();
    ended = !more;
  }
  if (sequence.parked.empty()) client.parked--;
  if (!ended) return;
  IOKV_ASSERT(sequence.parked.empty());
  client.operations--;
  operations_--;
  end_front(sequence);
}

void Conductor::end_front(Sequence& sequence) {
  sequence.operations.pop_front();
  sequence.started = false;
  sequence.draws_in_flight = 0;
  sequence.epoch++;
  forget_cache(sequence, std::min(sequence.cached, static_cast<uint32_t>(sequence.tokens.size())));
  start_next(sequence);
}

// The completion of an operation that never became a front operation.
void Conductor::answer(Client& client, ClientId id, const Request& request, int32_t result, uint32_t length,
                       iokv_limit limit) {
  Outcome outcome;
  outcome.user_data = request.user_data;
  outcome.operation = request.operation;
  outcome.sequence = request.sequence;
  outcome.result = result;
  outcome.length = length;
  if (result == IOKV_ELIMIT) outcome.index = static_cast<uint32_t>(limit);
  client.credits->post_final(0);
  effects_.post(id, outcome);
  bump(Counter::completions);
  if (result < 0 && result != IOKV_ECANCELED) bump(Counter::refusals);
  client.operations--;
  operations_--;
}

Outcome Conductor::outcome_of(const Sequence& sequence, const Request& request, int32_t result) const {
  Outcome outcome;
  outcome.user_data = request.user_data;
  outcome.operation = request.operation;
  outcome.sequence = request.sequence;
  outcome.result = result;
  outcome.length = static_cast<uint32_t>(sequence.tokens.size());
  if (result == IOKV_ELIMIT) outcome.index = static_cast<uint32_t>(request.limit);
  if (request.kind == RequestKind::fork && result == 0) {
    outcome.length = request.n == UINT32_MAX ? outcome.length : request.n;
  }
  return outcome;
}

// ---- sequences ------------------------------------------------------------------------------------------------------

Sequence* Conductor::add_sequence(Client& client, ClientId owner, uint64_t id) {
  if (free_slots_.empty()) {
    sequences_.push_back(std::make_unique<Sequence>());
    sequences_.back()->slot = static_cast<uint32_t>(sequences_.size() - 1);
    free_slots_.push_back(sequences_.back()->slot);
  }
  Sequence& sequence = *sequences_[free_slots_.back()];
  free_slots_.pop_back();
  uint32_t slot = sequence.slot, generation = sequence.generation + 1;
  const bool active = sequence.active;
  sequence = Sequence{};
  sequence.active = active;
  sequence.slot = slot;
  sequence.generation = generation;
  sequence.open = true;
  sequence.blocks = BlockTable({config_.staging.kv_units, config_.staging.x_units}, config_.staging.in_place);
  sequence.client = owner;
  sequence.id = id;
  client.sequences.emplace(id, slot);
  client.user->sequences++;
  return &sequence;
}

// Its operations have been answered, or its client is gone.
void Conductor::remove_sequence(Sequence& sequence) {
  Client& client = clients_[sequence.client.slot];
  forget_cache(sequence, 0);
  for (const Request& request : sequence.operations) queue_tokens(client, -static_cast<int64_t>(request.tokens.size()));
  if (!sequence.parked.empty()) client.parked--;
  client.sequences.erase(sequence.id);
  client.user->sequences--;
  sequence.operations.clear();
  sequence.parked.clear();
  sequence.tokens = std::vector<int32_t>();  // and its memory
  sequence.open = false;
  sequence.generation++;
  free_slots_.push_back(sequence.slot);
}

}  // namespace iokv
