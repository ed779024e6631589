// SPDX-License-Identifier: Apache-2.0
// Result<T>: what the world may refuse (files, memory, sockets, devices) comes back as a value or as an Error with a
// message that says what, where and what to do. Each level may add one line of context; it is logged once, where handled.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "daemon/base/assert.h"

namespace iokv {

struct Error {
  int code = 0;         // a negative IOKV_E... code of include/iokv/iokv.h where one fits, else -1
  std::string message;  // one line, no trailing period or newline

  // The same error with "context: " in front, for the caller's caller.
  Error within(const std::string& context) && { return Error{code, context + ": " + message}; }
};

inline Error error(std::string message, int code = -1) { return Error{code, std::move(message)}; }

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error failure) : state_(std::in_place_index<1>, std::move(failure)) {}

  explicit operator bool() const { return state_.index() == 0; }
  T& operator*() & { return value(); }
  const T& operator*() const& { return const_cast<Result*>(this)->value(); }
  T&& operator*() && { return std::move(value()); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &const_cast<Result*>(this)->value(); }
  Error& failure() {
    IOKV_ASSERT(state_.index() == 1);
    return std::get<1>(state_);
  }

 private:
  T& value() {
    IOKV_ASSERT(state_.index() == 0);
    return std::get<0>(state_);
  }
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error failure) : failure_(std::move(failure)) {}

  explicit operator bool() const { return !failure_.has_value(); }
  Error& failure() {
    IOKV_ASSERT(failure_.has_value());
    return *failure_;
  }

 private:
  std::optional<Error> failure_;
};

using Status = Result<void>;

}  // namespace iokv

// Evaluates a Result; on failure returns its Error from the enclosing function.
#define IOKV_TRY(expression)                                            \
  do {                                                                  \
    auto iokv_try_ = (expression);                                      \
    if (!iokv_try_) return std::move(iokv_try_.failure());              \
  } while (0)
// IOKV_TRY_ASSIGN(auto x, f()): as IOKV_TRY, then moves the value into the declaration or variable on the left.
#define IOKV_TRY_CAT2(a, b) a##b
#define IOKV_TRY_CAT(a, b) IOKV_TRY_CAT2(a, b)
#define IOKV_TRY_ASSIGN(target, expression) IOKV_TRY_ASSIGN2(target, expression, IOKV_TRY_CAT(iokv_try_, __LINE__))
#define IOKV_TRY_ASSIGN2(target, expression, name)   \
  auto name = (expression);                          \
  if (!name) return std::move(name.failure());       \
  target = *std::move(name)
