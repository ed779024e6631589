// SPDX-License-Identifier: Apache-2.0
// Weights that live on the host and cross the link in every step. Of each streamed layer there is an image of its
// matrices in pinned host memory; on the device there is a ring of slots, in each of which an image lies as it does on
// the host, so that a copy of bytes is all that a device needs to know of it. Norms and biases, a thousandth of a layer,
// are on the device whatever streams.
//
// Invariants
//  1. An image is [qkv | o | gate_up | down], each packed as the backend has it. Its parts are byte ranges that do not
//     overlap: first what outputs of K and V need, then everything else.
//  2. Which slot a layer is in, and until when, is its caller's business (daemon/runtime/pipeline.h).
//  3. Host memory is the caller's and outlives the stream, which has it pinned.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/backend/backend.h"
#include "daemon/base/streamed_layers.h"
#include "daemon/model/spec.h"

namespace iokv {

enum class LayerMatrix : uint8_t { qkv, o, gate_up, down };
inline constexpr size_t kLayerMatrices = 4;

struct LayerMatrices {
  const Matrix *qkv = nullptr, *o = nullptr, *gate_up = nullptr, *down = nullptr;
};

// Recomputation needs the first alone, and so can start while the second is on the wire.
enum class WeightPart : uint8_t { key_value, rest };

struct MatrixShape {
  uint32_t outputs = 0, inputs = 0;
};
MatrixShape shape_of(LayerMatrix matrix, const ModelSpec& spec);

// Bytes of one layer's image, as this backend packs.
struct LayerImage {
  std::array<size_t, kLayerMatrices> offset{};
  size_t bytes = 0;
  size_t kv_begin = 0, kv_end = 0;  // of the part key_value

  // Between images on the host: each has pages of its own, since they are pinned one by one.
  size_t host_stride_bytes() const { return (bytes + 4095) / 4096 * 4096; }
  size_t part_bytes(WeightPart part) const {
    return part == WeightPart::key_value ? kv_end - kv_begin : bytes - (kv_end - kv_begin);
  }
};
LayerImage layer_image(const Backend& backend, const ModelSpec& spec);

struct WeightPlacement {
  StreamedLayers layers;      // none streamed: all weights are on the device
  uint32_t slots = 2;         // of the ring, if any are
  std::byte* host = nullptr;  // layers.streamed images, host_stride_bytes() apart; at a page's start
};

class WeightStream {
 public:
  // Takes the ring. Error: the backend has no memory for it.
  static Result<std::unique_ptr<WeightStream>> make(Backend& backend, const ModelSpec& spec,
                                                    const WeightPlacement& placement);
  ~WeightStream();
  WeightStream(const WeightStream&) = delete;
  WeightStream& operator=(const WeightStream&) = delete;

  // Of a streamed layer; the loading thread. Once its matrices are packed its image is pinned.
  Status pack(uint32_t layer, LayerMatrix matrix, const RowSource& source);
  Status pin(uint32_t layer);

  // Issues the copies of a part of a streamed layer to a slot, on Queue::h2d, and returns their bytes.
  uint64_t fetch(uint32_t layer, uint32_t slot, WeightPart part) const;

  const LayerMatrices& slot(uint32_t index) const { return slots_[index].matrices; }
  uint32_t slots() const { return static_cast<uint32_t>(slots_.size()); }
  const StreamedLayers& layers() const { return placement_.layers; }
  const LayerImage& image() const { return image_; }
  uint64_t device_bytes() const { return ring_->size_bytes(); }

 private:
  struct Slot {
    std::array<std::unique_ptr<Matrix>, kLayerMatrices> owned;
    LayerMatrices matrices;
  };

  WeightStream(Backend& backend, const ModelSpec& spec, const WeightPlacement& placement);
  std::byte* host_image(uint32_t layer) const { return placement_.host + placement_.layers.before(layer) * image_.host_stride_bytes(); }

  Backend& backend_;
  const ModelSpec spec_;
  const WeightPlacement placement_;
  const LayerImage image_;
  std::unique_ptr<DeviceMemory> ring_;  // [slots] images
  std::vector<Slot> slots_;
  std::vector<void*> pinned_;
};

}  // namespace iokv
