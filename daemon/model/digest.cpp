// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/digest.h"

#include <algorithm>

#include <boost/uuid/name_generator_sha1.hpp>
#include <boost/uuid/uuid.hpp>

namespace iokv {

using boost::uuids::uuid;

// Two chains from different names: each update makes both halves the UUID of the bytes in the half's own namespace.
DigestBuilder::DigestBuilder() : value_{} { value_.back() = 1; }

void DigestBuilder::update(std::string_view bytes) {
  for (size_t half = 0; half < value_.size(); half += uuid::static_size()) {
    uuid name_space;
    std::copy_n(value_.begin() + half, uuid::static_size(), name_space.begin());
    uuid next = boost::uuids::name_generator_sha1(name_space)(bytes.data(), bytes.size());
    std::copy(next.begin(), next.end(), value_.begin() + half);
  }
}

}  // namespace iokv
