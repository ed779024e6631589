// SPDX-License-Identifier: Apache-2.0
// Reader of safetensors files: an 8-byte header length, a JSON header that gives every tensor's type, shape and byte
// range, then the bytes. The ranges must cover the rest of the file exactly, without overlap or gap, as the format's
// reference implementation demands: that finds truncated and padded files. Tensors may start at any alignment.
#pragma once

#include <string>

#include "daemon/base/result.h"
#include "daemon/model/tensor_file.h"

namespace iokv {

// One file, or a sharded checkpoint by its index. The index names its files by plain names in its own directory.
Result<TensorFile> open_safetensors(const std::string& path);
Result<TensorFile> open_safetensors_index(const std::string& index_path);

}  // namespace iokv
