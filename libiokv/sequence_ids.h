// SPDX-License-Identifier: Apache-2.0
// SequenceIds: chooses sequence ids (index | generation << 32) so that no id is ever used twice while it could still mean
// something. The submitting thread opens and closes, the reaping thread sees what became of it.
//
// Invariants
//  1. An index is free, or of one sequence. It becomes free when the final completion of its CLOSE is reaped, or of its
//     OPEN or FORK if that failed; when both are outstanding, with the later of the two.
//  2. The next sequence of an index has the next generation; 0 is never one.
//  3. Free indices pass from reaper to submitter through a ring with one producer and one consumer.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace iokv {

class SequenceIds {
 public:
  explicit SequenceIds(uint32_t max_sequences);

  // ---- submitting thread
  bool has_free() const;
  // Whether an index will become free without a further CLOSE.
  bool frees_soon() const { return closing_.load(std::memory_order_acquire) != 0; }
  // The id of a new sequence, opened by this operation; has_free() must hold.
  uint64_t open(uint64_t operation);
  // A CLOSE was placed. Ids that are not open, or are being closed already, are the daemon's to refuse.
  void close(uint64_t sequence, uint64_t operation);

  // ---- reaping thread
  // A final completion was reaped; does nothing unless it is of an open() or a close().
  void completed(uint64_t sequence, uint64_t operation, int32_t result);

 private:
  // state: the generation in the upper half, bits of State in the lower.
  enum State : uint64_t { kOpen = 1, kClosing = 2, kFailed = 4 };
  struct Slot {
    std::atomic<uint64_t> state = 0;
    std::atomic<uint64_t> opened_by = 0, closed_by = 0;  // operations; stored before they are announced to the daemon
  };

  Slot* find(uint64_t sequence, uint64_t& state) const;
  void free_index(uint32_t index);

  uint32_t count_;
  std::unique_ptr<Slot[]> slots_;
  std::unique_ptr<uint32_t[]> free_;     // ring of count_ indices
  std::atomic<uint64_t> free_tail_ = 0;  // reaper
  uint64_t free_head_ = 0;               // submitter
  std::atomic<uint32_t> closing_ = 0;    // sequences with a CLOSE outstanding
};

}  // namespace iokv
