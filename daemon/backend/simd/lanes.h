// SPDX-License-Identifier: Apache-2.0
// What the kernel templates share: parts of vectors, and functions of a vector, for the lanes S of an ISA.
//
// S offers F (a vector of kLanes floats), Pairs (kLanes pairs of bf16), loads and stores of both element types,
// arithmetic, and the widths of register blocks: kGemmRows rows by half a panel, kWideRows rows by a whole one,
// kAttendRows rows by 4 vectors of V.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace iokv::cpu {

// Rows of the next block so that `rows` rows are cut into the fewest blocks of at most `most`, of nearly equal size.
constexpr uint32_t next_group(uint32_t rows, uint32_t most) {
  uint32_t groups = (rows + most - 1) / most;
  return (rows + groups - 1) / groups;
}

template <typename S, typename T>
[[gnu::always_inline]] inline typename S::F load_first(const T* p, size_t count) {
  if (count >= S::kLanes) return S::load(p);
  T part[S::kLanes] = {};
  __builtin_memcpy(part, p, count * sizeof(T));
  return S::load(part);
}

template <typename S, typename T>
[[gnu::always_inline]] inline void store_first(T* p, typename S::F x, size_t count) {
  if (count >= S::kLanes) return S::store(p, x);
  T part[S::kLanes];
  S::store(part, x);
  __builtin_memcpy(p, part, count * sizeof(T));
}

// e^x within 2 ulp for x >= -87.3, 0 below (e^-87.3 is the smallest normal number), e^88.3 above; a NaN stays one.
// x = n·ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, the first of 9 bits, so that n times it is exact even without
// FMA. The polynomial is expf's of the Cephes library.
template <typename S>
[[gnu::always_inline]] inline typename S::F exp(typename S::F x) {
  using F = typename S::F;
  const F lowest = S::set1(-87.33654f);
  F y = S::min(S::set1(88.3f), S::max(lowest, x));
  F n = S::round(S::mul(y, S::set1(1.44269504088896341f)));
  F r = S::fma(n, S::set1(-0.693359375f), y);
  r = S::fma(n, S::set1(2.12194440e-4f), r);
  F p = S::set1(1.9875691500e-4f);
  p = S::fma(p, r, S::set1(1.3981999507e-3f));
  p = S::fma(p, r, S::set1(8.3334519073e-3f));
  p = S::fma(p, r, S::set1(4.1665795894e-2f));
  p = S::fma(p, r, S::set1(1.6666665459e-1f));
  p = S::fma(p, r, S::set1(5.0000001201e-1f));
  F result = S::mul(S::add(S::fma(p, S::mul(r, r), r), S::set1(1.0f)), S::pow2(n));
  return S::where_less(x, lowest, S::zero(), result);
}

// tanh(x) within 3 ulp: near 0 Cephes' polynomial (tanhf), else 1 - 2/(e^2|x| + 1).
template <typename S>
[[gnu::always_inline]] inline typename S::F tanh(typename S::F x) {
  using F = typename S::F;
  F t = S::abs(x), s = S::mul(x, x);
  F near = S::set1(-5.70498872745e-3f);
  near = S::fma(near, s, S::set1(2.06390887954e-2f));
  near = S::fma(near, s, S::set1(-5.37397155531e-2f));
  near = S::fma(near, s, S::set1(1.33314422036e-1f));
  near = S::fma(near, s, S::set1(-3.33332819422e-1f));
  near = S::fma(S::mul(near, s), x, x);
  F grown = S::add(exp<S>(S::add(t, t)), S::set1(1.0f));
  F far = S::with_sign_of(S::sub(S::set1(1.0f), S::div(S::set1(2.0f), grown)), x);
  return S::where_less(t, S::set1(0.625f), near, far);
}

// erf(x) within 2 ulp: x + x·P(x²) near 0, else 1 − e^Q(|x|); the minimax polynomials are N. Juffa's (1 ulp with an
// exact exp).
template <typename S>
[[gnu::always_inline]] inline typename S::F erf(typename S::F x) {
  using F = typename S::F;
  F t = S::abs(x), s = S::mul(x, x);
  F far = S::fma(S::set1(-1.72853470e-5f), t, S::set1(3.83197126e-4f));
  F odd = S::fma(S::set1(-3.88396438e-3f), t, S::set1(2.42546219e-2f));
  far = S::fma(far, s, odd);
  far = S::fma(far, t, S::set1(-1.06777877e-1f));
  far = S::fma(far, t, S::set1(-6.34846687e-1f));
  far = S::fma(far, t, S::set1(-1.28717512e-1f));
  far = S::fma(far, t, S::sub(S::zero(), t));
  far = S::with_sign_of(S::sub(S::set1(1.0f), exp<S>(far)), x);
  F near = S::set1(-5.96761703e-4f);
  near = S::fma(near, s, S::set1(4.99119423e-3f));
  near = S::fma(near, s, S::set1(-2.67681349e-2f));
  near = S::fma(near, s, S::set1(1.12819925e-1f));
  near = S::fma(near, s, S::set1(-3.76125336e-1f));
  near = S::fma(near, s, S::set1(1.28379166e-1f));
  near = S::fma(near, x, x);
  return S::where_less(S::set1(0.927734375f), t, far, near);
}

}  // namespace iokv::cpu
