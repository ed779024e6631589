// SPDX-License-Identifier: Apache-2.0
// The Profile that hardware which is not here should have with a model: each operation takes what its arithmetic or its
// bytes take at the hardware's rates, whichever is longer, and at least a launch. An operation is launched while the one
// before it runs, so that a launch shows only where there is nothing longer, as in a norm of few rows. Pure.
#pragma once

#include <cstdint>

#include "daemon/backend/modelled/hardware.h"
#include "daemon/model/spec.h"
#include "daemon/sched/profile.h"

namespace iokv {

// element_bytes: of weights, X, K and V.
CacheShape cache_shape_of(const ModelSpec& spec, uint32_t element_bytes);

// Of the matrices of one layer, and of all there are, embeddings included. Biases, norms and learned positions are left
// out: 0.1 % of OPT-6.7B.
uint64_t layer_weight_bytes(const ModelSpec& spec, uint32_t element_bytes);
uint64_t weight_bytes(const ModelSpec& spec, uint32_t element_bytes);

Profile expected_profile(const Hardware& hardware, const ModelSpec& spec, uint32_t element_bytes);

}  // namespace iokv
