// SPDX-License-Identifier: Apache-2.0
// As what a block of cached tokens of one layer is kept in the host pool.
#pragma once

#include <cstdint>

namespace iokv {

// kv: keys and values, as attention reads them (KvShape). x: the input of their projection, [kBlockTokens][h], from
// which they are recomputed before every use; half of kv's bytes where every head has keys of its own.
enum class BlockForm : uint8_t { kv, x };

}  // namespace iokv
