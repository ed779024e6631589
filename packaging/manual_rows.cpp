// SPDX-License-Identifier: Apache-2.0
// Prints the settings for iokvd.toml(5). Part of the build, not of what is installed.
#include <cstdio>

#include "daemon/settings.h"

int main() {
  std::fputs(iokv::manual_rows().c_str(), stdout);
  return std::fflush(stdout) == 0 ? 0 : 1;
}
