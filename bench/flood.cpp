// SPDX-License-Identifier: Apache-2.0
// A client that takes all it can get: SEQUENCES sequences, each of which appends a long prompt, draws one token, is cut
// back to nothing and begins again, until the process is killed. Prints "running" once tokens have come.
//
// usage: bench_flood SOCKET SEQUENCES PROMPT
#include "bench/client.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: bench_flood SOCKET SEQUENCES PROMPT\n");
    return 2;
  }
  const auto number = [&](int i) { return static_cast<uint32_t>(std::strtoul(argv[i], nullptr, 10)); };
  bench::Client client(argv[1], "bench flood", 0);
  std::vector<iokv_sequence> sequences(number(2));
  for (iokv_sequence& sequence : sequences) {
    bench::require(iokv_open(client.get(), nullptr, &sequence, nullptr), "iokv_open");
    client.drain();
  }
  uint32_t seed = 1;
  bool said = false;
  const auto begin = [&](size_t i) {
    const std::vector<int32_t> tokens = bench::prompt(number(3), seed++, client.info().vocabulary);
    iokv_step_options options{};
    options.struct_size = sizeof(options);
    options.user_data = i + 1;
    options.tokens = tokens.data();
    options.token_count = number(3);
    options.max_tokens = 1;
    bench::require(iokv_truncate(client.get(), sequences[i], 0, 0, nullptr), "iokv_truncate");
    bench::require(iokv_step(client.get(), sequences[i], &options, nullptr), "iokv_step");
    bench::require(iokv_submit(client.get()), "iokv_submit");
  };
  for (size_t i = 0; i < sequences.size(); ++i) begin(i);
  client.drain([&](const iokv_completion& completion) {
    if (completion.user_data == 0) return;
    if (!said) {
      std::printf("running\n");
      std::fflush(stdout);
      said = true;
    }
    begin(completion.user_data - 1);
  });
  return 0;
}
