// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include <boost/interprocess/exceptions.hpp>

#include "include/iokv/iokv.h"

namespace iokv {
namespace {

// Linux 6.3; newer than the headers of Debian 12. Without it a system with vm.memfd_noexec = 2 makes no memfd at all.
constexpr unsigned kNoExecSeal = 0x8;

Error memory_error(const std::string& what, int number) {
  return error(what + ": " + std::strerror(number), IOKV_ENOMEM);
}

// What Boost.Interprocess maps: anything that names a descriptor. It neither keeps nor closes it.
class Mappable {
 public:
  explicit Mappable(int descriptor) : descriptor_(descriptor) {}
  boost::interprocess::mapping_handle_t get_mapping_handle() const {
    return boost::interprocess::ipcdetail::mapping_handle_from_file_handle(descriptor_);
  }

 private:
  int descriptor_;
};

}  // namespace

Result<Descriptor> create_memfd(const std::string& name, size_t bytes) {
  constexpr unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  Descriptor memfd(::memfd_create(name.c_str(), flags | kNoExecSeal));
  if (!memfd && errno == EINVAL) memfd = Descriptor(::memfd_create(name.c_str(), flags));
  if (!memfd) return memory_error("cannot create shared memory for " + name, errno);
  if (::ftruncate(memfd.number(), static_cast<off_t>(bytes)) != 0) {
    return memory_error("cannot size shared memory for " + name + " to " + std::to_string(bytes) + " bytes", errno);
  }
  return memfd;
}

Status seal_memfd(const Descriptor& memfd, int seals) {
  if (::fcntl(memfd.number(), F_ADD_SEALS, seals) == 0) return {};
  return memory_error("cannot seal shared memory (Linux 5.1 or newer is needed)", errno);
}

Result<Mapping> map_memfd(const Descriptor& memfd, size_t bytes) {
  Mapping mapping;
  try {
    mapping = Mapping(Mappable(memfd.number()), boost::interprocess::read_write, 0, bytes);
  } catch (const boost::interprocess::interprocess_exception& failure) {
    return error("cannot map " + std::to_string(bytes) + " bytes of shared memory: " + failure.what(), IOKV_ENOMEM);
  }
  if (::madvise(mapping.get_address(), mapping.get_size(), MADV_DONTFORK) != 0) {
    return memory_error("cannot keep shared memory from forked children", errno);
  }
  ::madvise(mapping.get_address(), mapping.get_size(), MADV_DONTDUMP);  // prompts pass through it; see daemon/core_dumps.h
  return mapping;
}

}  // namespace iokv
