// SPDX-License-Identifier: Apache-2.0
// Memory of one address range. As memfds it lies in several of them, one behind the other: the kernel adds pages to a
// file under one lock, so that 16 threads touch one file at 3.8 GiB/s and 16 files at 12.7 (16 cores, Linux 6.18). A
// device takes the range as one.
//
// Sealed memfds are what is wanted: after this process another one can take the same pages. But a device reads many
// gigabytes of 4 KiB pages more slowly than huge ones (an H100 over PCIe 5 48 GB/s instead of 54), a CPU too, and most
// kernels are set up to give huge pages to private memory and not to memfds. So `automatic` is memfds only where they
// have them, and private memory elsewhere.
//
// Invariants
//  1. The memfds are sealed SHRINK|GROW|SEAL: no page can go from under a device that has it pinned. Not FUTURE_WRITE, so
//     that whoever is given the descriptors after this process can use the same pages.
//  2. No client is ever given a descriptor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "daemon/base/memfd.h"
#include "daemon/base/result.h"

namespace iokv {

enum class PoolPages : uint8_t { automatic, memfds, anonymous };

// Whether the kernel gives huge pages to memfds that ask: /sys/kernel/mm/transparent_hugepage/shmem_enabled.
bool memfds_have_huge_pages();

class PoolMemory {
 public:
  // Zeroed, and touched as it is used. Error: the kernel refuses a memfd or the address space.
  static Result<PoolMemory> make(size_t bytes, PoolPages pages);
  ~PoolMemory();
  PoolMemory(PoolMemory&& other) noexcept;
  PoolMemory& operator=(PoolMemory&&) = delete;

  std::byte* base() const { return base_; }
  size_t bytes() const { return bytes_; }
  // Of every file but the last, which may be shorter; of anonymous pages, of what it is best touched in.
  size_t file_bytes() const { return file_bytes_; }
  std::span<const Descriptor> files() const { return files_; }

 private:
  PoolMemory(size_t bytes, size_t file_bytes) : bytes_(bytes), file_bytes_(file_bytes) {}
  Status reserve(int protection);
  Status add_file();

  size_t bytes_, file_bytes_;
  std::byte* base_ = nullptr;
  std::vector<Descriptor> files_;
};

}  // namespace iokv
