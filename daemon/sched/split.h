// SPDX-License-Identifier: Apache-2.0
// For how many cached tokens X is sent and K,V recomputed, and to how many the host attends, so that a step is shortest.
// Pure.
#pragma once

#include <cstdint>

#include "daemon/sched/cost.h"

namespace iokv {

// KVPR's l for sequences of `tokens` cached tokens each (arXiv 2411.17089, eq. 10-11): 0 <= l <= tokens minimises
// X(l)/v_link + max(recompute(l), KV(tokens - l)/v_link), without the first term row by row. `sequences` of them are
// alike. The smallest such l: what need not be recomputed is not.
uint64_t paper_split(const Profile& profile, const CacheShape& shape, uint64_t tokens, uint64_t sequences,
                     PaperSchedule schedule);

// The number of host tokens, over all sequences of all clients, whose X is sent so that streaming_cost is least;
// work.x_host + work.kv_host tokens are to be divided, of which at most `most_x` have X stored and at least `least_x`
// have nothing else. The smallest number that nothing is faster than. Needs least_x <= most_x <= the tokens in all.
uint64_t best_split(const Profile& profile, const CacheShape& shape, const LayerWork& work, uint64_t least_x,
                    uint64_t most_x);

// The same work with `tokens` of its work.kv_host attended to by the host, in `divided` rows.
LayerWork with_host(const LayerWork& work, uint64_t tokens, uint64_t divided);

// The number of work.kv_host tokens that the host attends to so that streaming_cost is least, `most` <= work.kv_host of
// them at the most, which are in `rows` rows. None where the host does not attend.
uint64_t best_attended(const Profile& profile, const CacheShape& shape, const LayerWork& work, uint64_t most, uint64_t rows);

}  // namespace iokv
