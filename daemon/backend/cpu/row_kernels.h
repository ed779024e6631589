// SPDX-License-Identifier: Apache-2.0
// Norms, rotary embedding, activations and the reductions of sampling, for the lanes S of an ISA and elements T. A row
// is reduced vector by vector with its end filled up, so its order depends on its length alone; everything else is
// element by element and the same in every lane.
#pragma once

#include "daemon/backend/cpu/kernels.h"
#include "daemon/backend/simd/lanes.h"

namespace iokv::cpu {

template <typename S, typename T>
struct Rows {
  using F = typename S::F;
  static constexpr uint32_t kLanes = S::kLanes;

  // y = x / sqrt(mean(x²) + epsilon) · weight + bias
  static void rms_norm(const NormRow& row) {
    F sum = S::zero();
    for (uint32_t i = 0; i < row.columns; i += kLanes) {
      F x = load_first<S>(row.x + i, row.columns - i);
      sum = S::fma(x, x, sum);
    }
    float variance = S::sum(sum) / static_cast<float>(row.columns);
    scale_row(row, 0.0f, 1.0f / __builtin_sqrtf(variance + row.epsilon));
  }

  // y = (x − mean) / sqrt(mean((x − mean)²) + epsilon) · weight + bias
  static void layer_norm(const NormRow& row) {
    F sum = S::zero();
    for (uint32_t i = 0; i < row.columns; i += kLanes) sum = S::add(sum, load_first<S>(row.x + i, row.columns - i));
    float mean = S::sum(sum) / static_cast<float>(row.columns);
    F squares = S::zero();
    for (uint32_t i = 0; i < row.columns; i += kLanes) {
      uint32_t count = row.columns - i;
      F x = S::sub(load_first<S>(row.x + i, count), S::set1(mean));
      if (count < kLanes) x = S::keep_first(x, count, S::zero());
      squares = S::fma(x, x, squares);
    }
    float variance = S::sum(squares) / static_cast<float>(row.columns);
    scale_row(row, mean, 1.0f / __builtin_sqrtf(variance + row.epsilon));
  }

  static void head_norm(const void* from, const float* weight, void* to, uint32_t count, float epsilon) {
    const T* x = static_cast<const T*>(from);
    F sum = S::zero();
    for (uint32_t i = 0; i < count; i += kLanes) {
      F value = load_first<S>(x + i, count - i);
      sum = S::fma(value, value, sum);
    }
    F factor = S::set1(1.0f / __builtin_sqrtf(S::sum(sum) / static_cast<float>(count) + epsilon));
    for (uint32_t i = 0; i < count; i += kLanes) {
      F value = S::mul(load_first<S>(x + i, count - i), factor);
      store_first<S>(static_cast<T*>(to) + i, S::mul(value, load_first<S>(weight + i, count - i)), count - i);
    }
  }

  static void rotate(const void* from, void* to, const float* cos, const float* sin, uint32_t half) {
    const T* x = static_cast<const T*>(from);
    T* y = static_cast<T*>(to);
    for (uint32_t i = 0; i < half; i += kLanes) {
      uint32_t count = half - i;
      F a = load_first<S>(x + i, count), b = load_first<S>(x + half + i, count);
      F c = load_first<S>(cos + i, count), s = load_first<S>(sin + i, count);
      store_first<S>(y + i, S::sub(S::mul(a, c), S::mul(b, s)), count);
      store_first<S>(y + half + i, S::fma(b, c, S::mul(a, s)), count);
    }
  }

  static void relu(const void* x, void* y, size_t count) {
    each(x, y, count, [](F v) { return S::max(S::zero(), v); });
  }

  // x · (1 + erf(x / √2)) / 2
  static void gelu(const void* x, void* y, size_t count) {
    each(x, y, count, [](F v) {
      F e = erf<S>(S::mul(v, S::set1(0.70710678118654752f)));
      return S::mul(S::mul(S::set1(0.5f), v), S::add(S::set1(1.0f), e));
    });
  }

  // x · (1 + tanh u) / 2 = x · sigmoid(2u) with u = √(2/π)·(x + 0.044715·x³): without the cancellation for x < 0.
  static void gelu_tanh(const void* x, void* y, size_t count) {
    each(x, y, count, [](F v) { return gelu_tanh_of(v); });
  }

  // gate · sigmoid(gate) · up
  static void silu_glu(const void* gate, const void* up, void* y, size_t count) {
    gated(gate, up, y, count, [](F v) { return times_sigmoid(v, v); });
  }
  static void gelu_tanh_glu(const void* gate, const void* up, void* y, size_t count) {
    gated(gate, up, y, count, [](F v) { return gelu_tanh_of(v); });
  }

  static void cap(float* x, size_t count, float limit) {
    for (size_t i = 0; i < count; i += kLanes) {
      F value = S::div(load_first<S>(x + i, count - i), S::set1(limit));
      store_first<S>(x + i, S::mul(tanh<S>(value), S::set1(limit)), count - i);
    }
  }

  static void sum_blocks(const void* x, uint32_t block, uint32_t blocks, float* sums) {
    const T* from = static_cast<const T*>(x);
    for (uint32_t b = 0; b < blocks; ++b) {
      F sum = S::zero();
      for (uint32_t i = 0; i < block; i += kLanes) sum = S::add(sum, S::load(from + b * block + i));
      sums[b] = S::sum(sum);
    }
  }

  static float largest(const float* x, size_t count) {
    F most = S::set1(x[0]);
    for (size_t i = 0; i < count; i += kLanes) {
      F v = load_first<S>(x + i, count - i);
      if (count - i < kLanes) v = S::keep_first(v, static_cast<uint32_t>(count - i), most);
      most = S::max(v, most);
    }
    return S::largest(most);
  }

  static float sum_exp(const float* x, size_t count, float most, float divisor, float* weights) {
    F sum = S::zero();
    for (size_t i = 0; i < count; i += kLanes) {
      F weight = exp<S>(S::div(S::sub(load_first<S>(x + i, count - i), S::set1(most)), S::set1(divisor)));
      if (count - i < kLanes) weight = S::keep_first(weight, static_cast<uint32_t>(count - i), S::zero());
      if (weights != nullptr) store_first<S>(weights + i, weight, count - i);
      sum = S::add(sum, weight);
    }
    return S::sum(sum);
  }

 private:
  static F gelu_tanh_of(F v) {
    F inner = S::fma(S::mul(S::mul(v, v), v), S::set1(0.044715f), v);
    return times_sigmoid(v, S::mul(inner, S::set1(1.59576912160573f)));
  }

  static F times_sigmoid(F x, F argument) {
    return S::div(x, S::add(S::set1(1.0f), exp<S>(S::sub(S::zero(), argument))));
  }

  static void scale_row(const NormRow& row, float mean, float factor) {
    T* y = static_cast<T*>(row.y);
    for (uint32_t i = 0; i < row.columns; i += kLanes) {
      uint32_t count = row.columns - i;
      F x = S::mul(S::sub(load_first<S>(row.x + i, count), S::set1(mean)), S::set1(factor));
      x = S::mul(x, load_first<S>(row.weight + i, count));
      if (row.bias != nullptr) x = S::add(x, load_first<S>(row.bias + i, count));
      if (row.add) {
        float* sum = static_cast<float*>(row.y) + i;
        store_first<S>(sum, S::add(load_first<S>(sum, count), x), count);
      } else {
        store_first<S>(y + i, x, count);
      }
    }
  }

  template <typename Function>
  static void gated(const void* gate, const void* up, void* y, size_t count, Function function) {
    const T* u = static_cast<const T*>(up);
    const T* g = static_cast<const T*>(gate);
    for (size_t i = 0; i < count; i += kLanes) {
      F result = S::mul(function(load_first<S>(g + i, count - i)), load_first<S>(u + i, count - i));
      store_first<S>(static_cast<T*>(y) + i, result, count - i);
    }
  }

  template <typename Function>
  static void each(const void* x, void* y, size_t count, Function function) {
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(y);
    for (size_t i = 0; i < count; i += kLanes) {
      store_first<S>(to + i, function(load_first<S>(from + i, count - i)), count - i);
    }
  }
};

}  // namespace iokv::cpu
