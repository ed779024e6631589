// SPDX-License-Identifier: Apache-2.0
// Region: one shared mapping of memory that the daemon made. Mapped through Boost.Interprocess; nothing else of that
// library is used.
//
// Invariants
//  1. The memory is at least as long as the mapping and sealed against shrinking: touching it cannot raise SIGBUS.
//  2. A forked child does not inherit the mapping (MADV_DONTFORK), and abandon() there does not unmap what may have taken
//     its addresses.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <memory>

#include "libiokv/descriptor.h"

namespace iokv {

class Region {
 public:
  enum class Access { read_only, read_write };

  Region() = default;
  // Throws Failure (IOKV_EPROTOCOL where the daemon's memory is not what it should be). `what` names it in messages.
  Region(const Descriptor& memory, size_t bytes, Access access, const char* what);

  std::byte* data() const { return static_cast<std::byte*>(mapping_->get_address()); }
  size_t size() const { return mapping_ ? mapping_->get_size() : 0; }
  explicit operator bool() const { return mapping_ != nullptr; }

  void abandon();

 private:
  std::unique_ptr<boost::interprocess::mapped_region> mapping_;
};

}  // namespace iokv
