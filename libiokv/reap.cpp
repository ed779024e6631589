// SPDX-License-Identifier: Apache-2.0
// iokv_reap and what a completion refers to. Reaping thread.
//
// Invariants
//  1. No system call is made while completions are found without waiting, but to ring for a daemon that waits for room.
//  2. Every completion is checked against what this client has placed before the caller sees it.
//  3. Returning less than asked for leaves the ring armed, with nothing in it that was not rung for. A doorbell that was
//     found needless stays in the socket until a call that finds nothing: it costs a caller who polls one empty reap.
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "libiokv/client.h"
#include "libiokv/deadline.h"
#include "libiokv/struct_size.h"

namespace iokv {
namespace {

static_assert(sizeof(iokv_completion) == sizeof(wire::Completion));

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether the daemon may have said this, and what it means for this side's records.
bool accept(iokv_client& client, const wire::Completion& entry, uint64_t finished) {
  const uint64_t placed = client.placed.load(std::memory_order_relaxed);
  if (entry.operation == 0 || entry.operation > placed || finished > placed) return false;
  const bool logits = (entry.flags & IOKV_COMPLETION_LOGITS) != 0, top = (entry.flags & IOKV_COMPLETION_TOP) != 0;
  if ((logits || top) && !client.results.take(entry.result_position, entry.result_bytes, logits, top)) return false;
  if ((entry.flags & IOKV_COMPLETION_MORE) == 0) {
    client.sequences.completed(entry.sequence, entry.operation, entry.result);
  }
  return true;
}

iokv_completion completion_of(const wire::Completion& entry) {
  iokv_completion completion{};
  completion.user_data = entry.user_data;
  completion.operation = entry.operation;
  completion.sequence = entry.sequence;
  completion.result = entry.result;
  completion.flags = entry.flags;
  completion.token = entry.token;
  completion.logprob = entry.logprob;
  completion.index = entry.index;
  completion.length = entry.length;
  completion.view[0] = entry.result_position;
  completion.view[1] = entry.result_bytes;
  completion.times = entry.times;
  return completion;
}

// Takes what is there, up to `capacity`.
uint32_t take(iokv_client& client, iokv_completion* out, uint32_t capacity) {
  const uint32_t ready = client.completions.ready();
  if (ready == 0) return 0;
  if (ready > client.completions.entries()) {
    client.channel.end(IOKV_EPROTOCOL, "the daemon's completion tail is impossible");
    return 0;
  }
  uint64_t finished = client.finished.load(std::memory_order_relaxed);
  uint32_t count = 0;
  for (const uint32_t most = std::min(ready, capacity); count < most; count++) {
    const wire::Completion entry = client.completions.peek(count);
    const bool final = (entry.flags & IOKV_COMPLETION_MORE) == 0;
    if (!accept(client, entry, finished + (final ? 1 : 0))) {
      client.channel.end(IOKV_EPROTOCOL, "the daemon completed what was never submitted");
      break;
    }
    finished += final ? 1 : 0;
    out[count] = completion_of(entry);
  }
  if (client.completions.advance(count)) client.channel.ring();
  // Release, behind the completion head: client.h, invariant 3.
  client.finished.store(finished, std::memory_order_release);
  return count;
}

// As take(), and armed when there was less.
uint32_t take_and_arm(iokv_client& client, iokv_completion* out, uint32_t capacity) {
  uint32_t count = take(client, out, capacity);
  while (count < capacity) {
    client.completions.arm();
    const uint32_t late = take(client, out + count, capacity - count);
    if (late == 0) return count;
    count += late;
  }
  if (client.completions.armed()) client.completions.disarm();
  return count;
}

bool something_to_say(iokv_client& client) { return client.completions.ready() != 0 || client.channel.ended(); }

// Looks for completions without sleeping, for as long as the handle may.
void spin(iokv_client& client, const Deadline& deadline) {
  const Deadline end = Deadline::after(static_cast<int64_t>(std::min<uint64_t>(client.spin_ns, INT64_MAX)));
  while (!something_to_say(client) && !end.passed() && !deadline.passed()) {
    for (int i = 0; i < 32 && client.completions.ready() == 0; i++) pause_core();
    if (client.append.pending()) feed(client);
  }
}

// Sleeps until the socket or the waker has something, or the deadline comes.
void sleep(iokv_client& client, const Deadline& deadline) {
  timespec storage;
  pollfd entries[] = {{client.channel.socket(), POLLIN, 0}, {client.waker.descriptor(), POLLIN, 0}};
  if (::ppoll(entries, 2, deadline.left(storage), nullptr) > 0 && entries[0].revents != 0) client.channel.receive();
}

// Until there are completions: 0; or ECLOSED, EWOKEN, ETIMEDOUT.
int wait(iokv_client& client, const Deadline& deadline) {
  const int64_t started = monotonic_ns();
  if (client.spin_ns != 0 && static_cast<uint64_t>(client.last_wait_ns) <= client.spin_ns) spin(client, deadline);
  int code = 0;
  while (client.completions.ready() == 0 && code == 0) {
    client.completions.arm();
    if (client.append.pending()) feed(client);
    if (client.completions.ready() != 0) break;
    if (client.channel.ended()) code = IOKV_ECLOSED;
    else if (client.waker.take()) code = IOKV_EWOKEN;
    else if (deadline.passed()) code = IOKV_ETIMEDOUT;
    else sleep(client, deadline);
  }
  client.last_wait_ns = monotonic_ns() - started;
  return code;
}

}  // namespace
}  // namespace iokv

using namespace iokv;

int iokv_reap(iokv_client* client, iokv_completion* completions, uint32_t capacity, int64_t timeout_ns) {
  if (int code = check_handle(client); code != 0) return code;
  if (completions == nullptr || capacity == 0 || capacity > INT32_MAX) return IOKV_EINVAL;
  if (client->append.pending()) feed(*client);
  if (client->completions.armed() && client->completions.ready() != 0) client->completions.disarm();
  uint32_t count = take_and_arm(*client, completions, capacity);
  if (count != 0) return static_cast<int>(count);
  if (timeout_ns == 0) {
    client->channel.receive();
    // What came in meanwhile was rung for, and the doorbell may have just been taken.
    count = take_and_arm(*client, completions, capacity);
    if (count != 0) return static_cast<int>(count);
    if (client->channel.ended()) return IOKV_ECLOSED;
    return client->waker.take() ? IOKV_EWOKEN : 0;
  }
  client->completions.disarm();
  if (int code = wait(*client, Deadline::after(timeout_ns)); code != 0) return code;
  return static_cast<int>(take_and_arm(*client, completions, capacity));
}

int iokv_logits(iokv_client* client, const iokv_completion* completion, iokv_logits_view* view) {
  if (int code = check_handle(client); code != 0) return code;
  if (completion == nullptr || view == nullptr || view->struct_size < sizeof view->struct_size) return IOKV_EINVAL;
  if ((completion->flags & IOKV_COMPLETION_LOGITS) == 0) return IOKV_EINVAL;
  iokv_logits_view filled{};
  filled.struct_size = view->struct_size;
  filled.dtype = IOKV_F32;
  filled.count = client->facts.vocabulary;
  filled.data = client->results.find(completion->view[0], completion->view[1]);
  if (filled.data == nullptr) return IOKV_EINVAL;
  write_struct(filled, view);
  return 0;
}

int iokv_top_logprobs(iokv_client* client, const iokv_completion* completion, const iokv_token_logprob** entries,
                      uint32_t* count) {
  static_assert(sizeof(iokv_token_logprob) == sizeof(wire::TokenLogprob));
  if (int code = check_handle(client); code != 0) return code;
  if (completion == nullptr || entries == nullptr || count == nullptr) return IOKV_EINVAL;
  if ((completion->flags & IOKV_COMPLETION_TOP) == 0) return IOKV_EINVAL;
  const std::byte* result = client->results.find(completion->view[0], completion->view[1]);
  if (result == nullptr) return IOKV_EINVAL;
  const bool logits = (completion->flags & IOKV_COMPLETION_LOGITS) != 0;
  const uint32_t offset = ResultFifo::top_offset(client->results.row_bytes(), logits);
  wire::TopHeader header;
  std::memcpy(&header, result + offset, sizeof header);
  // What the daemon says lies in memory that it can still write: bounded by what was reaped.
  *count = std::min(header.count, (completion->view[1] - offset - static_cast<uint32_t>(sizeof header)) /
                                      static_cast<uint32_t>(sizeof(wire::TokenLogprob)));
  *entries = reinterpret_cast<const iokv_token_logprob*>(result + offset + sizeof header);
  return 0;
}

int iokv_release(iokv_client* client, const iokv_completion* completion) {
  if (int code = check_handle(client); code != 0) return code;
  if (completion == nullptr) return IOKV_EINVAL;
  if ((completion->flags & (IOKV_COMPLETION_LOGITS | IOKV_COMPLETION_TOP)) == 0) return IOKV_EINVAL;
  if (!client->results.release(completion->view[0], completion->view[1])) return IOKV_EINVAL;
  if (client->completions.release_results(client->results.head())) client->channel.ring();
  return 0;
}
