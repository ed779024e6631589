// SPDX-License-Identifier: Apache-2.0
// Digests that tell models and tokenizers apart, stable across machines and builds. Made of name-based UUIDs (SHA-1,
// Boost.Uuid): they find accidents, they do not withstand an adversary.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace iokv {

using Digest = std::array<uint8_t, 32>;

class DigestBuilder {
 public:
  DigestBuilder();

  // Order and boundaries matter: update("ab"), update("c") differs from update("a"), update("bc").
  void update(std::string_view bytes);
  const Digest& value() const { return value_; }

 private:
  Digest value_;
};

}  // namespace iokv
