// SPDX-License-Identifier: Apache-2.0
// Tensors that were never trained, in place of a model's files: what a shape takes can be measured where nobody has its
// weights, or the disk and the memory for them. They are read as a file's are; their tokens mean nothing.
#pragma once

#include <cstdint>

#include "daemon/model/families.h"
#include "daemon/model/tensor_file.h"

namespace iokv {

// Every tensor that a model of this description requires, of `type` (f16 or bf16). Numbers are normally distributed:
// a matrix's with a deviation of 1/sqrt(k), k what a row is multiplied with, so that activations stay near 1 and f16
// overflows in no layer; those of Q, K, embeddings and the head 1.5 times that, so that attention and the draw prefer
// some tokens clearly; what norms multiply with has a deviation of 0.1 around 1, a bias around 0. The same seed gives
// the same numbers.
//
// They repeat: tensors of a distribution lie behind one another in a sequence that comes again after 134 million
// numbers, which is all the memory they take. It is a prime number of pages, so that rows of a matrix are the same only
// if they are 65,537 apart or more. Error: no memory for it.
Result<TensorFile> random_tensors(const Description& description, Naming naming, StoredType type, uint64_t seed);

}  // namespace iokv
