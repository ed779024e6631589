// SPDX-License-Identifier: Apache-2.0
// Weights of a model's shapes without its files, for a device that computes nothing or a run whose results do not
// matter.
#pragma once

#include "daemon/model/weights.h"

namespace iokv {

// Matrices are zeros; norms and biases are memory that is not initialised. There are biases where norms are layer
// norms, as in OPT; a head of its own where embeddings are not tied; a table of positions where they are learned.
// Fails when the backend has no memory for them.
Result<Weights> blank_weights(Backend& backend, const ModelSpec& spec, const WeightPlacement& placement = {});

}  // namespace iokv
