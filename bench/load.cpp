// SPDX-License-Identifier: Apache-2.0
// A client that decodes on command: opens its sequences, appends a prompt to each, says so, and for every line on
// standard input lets each sequence draw TOKENS more, prints what that took, and cuts them back.
//
// usage: bench_load SOCKET SEQUENCES PROMPT TOKENS SEED
// Prints "ready" and then, for each line read, one JSON object: tokens, start_ns and end_ns (CLOCK_MONOTONIC),
// first_ns (when every sequence had its first token), gap_p50_ns and gap_p99_ns between a sequence's tokens, and
// prompt_ns, what all prompts took, one after the other, each to its first token.
#include <string>

#include "bench/client.h"

namespace {

using bench::now_ns;
using bench::require;

class Load {
 public:
  Load(bench::Client& client, uint32_t sequences, uint32_t prompt_tokens, uint32_t seed)
      : client_(client), length_(prompt_tokens + 1), ids_(sequences), last_ns_(sequences) {
    iokv_step_options options{};
    options.struct_size = sizeof(options);
    options.token_count = prompt_tokens;
    options.max_tokens = 1;
    const uint64_t start_ns = now_ns();
    for (uint32_t i = 0; i < sequences; ++i) {
      const std::vector<int32_t> tokens = bench::prompt(prompt_tokens, seed + i, client.info().vocabulary);
      options.tokens = tokens.data();
      require(iokv_open(client.get(), nullptr, &ids_[i], nullptr), "iokv_open");
      require(iokv_step(client.get(), ids_[i], &options, nullptr), "iokv_step");
      client.drain();
    }
    prompt_ns_ = now_ns() - start_ns;
  }

  void run(uint32_t tokens) {
    iokv_step_options options{};
    options.struct_size = sizeof(options);
    options.max_tokens = tokens;
    for (size_t i = 0; i < ids_.size(); ++i) {
      options.user_data = i;
      require(iokv_step(client_.get(), ids_[i], &options, nullptr), "iokv_step");
      last_ns_[i] = 0;
    }
    uint64_t first_ns = 0, drawn = 0;
    std::vector<uint64_t> gaps_ns;
    gaps_ns.reserve(ids_.size() * tokens);
    const uint64_t start_ns = now_ns();
    client_.drain([&](const iokv_completion& completion) {
      if (!(completion.flags & IOKV_COMPLETION_TOKEN)) return;
      const uint64_t time_ns = now_ns();
      uint64_t& last_ns = last_ns_[completion.user_data];
      if (last_ns == 0) first_ns = time_ns;
      if (last_ns != 0) gaps_ns.push_back(time_ns - last_ns);
      last_ns = time_ns;
      ++drawn;
    });
    const uint64_t end_ns = now_ns();
    print(drawn, start_ns, first_ns, end_ns, gaps_ns);
    for (iokv_sequence sequence : ids_) require(iokv_truncate(client_.get(), sequence, length_, 0, nullptr), "truncate");
    client_.drain();
  }

 private:
  void print(uint64_t drawn, uint64_t start_ns, uint64_t first_ns, uint64_t end_ns, std::vector<uint64_t>& gaps_ns) const {
    std::printf("{\"tokens\": %lu, \"start_ns\": %lu, \"first_ns\": %lu, \"end_ns\": %lu, \"gap_p50_ns\": %lu,"
                " \"gap_p99_ns\": %lu, \"prompt_ns\": %lu}\n",
                static_cast<unsigned long>(drawn), static_cast<unsigned long>(start_ns),
                static_cast<unsigned long>(first_ns), static_cast<unsigned long>(end_ns),
                static_cast<unsigned long>(bench::percentile(gaps_ns, 50)),
                static_cast<unsigned long>(bench::percentile(gaps_ns, 99)), static_cast<unsigned long>(prompt_ns_));
    std::fflush(stdout);
  }

  bench::Client& client_;
  const uint32_t length_;
  uint64_t prompt_ns_ = 0;
  std::vector<iokv_sequence> ids_;
  std::vector<uint64_t> last_ns_;  // of each sequence's latest token in this run, 0 before its first
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: bench_load SOCKET SEQUENCES PROMPT TOKENS SEED\n");
    return 2;
  }
  const auto number = [&](int i) { return static_cast<uint32_t>(std::strtoul(argv[i], nullptr, 10)); };
  bench::Client client(argv[1], "bench load", 0);
  Load load(client, number(2), number(3), number(5));
  std::printf("ready\n");
  std::fflush(stdout);
  for (int c = std::getchar(); c != EOF; c = std::getchar()) {
    if (c == '\n') load.run(number(4));
  }
  return 0;
}
