// SPDX-License-Identifier: Apache-2.0
// The handle: everything that one connection owns, and which thread may touch it.
//
// Invariants
//  1. guard is looked at before anything else: in a forked child `up` and `down` are not mapped.
//  2. placed and finished only rise; an operation's id is the value of `placed` when it was placed.
//  3. finished is stored after the completion head: whoever sees it may place another operation, and the daemon then sees
//     the head as well.
#pragma once

#include <atomic>
#include <cstdint>

#include "include/iokv/iokv.h"
#include "libiokv/arguments.h"
#include "libiokv/channel.h"
#include "libiokv/completion_ring.h"
#include "libiokv/fork_guard.h"
#include "libiokv/handshake.h"
#include "libiokv/long_append.h"
#include "libiokv/region.h"
#include "libiokv/result_fifo.h"
#include "libiokv/sequence_ids.h"
#include "libiokv/submission_ring.h"
#include "libiokv/waker.h"

struct iokv_client {
  // Throws.
  iokv_client(iokv::Descriptor socket, const iokv::Welcomed& welcomed, uint64_t spin);

  // Any thread.
  const iokv::ForkGuard guard;
  const iokv::wire::Welcome facts;
  const uint64_t spin_ns;
  iokv::Region up, down;
  iokv::Channel channel;
  iokv::Waker waker;
  std::atomic<uint64_t> placed = 0;    // operations; written by the submitting thread
  std::atomic<uint64_t> finished = 0;  // final completions reaped; written by the reaping thread

  // Both threads, each its part.
  iokv::SequenceIds sequences;
  iokv::LongAppend append;

  // Submitting thread, or whoever feeds `append`.
  iokv::SubmissionRing submissions;

  // Submitting thread.
  iokv::Refusal refusal;  // of the latest iokv_open or iokv_step

  // Reaping thread.
  iokv::CompletionRing completions;
  iokv::ResultFifo results;
  int64_t last_wait_ns = 0;    // how long the last wait took

  // Both threads' role until fetched, then any thread.
  struct Blob {
    enum class State { unknown, absent, present } state = State::unknown;
    iokv::Region bytes;
    uint64_t size = 0;
  };
  Blob counters, vocabulary, tokenizer, chat_template;
};

namespace iokv {

// 0, or why the handle cannot be used at all.
inline int check_handle(const iokv_client* client) {
  if (client == nullptr) return IOKV_EINVAL;
  return client->guard.forked() ? IOKV_EFORK : 0;
}

// Passes on what it can of a long append and rings if need be; returns entries made visible. Both threads.
uint32_t feed(iokv_client& client);

// Fetches a blob unless that has been done; result: 0, EUNSUPPORTED (the daemon has none), ECLOSED. Throws.
int fetch_blob(iokv_client& client, wire::BlobKind kind, iokv_client::Blob& blob);

}  // namespace iokv
