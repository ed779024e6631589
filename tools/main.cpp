// SPDX-License-Identifier: Apache-2.0
// `iokv`, the command line. Exit status: 0, 1 when there is no answer (no daemon, no such hardware, no sound profile), when
// what was verified is not sound, a request of a bench failed or the doctor has found something bad, CLI11's code for wrong
// usage.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "daemon/model/model_files.h"
#include "daemon/model/shapes.h"
#include "daemon/base/passed_socket.h"
#include "tools/bench.h"
#include "tools/doctor.h"
#include "tools/explain.h"
#include "tools/generate.h"
#include "tools/inspect.h"
#include "tools/metrics.h"
#include "tools/observer.h"
#include "tools/plan.h"
#include "tools/profile.h"
#include "tools/status.h"
#include "tools/top.h"
#include "tools/trace.h"
#include "tools/verify.h"

namespace {

uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

int fail(const std::string& message) {
  std::fprintf(stderr, "iokv: %s\n", message.c_str());
  return 1;
}

int print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  return std::fflush(stdout) == 0 ? 0 : 1;
}

int status(const std::string& socket_path, bool json) {
  iokv::Result<iokv::CounterSnapshot> snapshot = iokv::read_counters(socket_path);
  if (!snapshot) return fail(snapshot.failure().message);
  return print(json ? iokv::status_json(*snapshot) : iokv::status_text(*snapshot, monotonic_ns()));
}

// Serves the socket that was passed on, or the one at `listen`; without either prints what it would serve.
int metrics(const std::string& socket_path, const std::string& listen) {
  iokv::Result<iokv::Descriptor> listener = iokv::take_passed_socket();
  if (listener && !*listener && !listen.empty()) listener = iokv::listen_for_metrics(listen);
  if (!listener) return fail(listener.failure().message);
  if (*listener) {
    if (!listen.empty()) std::printf("listening on %s\n", listen.c_str());
    std::fflush(stdout);
    iokv::Status served = iokv::serve_metrics(*listener, socket_path);
    return served ? 0 : fail(served.failure().message);
  }
  iokv::Result<iokv::CounterSnapshot> snapshot = iokv::read_counters(socket_path);
  if (!snapshot) return fail(snapshot.failure().message);
  return print(iokv::metrics_text(*snapshot));
}

int write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file ? 0 : fail(path + ": cannot be written");
}

int trace(const std::string& socket_path, const std::string& output) {
  iokv::Result<iokv::ObservedBlob> blob = iokv::read_blob(socket_path, iokv::wire::BlobKind::trace);
  if (!blob) return fail(blob.failure().message);
  iokv::Result<std::string> text = iokv::chrome_trace(blob->bytes);
  if (!text) return fail(text.failure().message);
  return output.empty() ? print(*text) : write_file(output, *text);
}

int explain(const std::string& socket_path, const iokv::SequenceQuestion& question, bool json) {
  iokv::Result<iokv::ObservedBlob> blob = iokv::read_blob(socket_path, iokv::wire::BlobKind::sequences);
  if (!blob) return fail(blob.failure().message);
  auto open = iokv::read_sequences(blob->bytes);
  if (!open) return fail(open.failure().message);
  const auto found = iokv::matching(*open, question);
  if (question.id && found.empty()) return fail("no client has such a sequence open (iokv explain lists them)");
  if (json) return print(iokv::sequences_json(found));
  return print(question.id ? iokv::sequence_steps(found) : iokv::sequence_list(found));
}

int verify_daemon(const iokv::VerifyQuestion& question) {
  iokv::Result<iokv::VerifyAnswer> answer = iokv::verify(question);
  if (!answer) return fail(answer.failure().message);
  const int printed = print(iokv::verify_text(*answer));
  return answer->sound() ? printed : 1;
}

int bench_daemon(const iokv::BenchQuestion& question, bool json) {
  iokv::Result<iokv::BenchAnswer> answer = iokv::bench(question);
  if (!answer) return fail(answer.failure().message);
  const int printed = print(json ? iokv::bench_json(question, *answer) : iokv::bench_text(question, *answer));
  return answer->failures.empty() ? printed : 1;
}

int doctor(const std::string& socket_path, const std::string& root, bool json) {
  const std::vector<iokv::Finding> findings = iokv::examine(socket_path, root);
  const int printed = print(json ? iokv::doctor_json(findings) : iokv::doctor_text(findings));
  const bool bad = std::any_of(findings.begin(), findings.end(),
                               [](const iokv::Finding& finding) { return finding.health == iokv::Health::bad; });
  return bad ? 1 : printed;
}

int inspect(const std::string& path, bool tensors, bool json) {
  iokv::Result<iokv::ModelFiles> files = iokv::open_model(path);
  if (!files) return fail(files.failure().message);
  return print(json ? iokv::model_json(*files, tensors) : iokv::model_text(*files, tensors));
}

int generate_text(iokv::GenerateQuestion question) {
  if (question.prompt == "-") question.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  iokv::Status done = iokv::generate(question);
  return done ? 0 : fail(done.failure().message);
}

// A model's shape by its name, or of the files of a path.
iokv::Result<iokv::ModelSpec> model_of(const std::string& name_or_path) {
  if (name_or_path.find('/') == std::string::npos && !std::filesystem::exists(name_or_path)) {
    return iokv::known_shape(name_or_path);
  }
  IOKV_TRY_ASSIGN(const iokv::ModelFiles files, iokv::open_model(name_or_path));
  return files.spec();
}

int plan(iokv::PlanQuestion question, const std::string& hardware, const std::string& model, bool json,
         const std::string& svg_path) {
  iokv::Result<iokv::Hardware> found = iokv::find_hardware(hardware);
  if (!found) return fail(found.failure().message);
  question.hardware = *found;
  if (question.cpu_bytes_per_s >= 0) question.hardware.host_attend_bytes_per_s = question.cpu_bytes_per_s;
  iokv::Result<iokv::ModelSpec> spec = model_of(model);
  if (!spec) return fail(spec.failure().message);
  question.model = *spec;
  iokv::Result<iokv::PlanAnswer> answer = iokv::plan(question);
  if (!answer) return fail(answer.failure().message);
  if (!svg_path.empty()) {
    const int written = write_file(svg_path, iokv::plan_svg(question, iokv::plan_curve(question, *answer)));
    if (written != 0) return written;
  }
  return print(json ? iokv::plan_json(question, *answer) : iokv::plan_text(question, *answer));
}

// Prints those that are sound, and says of the others why they are not.
int profile(const std::string& path, const std::string& state_directory, bool json) {
  auto found = iokv::find_profiles(path, state_directory);
  if (!found) return fail(found.failure().message);
  const auto now_unix_s = static_cast<int64_t>(std::time(nullptr));
  bool sound = true;
  std::string text;
  for (iokv::FoundProfile& one : *found) {
    if (one.profile) {
      text += (text.empty() ? "" : "\n") + iokv::profile_text(one.path, *one.profile, now_unix_s);
    } else {
      fail(one.profile.failure().message);
      sound = false;
    }
  }
  const int printed = print(json ? iokv::profiles_json(*found, now_unix_s) : text);
  return sound ? printed : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App application("Uses a running iokvd, looks at it and at what it has measured, and plans for hardware that is not here.",
                       "iokv");
  application.require_subcommand(1);
  application.set_help_all_flag("--help-all", "print this help, and that of every command, and exit");
  std::string socket_path;
  bool json = false;
  auto add_socket = [&socket_path](CLI::App* command) {
    command->add_option("--socket", socket_path,
                        "default: $IOKV_SOCKET, else $XDG_RUNTIME_DIR/iokv.sock, else /run/iokv/iokv.sock");
  };
  CLI::App* status_command = application.add_subcommand("status", "print the daemon's counters");
  add_socket(status_command);
  status_command->add_flag("--json", json, "as one JSON object, counters by name");

  std::string metrics_path;
  CLI::App* metrics_command = application.add_subcommand(
      "metrics", "print the counters as Prometheus reads them, or serve them by HTTP on a socket that systemd passes on");
  add_socket(metrics_command);
  metrics_command->add_option("--listen", metrics_path, "serve them (GET /metrics) on a Unix socket at this path");

  double interval_s = 1;
  uint32_t frames = 0;
  CLI::App* top_command = application.add_subcommand("top", "show what the daemon does, second by second");
  add_socket(top_command);
  top_command->add_option("--interval", interval_s, "seconds (1)")->check(CLI::Range(0.05, 3600.0));
  top_command->add_option("--frames", frames, "end after so many (0: never)");

  iokv::GenerateQuestion text;
  CLI::App* generate_command = application.add_subcommand("generate", "print how the model continues a text, as it comes");
  generate_command->add_option("prompt", text.prompt, "the text; - reads standard input")->required();
  add_socket(generate_command);
  generate_command->add_option("--max-tokens", text.max_tokens, "at the most (128)")->check(CLI::Range(1u, 1u << 30));
  generate_command->add_option("--temperature", text.sampling.temperature, "0 takes the most probable token (0)");
  generate_command->add_option("--top-p", text.sampling.top_p, "0 to 1; 0: all (0)");
  generate_command->add_option("--top-k", text.sampling.top_k, "0: all (0)");
  generate_command->add_option("--min-p", text.sampling.min_p, "0 to 1 (0)");
  generate_command->add_option("--typical-p", text.sampling.typical_p, "0 to 1; 0: all (0)");
  generate_command->add_option("--repetition-penalty", text.sampling.repetition_penalty, "0.01 to 100; 0: none (0)");
  generate_command->add_option("--presence-penalty", text.sampling.presence_penalty, "-100 to 100 (0)");
  generate_command->add_option("--frequency-penalty", text.sampling.frequency_penalty, "-100 to 100 (0)");
  generate_command->add_option("--seed", text.sampling.seed, "the same seed gives the same text (0)");
  generate_command->add_flag("--tokens", text.only_tokens, "print the prompt's tokens instead");
  generate_command->add_flag("--statistics", text.statistics, "print on standard error how long it took");

  iokv::BenchQuestion load;
  CLI::App* bench_command = application.add_subcommand(
      "bench", "load the daemon with requests of random tokens that come as a Poisson process, and print percentiles");
  add_socket(bench_command);
  bench_command->add_option("--clients", load.clients, "connections (4)")->check(CLI::Range(1, 1024));
  bench_command->add_option("--rate", load.rate, "requests a second (4)")->check(CLI::Range(0.001, 1e6));
  bench_command->add_option("--seconds", load.seconds, "for which they come (10)")->check(CLI::Range(0.01, 1e6));
  bench_command->add_option("--prompt", load.prompt, "tokens of each (128)")->check(CLI::Range(1, 1'000'000));
  bench_command->add_option("--generate", load.generate, "tokens of each (64)")->check(CLI::Range(1, 1'000'000));
  bench_command->add_option("--seed", load.seed, "of arrivals and tokens (1)");
  bench_command->add_flag("--json", json, "as one JSON object");

  std::string root;
  CLI::App* doctor_command = application.add_subcommand("doctor", "say what this machine lacks for iokvd, and what mends it");
  add_socket(doctor_command);
  doctor_command->add_option("--root", root, "where /proc and /sys are, for looking at another machine's");
  doctor_command->add_flag("--json", json, "as a JSON array");

  std::string model_path;
  bool tensors = false;
  CLI::App* model_command = application.add_subcommand("model", "look at model files");
  model_command->require_subcommand(1);
  CLI::App* inspect_command = model_command->add_subcommand("inspect", "print what a model's files hold, without loading it");
  inspect_command->add_option("file", model_path, "a .gguf file or a directory in Hugging Face's layout")->required();
  inspect_command->add_flag("--tensors", tensors, "and every tensor");
  inspect_command->add_flag("--json", json, "as one JSON object");

  std::string trace_path;
  CLI::App* trace_command = application.add_subcommand(
      "trace", "write what the daemon's last steps did, and when, as a trace for Perfetto (ui.perfetto.dev) or Chrome");
  add_socket(trace_command);
  trace_command->add_option("--output", trace_path, "to this file instead of standard output");

  iokv::SequenceQuestion sequence;
  CLI::App* explain_command = application.add_subcommand(
      "explain", "print what bound the last steps of a sequence, or without one which are open");
  explain_command->add_option("sequence", sequence.id, "its id, as the client knows it");
  explain_command->add_option("--pid", sequence.pid, "of this process only");
  add_socket(explain_command);
  explain_command->add_flag("--json", json, "as a JSON array");

  iokv::VerifyQuestion check;
  CLI::App* verify_command = application.add_subcommand(
      "verify", "decode sequences of random tokens, read the same tokens in one go, and compare the logits");
  add_socket(verify_command);
  verify_command->add_option("--sequences", check.sequences, "side by side (4)")->check(CLI::Range(1, 1024));
  verify_command->add_option("--prompt", check.prompt, "tokens of each (200)")->check(CLI::Range(1, 1'000'000));
  verify_command->add_option("--generate", check.generate, "tokens of each (64)")->check(CLI::Range(1, 1'000'000));
  verify_command->add_option("--seed", check.seed, "of the tokens (1)");
  verify_command->add_option("--tolerance", check.tolerance,
                             "how far logits may differ, relative to the largest; 0: in no bit (0)")
      ->check(CLI::Range(0.0, 1.0));

  iokv::PlanQuestion question;
  std::string hardware, model, svg_path;
  CLI::App* plan_command = application.add_subcommand("plan", "predict decoding on some hardware");
  plan_command->add_option("--hardware", hardware, "a name (a wrong one lists them) or a .toml file")->required();
  plan_command->add_option("--model", model, "a name (a wrong one lists them) or a model's path")->required();
  plan_command->add_option("--batch", question.batch, "sequences")->required()->check(CLI::Range(1, 100'000));
  plan_command->add_option("--prompt", question.prompt, "tokens of each")->required()->check(CLI::Range(0, 10'000'000));
  plan_command->add_option("--generate", question.generate, "tokens of each")
      ->required()->check(CLI::Range(1, 10'000'000));
  const std::map<std::string, iokv::WeightSetting> places{{"auto", iokv::WeightSetting::automatic},
                                                          {"device", iokv::WeightSetting::device},
                                                          {"host", iokv::WeightSetting::host}};
  plan_command->add_option("--weights", question.weights,
                           "auto: as many layers' on the device as fit; device: all; host: none (auto)")
      ->transform(CLI::CheckedTransformer(places).description("auto, device or host"));
  plan_command->add_option("--device-weights-budget", question.device_weights_bytes,
                           "device memory for weights, such as 8GiB (what is left)")
      ->transform(CLI::AsSizeValue(true));
  plan_command->add_option("--device-memory", question.device_bytes,
                           "for weights and cached tokens together, divided between them as is best")
      ->transform(CLI::AsSizeValue(true));
  plan_command->add_option("--device-kv", question.device_kv_bytes, "device memory for cached tokens, such as 8GiB (0)")
      ->transform(CLI::AsSizeValue(true));
  plan_command->add_option_function<double>("--cpu-attention-gbps", [&question](double rate) { question.cpu_bytes_per_s = rate * 1e9; },
                                            "K,V that the host's CPU attends to, in GB/s; 0: none (as the hardware says)")
      ->check(CLI::Range(0.0, 1e6));
  plan_command->add_flag("--json", json, "as one JSON object");
  plan_command->add_option("--svg", svg_path, "draw the step's time over l to this file");

  std::string profile_path, state_directory;
  CLI::App* profile_command = application.add_subcommand("profile", "print what the daemon has measured of its device");
  profile_command->add_option("file", profile_path, "one profile (default: all of the state directory)");
  profile_command->add_option("--state-directory", state_directory,
                              "default: $IOKV_STATE_DIRECTORY, else $XDG_STATE_HOME/iokv, else ~/.local/state/iokv");
  profile_command->add_flag("--json", json, "as a JSON array, with the samples");
  CLI11_PARSE(application, argc, argv);
  if (status_command->parsed()) return status(socket_path, json);
  if (metrics_command->parsed()) return metrics(socket_path, metrics_path);
  if (top_command->parsed()) {
    iokv::Status shown = iokv::top(socket_path, interval_s, frames);
    return shown ? 0 : fail(shown.failure().message);
  }
  if (generate_command->parsed()) {
    text.socket_path = socket_path;
    return generate_text(text);
  }
  if (bench_command->parsed()) {
    load.socket_path = socket_path;
    return bench_daemon(load, json);
  }
  if (doctor_command->parsed()) return doctor(socket_path, root, json);
  if (inspect_command->parsed()) return inspect(model_path, tensors, json);
  if (verify_command->parsed()) {
    check.socket_path = socket_path;
    return verify_daemon(check);
  }
  if (explain_command->parsed()) return explain(socket_path, sequence, json);
  if (trace_command->parsed()) return trace(socket_path, trace_path);
  if (profile_command->parsed()) return profile(profile_path, state_directory, json);
  return plan(question, hardware, model, json, svg_path);
}
