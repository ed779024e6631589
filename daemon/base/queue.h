// SPDX-License-Identifier: Apache-2.0
// The queues of a device. Work of one queue runs in order; queues are ordered among each other by waiting only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace iokv {

// On a GPU: two compute streams and one a copy direction.
enum class Queue : uint8_t { dense, recompute, h2d, d2h };
inline constexpr size_t kQueues = 4;

constexpr const char* name_of(Queue queue) {
  switch (queue) {
    case Queue::dense: return "dense";
    case Queue::recompute: return "recompute";
    case Queue::h2d: return "h2d";
    case Queue::d2h: return "d2h";
  }
  return "";
}

}  // namespace iokv
