// SPDX-License-Identifier: Apache-2.0
// Host memory that is pinned, and copies to and from it. The executor's thread.
//
// Runs that are scattered go to the driver as one batch, which the copy engine takes at the link's rate from 64 KiB a
// piece on; one call a piece costs the host some µs each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/backend/cuda/device_error.h"

namespace iokv::cuda {

class Copier {
 public:
  ~Copier();

  // At once, or in parts where the driver refuses that; in parts of part_bytes, a multiple of the page size, when they
  // are named.
  Status pin(void* data, size_t bytes);
  Status pin(void* data, size_t bytes, size_t part_bytes);
  void unpin(void* data);

  // host: which side of the runs is the host's memory, if one is.
  enum class Host : uint8_t { none, from, to };
  void copy(cudaStream_t stream, Host host, std::span<const CopyRun> runs, Failure& failure);

 private:
  // Registered in parts of part_bytes where the driver did not take all of it at once. No copy may cross their edges.
  struct Pinned {
    size_t bytes = 0, part_bytes = 0;
  };
  // A whole part, or nothing of it, is registered when it returns.
  static Status register_parts(std::byte* data, size_t bytes, size_t part_bytes);
  const std::pair<const uintptr_t, Pinned>* find(const void* data, size_t bytes) const;
  void add_piece(Host host, std::byte* to, const std::byte* from, size_t bytes);

  std::map<uintptr_t, Pinned> pinned_;
  std::vector<void*> to_;
  std::vector<const void*> from_;
  std::vector<size_t> bytes_;
  bool all_pinned_ = true;  // of the pieces collected
};

}  // namespace iokv::cuda
