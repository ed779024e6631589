// SPDX-License-Identifier: Apache-2.0
// One client process's rings, seen from the daemon: the only code that touches memory a client can write. Runs on the
// conductor's thread. Knows memory and entries, not sockets (listener.h) and not what requests mean (conductor.h).
//
// Invariants
//  1. Geometry comes from this object, never from shared memory; so do all indices that the daemon owns.
//  2. One acquire load of a peer index a pass. Peer indices are monotonic and never pass ours (new - last <= own - last),
//     else the client is ended.
//  3. An entry is copied once, the copy is validated, the copy is used; so are payloads, tokens before they are compared
//     with the vocabulary. Offsets and lengths are bounded without overflow.
//  4. A pass copies at most limits.copy_bytes_per_pass of payload (but always at least one entry).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/sched/request.h"
#include "daemon/session/submission.h"
#include "wire/rings.h"

namespace iokv {

class Session {
 public:
  // up and down are the daemon's mappings of the two regions (up_bytes and down_bytes of the geometry), zeroed; they
  // outlive the session. Writes the geometry to down.
  Session(const wire::Geometry& geometry, std::byte* up, std::byte* down, const SessionLimits& limits);

  enum class Pass : uint8_t {
    drained,  // every announced entry was taken
    more,     // the copy budget ran out: call again
    broken,   // the client broke the protocol: end it with broken_reason()
  };
  // Takes announced entries, appends a Request for each to `requests` (refuse set for those that cannot be).
  Pass drain(std::vector<Request>& requests);

  // Loads the client's completion and result heads. false: broken.
  bool observe_heads();
  uint32_t completion_head() const { return completion_head_; }
  uint32_t result_head() const { return result_head_; }

  // Writes one completion (and its logits and most probable tokens to the result FIFO, placed by
  // wire::place); the caller has checked Credits.
  // Not visible to the client before publish.
  void post(const Outcome& outcome);
  // Makes posted completions and the submission head visible. true: the client sleeps, ring its doorbell.
  bool publish();

  // Before the conductor sleeps: sets NEED_WAKEUP (and NEED_REAP as told), then a full fence; true when entries or head
  // movements have appeared meanwhile, so that it must not sleep. After waking: disarm.
  bool arm(bool need_reap);
  void disarm();

  // Leaves the code in down for the client to find.
  void end(int32_t code);
  const std::string& broken_reason() const { return broken_reason_; }

 private:
  bool broken(const std::string& reason);
  bool take(const wire::Submission& entry, Request& request);
  uint32_t write_result(const Outcome& outcome);

  wire::Geometry geometry_;
  std::byte* up_;
  std::byte* down_;
  uint32_t copy_bytes_per_pass_;
  SubmissionRules rules_;
  std::vector<uint64_t> payload_;  // the one copy of the present entry's payload
  uint32_t submission_head_ = 0, submission_head_published_ = 0, submission_tail_seen_ = 0;
  uint32_t completion_tail_ = 0, completion_tail_published_ = 0, completion_head_ = 0;
  uint32_t result_tail_ = 0, result_tail_published_ = 0, result_head_ = 0;
  std::string broken_reason_;
};

}  // namespace iokv
