// SPDX-License-Identifier: Apache-2.0
// Which layers' weights cross the link in every step, where not all of them fit the device: evenly among those that stay,
// so that the link has its share to carry while the others compute.
#pragma once

#include <cstdint>

namespace iokv {

struct StreamedLayers {
  uint32_t layers = 0;    // of the model
  uint32_t streamed = 0;  // <= layers

  // Of the layers [0, layer), how many stream.
  uint32_t before(uint32_t layer) const {
    return layers == 0 ? 0 : static_cast<uint32_t>(uint64_t{layer} * streamed / layers);
  }
  bool streams(uint32_t layer) const { return before(layer + 1) != before(layer); }
};

}  // namespace iokv
