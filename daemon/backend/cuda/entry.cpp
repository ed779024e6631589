// SPDX-License-Identifier: Apache-2.0
// The module's one symbol; see daemon/backend/cuda_module.h.
#include <algorithm>
#include <cstring>
#include <utility>

#include "daemon/backend/cuda/cuda_backend.h"
#include "daemon/backend/cuda_module.h"

extern "C" [[gnu::visibility("default")]] iokv::Backend* iokv_cuda_backend_4(const iokv::CudaOptions* options, char* reason,
                                                                            size_t reason_bytes) {
  auto made = iokv::make_cuda_backend_here(*options);
  if (made) return (*std::move(made)).release();
  const std::string& message = made.failure().message;
  const size_t length = std::min(message.size(), reason_bytes - 1);
  std::memcpy(reason, message.data(), length);
  reason[length] = 0;
  return nullptr;
}
