// SPDX-License-Identifier: Apache-2.0
// ResultFifo: which pieces of the daemon's result FIFO this client still holds. Reaping thread.
//
// Invariants
//  1. Pieces come in the order of the FIFO, the result of one completion each, where wire::place puts them: a row of
//     logits, the most probable tokens, or both.
//  2. They are released in any order; the head that the daemon sees is the first piece still held.
//  3. There is a record for as many pieces as the FIFO can hold: nothing is allocated while reaping. Memory of records that
//     never were used was never touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "wire/rings.h"

namespace iokv {

class ResultFifo {
 public:
  ResultFifo(const wire::Geometry& geometry, uint32_t vocabulary, const std::byte* down);

  // A completion with logits, most probable tokens or both was reaped. false: the daemon has put its result where it cannot
  // be, or of a size that it cannot have.
  bool take(uint32_t position, uint32_t bytes, bool logits, bool top);
  // The piece at this position, or NULL when it is not held.
  const std::byte* find(uint32_t position, uint32_t bytes) const;
  // Of a row of logits, and where in a piece the most probable tokens begin.
  uint32_t row_bytes() const { return row_bytes_; }
  static uint32_t top_offset(uint32_t row_bytes, bool logits) { return logits ? wire::padded(row_bytes) : 0; }
  // false: not held.
  bool release(uint32_t position, uint32_t bytes);
  // Up to where the FIFO is free again.
  uint32_t head() const;

 private:
  struct Record {
    uint32_t position, bytes;
    bool released;
  };
  bool possible(uint32_t bytes, bool logits, bool top) const;
  // Free-running index of the record, or last_ when there is none.
  uint32_t index_of(uint32_t position, uint32_t bytes) const;
  Record& record(uint32_t index) const { return records_[index & (record_count_ - 1)]; }

  const std::byte* results_;
  uint32_t fifo_bytes_, row_bytes_;
  uint32_t record_count_;             // a power of two
  std::unique_ptr<Record[]> records_; // a ring
  uint32_t first_ = 0, last_ = 0;     // records held: [first_, last_), free-running
  uint32_t tail_ = 0;                 // position after the last piece
};

}  // namespace iokv
