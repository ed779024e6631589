// SPDX-License-Identifier: Apache-2.0
// See result_fifo.h; docs/protocol.md, "Results".
#include "libiokv/result_fifo.h"

#include <algorithm>
#include <bit>

namespace iokv {

ResultFifo::ResultFifo(const wire::Geometry& geometry, uint32_t vocabulary, const std::byte* down)
    : results_(down + wire::result_offset(geometry)),
      fifo_bytes_(geometry.result_bytes),
      row_bytes_(vocabulary * static_cast<uint32_t>(sizeof(float))),
      record_count_(std::bit_ceil(fifo_bytes_ / std::min(wire::padded(row_bytes_), wire::kTopBytes) + 1)),
      records_(std::make_unique_for_overwrite<Record[]>(record_count_)) {}

bool ResultFifo::possible(uint32_t bytes, bool logits, bool top) const {
  if (!top) return bytes == row_bytes_;
  const uint32_t offset = top_offset(row_bytes_, logits);
  return bytes > offset && bytes - offset <= wire::top_bytes(wire::kMaxTopLogprobs) && (bytes - offset) % wire::kTopBytes == 0;
}

bool ResultFifo::take(uint32_t position, uint32_t bytes, bool logits, bool top) {
  if (!possible(bytes, logits, top) || wire::padded(bytes) > fifo_bytes_) return false;
  const uint32_t padded = wire::padded(bytes);
  if (position != wire::place(tail_, padded, fifo_bytes_)) return false;
  if (position + padded - head() > fifo_bytes_ || last_ - first_ == record_count_) return false;
  record(last_++) = Record{position, bytes, false};
  tail_ = position + padded;
  return true;
}

uint32_t ResultFifo::index_of(uint32_t position, uint32_t bytes) const {
  // Positions rise from head(); they may wrap, their distances from it do not.
  uint32_t low = first_, high = last_;
  while (low != high) {
    uint32_t middle = low + (high - low) / 2;
    if (record(middle).position - head() < position - head()) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  bool held = low != last_ && record(low).position == position && record(low).bytes == bytes && !record(low).released;
  return held ? low : last_;
}

const std::byte* ResultFifo::find(uint32_t position, uint32_t bytes) const {
  return index_of(position, bytes) == last_ ? nullptr : results_ + (position & (fifo_bytes_ - 1));
}

bool ResultFifo::release(uint32_t position, uint32_t bytes) {
  uint32_t index = index_of(position, bytes);
  if (index == last_) return false;
  record(index).released = true;
  while (first_ != last_ && record(first_).released) first_++;
  return true;
}

uint32_t ResultFifo::head() const { return first_ == last_ ? tail_ : record(first_).position; }

}  // namespace iokv
