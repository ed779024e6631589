// SPDX-License-Identifier: Apache-2.0
#include "tools/verify.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "iokv/iokv.h"

namespace iokv {
namespace {

constexpr uint32_t kChecks = 4;  // rows of a sequence that are compared: reading each costs a prompt

using Logits = std::vector<float>;

Status check(int result, const char* what) {
  if (result >= 0) return {};
  return error(fmt::format("{}: {}", what, iokv_strerror(result)), result);
}

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
  static Result<Client> connect(const std::string& socket_path) {
    Client client;
    iokv_connect_options options{};
    options.struct_size = sizeof options;
    options.socket_path = socket_path.empty() ? nullptr : socket_path.c_str();
    options.name = "iokv verify";
    iokv_error_detail detail{};
    detail.struct_size = sizeof detail;
    if (const int code = iokv_connect(&options, &client.handle_, &detail); code != 0) return error(detail.message, code);
    client.info_.struct_size = sizeof client.info_;
    IOKV_TRY(check(iokv_get_info(client.handle_, &client.info_), "iokv_get_info"));
    return client;
  }
  Client(Client&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)), info_(other.info_) {}
  ~Client() { iokv_disconnect(handle_); }

  const iokv_info& info() const { return info_; }

  // All of them side by side; their sequences are closed again.
  Status run(std::vector<Run>& runs, uint64_t seed) {
    for (size_t i = 0; i < runs.size(); ++i) IOKV_TRY(place(runs[i], i, seed + i));
    IOKV_TRY(reap(runs));
    for (Run& run : runs) IOKV_TRY(check(iokv_close(handle_, run.sequence, runs.size(), nullptr), "close"));
    return reap(runs);
  }

  std::optional<uint64_t> counter(std::string_view name) {
    iokv_counter counter{};
    for (uint32_t i = 0; iokv_get_counter(handle_, i, &counter) == 0; ++i) {
      if (counter.name == name) return counter.value;
    }
    return std::nullopt;
  }

 private:
  Client() = default;

  Status place(Run& run, uint64_t number, uint64_t seed) {
    iokv_sampling sampling{};
    sampling.struct_size = sizeof sampling;
    sampling.temperature = 1;
    sampling.seed = seed;
    iokv_open_options open{};
    open.struct_size = sizeof open;
    open.user_data = number;
    open.sampling = &sampling;
    IOKV_TRY(check(iokv_open(handle_, &open, &run.sequence, nullptr), "open"));
    iokv_step_options step{};
    step.struct_size = sizeof step;
    step.flags = IOKV_STEP_LOGITS;
    step.user_data = number;
    step.tokens = run.prompt.data();
    step.token_count = static_cast<uint32_t>(run.prompt.size());
    step.max_tokens = run.generate;
    run.logits.resize(run.generate);
    return check(iokv_step(handle_, run.sequence, &step, nullptr), "step");
  }

  Status reap(std::vector<Run>& runs) {
    IOKV_TRY(check(iokv_submit(handle_), "submit"));
    while (iokv_outstanding(handle_) > 0) {
      iokv_completion completions[64];
      const int count = iokv_reap(handle_, completions, 64, -1);
      IOKV_TRY(check(count, "reap"));
      for (int i = 0; i < count; ++i) {
        IOKV_TRY(check(completions[i].result, "the daemon's answer"));
        if ((completions[i].flags & IOKV_COMPLETION_TOKEN) != 0) IOKV_TRY(take(runs[completions[i].user_data], completions[i]));
      }
    }
    return {};
  }

  Status take(Run& run, const iokv_completion& completion) {
    run.tokens.push_back(completion.token);
    iokv_logits_view view{};
    view.struct_size = sizeof view;
    IOKV_TRY(check(iokv_logits(handle_, &completion, &view), "iokv_logits"));
    if (view.dtype != IOKV_F32) return error("the daemon's logits are no f32", IOKV_EUNSUPPORTED);
    if (run.keep(completion.index)) {
      const auto* values = static_cast<const float*>(view.data);
      run.logits[completion.index].assign(values, values + view.count);
    }
    return check(iokv_release(handle_, &completion), "iokv_release");
  }

  iokv_client* handle_ = nullptr;
  iokv_info info_{};
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
  IOKV_TRY_ASSIGN(Client client, Client::connect(question.socket_path));
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
