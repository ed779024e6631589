// SPDX-License-Identifier: Apache-2.0
// Whether Plans are what they should be, told from their operations and waits alone: nothing here is shared with what
// builds them. Slow; for tests, and for debug builds before a Plan is issued.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "daemon/sched/plan.h"
#include "daemon/sched/plan_build.h"

namespace iokv {

// Runs the programs of Plans that are issued one after the other, over so many layers, with one set of memory: every
// location that an operation reads must hold what it should, and whatever touches a location that something else writes
// must be ordered with it by the queues and the waits. Proves that
//  1. every wait is for something issued before it, so that the queues cannot wait for each other in a circle; operations
//     are on their own queues, and of a round in the order that the runtime releases its slots by;
//  2. slots, tiles and parts keep to the shape of the staging ring;
//  3. nothing is read before it was written, and nothing overwritten before it was read: slots of the ring as well as
//     blocks of the pool that a Plan writes back and the next one fetches;
//  4. of each span, layer and token K,V are attended to exactly once, in position order, from its own block, rotated for
//     its position if recomputed, and no token of a block is fetched twice in a layer;
//  5. each new row's K,V, or X, is written exactly once to every place that its block's run names;
//  6. where weights stream, W_K and W_V are the first to cross the link and all others follow the first round's X; nothing
//     reads weights of a layer before they are there, and they are not overwritten while something may read them;
//  7. micro-batches are all rows, in order, none larger than the shape says; of each, projection, rounds and the rest of
//     the layer belong to it, and what 4. says of a span holds for its rows in each;
//  8. plan.work counts what the operations do.
// Empty, or the first violation.
std::string check_plans(std::span<const Plan* const> plans, const StagingShape& shape, uint32_t layers);

}  // namespace iokv
