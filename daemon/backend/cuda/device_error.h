// SPDX-License-Identifier: Apache-2.0
// What a CUDA or cuBLAS call that was refused says, as an Error; and the state of a device that has failed.
#pragma once

#include <string>

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "daemon/base/result.h"

namespace iokv::cuda {

inline Error device_error(const char* what, cudaError_t code) {
  return error(std::string(what) + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")");
}
inline Error device_error(const char* what, cublasStatus_t code) {
  return error(std::string(what) + ": " + cublasLtGetStatusString(code) + " (" + cublasLtGetStatusName(code) + ")");
}

// The first failure of a device that is in use. Operations return nothing, so they leave it here, and whoever polls is
// told; after it nothing more is issued.
class Failure {
 public:
  bool happened() const { return happened_; }
  Error error() const { return {first_.code, first_.message}; }

  // Whether the call went well.
  bool check(const char* what, cudaError_t code) {
    if (code == cudaSuccess) return true;
    note(device_error(what, code));
    return false;
  }
  bool check(const char* what, cublasStatus_t code) {
    if (code == CUBLAS_STATUS_SUCCESS) return true;
    note(device_error(what, code));
    return false;
  }
  void note(Error failure) {
    if (!happened_) first_ = std::move(failure).within("the device is lost");
    happened_ = true;
  }

 private:
  bool happened_ = false;
  Error first_;
};

}  // namespace iokv::cuda

// As IOKV_TRY, of a CUDA or cuBLAS call.
#define IOKV_CUDA_TRY(call)                                                                                       \
  do {                                                                                                            \
    if (const auto iokv_code_ = (call); static_cast<int>(iokv_code_) != 0) {                                      \
      return ::iokv::cuda::device_error(#call, iokv_code_);                                                       \
    }                                                                                                             \
  } while (0)
