// SPDX-License-Identifier: Apache-2.0
// `iokv explain`: the open sequences, or of one what bound its last steps. Pure: the bytes of wire/sequences.h in, text
// out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/result.h"
#include "wire/sequences.h"

namespace iokv {

// Error: the bytes are no table of sequences.
Result<std::vector<wire::SequenceRow>> read_sequences(const std::vector<std::byte>& blob);

// Clients choose the ids, so several sequences may have the one that is asked for.
struct SequenceQuestion {
  std::optional<uint64_t> id;
  std::optional<int32_t> pid;
};
std::vector<wire::SequenceRow> matching(const std::vector<wire::SequenceRow>& rows, const SequenceQuestion& question);

// A line each.
std::string sequence_list(const std::vector<wire::SequenceRow>& rows);
// Each with its last steps.
std::string sequence_steps(const std::vector<wire::SequenceRow>& rows);
std::string sequences_json(const std::vector<wire::SequenceRow>& rows);

}  // namespace iokv
