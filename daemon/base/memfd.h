// SPDX-License-Identifier: Apache-2.0
// Anonymous shared memory: a memfd, its seals and this process's mapping of it. What a seal forbids holds for everyone
// with the descriptor and for ever; it is the only reason why memory can be shared with a process that is not trusted.
//
// Invariants
//  1. Descriptors are CLOEXEC, mappings MADV_DONTFORK: a child of this process has neither.
//  2. Pages appear when they are touched. A memfd has no size limit of its own to run into, so a touch can end in the
//     out-of-memory killer but not in SIGBUS; SHRINK is sealed for the same reason.
#pragma once

#include <cstddef>
#include <string>

#include <boost/interprocess/mapped_region.hpp>

#include "daemon/base/descriptor.h"
#include "daemon/base/result.h"

namespace iokv {

// A zeroed memfd of `bytes` that can be sealed. `name` is what /proc shows.
Result<Descriptor> create_memfd(const std::string& name, size_t bytes);

// Adds F_SEAL_... bits. FUTURE_WRITE forbids every way of writing but mappings that exist already.
Status seal_memfd(const Descriptor& memfd, int seals);

// A writable shared mapping; lives on when the descriptor is closed.
using Mapping = boost::interprocess::mapped_region;
Result<Mapping> map_memfd(const Descriptor& memfd, size_t bytes);

}  // namespace iokv
