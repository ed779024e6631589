// SPDX-License-Identifier: Apache-2.0
// Launches that overlap the end of the kernel before them in their stream, where the device can do that (compute
// capability 9.0): the next kernel's blocks begin while the last ones of this kernel run, and wait where they need its
// results. That hides some microseconds a kernel, and lets a product bring weights meanwhile.
//
// Invariant: every kernel that launch() starts calls wait_for_earlier_kernels() in all of its threads, before it reads or
// writes anything that another kernel or a copy may touch. So a kernel's end is also the end of all before it.
#pragma once

#include <cuda_runtime.h>

namespace iokv::cuda {

__device__ inline void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Once all blocks have said so, or are done, the next kernel's may begin.
__device__ inline void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether the code that was loaded has the instructions above: all kernels are built for the same devices.
inline bool overlaps_kernels(const void* any_kernel) {
  static const bool can = [any_kernel] {
    cudaFuncAttributes attributes{};
    return cudaFuncGetAttributes(&attributes, any_kernel) == cudaSuccess && attributes.ptxVersion >= 90;
  }();
  return can;
}

template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 blocks, unsigned threads, size_t shared_bytes, cudaStream_t stream,
                   const Parameters&... arguments) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = overlaps_kernels(reinterpret_cast<const void*>(kernel)) ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace iokv::cuda
