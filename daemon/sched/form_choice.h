// SPDX-License-Identifier: Apache-2.0
// As what new blocks are stored: so that, of all tokens that steps read from the host, the share that is stored as X
// follows the one with which a step is shortest. What is stored bounds what a step can do: K,V never become X again.
// Pure; the conductor's thread.
#pragma once

#include <cstdint>
#include <optional>

#include "daemon/base/block_form.h"
#include "daemon/sched/cost.h"
#include "daemon/sched/profile.h"

namespace iokv {

enum class Recompute : uint8_t { never, always, fraction, automatic };

struct RecomputeSetting {
  Recompute mode = Recompute::never;
  double fraction = 0;  // with Recompute::fraction: 0 ... 1
};

// The share of cached tokens that is X, of those that cross the link and of those that have a copy on the device.
struct XShares {
  double host = 0, device = 0;
};

// The shares with which a step is shortest that reads work.kv_host cached tokens (no X is in `work`), with device_bytes
// for copies on the device: best_whole_placement. They are `now` unless that makes the step longer by kLeastGain: a plan
// that hardly gains moves nothing. `attendable` as there.
XShares best_shares(const Profile& profile, const CacheShape& shape, const LayerWork& work, uint64_t device_bytes,
                    const XShares& now, double attendable = 1);
inline constexpr double kLeastGain = 0.01;

// Hands out forms so that a share of the blocks in use is X.
//
// Where the host attends, its part of a sequence is the end of it, and has to be K,V: a sequence that has gone over to K,V
// stays with K,V. It then matters where the share is made. Sequences that are each X or K,V as a whole keep the share while
// they grow, and fewer rows are divided; but a sequence that is a large part of all can only be divided by position. So one
// that has up to kWholePart of the blocks goes to the form that is missing more, which leaves the share right to within
// half of that, and a larger one has its first blocks as X.
class FormChooser {
 public:
  explicit FormChooser(double x_share) : x_share_(x_share) {}

  // Of the blocks that a sequence gets now, so many of the first are to be X and the others K,V; `last` is the form of
  // the block before them. X first, so that its recomputation runs while K,V are on the wire.
  uint32_t x_of(uint32_t blocks, std::optional<BlockForm> last) const;
  void added(BlockForm form) {
    ++blocks_[static_cast<size_t>(form)];
    ++(form == BlockForm::x ? running_.x : running_.kv);
  }
  void removed(BlockForm form) { --blocks_[static_cast<size_t>(form)]; }

  void set_x_share(double x_share) { x_share_ = x_share; }
  // Of the sequences that run: those that they have, and how many they will soon have together.
  struct Blocks {
    uint64_t x = 0, kv = 0, expected = 0;
  };
  // The host attends, and the share is that of sequences that run, since it is steps that are divided. Where the host's part
  // is a fixed share of each sequence only blocks before it may be X.
  void keep_suffixes(const Blocks& running, double fixed_host_share = 0) {
    suffixes_ = true;
    running_ = running;
    fixed_host_share_ = fixed_host_share;
  }
  static constexpr double kWholePart = 1.0 / 16;
  double x_share() const { return x_share_; }

 private:
  uint32_t x_of_suffix(uint32_t blocks, std::optional<BlockForm> last) const;

  double x_share_ = 0;                // that is aimed at
  uint64_t blocks_[2] = {0, 0};       // in use, by form
  bool suffixes_ = false;
  Blocks running_;
  double fixed_host_share_ = 0;
};

}  // namespace iokv
