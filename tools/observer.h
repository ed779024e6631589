// SPDX-License-Identifier: Apache-2.0
// Reads a daemon's counters and reports over an observer connection: no rings, nothing to set up, and answered while the daemon is
// still loading its model. One short-lived connection a call, single-threaded.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/base/result.h"
#include "wire/counters.h"
#include "wire/handshake.h"

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

// The same page, kept mapped: a look costs the daemon nothing.
class CounterWatch {
 public:
  // Errors as read_counters.
  static Result<CounterWatch> open(const std::string& socket_path);
  CounterWatch(CounterWatch&& other) noexcept;
  CounterWatch& operator=(CounterWatch&&) = delete;
  ~CounterWatch();

  // What they are now; nothing: the daemon has ended, and another one has to be looked for.
  std::optional<CounterSnapshot> read() const;

 private:
  CounterWatch(std::string socket_path, int socket, const void* page);

  std::string socket_path_;
  int socket_;
  const void* page_;
};

struct ObservedBlob {
  std::string socket_path;
  std::vector<std::byte> bytes;
};

// A blob that never changes once made. Errors as above; IOKV_EUNSUPPORTED: the daemon is older than this kind of blob.
Result<ObservedBlob> read_blob(const std::string& socket_path, wire::BlobKind kind);

// Sizes and offsets in blobs are the daemon's word: `index` of the parts of `bytes` each that begin at `offset`, as far as a
// T reaches, with zeros where the part is shorter. false: it is not all there.
template <typename T>
bool read_part(const std::vector<std::byte>& blob, uint64_t offset, uint64_t bytes, uint64_t index, T& part) {
  if (bytes == 0 || offset > blob.size() || index >= (blob.size() - offset) / bytes) return false;
  part = T{};
  std::memcpy(&part, blob.data() + offset + index * bytes, std::min<uint64_t>(bytes, sizeof(T)));
  return true;
}

}  // namespace iokv
