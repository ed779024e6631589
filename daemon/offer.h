// SPDX-License-Identifier: Apache-2.0
// What this daemon tells and hands out to every client: the facts of WELCOME and the blobs that FETCH asks for. Made once
// at start-up; immutable afterwards, but for the counters, whose page the service writes.
#pragma once

#include <cstdint>

#include "daemon/base/result.h"
#include "daemon/model/model_files.h"
#include "daemon/session/blob.h"
#include "daemon/session/messages.h"
#include "daemon/session/submission.h"

namespace iokv {

struct OfferLimits {
  uint32_t max_context = 0;    // tokens of a sequence
  uint32_t max_sequences = 0;  // of a client
  uint64_t pool_tokens = 0;    // that the whole pool can hold
};

class Offer {
 public:
  // Fails for want of memory or descriptors, or when the vocabulary is larger than a result FIFO can be.
  static Result<Offer> make(const ModelFiles& files, const OfferLimits& limits);

  // As many appended tokens as a client may pass in one step: beyond the context, so that a prompt that is too long is
  // answered by the step's completion and not by a limit of the transport.
  const SessionLimits& session_limits() const { return session_limits_; }
  // The buffers that a client gets which asks for `wanted`.
  wire::Geometry grant(const wire::Geometry& wanted) const;
  // Complete but for geometry and client_id, which an observer does not have.
  wire::Welcome welcome(uint16_t version, uint64_t features) const;
  // The answer to FETCH, and the descriptor to attach or -1.
  wire::Blob answer(wire::BlobKind kind, int& descriptor) const;

  CountersPage& counters() { return counters_; }
  const CountersPage& counters() const { return counters_; }

 private:
  explicit Offer(CountersPage counters) : counters_(std::move(counters)) {}

  wire::Welcome facts_{};  // but for its header
  GeometryLimits geometry_limits_;
  SessionLimits session_limits_;
  SharedBlob vocabulary_, tokenizer_, chat_template_;
  CountersPage counters_;
};

}  // namespace iokv
