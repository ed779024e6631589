// SPDX-License-Identifier: Apache-2.0
// What the scheduler knows of a device that runs a model: a few fitted numbers. Where they come from (measured through
// the backend's seam, or worked out for hardware that is not here) is not its business.
#pragma once

#include <algorithm>
#include <cstdint>

namespace iokv {

// Time of an operation by its size: something other than size binds small ones (weights to be read, a launch), then it
// is a fixed part and one in proportion. Nothing takes no time.
struct Curve {
  double least_ns = 0;
  double fixed_ns = 0;
  double each_ns = 0;

  double at(double size) const { return size <= 0 ? 0 : std::max(least_ns, fixed_ns + each_ns * size); }
};

struct Profile {
  Curve h2d, d2h;          // a copy, by bytes
  double piece_ns = 0;     // of each run of bytes of a copy after the first
  double duplex = 1;       // >= 1: how much longer copies take while the other direction runs too
  Curve recompute;         // K,V of one layer from X, rope included, by tokens; one product
  // One layer's attention takes the longer of two: reading K,V, by the tokens of the sequences' contexts, each read once
  // for all of a sequence's rows; and computing, by the tokens that each row attends to, added up over rows. A sequence
  // that decodes has one row, so both numbers are the same, and of those `attend` takes longer.
  Curve attend, attend_rows;
  // One layer's attention on the host, by tokens, beside a busy link: they read the same memory. All 0: the host does not
  // attend.
  Curve host_attend;
  // Of a micro-batch, by its rows that are divided: from queries that are there to the host's work, and from its end to the
  // merged result, on the dense queue.
  Curve exchange;
  Curve dense;             // the rest of one layer, by rows
  double project_share = 0.25;  // of dense: before attention; 3 of 12 h^2 weights where the ffn is 4 h wide
  Curve head;              // embedding, final norm, logits and draws of a step, by rows
  double embed_ns = 0;     // of head: what comes before the first layer
  Curve keep_x;            // a copy of X within the device, by bytes: new rows of blocks that stay there
  double link_slowdown = 1;  // >= 1: how much longer the device's curves are, beside a busy h2d, than without one
  double contention = 0;   // 0: recomputation beside dense work costs neither anything; 1: they take turns
  double host_slows_link = 1;   // >= 1: how much longer copies take while the host attends
  double host_contention = 0;   // 0: attention on the host costs the device nothing; 1: they take turns, being one processor

  bool host_attends() const { return host_attend.at(1) > 0; }

  double attention_ns(double attended, double products) const {
    return std::max(attend.at(attended), attend_rows.at(products));
  }
};

// Bytes of one cached token of one layer, as X and as K,V; they are the same on the link, in the pool and on the
// device.
struct CacheShape {
  uint32_t layers = 0;
  uint32_t x_bytes = 0;   // h·p
  uint32_t kv_bytes = 0;  // 2·k·p
  uint32_t row_pieces = 1;  // pieces that a few tokens' K,V lie in within a block: each head's K and V
};

}  // namespace iokv
