// SPDX-License-Identifier: Apache-2.0
#include "tools/generate.h"

#include <array>
#include <cstdio>
#include <vector>

#include <fmt/format.h>

#include "daemon/base/monotonic.h"
#include "tools/client.h"
#include "tools/latency.h"
#include "tools/text_encoder.h"

namespace iokv {
namespace {

Result<std::vector<int32_t>> tokens_of(const ToolClient& client, const std::string& prompt) {
  const uint8_t* bytes = nullptr;
  uint64_t size = 0;
  IOKV_TRY(check_call(iokv_text(client.get(), IOKV_TEXT_TOKENIZER, &bytes, &size), "the model's tokenizer"));
  if (size == 0) return error("the model came without a tokenizer: clients send tokens", IOKV_EUNSUPPORTED);
  IOKV_TRY_ASSIGN(const TextEncoder encoder, TextEncoder::make({reinterpret_cast<const char*>(bytes), size}));
  return encoder.encode(prompt);
}

Status print_token(const ToolClient& client, int32_t token) {
  const uint8_t* bytes = nullptr;
  uint32_t size = 0;
  IOKV_TRY(check_call(iokv_token_bytes(client.get(), token, &bytes, &size), "the model's vocabulary"));
  // Part of a character is written as it is: the rest follows with the next token.
  if (std::fwrite(bytes, 1, size, stdout) != size || std::fflush(stdout) != 0) return error("standard output is closed");
  return {};
}

struct Timing {
  uint64_t asked_ns = 0, first_ns = 0, last_ns = 0;
  uint32_t prompt = 0, tokens = 0;
};

std::string timing_text(const Timing& timing) {
  const auto first = static_cast<double>(timing.first_ns - timing.asked_ns);
  const auto rest = static_cast<double>(timing.last_ns - timing.first_ns);
  return fmt::format("{} tokens of prompt, first token after {}, {} tokens, {:.1f} tokens/s\n", timing.prompt,
                     short_duration(first), timing.tokens, timing.tokens < 2 ? 0 : (timing.tokens - 1) * 1e9 / rest);
}

// Until the step has ended.
Status stream(const ToolClient& client, iokv_operation step, Timing& timing) {
  for (;;) {
    std::array<iokv_completion, 64> completions;
    const int count = iokv_reap(client.get(), completions.data(), completions.size(), -1);
    IOKV_TRY(check_call(count, "the daemon"));
    for (int i = 0; i < count; ++i) {
      const iokv_completion& completion = completions[static_cast<size_t>(i)];
      IOKV_TRY(check_call(completion.result, "the daemon's answer"));
      if (completion.operation != step) continue;
      if ((completion.flags & IOKV_COMPLETION_TOKEN) != 0) {
        timing.last_ns = monotonic_ns();
        if (timing.tokens++ == 0) timing.first_ns = timing.last_ns;
        if ((completion.flags & IOKV_COMPLETION_STOPPED) == 0) IOKV_TRY(print_token(client, completion.token));
      }
      if ((completion.flags & IOKV_COMPLETION_MORE) == 0) return {};
    }
  }
}

}  // namespace

Status generate(const GenerateQuestion& question) {
  IOKV_TRY_ASSIGN(const ToolClient client, connect_client(question.socket_path, "iokv generate"));
  IOKV_TRY_ASSIGN(const std::vector<int32_t> prompt, tokens_of(client, question.prompt));
  if (question.only_tokens) {
    std::fputs(fmt::format("{}\n", fmt::join(prompt, " ")).c_str(), stdout);
    return {};
  }
  if (prompt.empty()) return error("the prompt is empty: say something");
  iokv_sampling sampling = question.sampling;
  sampling.struct_size = sizeof sampling;
  iokv_open_options open{};
  open.struct_size = sizeof open;
  open.sampling = &sampling;
  iokv_sequence sequence = 0;
  IOKV_TRY(check_placed(client, iokv_open(client.get(), &open, &sequence, nullptr)));
  iokv_step_options step{};
  step.struct_size = sizeof step;
  step.tokens = prompt.data();
  step.token_count = static_cast<uint32_t>(prompt.size());
  step.max_tokens = question.max_tokens;
  step.stop_tokens = client.info.end_tokens;
  step.stop_token_count = client.info.end_token_count;
  iokv_operation operation = 0;
  IOKV_TRY(check_placed(client, iokv_step(client.get(), sequence, &step, &operation)));
  Timing timing;
  timing.prompt = step.token_count;
  timing.asked_ns = timing.first_ns = timing.last_ns = monotonic_ns();
  IOKV_TRY(check_call(iokv_submit(client.get()), "submit"));
  IOKV_TRY(stream(client, operation, timing));
  std::fputs("\n", stdout);
  if (question.statistics) std::fputs(timing_text(timing).c_str(), stderr);
  return {};
}

}  // namespace iokv
