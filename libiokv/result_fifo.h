// SPDX-License-Identifier: Apache-2.0
// ResultFifo: which pieces of the daemon's result FIFO this client still holds. Reaping thread.
//
// Invariants
//  1. Pieces come in the order of the FIFO, one row of logits each, where wire::place puts them.
//  2. They are released in any order; the head that the daemon sees is the first piece still held.
//  3. There is a record for as many rows as the FIFO can hold: nothing is allocated while reaping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "wire/rings.h"

namespace iokv {

class ResultFifo {
 public:
  ResultFifo(const wire::Geometry& geometry, uint32_t vocabulary, const std::byte* down);

  // A completion with logits was reaped. false: the daemon has put it where it cannot be.
  bool take(uint32_t position, uint32_t bytes);
  // The row at this position, or NULL when it is not held.
  const void* find(uint32_t position, uint32_t bytes) const;
  // false: not held.
  bool release(uint32_t position, uint32_t bytes);
  // Up to where the FIFO is free again.
  uint32_t head() const;

 private:
  struct Record {
    uint32_t position = 0;
    bool released = false;
  };
  // Free-running index of the record, or last_ when there is none.
  uint32_t index_of(uint32_t position, uint32_t bytes) const;
  const Record& record(uint32_t index) const { return records_[index & (records_.size() - 1)]; }

  const std::byte* results_;
  uint32_t fifo_bytes_, row_bytes_;
  std::vector<Record> records_;       // a ring of a power of two
  uint32_t first_ = 0, last_ = 0;     // records held: [first_, last_), free-running
  uint32_t tail_ = 0;                 // position after the last row
};

}  // namespace iokv
