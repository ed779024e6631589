// SPDX-License-Identifier: Apache-2.0
// `iokv model inspect`: what a model's files hold and what serving it takes, without loading it. Pure but for the files.
#pragma once

#include <string>

#include "daemon/model/model_files.h"

namespace iokv {

std::string model_text(const ModelFiles& files, bool tensors);
std::string model_json(const ModelFiles& files, bool tensors);

}  // namespace iokv
