// SPDX-License-Identifier: Apache-2.0
// The conformance driver of iokv.hpp: requests on standard input, answers on standard output, as
// bindings/conformance/README.md has them; `driver load ...` decodes for scripts/bench as bench/load.cpp does.
#include <iokv/iokv.hpp>

#include <cinttypes>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <map>
#include <sstream>

#include "layout.h"

namespace {

struct Request {
  explicit Request(const std::string& line) {
    std::istringstream words(line);
    words >> verb;
    for (std::string word; words >> word;) {
      const size_t equals = word.find('=');
      if (equals == std::string::npos) {
        positional.push_back(word);
      } else {
        named[word.substr(0, equals)] = word.substr(equals + 1);
      }
    }
  }

  bool has(const char* key) const { return named.count(key) != 0; }
  std::string text(const char* key) const { return has(key) ? named.at(key) : std::string(); }
  int64_t number(const char* key, int64_t otherwise = 0) const {
    return has(key) ? std::strtoll(named.at(key).c_str(), nullptr, 10) : otherwise;
  }
  uint64_t id(const char* key) const { return std::strtoull(text(key).c_str(), nullptr, 10); }
  uint32_t count(const char* key) const { return static_cast<uint32_t>(number(key)); }
  std::vector<int32_t> tokens(const char* key) const { return numbers<int32_t>(text(key)); }
  float real(const char* key) const { return has(key) ? std::strtof(text(key).c_str(), nullptr) : 0; }
  // The parts of a list, which are lists themselves.
  std::vector<std::string> parts(const char* key) const {
    std::vector<std::string> found;
    std::istringstream list(text(key));
    for (std::string one; std::getline(list, one, ';');) found.push_back(one);
    return found;
  }
  template <typename Number>
  static std::vector<Number> numbers(const std::string& text) {
    std::vector<Number> found;
    std::istringstream list(text);
    for (std::string one; std::getline(list, one, ',');) {
      found.push_back(static_cast<Number>(std::strtoll(one.c_str(), nullptr, 10)));
    }
    return found;
  }
  template <typename Number>
  std::vector<std::vector<Number>> lists(const char* key) const {
    std::vector<std::vector<Number>> found;
    for (const std::string& part : parts(key)) found.push_back(numbers<Number>(part));
    return found;
  }
  std::optional<iokv::Sampling> sampling() const {
    static const char* const names[] = {"temperature", "top_p", "top_k", "seed", "min_p", "typical_p",
                                        "repetition_penalty", "presence_penalty", "frequency_penalty",
                                        "repetition_from", "frequency_from", "logit_bias"};
    if (std::none_of(std::begin(names), std::end(names), [&](const char* name) { return has(name); })) return std::nullopt;
    iokv::Sampling made;
    made.temperature = real("temperature");
    made.top_p = real("top_p");
    made.top_k = count("top_k");
    made.seed = id("seed");
    made.min_p = real("min_p");
    made.typical_p = real("typical_p");
    made.repetition_penalty = real("repetition_penalty");
    made.presence_penalty = real("presence_penalty");
    made.frequency_penalty = real("frequency_penalty");
    made.repetition_from = count("repetition_from");
    made.frequency_from = count("frequency_from");
    for (const std::string& part : parts("logit_bias")) {
      made.logit_bias.push_back({std::atoi(part.c_str()), std::strtof(part.substr(part.find(',') + 1).c_str(), nullptr)});
    }
    return made;
  }

  std::string verb;
  std::vector<std::string> positional;
  std::map<std::string, std::string> named;
};

std::string hex(const void* bytes, size_t size) {
  static const char digits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < size; ++i) {
    const auto byte = static_cast<const unsigned char*>(bytes)[i];
    text += {digits[byte >> 4], digits[byte & 15]};
  }
  return text.empty() ? "-" : text;
}

class Driver {
 public:
  // Answers one request; data lines are printed, the rest of the `ok` line is returned.
  std::string answer(const Request& request) {
    if (request.verb == "layout") {
      print_layout();
      return "";
    }
    const std::string name = request.positional.at(0);
    if (request.verb == "connect") {
      iokv::ConnectOptions options;
      options.socket_path = request.text("socket");
      options.name = request.text("name");
      options.timeout = std::chrono::nanoseconds(request.number("timeout_ns", -1));
      options.submission_entries = request.count("submission_entries");
      options.completion_entries = request.count("completion_entries");
      options.arena_bytes = request.count("arena_bytes");
      options.result_bytes = request.count("result_bytes");
      clients_.insert_or_assign(name, iokv::Connection(options));
      return "";
    }
    return answer(request, clients_.at(name));
  }

 private:
  static std::string answer(const Request& request, iokv::Connection& client) {
    const std::string& verb = request.verb;
    const uint64_t user_data = request.id("user_data"), sequence = request.id("sequence");
    if (verb == "disconnect") return client.close(), "";
    if (verb == "info") return info(client.info());
    if (verb == "open") {
      iokv::OpenOptions options;
      options.sampling = request.sampling();
      options.priority = static_cast<int32_t>(request.number("priority"));
      options.model = request.count("model");
      options.adapter = request.count("adapter");
      return opened(client.open(options, user_data));
    }
    if (verb == "step") return step(request, client, sequence, user_data);
    if (verb == "fork") {
      return opened(client.fork(sequence, static_cast<uint32_t>(request.number("tokens", UINT32_MAX)), user_data));
    }
    if (verb == "truncate") return operation(client.truncate(sequence, request.count("length"), user_data));
    if (verb == "cancel") return operation(client.cancel(sequence, request.id("target"), user_data));
    if (verb == "close") return operation(client.close_sequence(sequence, user_data));
    if (verb == "nop") return operation(client.nop(user_data));
    if (verb == "submit") return "count=" + std::to_string(client.submit());
    if (verb == "outstanding") return "count=" + std::to_string(client.outstanding());
    if (verb == "wake") return client.wake(), "";
    if (verb == "reap") return reap(request, client);
    if (verb == "generate") return generate(request, client, sequence);
    if (verb == "end_reason") {
      const auto [code, line] = client.end_reason();
      return "code=" + std::to_string(code) + " line=" + hex(line.data(), line.size());
    }
    if (verb == "token_bytes") {
      const std::string_view bytes = client.token_bytes(static_cast<int32_t>(request.number("token")));
      return "bytes=" + hex(bytes.data(), bytes.size());
    }
    if (verb == "text") {
      const std::string_view bytes = client.text(static_cast<iokv_text_file>(request.number("file")));
      return "bytes=" + hex(bytes.data(), bytes.size());
    }
    if (verb == "counters") {
      std::string text;
      for (const iokv::Counter& counter : client.counters()) {
        text += std::string(counter.name) + "=" + std::to_string(counter.value) + " ";
      }
      return text;
    }
    throw std::invalid_argument("no such request: " + verb);
  }

  static std::string operation(iokv_operation id) { return "operation=" + std::to_string(id); }
  static std::string opened(const iokv::Opened& made) {
    return "sequence=" + std::to_string(made.sequence) + " " + operation(made.operation);
  }
  static std::string step(const Request& request, iokv::Connection& client, uint64_t sequence, uint64_t user_data) {
    const std::vector<int32_t> tokens = request.tokens("tokens"), stop_tokens = request.tokens("stop_tokens");
    iokv::StepOptions options = step_options(request, tokens, stop_tokens);
    return operation(client.step(sequence, options, user_data));
  }
  static std::string generate(const Request& request, iokv::Connection& client, uint64_t sequence) {
    const std::vector<int32_t> tokens = request.tokens("tokens"), stop_tokens = request.tokens("stop_tokens");
    std::string text = "tokens=";
    for (const int32_t token : client.generate(sequence, step_options(request, tokens, stop_tokens))) {
      text += (text.back() == '=' ? "" : ",") + std::to_string(token);
    }
    return text;
  }
  static iokv::StepOptions step_options(const Request& request, const std::vector<int32_t>& tokens,
                                        const std::vector<int32_t>& stop_tokens) {
    iokv::StepOptions options;
    options.tokens = tokens;
    options.stop_tokens = stop_tokens;
    options.max_tokens = request.count("max_tokens");
    options.sampling = request.sampling();
    options.each = request.number("each") != 0;
    options.logits = request.number("logits") != 0;
    options.priority = static_cast<int32_t>(request.number("priority"));
    options.deadline_ns = request.id("deadline_ns");
    options.stop_sequences = request.lists<int32_t>("stop_sequences");
    options.top_logprobs = request.count("top_logprobs");
    options.masks = request.lists<uint32_t>("masks");
    return options;
  }
  static std::string reap(const Request& request, iokv::Connection& client) {
    std::vector<iokv::Completion> buffer(request.count("capacity"));
    for (const iokv::Completion& c : client.reap(buffer, std::chrono::nanoseconds(request.number("timeout_ns")))) {
      std::string logits = "-", top = "-";
      if (c.has_logits() || c.has_top()) {
        const iokv::Results results = client.results(c);
        logits = hex(results.logits().data(), results.logits().size_bytes());
        top = hex(results.top().data(), results.top().size_bytes());
      }
      const std::optional<iokv_times> times = c.step_times();
      std::printf("completion user_data=%" PRIu64 " operation=%" PRIu64 " sequence=%" PRIu64
                  " result=%d flags=%u token=%d logprob=%.9g index=%u length=%u dense_ns=%" PRIu64 " logits=%s top=%s\n",
                  c.user_data, c.operation, c.sequence, c.result, c.flags, c.token, static_cast<double>(c.logprob),
                  c.index, c.length, times ? times->dense_ns : 0, logits.c_str(), top.c_str());
    }
    return "";
  }
  static std::string info(const iokv_info& info) {
    std::ostringstream text;
    text << "protocol_version=" << info.protocol_version << " daemon_instance=" << info.daemon_instance
         << " client_id=" << info.client_id << " vocabulary=" << info.vocabulary << " max_context=" << info.max_context
         << " layers=" << info.layers << " hidden=" << info.hidden << " heads=" << info.heads
         << " kv_heads=" << info.kv_heads << " head_dim=" << info.head_dim << " begin_token=" << info.begin_token
         << " end_token_count=" << info.end_token_count << " max_sequences=" << info.max_sequences
         << " max_operations=" << info.max_operations << " max_step_tokens=" << info.max_step_tokens
         << " max_stop_tokens=" << info.max_stop_tokens << " submission_entries=" << info.submission_entries
         << " completion_entries=" << info.completion_entries << " pool_tokens=" << info.pool_tokens
         << " features=" << info.features
         << " model_digest=" << hex(info.model_digest, sizeof info.model_digest)
         << " tokenizer_digest=" << hex(info.tokenizer_digest, sizeof info.tokenizer_digest)
         << " model_name=" << hex(info.model_name, std::string_view(info.model_name).size());
    return text.str();
  }

  std::map<std::string, iokv::Connection> clients_;
};

uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// What bench/load.cpp does, by Client, Sequence and Operation.
int load(char** arguments) {
  iokv::ConnectOptions options;
  options.socket_path = arguments[0];
  options.timeout = iokv::forever;
  iokv::Client client(options);
  const auto number = [&](int i) { return static_cast<uint32_t>(std::strtoul(arguments[i], nullptr, 10)); };
  const uint32_t count = number(1), prompt_tokens = number(2), tokens = number(3), seed = number(4);
  std::vector<iokv::Sequence> sequences;
  for (uint32_t s = 0; s < count; ++s) {
    std::vector<int32_t> prompt(prompt_tokens);
    for (uint64_t i = 0; i < prompt_tokens; ++i) {
      prompt[i] = static_cast<int32_t>(((seed + s) * uint64_t{7919} + i * 104729 + i * i) % client.info().vocabulary);
    }
    sequences.push_back(client.open());
    sequences.back().generate(prompt, 1);
  }
  std::printf("ready\n");
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
    const uint64_t start_ns = now_ns();
    std::vector<iokv::Operation> operations;
    for (iokv::Sequence& sequence : sequences) operations.push_back(sequence.step({}, tokens));
    uint64_t drawn = 0;
    for (iokv::Operation& operation : operations) {
      for (const iokv::Token& token : operation) drawn += token.sampled() ? 1 : 0;
    }
    std::printf("{\"tokens\": %" PRIu64 ", \"start_ns\": %" PRIu64 ", \"end_ns\": %" PRIu64 "}\n", drawn, start_ns,
                now_ns());
    std::fflush(stdout);
    for (iokv::Sequence& sequence : sequences) sequence.truncate(prompt_tokens + 1);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 7 && std::string_view(argv[1]) == "load") return load(argv + 2);
  Driver driver;
  for (std::string line; std::getline(std::cin, line);) {
    try {
      const std::string rest = driver.answer(Request(line));
      std::printf("ok %s\n", rest.c_str());
    } catch (const iokv::Error& error) {
      std::printf("error %d %s\n", error.code().value(), error.what());
    }
    std::fflush(stdout);
  }
  return 0;
}
