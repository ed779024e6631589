// SPDX-License-Identifier: Apache-2.0
// What `iokv status` prints: every counter of a snapshot, for a person (grouped, with units) or as JSON (by name).
#pragma once

#include <string>

#include "tools/observer.h"

namespace iokv {

std::string status_text(const CounterSnapshot& snapshot, uint64_t now_ns);
std::string status_json(const CounterSnapshot& snapshot);

}  // namespace iokv
