// SPDX-License-Identifier: Apache-2.0
// Whatever a client sends on its socket: nothing is read beyond the packet, and what passes keeps its promises.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "daemon/base/assert.h"
#include "daemon/session/messages.h"

using namespace iokv;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Its own allocation, so that the sanitizer sees the packet's end.
  const std::vector<std::byte> packet(reinterpret_cast<const std::byte*>(data),
                                      reinterpret_cast<const std::byte*>(data) + size);
  auto type = type_of(packet);
  auto hello = parse_hello(packet);
  auto fetch = parse_fetch(packet);
  IOKV_ASSERT(!(hello && fetch));
  if (hello) {
    IOKV_ASSERT(type && *type == wire::MessageType::hello);
    const std::string name = name_of(*hello);
    IOKV_ASSERT(name.size() < sizeof hello->name);
    IOKV_ASSERT(std::all_of(name.begin(), name.end(), [](char letter) { return letter >= ' ' && letter <= '~'; }));
    auto version = agree_on_version(*hello);
    if (version) IOKV_ASSERT(*version >= hello->version_min && *version <= hello->version_max);
    for (uint32_t vocabulary : {1u, 50000u, 1u << 20}) {
      const GeometryLimits limits;
      const wire::Geometry granted = grant(hello->wanted, limits, vocabulary);
      IOKV_ASSERT(granted.submission_entries >= limits.submission_entries.smallest);
      IOKV_ASSERT(granted.completion_entries <= limits.completion_entries.largest);
      IOKV_ASSERT(granted.arena_bytes <= limits.arena_bytes.largest);
      IOKV_ASSERT(granted.result_bytes / 2 >= vocabulary * sizeof(float));
    }
  }
  if (fetch) IOKV_ASSERT(type && *type == wire::MessageType::fetch);
  return 0;
}
