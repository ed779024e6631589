// SPDX-License-Identifier: Apache-2.0
// What a thread does between two looks at a word that another one will change.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace iokv {

// Leaves the core to its other hardware thread for some dozen cycles.
inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace iokv
