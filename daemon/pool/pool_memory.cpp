// SPDX-License-Identifier: Apache-2.0
#include "daemon/pool/pool_memory.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

namespace iokv {
namespace {

// As many threads as add pages without waiting for each other; a file less than kLeastFileBytes gains nothing.
constexpr size_t kMostFiles = 16;
constexpr size_t kLeastFileBytes = size_t{64} << 20;
// Files end where a huge page does.
constexpr size_t kHugePageBytes = size_t{2} << 20;

size_t file_bytes_of(size_t bytes) {
  const size_t files = std::clamp<size_t>(bytes / kLeastFileBytes, 1, kMostFiles);
  const size_t each = (bytes + files - 1) / files;
  return (each + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
}

Error refused(const std::string& what) { return error(what + ": " + std::strerror(errno)); }

}  // namespace

bool memfds_have_huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  std::string choices;
  std::getline(file, choices);
  return std::ranges::any_of(std::array{"[always]", "[within_size]", "[advise]", "[force]"},
                             [&](const char* chosen) { return choices.find(chosen) != std::string::npos; });
}

Result<PoolMemory> PoolMemory::make(size_t bytes, PoolPages pages) {
  if (pages == PoolPages::automatic) pages = memfds_have_huge_pages() ? PoolPages::memfds : PoolPages::anonymous;
  PoolMemory memory(bytes, file_bytes_of(bytes));
  const bool files = pages == PoolPages::memfds;
  IOKV_TRY(memory.reserve(files ? PROT_NONE : PROT_READ | PROT_WRITE));
  while (files && memory.files_.size() * memory.file_bytes_ < bytes) IOKV_TRY(memory.add_file());
  if (::madvise(memory.base_, bytes, MADV_DONTFORK) != 0) return refused("the pool cannot be kept from forked children");
  ::madvise(memory.base_, bytes, MADV_DONTDUMP);  // what clients said, and its size is what the machine has
  // Fewer TLB misses, and a 512th of the page faults, where the kernel has them.
  ::madvise(memory.base_, bytes, MADV_HUGEPAGE);
  return memory;
}

Status PoolMemory::reserve(int protection) {
  void* range = ::mmap(nullptr, bytes_, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return refused("there is no address space for it");
  base_ = static_cast<std::byte*>(range);
  return {};
}

Status PoolMemory::add_file() {
  const size_t begin = files_.size() * file_bytes_, size = std::min(file_bytes_, bytes_ - begin);
  IOKV_TRY_ASSIGN(Descriptor file, create_memfd("iokv-pool", size));
  IOKV_TRY(seal_memfd(file, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
  // Over the range reserved, which nobody else has been told of.
  const int flags = MAP_SHARED | MAP_FIXED;
  if (::mmap(base_ + begin, size, PROT_READ | PROT_WRITE, flags, file.number(), 0) == MAP_FAILED) {
    return refused("cannot map it");
  }
  files_.push_back(std::move(file));
  return {};
}

PoolMemory::PoolMemory(PoolMemory&& other) noexcept
    : bytes_(other.bytes_),
      file_bytes_(other.file_bytes_),
      base_(std::exchange(other.base_, nullptr)),
      files_(std::move(other.files_)) {}

PoolMemory::~PoolMemory() {
  if (base_ != nullptr) ::munmap(base_, bytes_);
}

}  // namespace iokv
