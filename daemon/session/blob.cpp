// SPDX-License-Identifier: Apache-2.0
#include "daemon/session/blob.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "daemon/base/monotonic.h"
#include "include/iokv/iokv.h"

namespace iokv {
namespace {

constexpr int kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;

Status write_all(const Descriptor& to, std::span<const std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t written = ::pwrite(to.number(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return error(std::string("cannot fill shared memory: ") + std::strerror(errno), IOKV_ENOMEM);
    done += static_cast<size_t>(written);
  }
  return {};
}

}  // namespace

Result<SharedBlob> SharedBlob::create(const std::string& name, std::span<const std::byte> bytes) {
  SharedBlob blob;
  if (bytes.empty()) return blob;
  IOKV_TRY_ASSIGN(blob.memfd_, create_memfd(name, bytes.size()));
  IOKV_TRY(write_all(blob.memfd_, bytes));
  IOKV_TRY(seal_memfd(blob.memfd_, kSizeSeals | F_SEAL_WRITE | F_SEAL_SEAL));
  blob.bytes_ = bytes.size();
  return blob;
}

Result<const SharedBlob*> Report::get(uint64_t now_ns) {
  if (now_ns >= next_ns_) {
    IOKV_TRY_ASSIGN(latest_, SharedBlob::create(name_, make_()));
    const uint64_t done_ns = monotonic_ns();
    next_ns_ = done_ns + kPause * (done_ns - std::min(done_ns, now_ns));
  }
  return &latest_;
}

std::vector<std::byte> vocabulary_bytes(const std::vector<std::string>& tokens) {
  const uint32_t head[2] = {static_cast<uint32_t>(tokens.size()), 0};
  std::vector<uint64_t> offsets = {sizeof head + (tokens.size() + 1) * sizeof(uint64_t)};
  for (const std::string& token : tokens) offsets.push_back(offsets.back() + token.size());
  std::vector<std::byte> blob(offsets.back());
  std::memcpy(blob.data(), head, sizeof head);
  std::memcpy(blob.data() + sizeof head, offsets.data(), offsets.size() * sizeof(uint64_t));
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!tokens[i].empty()) std::memcpy(blob.data() + offsets[i], tokens[i].data(), tokens[i].size());
  }
  return blob;
}

Result<CountersPage> CountersPage::create() {
  IOKV_TRY_ASSIGN(Descriptor memfd, create_memfd("iokv-counters", wire::kCounterBytes));
  IOKV_TRY_ASSIGN(Mapping mapping, map_memfd(memfd, wire::kCounterBytes));
  IOKV_TRY(seal_memfd(memfd, kSizeSeals | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL));
  return CountersPage(std::move(memfd), std::move(mapping));
}

CountersPage::CountersPage(Descriptor memfd, Mapping mapping) : memfd_(std::move(memfd)), mapping_(std::move(mapping)) {
  *static_cast<uint64_t*>(mapping_.get_address()) = wire::kCounters;
}

void CountersPage::set(wire::Counter counter, uint64_t value) {
  std::atomic_ref<uint64_t>(*slot(counter)).store(value, std::memory_order_relaxed);
}

void CountersPage::add(wire::Counter counter, uint64_t by) {
  std::atomic_ref<uint64_t>(*slot(counter)).fetch_add(by, std::memory_order_relaxed);
}

uint64_t CountersPage::get(wire::Counter counter) const {
  return std::atomic_ref<uint64_t>(*slot(counter)).load(std::memory_order_relaxed);
}

// Slot 0 is the number of counters.
uint64_t* CountersPage::slot(wire::Counter counter) const {
  IOKV_ASSERT(counter < wire::Counter::count);
  return static_cast<uint64_t*>(mapping_.get_address()) + 1 + static_cast<uint32_t>(counter);
}

}  // namespace iokv
