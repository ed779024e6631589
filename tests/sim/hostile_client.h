// SPDX-License-Identifier: Apache-2.0
// A client that writes whatever it likes to its memory: indices, entries and payloads that are plausible, slightly wrong
// or plain noise, at any time, and that may never reap.
#pragma once

#include <cstdint>
#include <random>

#include "tests/sim/ring_client.h"

namespace iokv::sim {

class HostileClient {
 public:
  HostileClient(const wire::Geometry& geometry, std::mt19937_64& random) : rings(geometry), random_(random) {}

  RingClient rings;

  void act();

 private:
  void write(size_t offset, uint32_t value);
  void announce_entry(bool plausible);
  uint32_t below(uint32_t end) { return static_cast<uint32_t>(random_() % end); }

  std::mt19937_64& random_;
  uint32_t tail_ = 0;
  uint64_t operation_ = 0;
};

}  // namespace iokv::sim
