// SPDX-License-Identifier: Apache-2.0
// The two memory regions of one client: made here, mapped here, and handed to the client as descriptors. Runs on the
// conductor's thread. The memory is read and written by session.h only.
//
// Invariants
//  1. `up` is sealed SHRINK|GROW|SEAL: the client can write it and punch holes, but never make a page vanish.
//  2. `down` is sealed FUTURE_WRITE as well, after the mapping here was made: that mapping is the only writable one there
//     will ever be.
#pragma once

#include <cstddef>

#include "daemon/base/memfd.h"
#include "daemon/base/result.h"
#include "wire/rings.h"

namespace iokv {

class Regions {
 public:
  // The geometry comes from grant() (messages.h). Fails for want of memory, descriptors or kernel features.
  static Result<Regions> create(const wire::Geometry& geometry);

  // wire::up_bytes and wire::down_bytes of the geometry; zeroed at first.
  std::byte* up() const { return static_cast<std::byte*>(up_mapping_.get_address()); }
  std::byte* down() const { return static_cast<std::byte*>(down_mapping_.get_address()); }

  // For SCM_RIGHTS, in the order of WELCOME. -1 after close_descriptors().
  int up_descriptor() const { return up_.number(); }
  int down_descriptor() const { return down_.number(); }
  // Once WELCOME is sent: the mappings stay, and a client costs the daemon one descriptor, its socket.
  void close_descriptors();

 private:
  Regions(Descriptor up, Descriptor down, Mapping up_mapping, Mapping down_mapping);

  Descriptor up_, down_;
  Mapping up_mapping_, down_mapping_;
};

}  // namespace iokv
