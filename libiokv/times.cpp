// SPDX-License-Identifier: Apache-2.0
// What a completion says of its step's time.
#include "wire/times.h"

#include "iokv/iokv.h"
#include "libiokv/struct_size.h"

int iokv_completion_times(const iokv_completion* completion, iokv_times* times) {
  if (completion == nullptr || times == nullptr || times->struct_size < sizeof times->struct_size) return IOKV_EINVAL;
  if (completion->times == 0) return IOKV_EUNSUPPORTED;
  const iokv::wire::SpentTimes spent = iokv::wire::unpack_times(completion->times);
  iokv_times filled{};
  filled.struct_size = std::min<uint32_t>(times->struct_size, sizeof filled);
  filled.queued_ns = spent.queued_ns;
  filled.link_ns = spent.link_ns;
  filled.recompute_ns = spent.recompute_ns;
  filled.dense_ns = spent.dense_ns;
  iokv::write_struct(filled, times);
  return 0;
}
