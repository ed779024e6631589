// SPDX-License-Identifier: Apache-2.0
// Reads a daemon's counters over an observer connection: no rings, nothing to set up, and answered while the daemon is
// still loading its model. One short-lived connection a call, single-threaded.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "daemon/base/result.h"
#include "wire/counters.h"

namespace iokv {

struct CounterInfo {
  const char* name;
  const char* unit;
  const char* meaning;
};

// In the order of wire/counters.h.
extern const std::array<CounterInfo, wire::kCounters> kCounterInfos;

struct CounterSnapshot {
  std::string socket_path;                         // where the daemon was found
  std::array<uint64_t, wire::kCounters> values{};  // 0 for what an older daemon does not count
  uint32_t known = 0;                              // how many of them the daemon counts

  uint64_t operator[](wire::Counter counter) const { return values[static_cast<uint32_t>(counter)]; }
};

// socket_path empty: the places that include/iokv/iokv.h names, in their order. Errors: IOKV_ENODAEMON, IOKV_EACCES,
// IOKV_EVERSION, IOKV_EPROTOCOL, IOKV_ETIMEDOUT (no answer for five seconds), or what the daemon refuses with.
Result<CounterSnapshot> read_counters(const std::string& socket_path);

}  // namespace iokv
