// SPDX-License-Identifier: Apache-2.0
// What one user of the machine may have of the daemon, all of his processes together. Who a client is the kernel says
// (SO_PEERCRED). Weights order who goes first (daemon/sched/batch.h); these bound how much there is to order.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace iokv {

struct UserLimits {
  uint32_t clients = 0;         // connected at once; 0: as many as there may be
  uint32_t sequences = 0;       // open at once; 0: max_sequences a client
  uint32_t pool_percent = 100;  // of the pool's units
  uint64_t queued_tokens = 0;   // in operations that have not started; 0: as many as each client may
};

// What is said of one user; the rest is as for everybody.
struct UserException {
  std::optional<uint32_t> clients, sequences, pool_percent;
  std::optional<uint64_t> queued_tokens;
  bool operator==(const UserException&) const = default;
};

struct AccessLimits {
  UserLimits everybody;
  std::map<uint32_t, UserException> exceptions;  // by uid

  UserLimits of(uint32_t uid) const {
    const auto found = exceptions.find(uid);
    if (found == exceptions.end()) return everybody;
    const UserException& said = found->second;
    return {said.clients.value_or(everybody.clients), said.sequences.value_or(everybody.sequences),
            said.pool_percent.value_or(everybody.pool_percent), said.queued_tokens.value_or(everybody.queued_tokens)};
  }
};

}  // namespace iokv
