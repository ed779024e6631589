// SPDX-License-Identifier: Apache-2.0
// See detail.h. No state: any thread.
#include "libiokv/detail.h"

#include <cerrno>
#include <cstring>
#include <system_error>

#include "libiokv/struct_size.h"

namespace iokv {

Failure system_failure(const std::string& what, int error, int code) {
  bool exhausted = error == ENOMEM || error == EMFILE || error == ENFILE || error == ENOBUFS;
  return Failure{exhausted ? IOKV_ENOMEM : code, what + ": " + std::generic_category().message(error)};
}

bool detail_is_usable(const iokv_error_detail* detail) {
  return detail == nullptr || detail->struct_size > offsetof(iokv_error_detail, message);
}

void write_detail(iokv_error_detail* detail, int code, const char* message) {
  if (detail == nullptr) return;
  iokv_error_detail filled{};
  filled.struct_size = detail->struct_size;
  filled.code = code;
  std::strncpy(filled.message, message, sizeof filled.message - 1);
  uint32_t bytes = write_struct(filled, detail);
  reinterpret_cast<char*>(detail)[bytes - 1] = '\0';
}

}  // namespace iokv
