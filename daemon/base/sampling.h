// SPDX-License-Identifier: Apache-2.0
// How the next token is drawn from logits; one meaning for the client's API, the scheduler and the backends.
#pragma once

#include <cstdint>

namespace iokv {

// temperature 0: the smallest token id of the largest logit. Otherwise logits are divided by temperature, cut to the
// top_k largest (0 = all), then to the smallest set of most probable tokens whose probability reaches top_p, and one is
// drawn with a uniform number that depends on (seed, position) only.
struct SampleParams {
  float temperature = 0.0f;
  float top_p = 1.0f;
  uint32_t top_k = 0;
  uint64_t seed = 0;
};

}  // namespace iokv
