// SPDX-License-Identifier: Apache-2.0
// The kernels for AVX-512 with BF16: q·k by vdpbf16ps, which needs no widening of K. It takes subnormals as zero and
// rounds after each of the two products, so its bits are its own. See kernels.h, invariant 3.
#include "daemon/backend/host/lanes_avx512.h"

namespace iokv::host {
namespace {

struct PairProducts {
  using Vector = __m512i;
  static constexpr uint32_t kElements = 32, kQueryBytes = 64;
  static Vector load(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static Vector load_first(const uint16_t* p, uint32_t count) {
    return _mm512_maskz_loadu_epi16((__mmask32{1} << count) - 1, p);  // count < 32
  }
  static __m512 dot(__m512 sum, Vector k, const void* q) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(k), reinterpret_cast<__m512bh>(_mm512_loadu_si512(q)));
  }
  static void pack(const uint16_t* q, uint32_t count, void* to) {
    _mm512_storeu_si512(to, count < kElements ? load_first(q, count) : load(q));
  }
};

}  // namespace

const Kernels* avx512_bf16_kernels(Element element) {
  using S = LanesAvx512;
  static constexpr Kernels kBf16 = kernel_table<S, Bf16<S>, PairProducts>();
  return element == Element::bf16 ? &kBf16 : avx512_kernels(element);
}

}  // namespace iokv::host
