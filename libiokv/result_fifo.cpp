// SPDX-License-Identifier: Apache-2.0
// See result_fifo.h; docs/protocol.md, "Results".
#include "libiokv/result_fifo.h"

#include <bit>

namespace iokv {

ResultFifo::ResultFifo(const wire::Geometry& geometry, uint32_t vocabulary, const std::byte* down)
    : results_(down + wire::result_offset(geometry)),
      fifo_bytes_(geometry.result_bytes),
      row_bytes_(vocabulary * static_cast<uint32_t>(sizeof(float))),
      records_(std::bit_ceil(fifo_bytes_ / wire::padded(row_bytes_) + 1)) {}

bool ResultFifo::take(uint32_t position, uint32_t bytes) {
  uint32_t padded = wire::padded(bytes);
  if (bytes != row_bytes_ || padded > fifo_bytes_) return false;
  if (position != wire::place(tail_, padded, fifo_bytes_)) return false;
  if (position + padded - head() > fifo_bytes_ || last_ - first_ == records_.size()) return false;
  records_[last_++ & (records_.size() - 1)] = Record{position, false};
  tail_ = position + padded;
  return true;
}

uint32_t ResultFifo::index_of(uint32_t position, uint32_t bytes) const {
  if (bytes != row_bytes_) return last_;
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
  bool held = low != last_ && record(low).position == position && !record(low).released;
  return held ? low : last_;
}

const void* ResultFifo::find(uint32_t position, uint32_t bytes) const {
  return index_of(position, bytes) == last_ ? nullptr : results_ + (position & (fifo_bytes_ - 1));
}

bool ResultFifo::release(uint32_t position, uint32_t bytes) {
  uint32_t index = index_of(position, bytes);
  if (index == last_) return false;
  records_[index & (records_.size() - 1)].released = true;
  while (first_ != last_ && record(first_).released) first_++;
  return true;
}

uint32_t ResultFifo::head() const { return first_ == last_ ? tail_ : record(first_).position; }

}  // namespace iokv
