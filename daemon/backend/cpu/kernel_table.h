// SPDX-License-Identifier: Apache-2.0
// The kernel templates put together for the lanes S of one ISA and elements T (float, or uint16_t for bf16). Each file
// kernels_<isa>.cpp defines its S in an unnamed namespace, which keeps every instantiation to that file.
#pragma once

#include "daemon/backend/cpu/attend_kernel.h"
#include "daemon/backend/cpu/gemm_kernel.h"
#include "daemon/backend/cpu/kernels.h"
#include "daemon/backend/cpu/quant_kernel.h"
#include "daemon/backend/cpu/row_kernels.h"

namespace iokv::cpu {

template <typename S, typename T>
constexpr Kernels kernel_table() {
  Kernels table{};
  table.gemm = &Gemm<S, T>::run;
  if constexpr (sizeof(T) == 2) table.gemm_quants = &QuantGemm<S>::run;
  table.sum_blocks = &Rows<S, T>::sum_blocks;
  table.attend = &Attend<S, T>::run;
  table.attend_pieces = &Attend<S, T>::pieces;
  table.attend_merge = &Attend<S, T>::merge;
  table.attend_join = &Attend<S, T>::join;
  table.rms_norm = &Rows<S, T>::rms_norm;
  table.layer_norm = &Rows<S, T>::layer_norm;
  table.head_norm = &Rows<S, T>::head_norm;
  table.rotate = &Rows<S, T>::rotate;
  table.relu = &Rows<S, T>::relu;
  table.gelu = &Rows<S, T>::gelu;
  table.gelu_tanh = &Rows<S, T>::gelu_tanh;
  table.silu_glu = &Rows<S, T>::silu_glu;
  table.gelu_tanh_glu = &Rows<S, T>::gelu_tanh_glu;
  table.cap = &Rows<S, T>::cap;
  table.largest = &Rows<S, T>::largest;
  table.sum_exp = &Rows<S, T>::sum_exp;
  return table;
}

}  // namespace iokv::cpu
