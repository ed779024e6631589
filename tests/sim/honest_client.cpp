// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/honest_client.h"

#include <algorithm>
#include <cstring>

#include "daemon/base/assert.h"
#include "iokv/iokv.h"
#include "tests/sim/oracle.h"

namespace iokv::sim {

HonestClient::HonestClient(const wire::Geometry& geometry, const Surroundings& surroundings, std::mt19937_64& random,
                           uint32_t operations)
    : rings(geometry), surroundings_(surroundings), random_(random), left_(operations) {}

bool HonestClient::act(uint64_t now_ns) {
  if (now_ns < stalled_until_ns_) return false;
  if (armed_) rings.disarm();
  armed_ = false;
  bool ring = false;
  const bool reaped = chance(70) && reap_some(now_ns, ring);
  bool placed = false;
  while (left_ > 0 && operations_.size() + 1 < surroundings_.max_operations && chance(60)) {
    if (!place_one(now_ns)) break;
    placed = true;
  }
  if (placed) ring |= rings.submit();
  if (chance(1)) stalled_until_ns_ = now_ns + below(30'000'000);
  if (reaped || placed || chance(50)) return ring;
  armed_ = true;
  if (!rings.arm() && (left_ == 0 || !operations_.empty())) asleep_ = true;
  return ring;
}

bool HonestClient::reap_some(uint64_t now_ns, bool& ring) {
  uint32_t count = 0;
  for (uint32_t most = 1 + below(20); count < most; count++) {
    auto reaped = rings.reap();
    if (!reaped) break;
    check(now_ns, *reaped);
  }
  if (count == 0) return false;
  ring |= rings.give_back();
  return true;
}

// ---- placing --------------------------------------------------------------------------------------------------------

SampleParams HonestClient::random_sampling() {
  SampleParams sampling;
  if (chance(50)) sampling.temperature = 0.5f;
  sampling.seed = random_();
  return sampling;
}

uint64_t HonestClient::any_sequence() {
  if (views_.empty()) return 0;
  auto found = views_.begin();
  std::advance(found, below(static_cast<uint32_t>(views_.size())));
  return found->first;
}

bool HonestClient::place_one(uint64_t now_ns) {
  if (!rings.has_room(1024)) return false;
  const uint64_t id = any_sequence();
  wire::Submission entry{};
  Operation operation;
  const uint32_t kind = below(100);
  if (id == 0 || kind < 12) {
    const uint64_t opened = next_sequence_++ | uint64_t{1} << 32;
    View view;
    view.sampling = random_sampling();
    view.may_be_refused = views_.size() + 1 > surroundings_.max_sequences;
    entry.opcode = wire::Opcode::open;
    entry.sequence = opened;
    entry.priority = static_cast<int16_t>(below(5)) - 2;
    operation.kind = RequestKind::open;
    operation.sequence = opened;
    operation.sampling = view.sampling;
    views_.emplace(opened, view);
    return place(operation, entry, step_payload(operation, {}, false));
  }
  operation.sequence = id;
  entry.sequence = id;
  View& view = views_.at(id);
  if (kind < 70) {
    place_step(now_ns, id);
    return true;
  }
  if (kind < 76) {
    const uint64_t child = next_sequence_++ | uint64_t{1} << 32;
    operation.kind = RequestKind::fork;
    operation.child = child;
    operation.n = chance(50) ? UINT32_MAX : below(static_cast<uint32_t>(view.tokens.size()) + 3);
    entry.opcode = wire::Opcode::fork;
    entry.sequence = child;
    entry.argument = id;
    entry.n = operation.n;
    View made;
    made.may_be_refused = views_.size() + 1 > surroundings_.max_sequences;
    made.awaits_fork = true;
    views_.emplace(child, made);
  } else if (kind < 84) {
    operation.kind = RequestKind::truncate;
    operation.n = below(static_cast<uint32_t>(view.tokens.size()) + 2);
    entry.opcode = wire::Opcode::truncate;
    entry.n = operation.n;
  } else if (kind < 90) {
    operation.kind = RequestKind::cancel;
    entry.opcode = wire::Opcode::cancel;
    if (!view.order.empty() && chance(50)) entry.argument = view.order[below(static_cast<uint32_t>(view.order.size()))];
    for (uint64_t each : view.order) {
      if (entry.argument == 0 || entry.argument == each) operations_.at(each).may_be_cancelled = true;
    }
  } else if (kind < 94) {
    operation.kind = RequestKind::close;
    entry.opcode = wire::Opcode::close;
    view.close_placed = true;
    for (uint64_t each : view.order) operations_.at(each).may_be_cancelled = true;
  } else {
    operation.kind = RequestKind::nop;
    entry.opcode = wire::Opcode::nop;
    entry.sequence = 0;
    operation.sequence = 0;
  }
  return place(operation, entry, {});
}

void HonestClient::place_step(uint64_t now_ns, uint64_t id) {
  Operation operation;
  operation.kind = RequestKind::step;
  operation.sequence = id;
  uint32_t count = chance(40) ? 0 : chance(80) ? below(12) : below(170);
  for (uint32_t i = 0; i < count; i++) operation.tokens.push_back(static_cast<int32_t>(below(kVocabulary)));
  if (count > 0 && chance(2)) {
    operation.tokens[below(count)] = kVocabulary;
    operation.bad_token = true;
  }
  operation.n = count;
  operation.m = chance(20) ? 0 : below(chance(10) ? 300 : 24);
  for (uint32_t i = below(3); i > 0; i--) operation.stop_tokens.push_back(static_cast<int32_t>(below(kVocabulary)));
  operation.each = chance(15);
  operation.logits = chance(15);
  if (chance(30)) operation.sampling = random_sampling();
  if (chance(5)) operation.deadline_ns = now_ns + below(3'000'000) + 1;

  wire::Submission entry{};
  entry.opcode = wire::Opcode::step;
  entry.sequence = id;
  entry.priority = static_cast<int16_t>(below(3)) - 1;
  entry.argument = operation.deadline_ns;
  entry.m = operation.m;
  entry.flags = static_cast<uint16_t>((operation.each ? wire::kSubmissionEach : 0) |
                                      (operation.logits ? wire::kSubmissionLogits : 0));
  std::span<const int32_t> rest = operation.tokens;
  // A longer append goes in parts, which carry the operation's id and no flags of their own.
  while (!operation.each && rest.size() > 8 && chance(30)) {
    const uint32_t part = 1 + below(static_cast<uint32_t>(rest.size()) - 1);
    wire::Submission partial{};
    partial.opcode = wire::Opcode::step;
    partial.flags = wire::kSubmissionPart;
    partial.sequence = id;
    partial.operation = next_operation_;
    partial.n = part;
    const auto payload = step_payload(Operation{}, rest.first(part), false);
    // Two entries, and the payload of what ends the append behind this one.
    if (!rings.has_room(static_cast<uint32_t>(payload.size()) + 2 * 1024, 2)) break;
    rings.place(partial, payload);
    rest = rest.subspan(part);
  }
  entry.n = static_cast<uint32_t>(rest.size());
  const auto payload = step_payload(operation, rest, true);
  place(std::move(operation), entry, payload);
}

bool HonestClient::place(Operation operation, wire::Submission entry, std::span<const std::byte> payload) {
  const uint64_t id = next_operation_++;
  entry.operation = id;
  entry.user_data = id * 3 + 1;
  rings.place(entry, payload);
  left_--;
  const bool ordered = operation.kind == RequestKind::step || operation.kind == RequestKind::fork ||
                       operation.kind == RequestKind::truncate;
  if (ordered) {
    View& view = views_.at(operation.sequence);
    view.order.push_back(id);
  }
  operations_.emplace(id, std::move(operation));
  return true;
}

std::vector<std::byte> HonestClient::step_payload(const Operation& operation, std::span<const int32_t> tokens,
                                                  bool with_stops) const {
  wire::StepPayload head{};
  head.struct_bytes = sizeof head;
  head.stop_tokens = with_stops ? static_cast<uint32_t>(operation.stop_tokens.size()) : 0;
  if (operation.sampling) {
    head.has_sampling = 1;
    head.temperature = operation.sampling->temperature;
    head.top_p = operation.sampling->top_p;
    head.top_k = operation.sampling->top_k;
    head.seed = operation.sampling->seed;
  }
  std::vector<std::byte> bytes(sizeof head + (tokens.size() + head.stop_tokens) * sizeof(int32_t));
  std::memcpy(bytes.data(), &head, sizeof head);
  if (!tokens.empty()) std::memcpy(bytes.data() + sizeof head, tokens.data(), tokens.size_bytes());
  if (head.stop_tokens > 0) {
    std::memcpy(bytes.data() + sizeof head + tokens.size_bytes(), operation.stop_tokens.data(),
                operation.stop_tokens.size() * sizeof(int32_t));
  }
  return bytes;
}

// ---- checking -------------------------------------------------------------------------------------------------------

void HonestClient::check(uint64_t now_ns, const RingClient::Reaped& reaped) {
  const wire::Completion& completion = reaped.completion;
  auto found = operations_.find(completion.operation);
  IOKV_ASSERT(found != operations_.end());  // never submitted, or final already
  Operation& operation = found->second;
  IOKV_ASSERT(completion.user_data == completion.operation * 3 + 1);
  if (operation.kind != RequestKind::nop) {
    IOKV_ASSERT(completion.sequence == (operation.kind == RequestKind::fork ? operation.child : operation.sequence));
  }
  const bool drawn = (completion.flags & (IOKV_COMPLETION_TOKEN | IOKV_COMPLETION_PREDICTED)) != 0;
  IOKV_ASSERT(completion.times != 0 ? operation.kind == RequestKind::step : !drawn);
  if ((completion.flags & IOKV_COMPLETION_TOKEN) != 0) {
    check_token(operation, views_.at(operation.sequence), reaped);
  } else if ((completion.flags & IOKV_COMPLETION_PREDICTED) != 0) {
    check_prediction(operation, views_.at(operation.sequence), reaped);
  } else {
    IOKV_ASSERT(completion.flags == 0 && reaped.logits.empty());
  }
  if ((completion.flags & IOKV_COMPLETION_MORE) != 0) return;
  check_final(now_ns, completion.operation, operation, completion);
  operations_.erase(found);
}

// The operation has its turn: everything before it has ended.
void HonestClient::begin(Operation& operation, View& view) {
  if (operation.begun) return;
  IOKV_ASSERT(!operation.bad_token);
  operation.begun = true;
  operation.before = static_cast<uint32_t>(view.tokens.size());
  view.tokens.insert(view.tokens.end(), operation.tokens.begin(), operation.tokens.end());
  const uint64_t length = view.tokens.size() + operation.m;
  IOKV_ASSERT(length <= surroundings_.max_context && length <= surroundings_.pool_tokens);
}

void HonestClient::check_token(Operation& operation, View& view, const RingClient::Reaped& reaped) {
  const wire::Completion& completion = reaped.completion;
  IOKV_ASSERT(operation.kind == RequestKind::step && view.order.front() == completion.operation);
  begin(operation, view);
  if (operation.each && operation.n > 0) IOKV_ASSERT(operation.predicted == operation.n - 1);
  const uint64_t state = state_of(view.tokens);
  const SampleParams params = operation.sampling.value_or(view.sampling);
  IOKV_ASSERT(completion.token == draw(state, params, view.tokens.size()));
  IOKV_ASSERT(completion.logprob == logprob(state) && completion.index == operation.sampled);
  IOKV_ASSERT(reaped.logits == (operation.logits ? logits(state) : std::vector<float>()));
  IOKV_ASSERT(completion.result == 0);
  view.tokens.push_back(completion.token);
  IOKV_ASSERT(completion.length == view.tokens.size());
  operation.sampled++;
  tokens_checked_++;
  const auto& stops = operation.stop_tokens;
  const bool stopped = std::find(stops.begin(), stops.end(), completion.token) != stops.end();
  IOKV_ASSERT(stopped == ((completion.flags & IOKV_COMPLETION_STOPPED) != 0));
  const bool last = stopped || operation.sampled == operation.m;
  IOKV_ASSERT(last == ((completion.flags & IOKV_COMPLETION_MORE) == 0));
}

void HonestClient::check_prediction(Operation& operation, View& view, const RingClient::Reaped& reaped) {
  const wire::Completion& completion = reaped.completion;
  IOKV_ASSERT(operation.each && operation.sampled == 0 && view.order.front() == completion.operation);
  begin(operation, view);
  IOKV_ASSERT(completion.index == operation.predicted && completion.result == 0);
  const uint32_t length = operation.before + operation.predicted + 1;
  const uint64_t state = state_of(std::span(view.tokens).first(length));
  IOKV_ASSERT(completion.token == draw(state, operation.sampling.value_or(view.sampling), length));
  IOKV_ASSERT(completion.logprob == logprob(state) && completion.length == operation.before + operation.n);
  IOKV_ASSERT(reaped.logits == (operation.logits ? logits(state) : std::vector<float>()));
  operation.predicted++;
  tokens_checked_++;
}

void HonestClient::check_final(uint64_t now_ns, uint64_t id, Operation& operation, const wire::Completion& completion) {
  auto found = views_.find(operation.sequence);
  View* view = found == views_.end() ? nullptr : &found->second;
  const int32_t result = completion.result;
  bool in_turn = true;
  if (result < 0) check_failure(now_ns, operation, result);
  if (view != nullptr && !view->order.empty()) {
    auto place_in_order = std::find(view->order.begin(), view->order.end(), id);
    // Only what was cancelled, or came too late for its sequence, ends out of turn.
    in_turn = place_in_order == view->order.begin();
    IOKV_ASSERT(in_turn || place_in_order == view->order.end() || result == IOKV_ECANCELED || result == IOKV_EDEADLINE ||
                result == IOKV_ESEQUENCE || result == IOKV_ESHUTDOWN);
    if (place_in_order != view->order.end()) {
      view->order.erase(place_in_order);
      for (uint64_t later : view->order) operations_.at(later).may_be_cancelled |= result < 0;
    }
  }
  switch (operation.kind) {
    case RequestKind::nop: IOKV_ASSERT(result == 0); return;
    case RequestKind::open:
      if (result < 0) view->gone = true;
      return;
    case RequestKind::close:
      if (result == 0) view->gone = true;
      return;
    case RequestKind::cancel: return;
    case RequestKind::fork: {
      View& child = views_.at(operation.child);
      child.awaits_fork = false;
      if (result < 0) {
        child.gone = true;
        return;
      }
      const uint32_t shared = operation.n == UINT32_MAX ? static_cast<uint32_t>(view->tokens.size()) : operation.n;
      IOKV_ASSERT(shared <= view->tokens.size() && completion.length == shared);
      child.tokens.assign(view->tokens.begin(), view->tokens.begin() + shared);
      child.sampling = view->sampling;
      return;
    }
    case RequestKind::truncate:
      if (result == 0) view->tokens.resize(operation.n);
      if (result == 0) IOKV_ASSERT(completion.length == operation.n);
      return;
    case RequestKind::step: break;
  }
  if (result == 0) {
    begin(operation, *view);
    const bool stopped = (completion.flags & IOKV_COMPLETION_STOPPED) != 0;
    IOKV_ASSERT(stopped || operation.sampled == operation.m);
    if (operation.each && operation.n > 0) IOKV_ASSERT(operation.predicted == operation.n - (operation.m > 0 ? 1 : 0));
    IOKV_ASSERT(completion.length == view->tokens.size());
    return;
  }
  if (!in_turn || view->gone || result == IOKV_ESEQUENCE) return;
  // A failed step leaves what its length says: all that was seen, or a beginning of what it appended.
  const uint32_t before = static_cast<uint32_t>(view->tokens.size());
  if (operation.begun) {
    IOKV_ASSERT(completion.length == before);
  } else {
    IOKV_ASSERT(completion.length >= before && completion.length <= before + operation.tokens.size());
    view->tokens.insert(view->tokens.end(), operation.tokens.begin(),
                        operation.tokens.begin() + (completion.length - before));
  }
}

void HonestClient::check_failure(uint64_t now_ns, const Operation& operation, int32_t code) {
  const View* view = operation.sequence == 0 ? nullptr : &views_.at(operation.sequence);
  const uint64_t length = view == nullptr ? 0 : view->tokens.size() + (operation.begun ? 0 : operation.n) + operation.m;
  switch (code) {
    case IOKV_ECANCELED: IOKV_ASSERT(operation.may_be_cancelled); return;
    case IOKV_EDEADLINE: IOKV_ASSERT(operation.deadline_ns != 0 && now_ns >= operation.deadline_ns); return;
    case IOKV_ECONTEXT: IOKV_ASSERT(length > surroundings_.max_context); return;
    case IOKV_EPOOL: IOKV_ASSERT(length > surroundings_.pool_tokens); return;
    case IOKV_ETOKEN: IOKV_ASSERT(operation.bad_token); return;
    case IOKV_ESHUTDOWN: IOKV_ASSERT(surroundings_.stopping); return;
    case IOKV_EDEVICE: IOKV_ASSERT(surroundings_.device_failed); return;
    case IOKV_ESEQUENCE:
      IOKV_ASSERT(view->close_placed || view->gone || view->may_be_refused || view->awaits_fork || surroundings_.stopping);
      return;
    case IOKV_ELIMIT:
      IOKV_ASSERT(operation.kind == RequestKind::open ? view->may_be_refused
                                                      : operation.kind == RequestKind::fork &&
                                                            views_.at(operation.child).may_be_refused);
      return;
    case IOKV_EINVAL: {
      const uint32_t now = static_cast<uint32_t>(view->tokens.size());
      const bool empty = operation.kind == RequestKind::step && now == 0 && operation.n == 0 && operation.m > 0;
      const bool beyond = (operation.kind == RequestKind::truncate || operation.kind == RequestKind::fork) &&
                          operation.n > now;
      IOKV_ASSERT(empty || beyond);
      return;
    }
    default: IOKV_ASSERT(!"a code that nothing explains");
  }
}

std::string HonestClient::state() const {
  std::string text = "left " + std::to_string(left_) + ", outstanding " + std::to_string(operations_.size()) +
                     (asleep_ ? ", asleep" : "");
  for (const auto& [id, operation] : operations_) {
    text += "\n    operation " + std::to_string(id) + " kind " + std::to_string(static_cast<int>(operation.kind)) +
            " of sequence " + std::to_string(operation.sequence & 0xffffffff) + " n " + std::to_string(operation.n) +
            " m " + std::to_string(operation.m) + " sampled " + std::to_string(operation.sampled);
  }
  return text;
}

}  // namespace iokv::sim
