// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/mapped_file.h"

#include <filesystem>

#include <boost/interprocess/file_mapping.hpp>

namespace iokv {

Result<MappedFile> MappedFile::open(const std::string& path) {
  std::error_code failure;
  std::filesystem::file_status status = std::filesystem::status(path, failure);
  if (failure && status.type() != std::filesystem::file_type::not_found) return error(path + ": " + failure.message());
  if (status.type() == std::filesystem::file_type::not_found) return error(path + ": no such file");
  if (status.type() != std::filesystem::file_type::regular) return error(path + ": not a regular file");
  // An empty file cannot be mapped, and the library would say so obscurely.
  if (std::filesystem::file_size(path, failure) == 0 && !failure) return error(path + ": the file is empty");
  try {
    boost::interprocess::file_mapping file(path.c_str(), boost::interprocess::read_only);
    return MappedFile(path, boost::interprocess::mapped_region(file, boost::interprocess::read_only));
  } catch (const boost::interprocess::interprocess_exception& exception) {
    return error(path + ": cannot be mapped for reading: " + exception.what());
  }
}

}  // namespace iokv
