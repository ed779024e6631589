// SPDX-License-Identifier: Apache-2.0
// How a failure travels inside the library, and how it leaves: Failure is thrown only where a call may block or allocate
// (connecting, fetching) and is caught at the ABI's edge; submitting and reaping never throw.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "include/iokv/iokv.h"

namespace iokv {

struct Failure {
  int code;             // IOKV_E...
  std::string message;  // one line: what, where, what to do
};

// "what: strerror(error)"; ENOMEM, EMFILE and the like give IOKV_ENOMEM, everything else `code`.
Failure system_failure(const std::string& what, int error, int code);

// Fills what struct_size covers, always NUL-terminated. NULL is fine.
void write_detail(iokv_error_detail* detail, int code, const char* message);

// false: detail is given but too short to hold a message.
bool detail_is_usable(const iokv_error_detail* detail);

// Runs `body` at the ABI's edge: no exception gets out.
template <typename Body>
int guarded(Body&& body, iokv_error_detail* detail = nullptr) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (const Failure& failure) {
    write_detail(detail, failure.code, failure.message.c_str());
    return failure.code;
  } catch (const std::exception& exception) {
    // bad_alloc, or a mapping that Boost could not make: this process has run out of something.
    write_detail(detail, IOKV_ENOMEM, exception.what());
    return IOKV_ENOMEM;
  } catch (...) {
    write_detail(detail, IOKV_ENOMEM, "unknown exception");
    return IOKV_ENOMEM;
  }
}

}  // namespace iokv
