// SPDX-License-Identifier: Apache-2.0
// `iokv trace`: the daemon's last steps as a Chrome trace, which Perfetto and chrome://tracing draw. Pure: the bytes of
// wire/trace.h in, JSON out.
//
// Every lane is a thread: the steps, then for each queue of the device its operations and, below, what the step was
// predicted to need of the queue, from where the step's time begins to count. Times are µs since the first of them.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "daemon/base/result.h"

namespace iokv {

// Error: the bytes are no trace, or there are no steps in it.
Result<std::string> chrome_trace(const std::vector<std::byte>& blob);

}  // namespace iokv
