// SPDX-License-Identifier: Apache-2.0
// MeasuredProfile: a Profile with the times that it was fitted to. A value.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "daemon/sched/fit.h"
#include "daemon/sched/profile.h"

namespace iokv {

struct ProfileCurve {
  const char* name;       // in files
  const char* size_unit;  // of a Sample's size
  Curve Profile::*curve;
};

inline constexpr std::array<ProfileCurve, 10> kProfileCurves = {{
    {"h2d", "bytes", &Profile::h2d},
    {"d2h", "bytes", &Profile::d2h},
    {"recompute", "tokens", &Profile::recompute},
    {"attend", "tokens", &Profile::attend},
    {"attend_rows", "tokens", &Profile::attend_rows},
    {"dense", "rows", &Profile::dense},
    {"head", "rows", &Profile::head},
    {"keep_x", "bytes", &Profile::keep_x},
    {"host_attend", "tokens", &Profile::host_attend},
    {"exchange", "rows", &Profile::exchange},
}};

struct ProfileNumber {
  const char* name;       // in files
  double Profile::*number;
  double least, most;
};

inline constexpr std::array<ProfileNumber, 7> kProfileNumbers = {{
    {"duplex", &Profile::duplex, 1, 1e18},
    {"piece_ns", &Profile::piece_ns, 0, 1e18},
    {"project_share", &Profile::project_share, 0, 1},
    {"embed_ns", &Profile::embed_ns, 0, 1e18},
    {"contention", &Profile::contention, 0, 1},
    {"host_slows_link", &Profile::host_slows_link, 1, 1e18},
    {"host_contention", &Profile::host_contention, 0, 1},
}};

struct MeasuredProfile {
  Profile profile;
  std::array<std::vector<Sample>, kProfileCurves.size()> samples;  // of each of kProfileCurves, medians; may be empty
  double link_slows_dense = 1;  // how much longer dense work takes beside h2d; it is in the curves already
  double dense_slows_link = 1;  // and the other way round; it is not, since a step's link is the busier of the two
  double took_ns = 0;           // all of the measuring
};

}  // namespace iokv
