// SPDX-License-Identifier: Apache-2.0
// See fork_guard.h.
#include "libiokv/fork_guard.h"

#include <sys/mman.h>

#include <cerrno>

#include "libiokv/detail.h"
#include "wire/rings.h"

namespace iokv {

ForkGuard::ForkGuard() {
  void* page = ::mmap(nullptr, wire::kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw system_failure("cannot map a page", errno, IOKV_ENOMEM);
  if (::madvise(page, wire::kPageBytes, MADV_WIPEONFORK) != 0) {
    int error = errno;
    ::munmap(page, wire::kPageBytes);
    throw system_failure("madvise(MADV_WIPEONFORK), which needs Linux 4.14", error, IOKV_EUNSUPPORTED);
  }
  *static_cast<char*>(page) = 1;
  mark_ = static_cast<const volatile char*>(page);
}

ForkGuard::~ForkGuard() { ::munmap(const_cast<char*>(mark_), wire::kPageBytes); }

}  // namespace iokv
