// SPDX-License-Identifier: Apache-2.0
// Each kind of operation of a step alone, through the seam: which of them is far from what memory or tensor cores give.
#pragma once

#include "daemon/backend/backend.h"

namespace iokv::bench {

// Prints a line an operation, for few, some and many rows of OPT-6.7B's shape: its time on the device, how long the host
// took to issue it, and the rate that binds it. Weights and K,V go round more memory than the second-level cache holds.
Status time_operations(Backend& backend);

}  // namespace iokv::bench
