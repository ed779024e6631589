// SPDX-License-Identifier: Apache-2.0
// Sequences that are stored twice, as X and as K,V, so that a step can be taken with any split of each of them: K,V of
// its first l tokens recomputed, those of the others sent. Blocks may have a copy of their K,V on the device as well.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "tests/golden/decoder.h"

namespace iokv::test {

// The sequences' tokens, `cached` of each; what follows them is for the step.
struct SplitPrompts {
  std::vector<std::vector<int32_t>> tokens;
  uint32_t cached = 0;

  // Random ones, with 1, 2, 3 ... tokens for the step; after `most_rows` from 1 again.
  template <typename Numbers>
  static SplitPrompts random(Numbers& numbers, uint32_t vocab, size_t count, uint32_t cached, uint32_t most_rows = UINT32_MAX) {
    SplitPrompts prompts{std::vector<std::vector<int32_t>>(count), cached};
    for (size_t i = 0; i < count; ++i) {
      const uint32_t length = cached + 1 + static_cast<uint32_t>(i % most_rows);
      for (uint32_t t = 0; t < length; ++t) prompts.tokens[i].push_back(static_cast<int32_t>(numbers.below(vocab)));
    }
    return prompts;
  }
  std::span<const int32_t> head(size_t i) const { return std::span(tokens[i]).first(cached); }
  std::span<const int32_t> step(size_t i) const { return std::span(tokens[i]).subspan(cached); }
};

// The logits of the step of the first `count` sequences, all stored as K,V by this decoder, which must not have been used.
inline std::vector<float> step_of_stored_kv(Decoder& decoder, const SplitPrompts& prompts, size_t count) {
  std::vector<Sequence> sequences(count);
  std::vector<Decoder::Append> appends;
  for (size_t i = 0; i < count; ++i) {
    for (size_t at = 0; at < prompts.cached; at += decoder.max_rows()) {
      const auto left = prompts.head(i).subspan(at);
      decoder.step({{&sequences[i], left.first(std::min<size_t>(left.size(), decoder.max_rows()))}}, {});
    }
    appends.push_back({&sequences[i], prompts.step(i)});
  }
  return decoder.step(appends);
}

class SplitSequences {
 public:
  // Which blocks, by their index, have a copy on the device.
  using Resident = std::function<bool(uint32_t index)>;

  SplitSequences(Decoder& decoder, const SplitPrompts& prompts, const Resident& resident = [](uint32_t) { return false; })
      : decoder_(decoder), prompts_(prompts) {
    for (size_t i = 0; i < prompts.tokens.size(); ++i) {
      Both& both = sequences_.emplace_back();
      const uint32_t blocks = blocks_for(Tokens(static_cast<uint32_t>(prompts.tokens[i].size()))).value;
      for (BlockForm form : {BlockForm::x, BlockForm::kv}) {
        Sequence& sequence = form == BlockForm::x ? both.as_x : both.as_kv;
        for (uint32_t index = 0; index < blocks; ++index) {
          sequence.blocks.push_back(decoder.take_id());
          sequence.forms.push_back(form);
          sequence.copies.push_back(resident(index) ? decoder.take_device_id() : kNoBlock);
        }
        for (size_t at = 0; at < prompts.cached; at += decoder.max_rows()) {
          const auto left = prompts.head(i).subspan(at);
          decoder.step({{&sequence, left.first(std::min<size_t>(left.size(), decoder.max_rows()))}}, {});
        }
      }
    }
  }

  // Of each of the first sequences the first splits[i] tokens as X. Logits of all new rows.
  std::vector<float> step(const std::vector<uint32_t>& splits) {
    std::vector<Decoder::Append> appends;
    std::vector<Sequence> taken(splits.size());
    for (size_t i = 0; i < splits.size(); ++i) {
      taken[i] = sequences_[i].as_x;  // change_runs says where its blocks are
      taken[i].length = prompts_.cached;
      appends.push_back({&taken[i], prompts_.step(i)});
    }
    size_t next = 0;
    decoder_.change_runs = [&](std::vector<BlockRun>& runs) {
      runs = split_runs(sequences_[next], splits[next]);
      ++next;
    };
    std::vector<float> logits = decoder_.step(appends);
    decoder_.change_runs = nullptr;
    return logits;
  }

  // Tokens of a layer that a step with these splits brings over the link: as X, and as K,V. Those with a copy on the
  // device stay there.
  std::pair<uint64_t, uint64_t> carried(const std::vector<uint32_t>& splits) const {
    uint64_t x = 0, kv = 0;
    for (size_t i = 0; i < splits.size(); ++i) {
      for (uint32_t begin = 0; begin < prompts_.cached; begin += kBlockTokens) {
        const uint32_t index = begin / kBlockTokens, as_x = x_tokens(splits[i], index);
        if (has_copy(sequences_[i], as_x, index)) continue;
        x += as_x;
        kv += std::min(kBlockTokens, prompts_.cached - begin) - as_x;
      }
    }
    return {x, kv};
  }

 private:
  struct Both {
    Sequence as_x, as_kv;  // of the same tokens
  };

  static uint32_t x_tokens(uint32_t split, uint32_t index) {
    return std::min(kBlockTokens, split - std::min(split, index * kBlockTokens));
  }
  // A block that is stored as both has none.
  static bool has_copy(const Both& both, uint32_t as_x, uint32_t index) {
    return (as_x == 0 || as_x == kBlockTokens) && both.as_x.copies[index] != kNoBlock;
  }

  static std::vector<BlockRun> split_runs(const Both& both, uint32_t split) {
    std::vector<BlockRun> runs;
    for (uint32_t i = 0; i < both.as_x.blocks.size(); ++i) {
      const uint32_t as_x = x_tokens(split, i);
      const Sequence& stored = as_x > 0 ? both.as_x : both.as_kv;
      BlockRun run;
      run.blocks = 1;
      run.form = as_x > 0 ? BlockForm::x : BlockForm::kv;
      run.id = stored.blocks[i];
      if (has_copy(both, as_x, i)) {
        run.device_id = stored.copies[i];
      } else if (as_x > 0 && as_x < kBlockTokens) {
        run.kv_id = both.as_kv.blocks[i];
        run.x_tokens = as_x;
      }
      runs.push_back(run);
    }
    return runs;
  }

  Decoder& decoder_;
  const SplitPrompts& prompts_;
  std::vector<Both> sequences_;
};

}  // namespace iokv::test
