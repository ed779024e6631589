// SPDX-License-Identifier: Apache-2.0
// `iokv`, the administrator's command line. Exit status: 0, 1 when there is no answer from a daemon, CLI11's code for
// wrong usage.
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <string>

#include <CLI/CLI.hpp>

#include "tools/observer.h"
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

}  // namespace

int main(int argc, char** argv) {
  CLI::App application("Looks at a running iokvd.");
  application.require_subcommand(1);
  std::string socket_path;
  bool json = false;
  CLI::App* status_command = application.add_subcommand("status", "print the daemon's counters");
  status_command->add_option("--socket", socket_path,
                             "default: $IOKV_SOCKET, else $XDG_RUNTIME_DIR/iokv.sock, else /run/iokv/iokv.sock");
  status_command->add_flag("--json", json, "as one JSON object, counters by name");
  CLI11_PARSE(application, argc, argv);
  return status(socket_path, json);
}
