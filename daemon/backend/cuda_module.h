// SPDX-License-Identifier: Apache-2.0
// Finds and loads libiokv-cuda.so, the one part of iokv that needs CUDA's libraries: so one iokvd runs with and without
// a GPU. The module is built from the same tree as its loader; the number in its symbol's name rises whenever what they
// share (backend.h, cuda_options.h) changes.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "daemon/backend/backend.h"
#include "daemon/backend/cuda/cuda_options.h"

namespace iokv {

// Looks in the executable's directory, then in iokv's library directory. Error: the module is not there, or its
// libraries, the driver or the device are not, with the reason that they give. Any thread may call it. A module stays
// loaded.
Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options);

// What the module exports. Null: `reason` (of at least one byte) says why.
using CudaEntry = Backend* (*)(const CudaOptions* options, char* reason, size_t reason_bytes);
inline constexpr const char* kCudaEntry = "iokv_cuda_backend_4";
inline constexpr const char* kCudaModule = "libiokv-cuda.so";

}  // namespace iokv
