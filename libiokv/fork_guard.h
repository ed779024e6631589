// SPDX-License-Identifier: Apache-2.0
// ForkGuard: tells a forked child that a handle is its parent's, without a system call: a page that holds a mark and
// that the kernel hands to a child as zeros (MADV_WIPEONFORK). Any thread.
#pragma once

namespace iokv {

class ForkGuard {
 public:
  ForkGuard();  // throws Failure
  ~ForkGuard();
  ForkGuard(const ForkGuard&) = delete;
  ForkGuard& operator=(const ForkGuard&) = delete;

  bool forked() const { return *mark_ == 0; }

 private:
  const volatile char* mark_;  // volatile: fork changes it behind the compiler's back
};

}  // namespace iokv
