// SPDX-License-Identifier: Apache-2.0
#include "tools/bench.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <deque>
#include <random>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "daemon/base/monotonic.h"
#include "tools/client.h"
#include "tools/latency.h"

namespace iokv {
namespace {

struct Asked {
  uint64_t due_ns = 0, last_ns = 0;  // last_ns: of its latest token
  iokv_sequence sequence = 0;
  uint32_t tokens = 0;
};

// One connection and the requests that it has outstanding or, while its ring is full, has to place yet.
class Source {
 public:
  Source(ToolClient client, const BenchQuestion& question, BenchAnswer& answer)
      : client_(std::move(client)), question_(question), answer_(answer) {}

  int descriptor() const { return iokv_fd(client_.get()); }
  bool idle() const { return waiting_.empty() && iokv_outstanding(client_.get()) == 0; }
  const iokv_info& info() const { return client_.info; }

  void ask(uint64_t due_ns, uint64_t seed) { waiting_.push_back({due_ns, seed}); }

  Status place() {
    while (!waiting_.empty()) {
      IOKV_TRY_ASSIGN(const bool placed, place(waiting_.front()));
      if (!placed) break;
      waiting_.pop_front();
    }
    return check_call(iokv_submit(client_.get()), "submit");
  }

  Status reap() {
    std::array<iokv_completion, 256> completions;
    for (int count = static_cast<int>(completions.size()); count == static_cast<int>(completions.size());) {
      count = iokv_reap(client_.get(), completions.data(), completions.size(), 0);
      IOKV_TRY(check_call(count, "the daemon"));
      const uint64_t now_ns = monotonic_ns();
      for (int i = 0; i < count; ++i) IOKV_TRY(take(completions[static_cast<size_t>(i)], now_ns));
    }
    return {};
  }

 private:
  struct Waiting {
    uint64_t due_ns, seed;
  };

  // false: there is no room now.
  Result<bool> place(const Waiting& request) {
    // OPEN, STEP and the CLOSE to come.
    if (iokv_outstanding(client_.get()) + 3 > client_.info.max_operations) return false;
    std::mt19937_64 random(request.seed);
    std::vector<int32_t> prompt(question_.prompt);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random() % client_.info.vocabulary);
    iokv_sampling sampling{};
    sampling.struct_size = sizeof sampling;
    sampling.temperature = 1;
    sampling.seed = request.seed;
    if (opened_ == 0) {
      iokv_open_options open{};
      open.struct_size = sizeof open;
      open.sampling = &sampling;
      const int code = iokv_open(client_.get(), &open, &opened_, nullptr);
      if (code == IOKV_EAGAIN || code == IOKV_ELIMIT) return false;
      IOKV_TRY(check_placed(client_, code));
    }
    iokv_step_options step{};
    step.struct_size = sizeof step;
    step.tokens = prompt.data();
    step.token_count = question_.prompt;
    step.max_tokens = question_.generate;
    iokv_operation operation = 0;
    const int code = iokv_step(client_.get(), opened_, &step, &operation);
    if (code == IOKV_EAGAIN) return false;
    IOKV_TRY(check_placed(client_, code));
    asked_.emplace(operation, Asked{request.due_ns, request.due_ns, std::exchange(opened_, 0), 0});
    return true;
  }

  Status take(const iokv_completion& completion, uint64_t now_ns) {
    const auto found = asked_.find(completion.operation);
    if (found == asked_.end()) return {};  // of an OPEN or a CLOSE
    Asked& request = found->second;
    if ((completion.flags & IOKV_COMPLETION_TOKEN) != 0) {
      (request.tokens++ == 0 ? answer_.first_token_ns : answer_.between_ns).push_back(now_ns - request.last_ns);
      request.last_ns = now_ns;
      answer_.tokens++;
    }
    if ((completion.flags & IOKV_COMPLETION_MORE) != 0) return {};
    if (completion.result == 0) {
      answer_.finished++;
      answer_.whole_ns.push_back(now_ns - request.due_ns);
    } else {
      answer_.failures[iokv_strerror(completion.result)]++;
    }
    // A full ring is taken soon: there is room for a CLOSE for each STEP (place()).
    int code = iokv_close(client_.get(), request.sequence, 0, nullptr);
    while (code == IOKV_EAGAIN) {
      IOKV_TRY(check_call(iokv_submit(client_.get()), "submit"));
      code = iokv_close(client_.get(), request.sequence, 0, nullptr);
    }
    asked_.erase(found);
    return check_call(code, "close");
  }

  ToolClient client_;
  const BenchQuestion& question_;
  BenchAnswer& answer_;
  std::deque<Waiting> waiting_;
  iokv_sequence opened_ = 0;  // for the request whose STEP found no room
  std::unordered_map<iokv_operation, Asked> asked_;
};

Status serve(std::vector<Source>& sources, const BenchQuestion& question, BenchAnswer& answer) {
  std::mt19937_64 random(question.seed);
  std::exponential_distribution<double> gap_s(question.rate);
  auto gap_ns = [&] { return static_cast<uint64_t>(gap_s(random) * 1e9); };
  const uint64_t started_ns = monotonic_ns(), last_ns = started_ns + static_cast<uint64_t>(question.seconds * 1e9);
  uint64_t due_ns = started_ns + gap_ns();
  std::vector<pollfd> polled;
  for (const Source& source : sources) polled.push_back({source.descriptor(), POLLIN, 0});
  for (;;) {
    for (; due_ns <= std::min(monotonic_ns(), last_ns); due_ns += gap_ns()) {
      sources[random() % sources.size()].ask(due_ns, question.seed + ++answer.requests);
    }
    for (Source& source : sources) {
      IOKV_TRY(source.reap());  // leaves the descriptor armed
      IOKV_TRY(source.place());
    }
    const bool idle = std::all_of(sources.begin(), sources.end(), [](const Source& source) { return source.idle(); });
    const uint64_t now_ns = monotonic_ns();
    if (due_ns > last_ns && idle) {
      answer.elapsed_ns = now_ns - started_ns;
      return {};
    }
    timespec wait{1, 0};  // what a full ring held back is tried again
    if (due_ns <= last_ns) {
      const uint64_t left_ns = std::min<uint64_t>(due_ns - std::min(due_ns, now_ns), 1'000'000'000);
      wait = {static_cast<time_t>(left_ns / 1'000'000'000), static_cast<long>(left_ns % 1'000'000'000)};
    }
    ::ppoll(polled.data(), polled.size(), &wait, nullptr);
  }
}

nlohmann::ordered_json percentiles_json(std::vector<uint64_t>& values) {
  return {{"count", values.size()},          {"p50_ns", percentile(values, 50)}, {"p90_ns", percentile(values, 90)},
          {"p99_ns", percentile(values, 99)}, {"max_ns", percentile(values, 100)}};
}

std::string percentiles_text(const char* name, std::vector<uint64_t>& values) {
  auto at = [&](double percent) { return short_duration(static_cast<double>(percentile(values, percent))); };
  return fmt::format("{:<16} {:>10} {:>10} {:>10} {:>10}\n", name, at(50), at(90), at(99), at(100));
}

double per_second(uint64_t count, uint64_t ns) {
  return ns == 0 ? 0 : static_cast<double>(count) * 1e9 / static_cast<double>(ns);
}

}  // namespace

Result<BenchAnswer> bench(const BenchQuestion& question) {
  BenchAnswer answer;
  std::vector<Source> sources;
  for (uint32_t i = 0; i < question.clients; ++i) {
    IOKV_TRY_ASSIGN(ToolClient client, connect_client(question.socket_path, "iokv bench"));
    answer.model = client.info.model_name;
    if (uint64_t{question.prompt} + question.generate > client.info.max_context) {
      return error(fmt::format("{} + {} tokens are more than {}'s context of {}: ask for fewer", question.prompt,
                               question.generate, answer.model, client.info.max_context));
    }
    sources.emplace_back(std::move(client), question, answer);
  }
  IOKV_TRY(serve(sources, question, answer));
  return answer;
}

std::string bench_text(const BenchQuestion& question, BenchAnswer& answer) {
  std::string text = fmt::format(
      "{}: {} requests of {} + {} tokens, {} clients, Poisson arrivals of {:g} a second for {:g} s\n"
      "{} finished in {:.1f} s: {:.2f} requests/s, {:.1f} tokens/s\n",
      answer.model, answer.requests, question.prompt, question.generate, question.clients, question.rate, question.seconds,
      answer.finished, static_cast<double>(answer.elapsed_ns) / 1e9, per_second(answer.finished, answer.elapsed_ns),
      per_second(answer.tokens, answer.elapsed_ns));
  for (const auto& [why, count] : answer.failures) text += fmt::format("{} FAILED: {}\n", count, why);
  text += fmt::format("\n{:<16} {:>10} {:>10} {:>10} {:>10}\n", "", "p50", "p90", "p99", "max");
  text += percentiles_text("first token", answer.first_token_ns);
  text += percentiles_text("between tokens", answer.between_ns);
  text += percentiles_text("whole request", answer.whole_ns);
  text += "\nfirst token\n" + histogram_text(answer.first_token_ns);
  return text + "\nbetween tokens\n" + histogram_text(answer.between_ns);
}

std::string bench_json(const BenchQuestion& question, BenchAnswer& answer) {
  nlohmann::ordered_json object = {{"model", answer.model},
                                   {"clients", question.clients},
                                   {"rate", question.rate},
                                   {"seconds", question.seconds},
                                   {"prompt", question.prompt},
                                   {"generate", question.generate},
                                   {"requests", answer.requests},
                                   {"finished", answer.finished},
                                   {"failures", answer.failures},
                                   {"tokens", answer.tokens},
                                   {"elapsed_ns", answer.elapsed_ns},
                                   {"tokens_per_s", per_second(answer.tokens, answer.elapsed_ns)},
                                   {"first_token", percentiles_json(answer.first_token_ns)},
                                   {"between_tokens", percentiles_json(answer.between_ns)},
                                   {"whole_request", percentiles_json(answer.whole_ns)}};
  return object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace iokv
