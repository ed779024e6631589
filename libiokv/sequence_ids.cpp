// SPDX-License-Identifier: Apache-2.0
// See sequence_ids.h. OPEN, STEP and CLOSE may be outstanding together, so CLOSE can be placed by one thread while the
// other one reaps the failure of OPEN: the slot's state decides by compare-and-swap which of the two frees the index.
#include "libiokv/sequence_ids.h"

namespace iokv {
namespace {

constexpr uint32_t generation_of(uint64_t id_or_state) { return static_cast<uint32_t>(id_or_state >> 32); }

}  // namespace

SequenceIds::SequenceIds(uint32_t max_sequences)
    : count_(max_sequences), slots_(new Slot[max_sequences]), free_(new uint32_t[max_sequences]) {
  for (uint32_t i = 0; i < count_; i++) free_[i] = i;
  free_tail_.store(count_, std::memory_order_relaxed);
}

bool SequenceIds::has_free() const {
  // Acquire: pairs with the release in free_index.
  return free_tail_.load(std::memory_order_acquire) != free_head_;
}

uint64_t SequenceIds::open(uint64_t operation) {
  uint32_t index = free_[free_head_++ % count_];
  Slot& slot = slots_[index];
  uint32_t generation = generation_of(slot.state.load(std::memory_order_relaxed)) + 1;
  if (generation == 0) generation = 1;
  uint64_t upper = uint64_t{generation} << 32;
  slot.opened_by.store(operation, std::memory_order_relaxed);
  slot.state.store(upper | kOpen, std::memory_order_relaxed);
  return upper | index;
}

SequenceIds::Slot* SequenceIds::find(uint64_t sequence, uint64_t& state) const {
  uint32_t index = static_cast<uint32_t>(sequence);
  if (index >= count_) return nullptr;
  state = slots_[index].state.load(std::memory_order_acquire);
  return generation_of(state) == generation_of(sequence) && (state & kOpen) != 0 ? &slots_[index] : nullptr;
}

void SequenceIds::close(uint64_t sequence, uint64_t operation) {
  uint64_t state;
  Slot* slot = find(sequence, state);
  if (slot == nullptr || (state & kClosing) != 0) return;
  slot->closed_by.store(operation, std::memory_order_relaxed);
  closing_.fetch_add(1, std::memory_order_relaxed);
  // Fails when the reaper has just freed the index because its OPEN failed: then this CLOSE is refused by the daemon.
  if (!slot->state.compare_exchange_strong(state, state | kClosing, std::memory_order_acq_rel)) {
    closing_.fetch_sub(1, std::memory_order_relaxed);
  }
}

void SequenceIds::completed(uint64_t sequence, uint64_t operation, int32_t result) {
  uint64_t state;
  Slot* slot = find(sequence, state);
  if (slot == nullptr) return;
  if (result < 0 && slot->opened_by.load(std::memory_order_relaxed) == operation) {
    for (;;) {
      bool closing = (state & kClosing) != 0;
      uint64_t next = closing ? state | kFailed : state & ~uint64_t{kOpen};
      if (!slot->state.compare_exchange_weak(state, next, std::memory_order_acq_rel)) continue;
      if (!closing) free_index(static_cast<uint32_t>(sequence));
      return;
    }
  }
  if ((state & kClosing) == 0 || slot->closed_by.load(std::memory_order_relaxed) != operation) return;
  // Only this thread changes a closing slot. A CLOSE that failed for another reason leaves the sequence open.
  bool gone = result >= 0 || (state & kFailed) != 0;
  slot->state.store(state & ~uint64_t{kClosing} & ~(gone ? uint64_t{kOpen} : uint64_t{0}), std::memory_order_release);
  if (gone) free_index(static_cast<uint32_t>(sequence));
  closing_.fetch_sub(1, std::memory_order_release);
}

void SequenceIds::free_index(uint32_t index) {
  uint64_t tail = free_tail_.load(std::memory_order_relaxed);
  free_[tail % count_] = index;
  free_tail_.store(tail + 1, std::memory_order_release);
}

}  // namespace iokv
