// SPDX-License-Identifier: Apache-2.0
#include "tools/verify.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "iokv/iokv.h"
#include "tools/client.h"

namespace iokv {
namespace {

constexpr uint32_t kChecks = 4;  // rows of a sequence that are compared: reading each costs a prompt

using Logits = std::vector<float>;

// What was asked of one sequence, and what came back.
struct Run {
  std::vector<int32_t> prompt;
  uint32_t generate = 0;
  iokv_sequence sequence = 0;
  std::vector<int32_t> tokens;  // sampled
  std::vector<Logits> logits;   // [generate] of those that keep says, the others empty
  std::function<bool(uint32_t index)> keep;
};

class Client {
 public:
  explicit Client(ToolClient client) : client_(std::move(client)) {}

  const iokv_info& info() const { return client_.info; }

  // All of them side by side; their sequences are closed again.
  Status run(std::vector<Run>& runs, uint64_t seed) {
    for (size_t i = 0; i < runs.size(); ++i) IOKV_TRY(place(runs[i], i, seed + i));
    IOKV_TRY(reap(runs));
    for (Run& run : runs) IOKV_TRY(check_call(iokv_close(client_.get(), run.sequence, runs.size(), nullptr), "close"));
    return reap(runs);
  }

  std::optional<uint64_t> counter(std::string_view name) {
    iokv_counter counter{};
    for (uint32_t i = 0; iokv_get_counter(client_.get(), i, &counter) == 0; ++i) {
      if (counter.name == name) return counter.value;
    }
    return std::nullopt;
  }

 private:
  Status place(Run& run, uint64_t number, uint64_t seed) {
    iokv_sampling sampling{};
    sampling.struct_size = sizeof sampling;
    sampling.temperature = 1;
    sampling.seed = seed;
    iokv_open_options open{};
    open.struct_size = sizeof open;
    open.user_data = number;
    open.sampling = &sampling;
    IOKV_TRY(check_call(iokv_open(client_.get(), &open, &run.sequence, nullptr), "open"));
    iokv_step_options step{};
    step.struct_size = sizeof step;
    step.flags = IOKV_STEP_LOGITS;
    step.user_data = number;
    step.tokens = run.prompt.data();
    step.token_count = static_cast<uint32_t>(run.prompt.size());
    step.max_tokens = run.generate;
    run.logits.resize(run.generate);
    return check_call(iokv_step(client_.get(), run.sequence, &step, nullptr), "step");
  }

  Status reap(std::vector<Run>& runs) {
    IOKV_TRY(check_call(iokv_submit(client_.get()), "submit"));
    while (iokv_outstanding(client_.get()) > 0) {
      iokv_completion completions[64];
      const int count = iokv_reap(client_.get(), completions, 64, -1);
      IOKV_TRY(check_call(count, "reap"));
      for (int i = 0; i < count; ++i) {
        IOKV_TRY(check_call(completions[i].result, "the daemon's answer"));
        if ((completions[i].flags & IOKV_COMPLETION_TOKEN) != 0) IOKV_TRY(take(runs[completions[i].user_data], completions[i]));
      }
    }
    return {};
  }

  Status take(Run& run, const iokv_completion& completion) {
    run.tokens.push_back(completion.token);
    iokv_logits_view view{};
    view.struct_size = sizeof view;
    IOKV_TRY(check_call(iokv_logits(client_.get(), &completion, &view), "iokv_logits"));
    if (view.dtype != IOKV_F32) return error("the daemon's logits are no f32", IOKV_EUNSUPPORTED);
    if (run.keep(completion.index)) {
      const auto* values = static_cast<const float*>(view.data);
      run.logits[completion.index].assign(values, values + view.count);
    }
    return check_call(iokv_release(client_.get(), &completion), "iokv_release");
  }

  ToolClient client_;
};

double difference_of(const Logits& values, const Logits& reference) {
  if (values.size() != reference.size() || values.empty()) return std::numeric_limits<double>::infinity();
  if (std::memcmp(values.data(), reference.data(), values.size() * sizeof(float)) == 0) return 0;
  double difference = 0, largest = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i]) || !std::isfinite(reference[i])) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(static_cast<double>(values[i]) - reference[i]));
    largest = std::max(largest, std::abs(static_cast<double>(reference[i])));
  }
  // 0 and -0 are equal and differ in a bit.
  return difference > 0 ? difference / largest : std::numeric_limits<double>::denorm_min();
}

void compare(VerifyAnswer& answer, const Logits& decoded, const Logits& read, double tolerance) {
  const double difference = difference_of(decoded, read);
  answer.compared++;
  if (difference > tolerance) answer.mismatches++;
  answer.difference = std::max(answer.difference, difference);
}

// The rows that are compared, the last one among them.
bool is_checked(uint32_t index, uint32_t generate) {
  for (uint32_t i = 1; i <= kChecks; ++i) {
    if (index + 1 == std::max(1u, generate * i / kChecks)) return true;
  }
  return false;
}

}  // namespace

Result<VerifyAnswer> verify(const VerifyQuestion& question) {
  IOKV_TRY_ASSIGN(ToolClient connected, connect_client(question.socket_path, "iokv verify"));
  Client client(std::move(connected));
  const iokv_info& info = client.info();
  const uint64_t room = std::min<uint64_t>(info.max_context, info.pool_tokens);
  VerifyAnswer answer;
  answer.model = info.model_name;
  answer.sequences = std::min({question.sequences, info.max_sequences, info.max_operations / 2});
  answer.generate = static_cast<uint32_t>(std::min<uint64_t>(question.generate, room / 2));
  answer.prompt = static_cast<uint32_t>(std::min<uint64_t>(question.prompt, room - answer.generate));

  std::mt19937_64 random(question.seed);
  std::vector<Run> decoded(answer.sequences);
  for (Run& run : decoded) {
    for (uint32_t i = 0; i < answer.prompt; ++i) run.prompt.push_back(static_cast<int32_t>(random() % info.vocabulary));
    run.generate = answer.generate;
    run.keep = [&](uint32_t index) { return is_checked(index, answer.generate); };
  }
  IOKV_TRY(client.run(decoded, question.seed));
  for (const Run& run : decoded) {
    for (uint32_t index = 0; index < answer.generate; ++index) {
      if (!is_checked(index, answer.generate)) continue;
      std::vector<Run> read(1);
      read[0].prompt = run.prompt;
      read[0].prompt.insert(read[0].prompt.end(), run.tokens.begin(), run.tokens.begin() + index);
      read[0].generate = 1;
      read[0].keep = [](uint32_t) { return true; };
      IOKV_TRY(client.run(read, question.seed));
      compare(answer, run.logits[index], read[0].logits[0], question.tolerance);
    }
  }
  answer.audited = client.counter("audit_steps");
  answer.audit_mismatches = client.counter("audit_mismatches");
  return answer;
}

std::string verify_text(const VerifyAnswer& answer) {
  std::string text = fmt::format(
      "{}: {} sequences of {} + {} tokens, decoded token by token and read in one go\n"
      "rows of logits compared {}, different {}, largest difference {:.2g} of the largest logit\n",
      answer.model, answer.sequences, answer.prompt, answer.generate, answer.compared, answer.mismatches, answer.difference);
  if (answer.audited) {
    text += fmt::format("steps audited since the daemon's start {}, different {}\n", *answer.audited,
                        answer.audit_mismatches.value_or(0));
  }
  return text + (answer.sound() ? "sound\n" : "NOT SOUND\n");
}

}  // namespace iokv
