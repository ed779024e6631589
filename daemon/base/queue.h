// SPDX-License-Identifier: Apache-2.0
// The queues of a device. Work of one queue runs in order; queues are ordered among each other by waiting only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace iokv {

// On a GPU: two compute streams, one a copy direction, and threads of the host's CPU that attend to what lies in its memory.
enum class Queue : uint8_t { dense, recompute, h2d, d2h, host };
inline constexpr size_t kQueues = 5;

constexpr const char* name_of(Queue queue) {
  switch (queue) {
    case Queue::dense: return "dense";
    case Queue::recompute: return "recompute";
    case Queue::h2d: return "h2d";
    case Queue::d2h: return "d2h";
    case Queue::host: return "host";
  }
  return "";
}

}  // namespace iokv
