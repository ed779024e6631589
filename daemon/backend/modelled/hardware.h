// SPDX-License-Identifier: Apache-2.0
// Hardware as a few numbers in a TOML file, so that what is not here can be planned for. The files that come with iokv
// (hardware/*.toml) are compiled in and known by name; each says where its numbers are from.
#pragma once

#include <string>
#include <vector>

#include "daemon/base/result.h"

namespace iokv {

struct Hardware {
  std::string name;             // as asked for
  std::string description;      // "NVIDIA H200, PCIe 5.0 x16"
  std::string source;           // of the numbers: measured, or a data sheet's
  double memory_bytes = 0;
  double h2d_bytes_per_s = 0;   // of long copies
  double d2h_bytes_per_s = 0;
  double copy_ns = 0;           // of every copy, on top
  double duplex = 1;            // >= 1: how much longer copies take while the other direction runs too
  double matrix_flop_per_s = 0;
  double memory_bytes_per_s = 0;
  double launch_ns = 0;         // least time of an operation
  double contention = 0;        // 0 ... 1: see Profile (daemon/sched/profile.h)
  double host_attend_bytes_per_s = 0;  // of K,V that threads of the host attend to where they lie; 0: they do not
  double host_attend_ns = 0;           // of every operation, on top
  double host_slows_link = 1;          // >= 1: how much longer copies take meanwhile
};

// Names that find_hardware knows, sorted.
std::vector<std::string> known_hardware();

// By name, or by the path of a file of the same form (anything with a '/' or ending in ".toml"). Error: an unknown
// name, with those that are known; a file that cannot be read; a key that is missing, unknown or out of range, with
// file and line.
Result<Hardware> find_hardware(const std::string& name_or_path);

}  // namespace iokv
