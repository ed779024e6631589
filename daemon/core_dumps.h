// SPDX-License-Identifier: Apache-2.0
// What is left of the daemon when it crashes. Its memory holds everybody's prompts, as token ids in the heap and as K,V
// and X in the pool, so by default nothing of it is dumped: no file (RLIMIT_CORE), and nothing but registers to a handler
// to which the kernel pipes cores whatever that limit says (/proc/self/coredump_filter). The pool and the regions that are
// shared with clients are never dumped (MADV_DONTDUMP, where they are mapped).
#pragma once

#include "daemon/base/result.h"

namespace iokv {

// For the whole process and for good. Error: the kernel does not let it.
Status forbid_core_dumps();

}  // namespace iokv
