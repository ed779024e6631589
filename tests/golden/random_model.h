// SPDX-License-Identifier: Apache-2.0
// Models of real widths without files: weights are random numbers that f32, f16 and bf16 all hold exactly, so that
// whatever results differ by is the arithmetic's. They are scaled so that attention's scores have a deviation of 2 and
// logits one of 1 or more: what is wrong in K or V shows.
#pragma once

#include <cstdint>

#include "daemon/backend/backend.h"
#include "daemon/model/weights.h"

namespace iokv::test {

// OPT-6.7B's widths: multi-head, learned positions, biases, layer norms. Llama-3-8B's: grouped queries, rotary
// positions, gates. Of `layers` layers and a vocabulary of 4096.
ModelSpec opt_6_7b_of(uint32_t layers);
ModelSpec llama_3_8b_of(uint32_t layers);

// The same for every backend. Ends the program where there is no memory for them.
Weights random_weights(Backend& backend, const ModelSpec& spec);

}  // namespace iokv::test
