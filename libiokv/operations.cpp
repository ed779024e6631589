// SPDX-License-Identifier: Apache-2.0
// The submitting calls: each checks its arguments, places one entry in the submission ring and returns. Submitting thread.
//
// Invariants
//  1. A call that returns a negative code has placed nothing and changed nothing.
//  2. No more than max_operations are outstanding; the daemon ends a client that exceeds it.
//  3. No call blocks, and none makes a system call unless the daemon sleeps.
#include "libiokv/client.h"

namespace iokv {

uint32_t feed(iokv_client& client) {
  LongAppend::Fed fed = client.append.feed(client.submissions, client.up.data());
  if (fed.broken) client.channel.end(IOKV_EPROTOCOL, "the daemon's submission head is impossible");
  if (fed.ring) client.channel.ring();
  return fed.entries;
}

namespace {

// Whether another operation can be outstanding, and the ring is not taken by a long append.
int check_turn(iokv_client* client) {
  if (int code = check_handle(client); code != 0) return code;
  if (client->append.pending()) feed(*client);
  if (client->channel.ended()) return IOKV_ECLOSED;
  if (client->append.pending()) return IOKV_EAGAIN;
  uint64_t placed = client->placed.load(std::memory_order_relaxed);
  // Acquire: pairs with the reaper's release (client.h, invariant 3).
  uint64_t finished = client->finished.load(std::memory_order_acquire);
  return placed - finished < client->facts.max_operations ? 0 : IOKV_EAGAIN;
}

int check_room(iokv_client& client, uint32_t payload_bytes) {
  if (client.submissions.has_room(payload_bytes)) return 0;
  if (!client.submissions.broken()) return IOKV_EAGAIN;
  client.channel.end(IOKV_EPROTOCOL, "the daemon's submission head is impossible");
  return IOKV_ECLOSED;
}

uint64_t next_operation(const iokv_client& client) { return client.placed.load(std::memory_order_relaxed) + 1; }

// The operation that next_operation() named exists from here on. Before its entry is announced: the reaper checks ids
// against it.
void count_operation(iokv_client& client, iokv_operation* operation) {
  const uint64_t id = next_operation(client);
  if (operation != nullptr) *operation = id;
  client.placed.store(id, std::memory_order_relaxed);
}

// The last act of every call: nothing can fail from here on.
void place(iokv_client& client, wire::Submission entry, const Payload* payload, iokv_operation* operation) {
  entry.operation = next_operation(client);
  count_operation(client, operation);
  std::byte* out = client.submissions.place(entry, payload == nullptr ? 0 : static_cast<uint32_t>(payload->bytes()));
  if (payload != nullptr) write_payload(*payload, out);
}

// An entry without a payload.
int place_simple(iokv_client* client, const wire::Submission& entry, iokv_operation* operation) {
  if (int code = check_turn(client); code != 0) return code;
  if (int code = check_room(*client, 0); code != 0) return code;
  place(*client, entry, nullptr, operation);
  return 0;
}

bool is_sequence(iokv_sequence sequence) { return sequence >> 32 != 0; }

// Whether another sequence can be opened.
int check_sequence_free(const iokv_client& client) {
  if (client.sequences.has_free()) return 0;
  return client.sequences.frees_soon() ? IOKV_EAGAIN : IOKV_ELIMIT;
}

int open(iokv_client& client, const iokv_open_options* given, iokv_sequence* sequence, iokv_operation* operation) {
  iokv_open_options options;
  Payload payload;
  client.refusal.clear();
  if (sequence == nullptr) return client.refusal.refuse(IOKV_EINVAL, "sequence is NULL");
  if (int code = read_open(given, client.facts, options, payload, client.refusal); code != 0) return code;
  bool has_payload = payload.header.has_sampling != 0;
  if (int code = check_turn(&client); code != 0) return code;
  if (int code = check_sequence_free(client); code != 0) return code;
  if (int code = check_room(client, has_payload ? static_cast<uint32_t>(payload.bytes()) : 0); code != 0) return code;

  wire::Submission entry{};
  entry.opcode = wire::Opcode::open;
  entry.priority = static_cast<int16_t>(options.priority);
  entry.model = static_cast<uint16_t>(options.model);
  entry.adapter = options.adapter;
  entry.user_data = options.user_data;
  entry.sequence = *sequence = client.sequences.open(next_operation(client));
  place(client, entry, has_payload ? &payload : nullptr, operation);
  return 0;
}

int step(iokv_client& client, iokv_sequence sequence, const iokv_step_options* given, iokv_operation* operation) {
  iokv_step_options options;
  Payload payload;
  client.refusal.clear();
  if (!is_sequence(sequence)) return client.refusal.refuse(IOKV_EINVAL, "sequence is none that iokv_open or iokv_fork gave");
  if (int code = read_step(given, client.facts, options, payload, client.refusal); code != 0) return code;
  bool is_long = payload.bytes() > client.submissions.arena_bytes();
  if (int code = check_turn(&client); code != 0) return code;
  if (int code = check_room(client, is_long ? 0 : static_cast<uint32_t>(payload.bytes())); code != 0) return code;

  wire::Submission entry{};
  entry.opcode = wire::Opcode::step;
  entry.flags = static_cast<uint16_t>(options.flags);
  entry.priority = static_cast<int16_t>(options.priority);
  entry.user_data = options.user_data;
  entry.sequence = sequence;
  entry.argument = options.deadline_ns;
  entry.n = options.token_count;
  entry.m = options.max_tokens;
  if (!is_long) {
    place(client, entry, &payload, operation);
    return 0;
  }
  return guarded([&] {
    entry.operation = next_operation(client);
    client.append.prepare(entry, payload);
    count_operation(client, operation);
    client.append.start();
    feed(client);
    return 0;
  });
}

}  // namespace
}  // namespace iokv

using namespace iokv;

int iokv_open(iokv_client* client, const iokv_open_options* given, iokv_sequence* sequence,
              iokv_operation* operation) {
  if (int code = check_handle(client); code != 0) return code;
  return client->refusal.note(open(*client, given, sequence, operation));
}

int iokv_step(iokv_client* client, iokv_sequence sequence, const iokv_step_options* given,
              iokv_operation* operation) {
  if (int code = check_handle(client); code != 0) return code;
  return client->refusal.note(step(*client, sequence, given, operation));
}

int iokv_fork(iokv_client* client, iokv_sequence parent, uint32_t tokens, uint64_t user_data, iokv_sequence* child,
              iokv_operation* operation) {
  if (int code = check_handle(client); code != 0) return code;
  if (child == nullptr || !is_sequence(parent)) return IOKV_EINVAL;
  if (int code = check_turn(client); code != 0) return code;
  if (int code = check_sequence_free(*client); code != 0) return code;
  if (int code = check_room(*client, 0); code != 0) return code;

  wire::Submission entry{};
  entry.opcode = wire::Opcode::fork;
  entry.user_data = user_data;
  entry.argument = parent;
  entry.n = tokens;
  entry.sequence = *child = client->sequences.open(next_operation(*client));
  place(*client, entry, nullptr, operation);
  return 0;
}

int iokv_truncate(iokv_client* client, iokv_sequence sequence, uint32_t length, uint64_t user_data,
                  iokv_operation* operation) {
  if (int code = check_handle(client); code != 0) return code;
  if (!is_sequence(sequence)) return IOKV_EINVAL;
  wire::Submission entry{};
  entry.opcode = wire::Opcode::truncate;
  entry.user_data = user_data;
  entry.sequence = sequence;
  entry.n = length;
  return place_simple(client, entry, operation);
}

int iokv_cancel(iokv_client* client, iokv_sequence sequence, iokv_operation target, uint64_t user_data,
                iokv_operation* operation) {
  if (int code = check_handle(client); code != 0) return code;
  if (!is_sequence(sequence)) return IOKV_EINVAL;
  wire::Submission entry{};
  entry.opcode = wire::Opcode::cancel;
  entry.user_data = user_data;
  entry.sequence = sequence;
  entry.argument = target;
  return place_simple(client, entry, operation);
}

int iokv_close(iokv_client* client, iokv_sequence sequence, uint64_t user_data, iokv_operation* operation) {
  if (int code = check_handle(client); code != 0) return code;
  if (!is_sequence(sequence)) return IOKV_EINVAL;
  wire::Submission entry{};
  entry.opcode = wire::Opcode::close;
  entry.user_data = user_data;
  entry.sequence = sequence;
  iokv_operation closing = next_operation(*client);
  if (int code = place_simple(client, entry, operation); code != 0) return code;
  client->sequences.close(sequence, closing);
  return 0;
}

int iokv_nop(iokv_client* client, uint64_t user_data, iokv_operation* operation) {
  wire::Submission entry{};
  entry.opcode = wire::Opcode::nop;
  entry.user_data = user_data;
  return place_simple(client, entry, operation);
}

int iokv_submit(iokv_client* client) {
  if (int code = check_handle(client); code != 0) return code;
  if (client->channel.ended()) return IOKV_ECLOSED;
  if (client->append.pending()) return static_cast<int>(feed(*client));
  uint32_t count = client->submissions.publish();
  if (count != 0 && client->submissions.daemon_sleeps()) client->channel.ring();
  return static_cast<int>(count);
}
