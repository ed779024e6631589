// SPDX-License-Identifier: Apache-2.0
// What `iokv profile` prints: stored profiles, for a person or as JSON with every number and sample.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/runtime/profile_file.h"

namespace iokv {

struct FoundProfile {
  std::string path;
  Result<StoredProfile> profile;  // Error: why the file is of no use
};

// The file, or with an empty path every profile of the state directory (empty: choose_state_directory), by name. Error:
// there is none, and where it was looked for.
Result<std::vector<FoundProfile>> find_profiles(const std::string& path, const std::string& state_directory);

std::string profile_text(const std::string& path, const StoredProfile& stored, int64_t now_unix_s);

// An array with an object a profile.
std::string profiles_json(const std::vector<FoundProfile>& found, int64_t now_unix_s);

}  // namespace iokv
