// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/weight_stream.h"

#include <string>
#include <utility>

#include "daemon/base/assert.h"

namespace iokv {
namespace {

// As GPUs align their allocations: kernels chosen for matrices of their own take those in a slot.
constexpr size_t kAlignment = 256;

constexpr std::array<LayerMatrix, kLayerMatrices> kInOrder{LayerMatrix::qkv, LayerMatrix::o, LayerMatrix::gate_up,
                                                           LayerMatrix::down};

}  // namespace

MatrixShape shape_of(LayerMatrix matrix, const ModelSpec& spec) {
  switch (matrix) {
    case LayerMatrix::qkv: return {spec.q_width() + 2 * spec.kv_width(), spec.hidden};
    case LayerMatrix::o: return {spec.hidden, spec.q_width()};
    case LayerMatrix::gate_up: return {spec.ffn * (is_gated(spec.activation) ? 2 : 1), spec.hidden};
    case LayerMatrix::down: return {spec.hidden, spec.ffn};
  }
  return {};
}

LayerImage layer_image(const Backend& backend, const ModelSpec& spec) {
  LayerImage image;
  for (LayerMatrix matrix : kInOrder) {
    const MatrixShape shape = shape_of(matrix, spec);
    const Packing packing = backend.packing(shape.inputs);
    image.offset[static_cast<size_t>(matrix)] = image.bytes;
    if (matrix == LayerMatrix::qkv) {
      image.kv_begin = image.bytes + packing.offset(spec.q_width());
      image.kv_end = image.bytes + packing.bytes(shape.outputs);
    }
    image.bytes += (packing.bytes(shape.outputs) + kAlignment - 1) / kAlignment * kAlignment;
  }
  return image;
}

Result<std::unique_ptr<WeightStream>> WeightStream::make(Backend& backend, const ModelSpec& spec,
                                                         const WeightPlacement& placement) {
  IOKV_ASSERT(placement.layers.layers == spec.layers && placement.layers.streamed > 0 && placement.slots > 0);
  std::unique_ptr<WeightStream> stream(new WeightStream(backend, spec, placement));
  auto ring = backend.alloc(placement.slots * stream->image_.bytes);
  if (!ring) return std::move(ring.failure()).within("slots for the weights of " + std::to_string(placement.slots) + " layers");
  stream->ring_ = *std::move(ring);
  stream->slots_.resize(placement.slots);
  for (uint32_t i = 0; i < placement.slots; ++i) {
    Slot& slot = stream->slots_[i];
    std::byte* base = static_cast<std::byte*>(stream->ring_->data()) + i * stream->image_.bytes;
    for (LayerMatrix matrix : kInOrder) {
      const auto index = static_cast<size_t>(matrix);
      const MatrixShape shape = shape_of(matrix, spec);
      IOKV_TRY_ASSIGN(slot.owned[index], backend.view(shape.outputs, shape.inputs, base + stream->image_.offset[index]));
    }
    slot.matrices = {slot.owned[0].get(), slot.owned[1].get(), slot.owned[2].get(), slot.owned[3].get()};
  }
  return stream;
}

WeightStream::WeightStream(Backend& backend, const ModelSpec& spec, const WeightPlacement& placement)
    : backend_(backend), spec_(spec), placement_(placement), image_(layer_image(backend, spec)) {}

WeightStream::~WeightStream() {
  for (void* image : pinned_) backend_.unpin(image);
}

Status WeightStream::pack(uint32_t layer, LayerMatrix matrix, const RowSource& source) {
  IOKV_ASSERT(placement_.layers.streams(layer));
  const MatrixShape shape = shape_of(matrix, spec_);
  return backend_.pack(shape.outputs, shape.inputs, source, host_image(layer) + image_.offset[static_cast<size_t>(matrix)]);
}

Status WeightStream::pin(uint32_t layer) {
  if (Status pinned = backend_.pin(host_image(layer), image_.bytes); !pinned) {
    return std::move(pinned.failure())
        .within("the host cannot pin the weights of layer " + std::to_string(layer) + ", " + std::to_string(image_.bytes) +
                " bytes; keep more of them on the device (--device-weights-budget), or raise the limit on locked memory");
  }
  pinned_.push_back(host_image(layer));
  return {};
}

uint64_t WeightStream::fetch(uint32_t layer, uint32_t slot, WeightPart part) const {
  IOKV_ASSERT(placement_.layers.streams(layer) && slot < slots_.size());
  const std::byte* from = host_image(layer);
  std::byte* to = static_cast<std::byte*>(ring_->data()) + slot * image_.bytes;
  auto run = [&](size_t begin, size_t end) { return CopyRun{to + begin, from + begin, end - begin, 1, 0, 0}; };
  if (part == WeightPart::key_value) {
    backend_.copy(Queue::h2d, std::array{run(image_.kv_begin, image_.kv_end)});
  } else {
    backend_.copy(Queue::h2d, std::array{run(0, image_.kv_begin), run(image_.kv_end, image_.bytes)});
  }
  return image_.part_bytes(part);
}

}  // namespace iokv
