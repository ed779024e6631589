// SPDX-License-Identifier: Apache-2.0
// Read-only memory for FETCH: files that never change once made, reports made when asked for, and the page of counters,
// which the daemon goes on writing. One copy for all clients; each gets the same descriptor. Used by the conductor's
// thread, but CountersPage::set and add, which any thread may call.
//
// Invariants
//  1. Nobody but this process's CountersPage can write any of it: WRITE or FUTURE_WRITE is sealed before a descriptor
//     can be had.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "daemon/base/memfd.h"
#include "daemon/base/result.h"
#include "wire/counters.h"

namespace iokv {

// Bytes that never change.
class SharedBlob {
 public:
  SharedBlob() = default;  // empty: there is nothing to hand out
  static Result<SharedBlob> create(const std::string& name, std::span<const std::byte> bytes);

  uint64_t bytes() const { return bytes_; }
  // -1 when empty: BLOB then carries no descriptor.
  int descriptor() const { return memfd_.number(); }

 private:
  Descriptor memfd_;
  uint64_t bytes_ = 0;
};

// A blob that says how things stand when it is asked for. Making one takes time from everybody's steps, so however often
// it is asked for, it is made anew only when kPause times as long has passed as the last one took to make.
class Report {
 public:
  using Make = std::function<std::vector<std::byte>()>;
  Report(std::string name, Make make) : name_(std::move(name)), make_(std::move(make)) {}

  // Valid until the next call.
  Result<const SharedBlob*> get(uint64_t now_ns);

  // A twentieth of the time at the most.
  static constexpr uint64_t kPause = 20;

 private:
  std::string name_;
  Make make_;
  SharedBlob latest_;
  uint64_t next_ns_ = 0;
};

// The bytes of each token's text, laid out as wire/handshake.h says.
std::vector<std::byte> vocabulary_bytes(const std::vector<std::string>& tokens);

// wire/counters.h. Every store is relaxed: a reader sees each counter whole, but not a consistent set of them.
class CountersPage {
 public:
  static Result<CountersPage> create();

  void set(wire::Counter counter, uint64_t value);
  void add(wire::Counter counter, uint64_t by = 1);
  uint64_t get(wire::Counter counter) const;

  static constexpr uint64_t bytes() { return wire::kCounterBytes; }
  int descriptor() const { return memfd_.number(); }

 private:
  CountersPage(Descriptor memfd, Mapping mapping);
  uint64_t* slot(wire::Counter counter) const;

  Descriptor memfd_;
  Mapping mapping_;
};

}  // namespace iokv
