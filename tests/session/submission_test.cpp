// SPDX-License-Identifier: Apache-2.0
// What a session makes of entries and payloads: every rule of wire/rings.h, from both sides.
#include <cmath>
#include <limits>
#include <string>

#include "daemon/session/session.h"
#include "include/iokv/iokv.h"
#include "tests/session/raw_client.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;
using wire::Opcode;

namespace {

constexpr wire::Geometry kGeometry{16, 16, 4096, 8192};
constexpr uint32_t kVocabulary = 1000, kMaxStep = 64, kMaxStop = 4;

struct Rig {
  RawMemory up{wire::up_bytes(kGeometry)}, down{wire::down_bytes(kGeometry)};
  Session session{kGeometry, up.data(), down.data(), {kVocabulary, kMaxStep, kMaxStop, 1 << 20}};
  RawClient client{kGeometry, up.data(), down.data()};
  std::vector<Request> requests;

  Session::Pass drain() {
    requests.clear();
    client.announce();
    return session.drain(requests);
  }
  bool broken_by(const wire::Submission& entry) {
    client.place(entry);
    return drain() == Session::Pass::broken && requests.empty();
  }
  bool broken_by(const wire::Submission& entry, const std::vector<std::byte>& payload) {
    client.place(entry, payload);
    return drain() == Session::Pass::broken && requests.empty();
  }
  // The only request of a pass that took everything.
  const Request& taken() {
    assert_int_equal(drain(), Session::Pass::drained);
    assert_int_equal(requests.size(), 1);
    return requests[0];
  }
  int32_t refusal_of(const wire::Submission& entry) {
    client.place(entry);
    return taken().refuse;
  }
  int32_t refusal_of(const wire::Submission& entry, const std::vector<std::byte>& payload) {
    client.place(entry, payload);
    return taken().refuse;
  }
};

// For each opcode an entry that is accepted.
std::vector<wire::Submission> honest_entries(uint64_t operation) {
  std::vector<wire::Submission> entries;
  for (int opcode = 1; opcode <= 7; opcode++) {
    entries.push_back(entry_of(static_cast<Opcode>(opcode), operation));
    if (entries.back().opcode == Opcode::fork) entries.back().argument = kSequence + 1;
  }
  return entries;
}

void every_operation_arrives_with_its_fields(void**) {
  Rig rig;
  wire::Submission open = entry_of(Opcode::open, 1);
  open.priority = -100;
  wire::Submission step = step_of(2, 0, 9, wire::kSubmissionEach | wire::kSubmissionLogits);
  step.priority = 100;
  step.argument = 123456789;
  wire::Submission fork = entry_of(Opcode::fork, 3);
  fork.argument = kSequence + 1;
  fork.n = UINT32_MAX;
  wire::Submission truncate = entry_of(Opcode::truncate, 4);
  truncate.n = 17;
  wire::Submission cancel = entry_of(Opcode::cancel, 5);
  cancel.argument = 2;
  for (const auto& entry : {open, step, fork, truncate, cancel, entry_of(Opcode::close, 6), entry_of(Opcode::nop, 7)}) {
    rig.client.place(entry);
  }
  assert_int_equal(rig.drain(), Session::Pass::drained);
  assert_int_equal(rig.requests.size(), 7);
  const RequestKind kinds[] = {RequestKind::open,   RequestKind::step,  RequestKind::fork, RequestKind::truncate,
                               RequestKind::cancel, RequestKind::close, RequestKind::nop};
  for (size_t i = 0; i < 7; i++) {
    assert_int_equal(rig.requests[i].kind, kinds[i]);
    assert_int_equal(rig.requests[i].refuse, 0);
    assert_int_equal(rig.requests[i].operation, i + 1);
    assert_int_equal(rig.requests[i].user_data, (i + 1) * 1000);
    assert_true(rig.requests[i].sequence == (i == 6 ? 0 : kSequence));
  }
  assert_int_equal(rig.requests[0].priority, -100);
  assert_int_equal(rig.requests[1].priority, 100);
  assert_true(rig.requests[1].each && rig.requests[1].logits && !rig.requests[1].part);
  assert_int_equal(rig.requests[1].max_tokens, 9);
  assert_int_equal(rig.requests[1].deadline_ns, 123456789);
  assert_true(rig.requests[2].parent == kSequence + 1);
  assert_true(rig.requests[2].n == UINT32_MAX);
  assert_int_equal(rig.requests[3].n, 17);
  assert_int_equal(rig.requests[4].target, 2);
}

void tokens_stop_tokens_and_sampling_arrive(void**) {
  Rig rig;
  wire::StepPayload head{};
  head.has_sampling = 1;
  head.temperature = 0.5f;
  head.top_p = 0.25f;
  head.top_k = 40;
  head.seed = 0x123456789abcdefull;
  rig.client.place(step_of(1, 3), step_payload({0, 999, 5}, {7, 8}, head));
  const Request& request = rig.taken();
  assert_int_equal(request.refuse, 0);
  assert_true(request.tokens == std::vector<int32_t>({0, 999, 5}));
  assert_true(request.stop_tokens == std::vector<int32_t>({7, 8}));
  assert_true(request.sampling.has_value());
  assert_true(request.sampling->temperature == 0.5f && request.sampling->top_p == 0.25f);
  assert_true(request.sampling->top_k == 40 && request.sampling->seed == 0x123456789abcdefull);
}

void without_has_sampling_the_sequences_sampling_holds(void**) {
  Rig rig;
  rig.client.place(step_of(1, 1), step_payload({1}, {}));
  assert_false(rig.taken().sampling.has_value());
}

void top_p_of_zero_means_one(void**) {
  Rig rig;
  wire::StepPayload head{};
  head.has_sampling = 1;
  rig.client.place(entry_of(Opcode::open, 1), step_payload({}, {}, head));
  const Request& request = rig.taken();
  assert_int_equal(request.refuse, 0);
  assert_true(request.sampling->top_p == 1.0f && request.sampling->temperature == 0.0f);
}

void an_unknown_opcode_breaks_the_protocol(void**) {
  for (int opcode : {0, 8, 255}) {
    Rig rig;
    assert_true(rig.broken_by(entry_of(static_cast<Opcode>(opcode), 1)));
    assert_non_null(std::strstr(rig.session.broken_reason().c_str(), "opcode"));
  }
}

void any_field_that_an_opcode_does_not_use_must_be_zero(void**) {
  auto breaks = [](const wire::Submission& honest, auto change) {
    Rig rig;
    wire::Submission entry = honest;
    change(entry);
    return rig.broken_by(entry);
  };
  for (const wire::Submission& entry : honest_entries(1)) {
    const Opcode opcode = entry.opcode;
    const bool open = opcode == Opcode::open, step = opcode == Opcode::step;
    assert_true(breaks(entry, [](auto& e) { e.reserved0 = 1; }));
    assert_true(breaks(entry, [](auto& e) { e.reserved1 = 1; }));
    assert_true(breaks(entry, [](auto& e) { e.flags = 8; }));
    assert_true(breaks(entry, [](auto& e) { e.flags = 0x8000; }));
    assert_true(breaks(entry, [](auto& e) { e.payload_offset = 8; }));
    assert_int_equal(breaks(entry, [](auto& e) { e.flags = wire::kSubmissionLogits; }), !step);
    assert_int_equal(breaks(entry, [](auto& e) { e.priority = 1; }), !step && !open);
    assert_int_equal(breaks(entry, [](auto& e) { e.model = 1; }), !open);
    assert_int_equal(breaks(entry, [](auto& e) { e.adapter = 1; }), !open);
    assert_int_equal(breaks(entry, [](auto& e) { e.sequence++; }), opcode == Opcode::nop);
    assert_int_equal(breaks(entry, [](auto& e) { e.argument++; }),
                     !step && opcode != Opcode::fork && opcode != Opcode::cancel);
    assert_int_equal(breaks(entry, [](auto& e) { e.m = 1; }), !step);
    // A step with n has to have tokens.
    assert_int_equal(breaks(entry, [](auto& e) { e.n = 1; }), opcode != Opcode::fork && opcode != Opcode::truncate);
    Rig rig;
    assert_int_equal(rig.broken_by(entry, step_payload({}, {})), !step && !open);
  }
}

void what_is_well_formed_but_impossible_is_refused(void**) {
  auto refusal = [](wire::Submission entry, auto change) {
    Rig rig;
    change(entry);
    return rig.refusal_of(entry);
  };
  const wire::Submission open = entry_of(Opcode::open, 1), step = step_of(1, 0);
  wire::Submission fork = entry_of(Opcode::fork, 1);
  fork.argument = kSequence;
  assert_int_equal(refusal(open, [](auto& e) { e.model = 1; }), IOKV_EUNSUPPORTED);
  assert_int_equal(refusal(open, [](auto& e) { e.adapter = 1; }), IOKV_EUNSUPPORTED);
  assert_int_equal(refusal(open, [](auto& e) { e.priority = 101; }), IOKV_EINVAL);
  assert_int_equal(refusal(step, [](auto& e) { e.priority = -101; }), IOKV_EINVAL);
  assert_int_equal(refusal(step, [](auto& e) { e.priority = INT16_MIN; }), IOKV_EINVAL);
  assert_int_equal(refusal(step, [](auto& e) { e.sequence = 7; }), IOKV_ESEQUENCE);
  assert_int_equal(refusal(fork, [](auto& e) { e.argument = 7; }), IOKV_ESEQUENCE);
  assert_int_equal(refusal(step, [](auto& e) { e.sequence = UINT64_MAX; }), 0);
}

void a_new_sequence_of_generation_zero_breaks_the_protocol(void**) {
  for (Opcode opcode : {Opcode::open, Opcode::fork}) {
    Rig rig;
    wire::Submission entry = entry_of(opcode, 1);
    if (opcode == Opcode::fork) entry.argument = kSequence + 1;
    entry.sequence = 7;
    assert_true(rig.broken_by(entry));
  }
}

void a_token_outside_of_the_vocabulary_is_refused_wherever_it_is(void**) {
  for (int32_t bad : {-1, INT32_MIN, 1000, 1001, INT32_MAX}) {
    for (size_t at = 0; at < 5; at++) {
      Rig rig;
      std::vector<int32_t> tokens{1, 2, 3}, stop_tokens{4, 5};
      (at < 3 ? tokens[at] : stop_tokens[at - 3]) = bad;
      assert_int_equal(rig.refusal_of(step_of(1, 3), step_payload(tokens, stop_tokens)), IOKV_ETOKEN);
      assert_true(rig.requests[0].tokens.empty() && rig.requests[0].stop_tokens.empty());
      // The entry behind it is not affected.
      assert_int_equal(rig.refusal_of(step_of(2, 1), step_payload({999}, {})), 0);
    }
  }
}

void sampling_values_out_of_range_are_refused(void**) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  struct Case {
    float temperature, top_p;
    int32_t refuse;
  };
  const Case cases[] = {{0, 1, 0},       {1e30f, 0.5f, 0},       {-0.0f, 1, 0},         {-0.1f, 1, IOKV_EINVAL},
                        {nan, 1, IOKV_EINVAL}, {inf, 1, IOKV_EINVAL},  {-inf, 1, IOKV_EINVAL}, {1, nan, IOKV_EINVAL},
                        {1, 1.01f, IOKV_EINVAL}, {1, -0.01f, IOKV_EINVAL}, {1, inf, IOKV_EINVAL}};
  for (const Case& each : cases) {
    for (Opcode opcode : {Opcode::open, Opcode::step}) {
      Rig rig;
      wire::StepPayload head{};
      head.has_sampling = 1;
      head.temperature = each.temperature;
      head.top_p = each.top_p;
      assert_int_equal(rig.refusal_of(entry_of(opcode, 1), step_payload({}, {}, head)), each.refuse);
    }
  }
}

void the_limits_of_a_step_are_inclusive(void**) {
  Rig rig;
  auto tokens = [](uint32_t n) { return std::vector<int32_t>(n, 1); };
  assert_int_equal(rig.refusal_of(step_of(1, kMaxStep), step_payload(tokens(kMaxStep), tokens(kMaxStop))), 0);
  assert_int_equal(rig.refusal_of(step_of(2, kMaxStep + 1), step_payload(tokens(kMaxStep + 1), {})), IOKV_ELIMIT);
  assert_int_equal(rig.refusal_of(step_of(3, 1), step_payload({1}, tokens(kMaxStop + 1))), IOKV_ESTOP);
  // Far beyond: not even read. The client is served on.
  assert_int_equal(rig.refusal_of(step_of(4, 1), step_payload({1}, tokens(900))), IOKV_ESTOP);
  assert_int_equal(rig.refusal_of(step_of(5, 900), step_payload(tokens(900), {})), IOKV_ELIMIT);
  assert_int_equal(rig.refusal_of(step_of(6, 1), step_payload({1}, {})), 0);
}

// The struct and arrays of 1.1: the tokens {1, 2}, no stop tokens, and `words` behind them.
std::vector<std::byte> long_payload(wire::StepPayload head, std::vector<uint32_t> words) {
  head.struct_bytes = sizeof head;
  std::vector<std::byte> payload = step_payload({1, 2}, {}, head);
  const size_t at = payload.size();
  payload.resize(at + words.size() * 4);
  if (!words.empty()) std::memcpy(payload.data() + at, words.data(), words.size() * 4);
  return payload;
}

wire::Submission drawing(uint64_t operation, uint32_t draws) { return step_of(operation, 2, draws); }

constexpr uint32_t kWords = (kVocabulary + 31) / 32;

void biases_masks_and_stop_sequences_arrive(void**) {
  Rig rig;
  wire::StepPayload head{};
  head.has_sampling = 1;
  head.min_p = 0.25f;
  head.repetition_penalty = 1.5f;
  head.repetition_from = 3;
  head.frequency_penalty = -2;
  head.frequency_from = 9;
  head.logit_biases = 1;
  head.stop_sequences = 2;
  head.stop_sequence_tokens = 3;
  head.masks = 2;
  head.top_logprobs = 7;
  std::vector<uint32_t> words{2, 1, 11, 12, 13, 999, 0x40000000};  // lengths, tokens, (999, 2.0f)
  words.resize(7 + 2 * kWords);
  words[7] = 5, words[7 + kWords] = 1u << 31;
  rig.client.place(drawing(1, 2), long_payload(head, words));
  const Request& request = rig.taken();
  assert_int_equal(request.refuse, 0);
  assert_true(request.tokens == std::vector<int32_t>({1, 2}));
  assert_true(request.stop_sequence_lengths == std::vector<uint32_t>({2, 1}));
  assert_true(request.stop_sequences == std::vector<int32_t>({11, 12, 13}));
  assert_int_equal(request.biases.size(), 1);
  assert_true(request.biases[0].token == 999 && request.biases[0].bias == 2.0f);
  assert_int_equal(request.masks.size(), 2 * kWords);
  assert_true(request.masks[0] == 5 && request.masks[kWords] == 1u << 31);
  assert_int_equal(request.top_logprobs, 7);
  const SampleParams& sampling = *request.sampling;
  assert_true(sampling.min_p == 0.25f && sampling.typical_p == 1.0f && sampling.repetition_penalty == 1.5f);
  assert_true(sampling.presence_penalty == 0 && sampling.frequency_penalty == -2);
  assert_true(sampling.repetition_from == 3 && sampling.frequency_from == 9);
}

void what_cannot_be_sampled_is_refused_each_with_its_code(void**) {
  using Change = void (*)(wire::StepPayload&, std::vector<uint32_t>&);
  const std::pair<Change, int32_t> cases[] = {
      {[](auto& head, auto&) { head.min_p = 1.5f; }, IOKV_EINVAL},
      {[](auto& head, auto&) { head.typical_p = NAN; }, IOKV_EINVAL},
      {[](auto& head, auto&) { head.repetition_penalty = -1; }, IOKV_EINVAL},
      {[](auto& head, auto&) { head.presence_penalty = 101; }, IOKV_EINVAL},
      {[](auto& head, auto&) { head.frequency_penalty = INFINITY; }, IOKV_EINVAL},
      {[](auto& head, auto&) { head.top_logprobs = 65; }, IOKV_EINVAL},
      {[](auto& head, auto& words) { head.logit_biases = 1, words = {kVocabulary, 0}; }, IOKV_ETOKEN},
      {[](auto& head, auto& words) { head.logit_biases = 1, words = {1, 0x7fc00000}; }, IOKV_EINVAL},
      {[](auto& head, auto& words) { head.stop_sequences = head.stop_sequence_tokens = 1, words = {1, kVocabulary}; },
       IOKV_ETOKEN},
      {[](auto& head, auto& words) { head.stop_sequences = 65, head.stop_sequence_tokens = 65, words.resize(130, 1); },
       IOKV_ESTOP},
      {[](auto& head, auto& words) {
         head.stop_sequences = 1, head.stop_sequence_tokens = kMaxStop + 1, words.resize(kMaxStop + 2, 1);
       },
       IOKV_ESTOP},
      {[](auto& head, auto& words) { head.masks = 1, words.resize(kWords); }, IOKV_EMASK},             // permits nothing
      {[](auto& head, auto& words) { head.masks = 2, words.resize(2 * kWords, 1); }, IOKV_EMASK},      // one draw
  };
  for (const auto& [change, code] : cases) {
    Rig rig;
    wire::StepPayload head{};
    std::vector<uint32_t> words;
    head.has_sampling = 1;
    change(head, words);
    rig.client.place(drawing(1, 1), long_payload(head, words));
    const Request& request = rig.taken();
    assert_int_equal(request.refuse, code);
    assert_true(request.tokens.empty() && request.masks.empty() && request.biases.empty());
  }
}

void a_mask_of_bits_beyond_the_vocabulary_permits_nothing(void**) {
  if (kVocabulary % 32 == 0) skip();
  Rig rig;
  wire::StepPayload head{};
  head.masks = 1;
  std::vector<uint32_t> words(kWords);
  words.back() = ~0u << kVocabulary % 32;
  assert_int_equal(rig.refusal_of(drawing(1, 1), long_payload(head, words)), IOKV_EMASK);
}

void arrays_that_are_not_those_of_the_struct_break_the_protocol(void**) {
  const auto breaks = [](auto change) {
    Rig rig;
    wire::StepPayload head{};
    head.has_sampling = 1;
    std::vector<uint32_t> words;
    change(head, words);
    return rig.broken_by(drawing(1, 1), long_payload(head, words));
  };
  assert_false(breaks([](auto&, auto&) {}));
  assert_true(breaks([](auto& head, auto&) { head.masks = 1; }));
  assert_true(breaks([](auto& head, auto&) { head.masks = 0xffffffff; }));
  assert_true(breaks([](auto& head, auto&) { head.logit_biases = 0x80000000; }));
  assert_true(breaks([](auto&, auto& words) { words = {1}; }));
  assert_true(breaks([](auto& head, auto& words) { head.stop_sequences = 1, words = {0}; }));  // of no tokens
  assert_true(breaks([](auto& head, auto& words) {
    head.stop_sequences = 1, head.stop_sequence_tokens = 2, words = {3, 1, 1};
  }));
  assert_true(breaks([](auto& head, auto&) { head.has_sampling = 0, head.min_p = 0.5f; }));
}

void stop_tokens_at_open_are_refused(void**) {
  Rig rig;
  assert_int_equal(rig.refusal_of(entry_of(Opcode::open, 1), step_payload({}, {1})), IOKV_EINVAL);
}

void operation_ids_must_rise_from_one(void**) {
  Rig zero, same, back;
  assert_true(zero.broken_by(entry_of(Opcode::nop, 0)));
  same.client.place(entry_of(Opcode::nop, 5));
  assert_int_equal(same.drain(), Session::Pass::drained);
  assert_true(same.broken_by(entry_of(Opcode::nop, 5)));
  back.client.place(entry_of(Opcode::nop, UINT64_MAX));
  assert_int_equal(back.drain(), Session::Pass::drained);
  assert_true(back.broken_by(entry_of(Opcode::nop, 1)));
}

void what_came_before_a_violation_is_still_delivered(void**) {
  Rig rig;
  rig.client.place(entry_of(Opcode::nop, 1));
  rig.client.place(entry_of(Opcode::nop, 2));
  rig.client.place(entry_of(Opcode::nop, 2));
  assert_int_equal(rig.drain(), Session::Pass::broken);
  assert_int_equal(rig.requests.size(), 2);
  assert_non_null(std::strstr(rig.session.broken_reason().c_str(), "submission entry 2: "));
}

// ---- payloads ---------------------------------------------------------------------------------------------------

void a_payload_lies_behind_the_one_before_or_breaks_the_protocol(void**) {
  // The first payload ends at 40; the next may lie there and nowhere else.
  for (uint32_t offset : {0u, 32u, 36u, 41u, 44u, 48u, 4096u, 4096u + 40u, 0x80000000u, 0xffffffd8u}) {
    Rig rig;
    assert_int_equal(rig.refusal_of(step_of(1, 2), step_payload({1, 2}, {})), 0);
    assert_int_equal(rig.client.arena(), 40);
    std::vector<std::byte> payload = step_payload({3}, {});
    wire::Submission entry = step_of(2, 1);
    entry.payload_offset = offset;
    entry.payload_bytes = static_cast<uint32_t>(payload.size());
    rig.client.write_arena(40, payload.data(), payload.size());
    assert_true(rig.broken_by(entry));
  }
}

void payloads_go_round_the_arena_and_its_positions_round_u32(void**) {
  // 16 MiB at a time, 2^32 is passed soon; those payloads are refused for their n and not read.
  constexpr wire::Geometry geometry{16, 16, 16u << 20, 8192};
  RawMemory up(wire::up_bytes(geometry)), down(wire::down_bytes(geometry));
  Session session(geometry, up.data(), down.data(), {kVocabulary, kMaxStep, kMaxStop, 1 << 20});
  RawClient client(geometry, up.data(), down.data());
  std::vector<Request> requests;
  uint64_t operation = 0;
  uint32_t position = 0;
  for (int i = 0; i < 300; i++) {
    const std::vector<std::byte> small = step_payload({i}, {});
    wire::Submission entry = step_of(++operation, 1);
    entry.payload_bytes = 36;
    entry.payload_offset = position;
    client.write_arena(position, small.data(), small.size());
    client.place(entry);
    wire::Submission large = step_of(++operation, kMaxStep + 1);
    large.payload_bytes = (16u << 20) - 40;
    large.payload_offset = position + 40;
    client.place(large);
    position += 16u << 20;
    client.announce();
    requests.clear();
    assert_int_equal(session.drain(requests), Session::Pass::drained);
    assert_int_equal(requests.size(), 2);
    assert_int_equal(requests[0].refuse, 0);
    assert_int_equal(requests[0].tokens[0], i);
    assert_int_equal(requests[1].refuse, IOKV_ELIMIT);
  }
  assert_true(position < (64u << 20) * 16);  // it has wrapped
}

void a_payload_that_does_not_fit_before_the_end_starts_at_the_beginning(void**) {
  Rig rig;
  uint64_t operation = 0;
  // 4096 / 288 is no whole number: the 15th payload skips the end.
  std::vector<int32_t> tokens(kMaxStep);
  for (int round = 0; round < 100; round++) {
    for (uint32_t i = 0; i < kMaxStep; i++) tokens[i] = static_cast<int32_t>((i * 7 + round * 13u) % kVocabulary);
    rig.client.place(step_of(++operation, kMaxStep), step_payload(tokens, {}));
    assert_true(rig.taken().tokens == tokens);
  }
  // Across the end instead: at the position where the FIFO stands, but too long for what is left.
  const uint32_t left = kGeometry.arena_bytes - rig.client.arena() % kGeometry.arena_bytes;
  wire::Submission entry = step_of(++operation, 60);
  std::vector<std::byte> payload = step_payload(std::vector<int32_t>(60, 1), {});
  while (left >= payload.size()) {
    payload = step_payload(std::vector<int32_t>(++entry.n, 1), {});
  }
  entry.payload_offset = rig.client.arena();
  entry.payload_bytes = static_cast<uint32_t>(payload.size());
  assert_true(rig.broken_by(entry));
}

void a_payload_as_large_as_the_arena_is_taken_at_any_position(void**) {
  constexpr wire::Geometry geometry{16, 16, 4096, 8192};
  RawMemory up(wire::up_bytes(geometry)), down(wire::down_bytes(geometry));
  Session session(geometry, up.data(), down.data(), {kVocabulary, 4096, 4, 1 << 20});
  RawClient client(geometry, up.data(), down.data());
  std::vector<Request> requests;
  client.place(step_of(1, 1), step_payload({1}, {}));
  client.announce();
  assert_int_equal(session.drain(requests), Session::Pass::drained);
  client.place(step_of(2, 1016), step_payload(std::vector<int32_t>(1016, 9), {}));
  client.announce();
  assert_int_equal(session.drain(requests), Session::Pass::drained);
  assert_int_equal(requests[1].tokens.size(), 1016);
  assert_int_equal(requests[1].tokens[1015], 9);
}

void a_payloads_length_must_be_exactly_that_of_its_parts(void**) {
  for (int change : {-40, -36, -8, -4, -1, 1, 4, 8}) {
    Rig rig;
    std::vector<std::byte> payload = step_payload({1, 2}, {});
    payload.resize(static_cast<size_t>(static_cast<int>(payload.size()) + change));
    if (payload.empty()) {
      assert_true(rig.broken_by(step_of(1, 2)));
    } else {
      assert_true(rig.broken_by(step_of(1, 2), payload));
    }
  }
  for (uint32_t n : {0u, 1u, 3u}) {
    Rig rig;
    assert_true(rig.broken_by(step_of(1, n), step_payload({1, 2}, {})));
  }
}

void a_payload_larger_than_the_arena_breaks_the_protocol(void**) {
  for (uint32_t bytes : {4097u, 8192u, 0x80000000u, UINT32_MAX}) {
    Rig rig;
    wire::Submission entry = step_of(1, 1);
    entry.payload_bytes = bytes;
    assert_true(rig.broken_by(entry));
  }
}

void counts_that_overflow_are_no_way_out_of_the_payload(void**) {
  // 4 * 2^30 is 0 in 32 bits.
  for (uint32_t stop_tokens : {0x40000000u, 0x80000000u, 0xffffffffu}) {
    Rig rig;
    std::vector<std::byte> payload = step_payload({1}, {});
    std::memcpy(payload.data() + offsetof(wire::StepPayload, stop_tokens), &stop_tokens, 4);
    assert_true(rig.broken_by(step_of(1, 1), payload));
  }
}

void struct_bytes_grows_by_zeros_only(void**) {
  for (uint32_t struct_bytes : {40u, 64u, 1024u}) {
    Rig rig;
    wire::StepPayload head{};
    head.struct_bytes = struct_bytes;
    std::vector<std::byte> payload = step_payload({11, 12}, {13}, head);
    rig.client.place(step_of(1, 2), payload);
    const Request& request = rig.taken();
    assert_int_equal(request.refuse, 0);
    assert_true(request.tokens == std::vector<int32_t>({11, 12}));
    assert_true(request.stop_tokens == std::vector<int32_t>({13}));
    for (size_t at : {size_t{32}, size_t{struct_bytes} - 1}) {
      Rig other;
      std::vector<std::byte> changed = payload;
      changed[at] = std::byte{1};
      assert_true(other.broken_by(step_of(1, 2), changed));
    }
  }
}

void an_impossible_struct_bytes_breaks_the_protocol(void**) {
  for (uint32_t struct_bytes : {0u, 1u, 24u, 31u, 33u, 36u, 1032u, 4096u, 0xfffffff8u, 0xffffffffu}) {
    Rig rig;
    std::vector<std::byte> payload = step_payload({1, 2}, {});
    std::memcpy(payload.data(), &struct_bytes, 4);
    assert_true(rig.broken_by(step_of(1, 2), payload));
  }
}

void has_sampling_is_zero_or_one(void**) {
  Rig rig;
  wire::StepPayload head{};
  head.has_sampling = 2;
  assert_true(rig.broken_by(step_of(1, 1), step_payload({1}, {}, head)));
}

// ---- long appends -----------------------------------------------------------------------------------------------

void the_parts_of_an_append_share_the_id_of_its_step(void**) {
  Rig rig;
  rig.client.place(step_of(1, 2, 0, wire::kSubmissionPart), step_payload({1, 2}, {}));
  rig.client.place(step_of(1, 1, 0, wire::kSubmissionPart), step_payload({3}, {}));
  rig.client.place(entry_of(Opcode::nop, 2));
  rig.client.place(step_of(1, 1, 5), step_payload({4}, {5}));
  assert_int_equal(rig.drain(), Session::Pass::drained);
  assert_int_equal(rig.requests.size(), 4);
  assert_true(rig.requests[0].part && rig.requests[1].part && !rig.requests[3].part);
  for (const Request& request : rig.requests) assert_int_equal(request.refuse, 0);
  // It has ended: its id is used up.
  assert_true(rig.broken_by(step_of(1, 1), step_payload({4}, {})));
}

void parts_that_do_not_belong_together_break_the_protocol(void**) {
  const wire::Submission part = step_of(5, 1, 0, wire::kSubmissionPart);
  const std::vector<std::byte> payload = step_payload({1}, {});
  auto breaks = [&](const wire::Submission& next) {
    Rig rig;
    rig.client.place(part, payload);
    assert_int_equal(rig.drain(), Session::Pass::drained);
    return rig.broken_by(next, payload);
  };
  assert_false(breaks(step_of(5, 1)));
  assert_false(breaks(step_of(6, 1)));
  assert_true(breaks(step_of(4, 1)));
  assert_true(breaks(step_of(6, 1, 0, wire::kSubmissionPart)));
  assert_true(breaks(step_of(5, 1, 1, wire::kSubmissionPart)));
  wire::Submission stranger = step_of(5, 1);
  stranger.sequence++;
  assert_true(breaks(stranger));
  Rig rig;
  rig.client.place(part, payload);
  assert_int_equal(rig.drain(), Session::Pass::drained);
  assert_true(rig.broken_by(entry_of(Opcode::close, 5)));
}

void predicting_at_each_token_is_refused_for_an_append_in_parts(void**) {
  Rig rig;
  const uint16_t each_part = wire::kSubmissionPart | wire::kSubmissionEach;
  assert_int_equal(rig.refusal_of(step_of(1, 1, 0, each_part), step_payload({1}, {})), IOKV_EINVAL);
  assert_int_equal(rig.refusal_of(step_of(1, 1, 1, wire::kSubmissionEach), step_payload({1}, {})), IOKV_EINVAL);
  assert_int_equal(rig.refusal_of(step_of(2, 1, 1, wire::kSubmissionEach), step_payload({1}, {})), 0);
}

void a_part_with_stop_tokens_is_refused(void**) {
  Rig rig;
  assert_int_equal(rig.refusal_of(step_of(1, 1, 0, wire::kSubmissionPart), step_payload({1}, {2})), IOKV_EINVAL);
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_operation_arrives_with_its_fields),
      cmocka_unit_test(tokens_stop_tokens_and_sampling_arrive),
      cmocka_unit_test(without_has_sampling_the_sequences_sampling_holds),
      cmocka_unit_test(top_p_of_zero_means_one),
      cmocka_unit_test(an_unknown_opcode_breaks_the_protocol),
      cmocka_unit_test(any_field_that_an_opcode_does_not_use_must_be_zero),
      cmocka_unit_test(what_is_well_formed_but_impossible_is_refused),
      cmocka_unit_test(a_new_sequence_of_generation_zero_breaks_the_protocol),
      cmocka_unit_test(a_token_outside_of_the_vocabulary_is_refused_wherever_it_is),
      cmocka_unit_test(sampling_values_out_of_range_are_refused),
      cmocka_unit_test(the_limits_of_a_step_are_inclusive),
      cmocka_unit_test(biases_masks_and_stop_sequences_arrive),
      cmocka_unit_test(what_cannot_be_sampled_is_refused_each_with_its_code),
      cmocka_unit_test(a_mask_of_bits_beyond_the_vocabulary_permits_nothing),
      cmocka_unit_test(arrays_that_are_not_those_of_the_struct_break_the_protocol),
      cmocka_unit_test(stop_tokens_at_open_are_refused),
      cmocka_unit_test(operation_ids_must_rise_from_one),
      cmocka_unit_test(what_came_before_a_violation_is_still_delivered),
      cmocka_unit_test(a_payload_lies_behind_the_one_before_or_breaks_the_protocol),
      cmocka_unit_test(payloads_go_round_the_arena_and_its_positions_round_u32),
      cmocka_unit_test(a_payload_that_does_not_fit_before_the_end_starts_at_the_beginning),
      cmocka_unit_test(a_payload_as_large_as_the_arena_is_taken_at_any_position),
      cmocka_unit_test(a_payloads_length_must_be_exactly_that_of_its_parts),
      cmocka_unit_test(a_payload_larger_than_the_arena_breaks_the_protocol),
      cmocka_unit_test(counts_that_overflow_are_no_way_out_of_the_payload),
      cmocka_unit_test(struct_bytes_grows_by_zeros_only),
      cmocka_unit_test(an_impossible_struct_bytes_breaks_the_protocol),
      cmocka_unit_test(has_sampling_is_zero_or_one),
      cmocka_unit_test(the_parts_of_an_append_share_the_id_of_its_step),
      cmocka_unit_test(parts_that_do_not_belong_together_break_the_protocol),
      cmocka_unit_test(predicting_at_each_token_is_refused_for_an_append_in_parts),
      cmocka_unit_test(a_part_with_stop_tokens_is_refused),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
