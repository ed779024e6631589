// SPDX-License-Identifier: Apache-2.0
// `iokv bench`: what the clients of a daemon get. Requests come as a Poisson process of a given rate, whatever becomes of
// those before them (an open loop): a daemon that falls behind is asked no less, and its delay counts from when a request
// was due, not from when it could be sent. One thread, several connections.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "daemon/base/result.h"

namespace iokv {

struct BenchQuestion {
  std::string socket_path;
  uint32_t clients = 4;        // connections
  double rate = 4;             // requests a second, of all clients together
  double seconds = 10;         // for which they come
  uint32_t prompt = 128;       // random tokens of each
  uint32_t generate = 64;      // tokens of each
  uint64_t seed = 1;           // of arrivals and tokens
};

struct BenchAnswer {
  std::string model;
  uint64_t requests = 0, finished = 0;
  std::map<std::string, uint64_t> failures;   // by the code's sentence
  uint64_t tokens = 0;                        // sampled
  uint64_t elapsed_ns = 0;                    // from the first arrival's due time to the last completion
  std::vector<uint64_t> first_token_ns;       // from when each request was due
  std::vector<uint64_t> between_ns;           // from a token to the next of its request
  std::vector<uint64_t> whole_ns;             // from when it was due to its last token
};

// Blocks: until all requests have ended. Errors: those of iokv_connect, and a daemon that goes away.
Result<BenchAnswer> bench(const BenchQuestion& question);

std::string bench_text(const BenchQuestion& question, BenchAnswer& answer);
std::string bench_json(const BenchQuestion& question, BenchAnswer& answer);

}  // namespace iokv
