// SPDX-License-Identifier: Apache-2.0
// What device and host tell each other of rows that they divide between them: queries on their way to the host's threads,
// and back what these have found. Pinned host memory of one micro-batch: its merge has read everything before the next
// one's queries are written. The executor's thread.
#pragma once

#include <cstddef>
#include <memory>

#include "daemon/backend/backend.h"
#include "daemon/model/spec.h"

namespace iokv {

class HostExchange {
 public:
  // For up to `rows` divided rows. The backend outlives it.
  static Result<std::unique_ptr<HostExchange>> make(Backend& backend, const ModelSpec& spec, uint32_t rows);
  ~HostExchange();
  HostExchange(const HostExchange&) = delete;
  HostExchange& operator=(const HostExchange&) = delete;

  void* queries() const { return data_; }                                             // [rows, heads·d]
  float* states() const { return reinterpret_cast<float*>(data_ + query_bytes_); }    // [rows, heads, attend_state_floats(d)]

 private:
  HostExchange(Backend& backend, size_t query_bytes, size_t state_bytes)
      : backend_(backend), query_bytes_(query_bytes), bytes_(query_bytes + state_bytes) {}

  Backend& backend_;
  const size_t query_bytes_, bytes_;
  std::byte* data_ = nullptr;
  bool pinned_ = false;
};

}  // namespace iokv
