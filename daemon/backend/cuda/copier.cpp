// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/cuda/copier.h"

#include <sys/resource.h>

#include <algorithm>
#include <string>

namespace iokv::cuda {
namespace {

// What is registered at once where the driver does not take everything: large enough that edges are rare.
constexpr size_t kPartBytes = size_t{1} << 30;

// The driver does not count what it pins against this limit where that was looked at, but some do.
std::string lock_limit(size_t bytes) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur >= bytes) return "";
  return " (more than the " + std::to_string(limit.rlim_cur) + " that the process may lock: RLIMIT_MEMLOCK)";
}

}  // namespace

Copier::~Copier() {
  while (!pinned_.empty()) unpin(reinterpret_cast<void*>(pinned_.begin()->first));
}

Status Copier::pin(void* data, size_t bytes) {
  if (bytes == 0) return {};
  auto* at = static_cast<std::byte*>(data);
  const auto begin = reinterpret_cast<uintptr_t>(data);
  if (Status whole = register_parts(at, bytes, bytes); whole) {
    pinned_[begin] = {bytes, bytes};
    return {};
  }
  if (Status parts = register_parts(at, bytes, kPartBytes); !parts) {
    return std::move(parts.failure()).within("pinning " + std::to_string(bytes) + " bytes of host memory" + lock_limit(bytes));
  }
  pinned_[begin] = {bytes, kPartBytes};
  return {};
}

Status Copier::register_parts(std::byte* data, size_t bytes, size_t part_bytes) {
  for (size_t at = 0; at < bytes; at += part_bytes) {
    const size_t part = std::min(part_bytes, bytes - at);
    const cudaError_t refused = cudaHostRegister(data + at, part, cudaHostRegisterDefault);
    if (refused == cudaSuccess) continue;
    (void)cudaGetLastError();  // it is dealt with here
    while (at > 0) {
      at -= part_bytes;
      (void)cudaHostUnregister(data + at);
    }
    return device_error("cudaHostRegister", refused);
  }
  return {};
}

void Copier::unpin(void* data) {
  const auto found = pinned_.find(reinterpret_cast<uintptr_t>(data));
  if (found == pinned_.end()) return;
  for (size_t at = 0; at < found->second.bytes; at += found->second.part_bytes) {
    (void)cudaHostUnregister(static_cast<std::byte*>(data) + at);
  }
  pinned_.erase(found);
}

const std::pair<const uintptr_t, Copier::Pinned>* Copier::find(const void* data, size_t bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  auto after = pinned_.upper_bound(begin);
  if (after == pinned_.begin()) return nullptr;
  const auto& range = *std::prev(after);
  const size_t offset = begin - range.first;
  return offset <= range.second.bytes && bytes <= range.second.bytes - offset ? &range : nullptr;
}

void Copier::copy(cudaStream_t stream, Host host, std::span<const CopyRun> runs, Failure& failure) {
  if (failure.happened()) return;
  to_.clear(), from_.clear(), bytes_.clear();
  all_pinned_ = true;
  for (const CopyRun& run : runs) {
    auto* to = static_cast<std::byte*>(run.to);
    const auto* from = static_cast<const std::byte*>(run.from);
    if (run.total_bytes() == 0) continue;
    if (run.rows == 1 || (run.to_pitch_bytes == run.bytes && run.from_pitch_bytes == run.bytes)) {
      add_piece(host, to, from, run.total_bytes());
      continue;
    }
    const bool host_from = host == Host::from;
    const size_t extent = (run.rows - 1) * (host_from ? run.from_pitch_bytes : run.to_pitch_bytes) + run.bytes;
    const auto* range = host == Host::none ? nullptr : find(host_from ? static_cast<const void*>(from) : to, extent);
    if (range != nullptr && range->second.part_bytes < range->second.bytes) {
      for (uint32_t row = 0; row < run.rows; ++row) {
        add_piece(host, to + row * run.to_pitch_bytes, from + row * run.from_pitch_bytes, run.bytes);
      }
      continue;
    }
    if (!failure.check("cudaMemcpy2DAsync", cudaMemcpy2DAsync(to, run.to_pitch_bytes, from, run.from_pitch_bytes, run.bytes,
                                                              run.rows, cudaMemcpyDefault, stream))) {
      return;
    }
  }
#if CUDART_VERSION >= 13000
  if (to_.size() > 1 && host != Host::none && all_pinned_) {
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    attributes.flags = cudaMemcpyFlagDefault;
    size_t first = 0;
    failure.check("cudaMemcpyBatchAsync", cudaMemcpyBatchAsync(to_.data(), from_.data(), bytes_.data(), to_.size(),
                                                               &attributes, &first, 1, stream));
    return;
  }
#endif
  for (size_t i = 0; i < to_.size(); ++i) {
    if (!failure.check("cudaMemcpyAsync", cudaMemcpyAsync(to_[i], from_[i], bytes_[i], cudaMemcpyDefault, stream))) return;
  }
}

void Copier::add_piece(Host host, std::byte* to, const std::byte* from, size_t bytes) {
  const void* of_host = host == Host::from ? static_cast<const void*>(from) : to;
  const auto* range = host == Host::none ? nullptr : find(of_host, bytes);
  all_pinned_ &= range != nullptr;
  while (bytes > 0) {
    size_t piece = bytes;
    if (range != nullptr) {
      const void* now = host == Host::from ? static_cast<const void*>(from) : to;
      const size_t offset = reinterpret_cast<uintptr_t>(now) - range->first;
      piece = std::min(piece, range->second.part_bytes - offset % range->second.part_bytes);
    }
    to_.push_back(to), from_.push_back(from), bytes_.push_back(piece);
    to += piece;
    from += piece;
    bytes -= piece;
  }
}

}  // namespace iokv::cuda
