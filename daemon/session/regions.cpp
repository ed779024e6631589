// SPDX-License-Identifier: Apache-2.0
#include "daemon/session/regions.h"

#include <fcntl.h>

#include <utility>

namespace iokv {
namespace {

constexpr int kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;

}  // namespace

Result<Regions> Regions::create(const wire::Geometry& geometry) {
  IOKV_TRY_ASSIGN(Descriptor up, create_memfd("iokv-up", wire::up_bytes(geometry)));
  IOKV_TRY_ASSIGN(Mapping up_mapping, map_memfd(up, wire::up_bytes(geometry)));
  IOKV_TRY(seal_memfd(up, kSizeSeals | F_SEAL_SEAL));

  IOKV_TRY_ASSIGN(Descriptor down, create_memfd("iokv-down", wire::down_bytes(geometry)));
  IOKV_TRY_ASSIGN(Mapping down_mapping, map_memfd(down, wire::down_bytes(geometry)));
  IOKV_TRY(seal_memfd(down, kSizeSeals | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL));
  return Regions(std::move(up), std::move(down), std::move(up_mapping), std::move(down_mapping));
}

Regions::Regions(Descriptor up, Descriptor down, Mapping up_mapping, Mapping down_mapping)
    : up_(std::move(up)),
      down_(std::move(down)),
      up_mapping_(std::move(up_mapping)),
      down_mapping_(std::move(down_mapping)) {}

void Regions::close_descriptors() {
  up_.close();
  down_.close();
}

}  // namespace iokv
