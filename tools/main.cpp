// SPDX-License-Identifier: Apache-2.0
// `iokv`, the administrator's command line. Exit status: 0, 1 when there is no answer from a daemon or no sound profile,
// CLI11's code for wrong usage.
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <string>

#include <CLI/CLI.hpp>

#include "tools/observer.h"
#include "tools/profile.h"
#include "tools/status.h"

namespace {

uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

int status(const std::string& socket_path, bool json) {
  iokv::Result<iokv::CounterSnapshot> snapshot = iokv::read_counters(socket_path);
  if (!snapshot) {
    std::fprintf(stderr, "iokv: %s\n", snapshot.failure().message.c_str());
    return 1;
  }
  std::fputs((json ? iokv::status_json(*snapshot) : iokv::status_text(*snapshot, monotonic_ns())).c_str(), stdout);
  return std::fflush(stdout) == 0 ? 0 : 1;
}

// Prints those that are sound, and says of the others why they are not.
int profile(const std::string& path, const std::string& state_directory, bool json) {
  auto found = iokv::find_profiles(path, state_directory);
  if (!found) {
    std::fprintf(stderr, "iokv: %s\n", found.failure().message.c_str());
    return 1;
  }
  const auto now_unix_s = static_cast<int64_t>(std::time(nullptr));
  bool sound = true;
  std::string text;
  for (iokv::FoundProfile& one : *found) {
    if (one.profile) {
      text += (text.empty() ? "" : "\n") + iokv::profile_text(one.path, *one.profile, now_unix_s);
    } else {
      std::fprintf(stderr, "iokv: %s\n", one.profile.failure().message.c_str());
      sound = false;
    }
  }
  std::fputs((json ? iokv::profiles_json(*found, now_unix_s) : text).c_str(), stdout);
  return std::fflush(stdout) == 0 && sound ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App application("Looks at a running iokvd, and at what it has measured.");
  application.require_subcommand(1);
  std::string socket_path;
  bool json = false;
  CLI::App* status_command = application.add_subcommand("status", "print the daemon's counters");
  status_command->add_option("--socket", socket_path,
                             "default: $IOKV_SOCKET, else $XDG_RUNTIME_DIR/iokv.sock, else /run/iokv/iokv.sock");
  status_command->add_flag("--json", json, "as one JSON object, counters by name");

  std::string profile_path, state_directory;
  CLI::App* profile_command = application.add_subcommand("profile", "print what the daemon has measured of its device");
  profile_command->add_option("file", profile_path, "one profile (default: all of the state directory)");
  profile_command->add_option("--state-directory", state_directory,
                              "default: $IOKV_STATE_DIRECTORY, else $XDG_STATE_HOME/iokv, else ~/.local/state/iokv");
  profile_command->add_flag("--json", json, "as a JSON array, with the samples");
  CLI11_PARSE(application, argc, argv);
  if (profile_command->parsed()) return profile(profile_path, state_directory, json);
  return status(socket_path, json);
}
