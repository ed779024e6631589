// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/cuda_module.h"

#include <dlfcn.h>
#include <unistd.h>

#include <array>
#include <climits>

namespace iokv {
namespace {

std::string executable_directory() {
  char path[PATH_MAX];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0) return ".";
  const std::string whole(path, static_cast<size_t>(length));
  return whole.substr(0, whole.rfind('/'));
}

}  // namespace

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options) {
  // The driver's library comes with it. Without it there is no use in loading CUDA's others, which takes a while.
  void* driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) {
    const char* why = ::dlerror();
    return error("CUDA cannot be used: there is no NVIDIA driver (" + std::string(why != nullptr ? why : "libcuda.so.1") + ")");
  }
  const std::array<std::string, 2> directories = {executable_directory(),
                                                   executable_directory() + "/" IOKV_MODULE_DIRECTORY};
  std::string tried;
  for (const std::string& directory : directories) {
    const std::string path = directory + "/" + kCudaModule;
    if (::access(path.c_str(), F_OK) != 0) {
      tried += (tried.empty() ? "" : " nor ") + path;
      continue;
    }
    void* module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (module == nullptr) {
      const char* why = ::dlerror();
      return error("CUDA cannot be used: " + std::string(why != nullptr ? why : path + " cannot be loaded"));
    }
    const auto entry = reinterpret_cast<CudaEntry>(::dlsym(module, kCudaEntry));
    if (entry == nullptr) return error(path + " belongs to another version of iokv: it has no " + kCudaEntry);
    char reason[512] = "";
    if (Backend* backend = entry(&options, reason, sizeof reason)) return std::unique_ptr<Backend>(backend);
    return error("CUDA cannot be used: " + std::string(reason));
  }
  return error("CUDA cannot be used: there is neither " + tried + "; install iokv's CUDA module, or set backend = cpu");
}

}  // namespace iokv
