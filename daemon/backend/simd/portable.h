// SPDX-License-Identifier: Apache-2.0
// Lanes for any machine: vectors of four floats as GCC and clang have them on every target, multiply and add rounded
// each. The unnamed namespace keeps what is instantiated with it to the including file.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace iokv::cpu {
namespace {

struct Portable {
  using F = float __attribute__((vector_size(16)));
  using Pairs = uint32_t __attribute__((vector_size(16)));
  using Int = int32_t __attribute__((vector_size(16)));
  static constexpr uint32_t kLanes = 4;
  static constexpr uint32_t kGemmRows = 2, kWideRows = 1;
  static constexpr uint32_t kAttendRows = 2;

  static F zero() { return F{}; }
  static F set1(float x) { return F{x, x, x, x}; }
  static F load(const float* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  static F load(const uint16_t* p) {
    Pairs bits = {uint32_t{p[0]}, uint32_t{p[1]}, uint32_t{p[2]}, uint32_t{p[3]}};
    return reinterpret_cast<F>(bits << 16);
  }
  static void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
  static void store(uint16_t* p, F x) {  // as f32_to_bf16
    Pairs bits = reinterpret_cast<Pairs>(x);
    Pairs rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    rounded = x == x ? rounded : (bits | 0x400000u);
    for (uint32_t i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>(rounded[i] >> 16);
  }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F fma(F a, F b, F c) { return a * b + c; }
  static F max(F a, F b) { return a > b ? a : b; }  // b where one is a NaN
  static F min(F a, F b) { return a < b ? a : b; }
  static F abs(F x) { return reinterpret_cast<F>(reinterpret_cast<Pairs>(x) & 0x7fffffffu); }
  static F with_sign_of(F x, F sign) {
    return reinterpret_cast<F>(reinterpret_cast<Pairs>(x) | (reinterpret_cast<Pairs>(sign) & 0x80000000u));
  }
  static F where_less(F a, F b, F yes, F no) { return a < b ? yes : no; }
  static F keep_first(F x, uint32_t count, F other) {
    Pairs lane = {0, 1, 2, 3};
    return lane < count ? x : other;
  }
  static F round(F x) { return (x + 12582912.0f) - 12582912.0f; }  // 1.5 · 2^23: |x| < 2^22 rounds in the addition
  static F pow2(F n) { return reinterpret_cast<F>((__builtin_convertvector(n, Int) + 127) << 23); }
  static float sum(F x) { return (x[0] + x[2]) + (x[1] + x[3]); }
  static float largest(F x) {
    float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
  }

  static F load_half(const uint16_t* p) {
    F x;
    for (uint32_t i = 0; i < kLanes; ++i) {
      // The exponent's 5 bits and the fraction moved to where those of f32 are; 2^112 makes up for the other bias, of
      // subnormal numbers too.
      const uint32_t size = uint32_t{p[i] & 0x7fffu} << 13, infinite = (p[i] & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;
      float value;
      __builtin_memcpy(&value, &size, sizeof value);
      value *= 5.192296858534828e33f;
      uint32_t bits;
      __builtin_memcpy(&bits, &value, sizeof bits);
      bits |= infinite | uint32_t{p[i] & 0x8000u} << 16;
      __builtin_memcpy(&value, &bits, sizeof value);
      x[i] = value;
    }
    return x;
  }

  using Table = const uint16_t*;
  static Table load_table(const uint16_t* p) { return p; }
  // Of each 16 bits of x the table's value for the four from Shift on.
  template <int Shift>
  static Pairs look_up(Table table, Pairs x) {
    Pairs found;
    for (uint32_t i = 0; i < kLanes; ++i) {
      const uint32_t low = table[x[i] >> Shift & 15u], high = table[x[i] >> (16 + Shift) & 15u];
      found[i] = low | high << 16;
    }
    return found;
  }
  // 2·kLanes signed bytes: their f32 has nothing below bf16's digits.
  static Pairs widen_bytes(const uint8_t* p) {
    auto at = [p](uint32_t i) { return int32_t{static_cast<int8_t>(p[i])}; };
    const Int low = {at(0), at(2), at(4), at(6)}, high = {at(1), at(3), at(5), at(7)};
    return reinterpret_cast<Pairs>(__builtin_convertvector(low, F)) >> 16 |
           reinterpret_cast<Pairs>(__builtin_convertvector(high, F));
  }
  static void store_pairs(uint16_t* p, Pairs x) { __builtin_memcpy(p, &x, sizeof x); }

  static Pairs load_pairs(const uint16_t* p) {
    Pairs w;
    __builtin_memcpy(&w, p, sizeof w);
    return w;
  }
  static F dot(F sum, Pairs w, uint32_t x) {
    Pairs pair = {x, x, x, x};
    sum = fma(reinterpret_cast<F>(w << 16), reinterpret_cast<F>(pair << 16), sum);
    return fma(reinterpret_cast<F>(w & 0xffff0000u), reinterpret_cast<F>(pair & 0xffff0000u), sum);
  }

  // to[j · to_stride + i] = rows[i][j] for i, j < 4.
  static void transpose(const uint32_t* const* rows, uint32_t* to, size_t to_stride) {
    for (uint32_t j = 0; j < kLanes; ++j) {
      for (uint32_t i = 0; i < kLanes; ++i) to[j * to_stride + i] = rows[i][j];
    }
  }
};

}  // namespace
}  // namespace iokv::cpu
