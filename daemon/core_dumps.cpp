// SPDX-License-Identifier: Apache-2.0
#include "daemon/core_dumps.h"

#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

namespace iokv {

Status forbid_core_dumps() {
  const rlimit none{0, 0};
  if (::setrlimit(RLIMIT_CORE, &none) != 0) {
    return error(std::string("core dumps cannot be forbidden (RLIMIT_CORE): ") + std::strerror(errno));
  }
  // Kernels without CONFIG_ELF_CORE have no such file, and no cores.
  std::ofstream filter("/proc/self/coredump_filter");
  filter << "0" << std::flush;
  return {};
}

}  // namespace iokv
