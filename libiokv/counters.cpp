// SPDX-License-Identifier: Apache-2.0
// The daemon's counters, read from the page that it shares.
#include <algorithm>
#include <atomic>
#include <iterator>

#include "libiokv/client.h"
#include "libiokv/detail.h"
#include "wire/counters.h"

namespace iokv {
namespace {

constexpr iokv_counter kKnown[] = {
#define IOKV_COUNTER_ROW(name, unit, meaning) {#name, unit, meaning, 0},
    IOKV_COUNTERS(IOKV_COUNTER_ROW)
#undef IOKV_COUNTER_ROW
};
static_assert(std::size(kKnown) == wire::kCounters);

uint64_t slot(const iokv_client::Blob& page, uint32_t index) {
  auto* words = reinterpret_cast<uint64_t*>(page.bytes.data());
  return std::atomic_ref<uint64_t>(words[index]).load(std::memory_order_relaxed);
}

}  // namespace
}  // namespace iokv

int iokv_get_counter(iokv_client* client, uint32_t index, iokv_counter* counter) {
  if (int code = iokv::check_handle(client); code != 0) return code;
  if (counter == nullptr || index >= iokv::wire::kCounters) return IOKV_EINVAL;
  return iokv::guarded([&] {
    if (int code = iokv::fetch_blob(*client, iokv::wire::BlobKind::counters, client->counters); code != 0) return code;
    // An older daemon has fewer.
    const uint64_t held = client->counters.size / sizeof(uint64_t);
    if (held == 0 || index + 1 >= held || index >= iokv::slot(client->counters, 0)) return static_cast<int>(IOKV_EINVAL);
    *counter = iokv::kKnown[index];
    counter->value = iokv::slot(client->counters, index + 1);
    return 0;
  });
}
