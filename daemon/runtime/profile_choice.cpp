// SPDX-License-Identifier: Apache-2.0
#include "daemon/runtime/profile_choice.h"

#include <ctime>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "daemon/runtime/profile_file.h"
#include "daemon/runtime/state_directory.h"

namespace iokv {
namespace {

// A stored profile that may be used. Error: why there is none; one line.
Result<StoredProfile> find_profile(const std::string& path, const ProfileKey& key, int64_t now_unix_s) {
  IOKV_TRY_ASSIGN(StoredProfile stored, read_profile(path));
  if (Status fits = check_profile(stored, key, now_unix_s); !fits) return std::move(fits.failure()).within(path);
  return stored;
}

void keep(const std::string& path, const StoredProfile& profile) {
  if (path.empty()) {
    spdlog::warn("the profile is not kept: set --state-directory, $IOKV_STATE_DIRECTORY or $HOME");
  } else if (Status written = write_profile(path, profile); !written) {
    spdlog::warn("the profile is not kept, and will be measured again: {}", written.failure().message);
  }
}

}  // namespace

Result<Profile> profile_for(Backend& backend, const ModelSpec& spec, const Weights& weights, const ProfileChoice& choice) {
  if (choice.mode == ProfileMode::off) return Profile{};
  const ProfileKey key = profile_key(backend.info(), spec);
  const std::string directory = choose_state_directory(choice.state_directory);
  const std::string path = directory.empty() ? "" : profile_path(directory, key);
  const auto now_unix_s = static_cast<int64_t>(std::time(nullptr));
  if (choice.mode == ProfileMode::automatic && !path.empty()) {
    Result<StoredProfile> stored = find_profile(path, key, now_unix_s);
    if (stored) {
      const Profile& profile = stored->measured.profile;
      spdlog::info("profile {}, measured {} hours ago: {}", profile_hash(profile),
                   (now_unix_s - stored->measured_unix_s) / 3600, rates_of(profile));
      return profile;
    }
    spdlog::info("measuring this device's profile: {}", stored.failure().message);
  }

  auto measured = measure(backend, spec, weights, choice.limits);
  if (!measured) return std::move(measured.failure()).within("measuring the device");
  const StoredProfile profile{key, now_unix_s, *std::move(measured)};
  keep(path, profile);
  spdlog::info("profile {}, measured in {:.1f} s: {}", profile_hash(profile.measured.profile),
               profile.measured.took_ns / 1e9, rates_of(profile.measured.profile));
  return profile.measured.profile;
}

std::string rates_of(const Profile& profile) {
  constexpr double kBytes = 1 << 24, kTokens = 1024;
  const std::string link =
      profile.h2d.at(kBytes) > 0 ? fmt::format("h2d {:.2f} GB/s, d2h {:.2f} GB/s", kBytes / profile.h2d.at(kBytes),
                                               kBytes / profile.d2h.at(kBytes))
                                 : "host memory in place";
  const std::string recompute =
      profile.recompute.at(kTokens) > 0
          ? fmt::format("{:.0f} tokens/ms recomputed", kTokens / profile.recompute.at(kTokens) * 1e6)
          : "no recomputation";
  const std::string host =
      profile.host_attends() ? fmt::format(", {:.0f} by the host", kTokens / profile.host_attend.at(kTokens) * 1e6) : "";
  return fmt::format("{}; a layer: {}, {:.0f} attended{}, dense {:.3f} ms for 1 row and {:.3f} for 64", link, recompute,
                     kTokens / profile.attend.at(kTokens) * 1e6, host, profile.dense.at(1) / 1e6, profile.dense.at(64) / 1e6);
}

}  // namespace iokv
