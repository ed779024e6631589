// SPDX-License-Identifier: Apache-2.0
// Models by name and without weights: what planning for a machine needs to know of them.
#pragma once

#include <string>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/model/spec.h"

namespace iokv {

// Names that known_shape takes, in order of size.
std::vector<std::string> known_shapes();

// Dimensions only: positions, norms and tokens are not filled in. Error: the names that are known.
Result<ModelSpec> known_shape(const std::string& name);

}  // namespace iokv
