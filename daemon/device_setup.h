// SPDX-License-Identifier: Apache-2.0
// What the daemon makes of a device, a model and the configuration: first the sizes, on the main thread, so that what
// does not fit is refused at once; then, on the device's thread, the memory, the weights, the profile and the self-test.
#pragma once

#include <cstdint>

#include "daemon/backend/backend.h"
#include "daemon/config.h"
#include "daemon/model/model_files.h"
#include "daemon/pool/host_pool.h"
#include "daemon/runtime/device_thread.h"
#include "daemon/runtime/executor.h"
#include "daemon/runtime/pipeline.h"
#include "daemon/runtime/profile_choice.h"
#include "daemon/sched/form_choice.h"
#include "daemon/sched/weight_choice.h"

namespace iokv {

struct DevicePlan {
  RecomputeSetting recompute;   // as what the tokens of this model can be stored on this device, of what is asked for
  uint32_t resident_units = 0;  // of the device's pool
  ExecutorLimits limits;
  PipelineOptions pipeline;
  ProfileChoice profile;
  WeightChoice weights;
  uint64_t host_weight_bytes = 0;  // of layers whose weights cross the link; 0: none do

  bool recomputes() const { return recompute.mode != Recompute::never; }
};

// Error: settings that do not go with this model or device, with the least that would. The main thread.
Result<DevicePlan> plan_device(const Config& config, const ModelSpec& spec, const Backend& backend,
                               const HostPool& memory, const BlockPool& blocks);

// Everything that the device's thread does before the first Plan. Files and memory outlive the call, and the memory the
// device; host_weights are host_weight_bytes, or null where there are none. Error: too little memory, weights that cannot be read, a device that fails its self-test.
Result<LoadedDevice> load_device(Backend& backend, const ModelFiles& files, const DevicePlan& plan, HostPool& memory,
                                 const PoolMemory* host_weights, const LoadProgress& progress);

}  // namespace iokv
