// SPDX-License-Identifier: Apache-2.0
// Which device the daemon computes on, and in which type. `auto` takes a GPU where CUDA finds one, else the CPU, and says
// in one line why; a device that was asked for by name is used or the reason is given: there is no silent fallback.
#pragma once

#include <memory>

#include "daemon/backend/backend.h"
#include "daemon/config.h"
#include "daemon/model/stored_type.h"

namespace iokv {

// `stored`: how most of the model's weights are stored. Error: the device cannot be had, or does not compute in the type
// that was asked for. The main thread; the backend is then the executor's.
Result<std::unique_ptr<Backend>> choose_device(const Config& config, StoredType stored);

}  // namespace iokv
