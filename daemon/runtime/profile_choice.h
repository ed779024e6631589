// SPDX-License-Identifier: Apache-2.0
// Which Profile the daemon works with: the stored one if it describes this device, model and type, else one that is
// measured now and stored.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/backend/backend.h"
#include "daemon/model/spec.h"
#include "daemon/model/weights.h"
#include "daemon/runtime/profiler.h"

namespace iokv {

enum class ProfileMode : uint8_t {
  automatic,  // stored, else measured
  measure,    // measured, and stored
  off,        // every number 0: nothing takes any time
};

struct ProfileChoice {
  ProfileMode mode = ProfileMode::automatic;
  std::string state_directory;  // empty: choose_state_directory
  ProfilerLimits limits;
};

// The executor's thread, before the first Plan. Logs one line with the rates, and one that says why a stored profile was
// not used or a new one could not be kept; neither is an error. Fails as measure() does.
Result<Profile> profile_for(Backend& backend, const ModelSpec& spec, const Weights& weights, const ProfileChoice& choice);

// One line: "h2d 55.5 GB/s, ...", or without a link "host memory in place, ...".
std::string rates_of(const Profile& profile);

}  // namespace iokv
