// SPDX-License-Identifier: Apache-2.0
// How far logits may lie from transformers' in double, as relative_error measures it (checkpoint.h). What
// logits_test demands and every mutant of mutants_test must miss.
#pragma once

#include "daemon/base/dtype.h"

namespace iokv::test {

// f32: some 30 roundings of 2^-24 in sequence, 20 times as much as transformers' own f32 is away (6e-7). bf16: 2^-9 a
// rounding, of activations only, since the checkpoints' weights are exact in bf16.
constexpr double tolerance(DType compute) { return compute == DType::f32 ? 1e-5 : 1e-2; }

}  // namespace iokv::test
