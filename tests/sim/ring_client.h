// SPDX-License-Identifier: Apache-2.0
// A client's side of the rings, written against wire/ alone: not libiokv, so that a mistake in the library and one in
// the daemon cannot cancel out. Plain memory, one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "wire/rings.h"

namespace iokv::sim {

class RingClient {
 public:
  explicit RingClient(const wire::Geometry& geometry);

  const wire::Geometry& geometry() const { return geometry_; }
  std::byte* up() { return reinterpret_cast<std::byte*>(up_.data()); }
  std::byte* down() { return reinterpret_cast<std::byte*>(down_.data()); }

  // Room for so many entries, and contiguous for a payload of so many bytes.
  bool has_room(uint32_t payload_bytes, uint32_t entries = 1);
  // There is room. Offsets and sizes of the payload are filled in.
  void place(wire::Submission entry, std::span<const std::byte> payload);
  // Announces what was placed. true: the daemon sleeps and must be rung.
  bool submit();

  struct Reaped {
    wire::Completion completion;
    std::vector<float> logits;
  };
  std::optional<Reaped> reap();
  // Gives back what was reaped. true: the daemon must be rung.
  bool give_back();

  // Before sleeping; true: something has arrived, so do not.
  bool arm();
  void disarm();
  int32_t end_code() const;

 private:
  uint32_t load(const std::byte* base, size_t offset) const;
  void store(size_t offset, uint32_t value);

  wire::Geometry geometry_;
  std::vector<uint64_t> up_, down_;
  uint32_t submission_tail_ = 0, arena_position_ = 0;
  // Arena positions that become free when the entry has been taken: one for each entry of the ring.
  std::vector<uint32_t> arena_ends_;
  uint32_t completion_head_ = 0, result_head_ = 0;
};

}  // namespace iokv::sim
