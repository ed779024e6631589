// SPDX-License-Identifier: Apache-2.0
// A measured profile as a JSON file in the state directory, with what it is a profile of. Any thread.
//
// Invariants
//  1. What read_profile returns is what write_profile was given: a checksum covers every byte of the file.
//  2. A file is whole or not there: it is written beside its place and renamed.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/backend/backend.h"
#include "daemon/base/result.h"
#include "daemon/model/spec.h"
#include "daemon/runtime/measured_profile.h"

namespace iokv {

// Of the model only its shape: weights of one shape take equally long, whatever they were trained for.
struct ProfileKey {
  std::string device, driver;   // as the backend names them
  std::string dtype;
  std::string iokv;             // version that measured: kernels differ
  bool link = false;            // whether anything has to be copied
  double paced_bytes_per_s = 0; // of a link that is slow on purpose
  uint32_t host_threads = 0;    // that attend
  std::string family;
  uint32_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0, max_context = 0;

  bool operator==(const ProfileKey&) const = default;
  uint32_t x_bytes() const { return hidden * element_bytes(); }                   // a token and layer
  uint32_t kv_bytes() const { return 2 * kv_heads * head_dim * element_bytes(); }
  uint32_t element_bytes() const { return dtype == name_of(DType::f32) ? 4 : 2; }
};

ProfileKey profile_key(const DeviceInfo& device, const ModelSpec& spec);

struct StoredProfile {
  ProfileKey key;
  int64_t measured_unix_s = 0;
  MeasuredProfile measured;
};

// 16 hexadecimal digits that tell Profiles apart: equal numbers, equal hash.
std::string profile_hash(const Profile& profile);

// Names the kind of device, the rate of a paced link, threads that attend, the shape and the type, so that a profile takes the place of the one
// that it replaces.
std::string profile_path(const std::string& state_directory, const ProfileKey& key);

// Makes the directory if need be. The Error names the path and the system's reason; nothing is left behind.
Status write_profile(const std::string& path, const StoredProfile& profile);

// Error: the file is missing, unreadable or corrupt, or of another version of the format.
Result<StoredProfile> read_profile(const std::string& path);

// A profile older than this is measured again: drivers' neighbours, power limits and cooling change unseen.
inline constexpr int64_t kProfileLifeS = int64_t{30} * 24 * 3600;

// Error: why the profile does not describe what `key` names, now. One line, without the path.
Status check_profile(const StoredProfile& profile, const ProfileKey& key, int64_t now_unix_s,
                     int64_t life_s = kProfileLifeS);

}  // namespace iokv
