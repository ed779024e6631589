// SPDX-License-Identifier: Apache-2.0
// The two element types in device code: their conversions, pairs and vectors of eight.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "daemon/backend/cuda/kernels.h"

namespace iokv::cuda {

template <typename T>
struct Element;

template <>
struct Element<__half> {
  using Pair = __half2;
  static __device__ float wide(__half value) { return __half2float(value); }
  static __device__ __half narrow(float value) { return __float2half_rn(value); }
  static __device__ __half2 narrow(float low, float high) { return __floats2half2_rn(low, high); }
  static __device__ float2 wide(__half2 pair) { return __half22float2(pair); }
};

template <>
struct Element<__nv_bfloat16> {
  using Pair = __nv_bfloat162;
  static __device__ float wide(__nv_bfloat16 value) { return __bfloat162float(value); }
  static __device__ __nv_bfloat16 narrow(float value) { return __float2bfloat16_rn(value); }
  static __device__ __nv_bfloat162 narrow(float low, float high) { return __floats2bfloat162_rn(low, high); }
  static __device__ float2 wide(__nv_bfloat162 pair) { return __bfloat1622float2(pair); }
};

// Two elements as one register, the first in the low half.
template <typename T>
__device__ inline uint32_t pack(float low, float high) {
  const typename Element<T>::Pair pair = Element<T>::narrow(low, high);
  uint32_t bits;
  __builtin_memcpy(&bits, &pair, 4);
  return bits;
}
template <typename T>
__device__ inline float2 unpack(uint32_t bits) {
  typename Element<T>::Pair pair;
  __builtin_memcpy(&pair, &bits, 4);
  return Element<T>::wide(pair);
}

// Eight elements, 16 bytes.
template <typename T>
struct Eight {
  float values[8];

  __device__ void load(const T* from) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack<T>(words[i]);
      values[2 * i] = pair.x;
      values[2 * i + 1] = pair.y;
    }
  }
  __device__ void store(T* to) const {
    uint4 bits;
    bits.x = pack<T>(values[0], values[1]);
    bits.y = pack<T>(values[2], values[3]);
    bits.z = pack<T>(values[4], values[5]);
    bits.w = pack<T>(values[6], values[7]);
    *reinterpret_cast<uint4*>(to) = bits;
  }
};

template <typename Entry>
__device__ inline const Entry* entries(const Table& table) {
  return static_cast<const Entry*>(table.device != nullptr ? table.device : static_cast<const void*>(table.bytes));
}

// What a launch with a value of the element type returns.
template <typename Launch>
cudaError_t with_type(DType type, const Launch& launch) {
  return type == DType::f16 ? launch(__half{}) : launch(__nv_bfloat16{});
}

}  // namespace iokv::cuda
