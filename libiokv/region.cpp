// SPDX-License-Identifier: Apache-2.0
// See region.h.
#include "libiokv/region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <boost/interprocess/exceptions.hpp>
#include <cerrno>
#include <new>
#include <string>

#include "libiokv/detail.h"

namespace iokv {
namespace {

namespace bip = boost::interprocess;

// What mapped_region asks of a thing that can be mapped.
struct Memory {
  int descriptor;
  bip::mapping_handle_t get_mapping_handle() const { return bip::ipcdetail::mapping_handle_from_file_handle(descriptor); }
};

void check_memory(const Descriptor& memory, size_t bytes, const std::string& what) {
  struct stat status {};
  if (::fstat(memory.get(), &status) != 0) throw system_failure("fstat of " + what, errno, IOKV_EPROTOCOL);
  if (status.st_size < 0 || static_cast<size_t>(status.st_size) < bytes) {
    throw Failure{IOKV_EPROTOCOL, "the daemon's " + what + " is smaller than it said"};
  }
  int seals = ::fcntl(memory.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    throw Failure{IOKV_EPROTOCOL, "the daemon's " + what + " is not sealed against shrinking"};
  }
}

}  // namespace

Region::Region(const Descriptor& memory, size_t bytes, Access access, const char* what) {
  check_memory(memory, bytes, what);
  auto mode = access == Access::read_only ? bip::read_only : bip::read_write;
  mapping_ = std::make_unique<bip::mapped_region>(Memory{memory.get()}, mode, 0, bytes);
  if (::madvise(data(), bytes, MADV_DONTFORK) != 0) {
    throw system_failure(std::string("madvise(MADV_DONTFORK) of ") + what, errno, IOKV_ENOMEM);
  }
}

void Region::abandon() { ::operator delete(mapping_.release()); }

}  // namespace iokv
