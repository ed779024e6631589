// SPDX-License-Identifier: Apache-2.0
// A file mapped read-only, whole. Pages come in when they are read and can be dropped by the kernel again; the mapping
// lives as long as its owner. Whoever shortens a file under a running daemon ends it with SIGBUS: model files are
// replaced by renaming, never edited in place.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include <boost/interprocess/mapped_region.hpp>

#include "daemon/base/result.h"

namespace iokv {

class MappedFile {
 public:
  // A missing or unreadable file, a directory and an empty file are Errors that name the path.
  static Result<MappedFile> open(const std::string& path);

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(region_.get_address()), region_.get_size()};
  }

 private:
  MappedFile(std::string path, boost::interprocess::mapped_region region)
      : path_(std::move(path)), region_(std::move(region)) {}

  std::string path_;
  boost::interprocess::mapped_region region_;
};

}  // namespace iokv
