// SPDX-License-Identifier: Apache-2.0
// The command line and the file: the same settings by the same names, and what is wrong with a wrong one.
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "daemon/config.h"
#include "daemon/settings.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

Result<CommandLine> read(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "iokvd");
  return read_command_line(static_cast<int>(arguments.size()), arguments.data());
}

class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) {
    const int descriptor = ::mkstemp(path_);
    assert_int_equal(::write(descriptor, text.data(), text.size()), text.size());
    ::close(descriptor);
  }
  ~ConfigFile() { ::unlink(path_); }
  const char* path() const { return path_; }

 private:
  char path_[32] = "/tmp/iokv-config-XXXXXX";
};

void assert_refused(Result<CommandLine> result, const char* mentions) {
  assert_false(static_cast<bool>(result));
  if (std::strstr(result.failure().message.c_str(), mentions) == nullptr) {
    fail_msg("\"%s\" does not mention \"%s\"", result.failure().message.c_str(), mentions);
  }
}

void options_set_what_they_say(void**) {
  auto line = read({"--model", "m", "--pool-bytes", "3GiB", "--dtype", "f32", "--recompute", "always", "--max-clients", "7",
                    "--profile", "off", "--state-directory", "/state", "--audit", "0.25", "--trace-steps", "5", "--backend",
                    "cuda", "--gpu", "3", "--batch-invariant", "off", "--max-rows", "512", "--staging-bytes", "1MiB",
                    "--weights", "host", "--device-weights-budget", "2GiB"});
  assert_true(static_cast<bool>(line));
  assert_string_equal(line->config.model.c_str(), "m");
  assert_int_equal(line->config.pool_bytes, uint64_t{3} << 30);
  assert_true(line->config.dtype == DType::f32);
  assert_true(line->config.recompute.mode == Recompute::always);
  assert_int_equal(line->config.max_clients, 7);
  assert_true(line->config.profile == ProfileMode::off);
  assert_string_equal(line->config.state_directory.c_str(), "/state");
  assert_true(line->config.audit == 0.25);
  assert_int_equal(line->config.trace_steps, 5);
  assert_true(line->config.backend == BackendChoice::cuda);
  assert_int_equal(line->config.gpu, 3);
  assert_false(line->config.batch_invariant);
  assert_int_equal(line->config.max_rows, 512);
  assert_int_equal(line->config.staging_bytes, 1 << 20);
  assert_true(line->config.weights == WeightSetting::host);
  assert_int_equal(line->config.device_weights_budget, uint64_t{2} << 30);
}

void the_command_line_beats_the_file(void**) {
  const ConfigFile file("model = \"from file\"\nmax_clients = 9\npool_bytes = \"64MiB\"\n");
  auto line = read({"--config", file.path(), "--max-clients", "3"});
  assert_true(static_cast<bool>(line));
  assert_string_equal(line->config.model.c_str(), "from file");
  assert_int_equal(line->config.max_clients, 3);
  assert_int_equal(line->config.pool_bytes, 64 << 20);
}

void weights_are_a_users_by_name_or_uid(void**) {
  auto line = read({"--model", "m", "--client-weight", "root=4", "--client-weight", "1234=2"});
  assert_true(static_cast<bool>(line));
  assert_true(line->config.client_weights == (std::map<uint32_t, uint32_t>{{0, 4}, {1234, 2}}));
  const ConfigFile file("model = \"m\"\nclient_weight = [\"root=3\", \"7=1000\"]\n");
  line = read({"--config", file.path(), "--client-weight", "0=5"});
  assert_true(static_cast<bool>(line));
  assert_true(line->config.client_weights == (std::map<uint32_t, uint32_t>{{0, 5}, {7, 1000}}));
  const ConfigFile one("model = \"m\"\nclient_weight = \"root=3\"\n");
  assert_int_equal(read({"--config", one.path()})->config.client_weights.at(0), 3);
}

void limits_are_everybodys_or_a_users(void**) {
  auto line = read({"--model", "m", "--user-clients", "4", "--user-limit", "root=clients:9,pool_percent:50", "--user-limit",
                    "7=queued_tokens:1000"});
  assert_true(static_cast<bool>(line));
  assert_int_equal(line->config.user_clients, 4);
  const AccessLimits access{{4, 0, 100, 0}, line->config.user_limits};
  assert_int_equal(access.of(0).clients, 9);
  assert_int_equal(access.of(0).pool_percent, 50);
  assert_int_equal(access.of(7).clients, 4);
  assert_int_equal(access.of(7).queued_tokens, 1000);
  assert_int_equal(access.of(8).pool_percent, 100);
  assert_refused(read({"--model", "m", "--user-limit", "7"}), "USER=LIMIT:NUMBER");
  assert_refused(read({"--model", "m", "--user-limit", "7=clients"}), "\"clients\" is not LIMIT:NUMBER");
  assert_refused(read({"--model", "m", "--user-limit", "7=cliens:3"}), "no limit \"cliens\"");
  assert_refused(read({"--model", "m", "--user-limit", "7=pool_percent:0"}), "from 1 to 100");
  assert_refused(read({"--model", "m", "--user-limit", "7=clients:1,"}), "\"\" is not LIMIT:NUMBER");
}

void mistakes_are_named_with_their_place(void**) {
  assert_refused(read({}), "--model");
  assert_refused(read({"--model", "m", "--pool-bytes", "many"}), "--pool-bytes: \"many\"");
  assert_refused(read({"--model", "m", "--dtype", "f64"}), "bf16");
  assert_refused(read({"--model", "m", "--backend", "tpu"}), "auto, cuda, cpu");
  assert_refused(read({"--model", "m", "--max-clients", "0"}), "from 1 to");
  assert_refused(read({"--model", "m", "--nonsense"}), "nonsense");
  assert_refused(read({"--model", "m", "--pool-byte=1GiB"}), "did you mean --pool-bytes?");
  assert_refused(read({"--model", "m", "--model", "n"}), "--model");
  assert_refused(read({"--model", "m", "n"}), "n");
  assert_refused(read({"--model", "m", "--client-weight", "root"}), "--client-weight: \"root\" is not USER=WEIGHT");
  assert_refused(read({"--model", "m", "--client-weight", "=3"}), "USER=WEIGHT");
  assert_refused(read({"--model", "m", "--client-weight", "root=0"}), "root=0: \"0\" is not a number from 1 to 1000");
  assert_refused(read({"--model", "m", "--client-weight", "root=1001"}), "from 1 to 1000");
  assert_refused(read({"--model", "m", "--client-weight", "no such user=2"}), "no user \"no such user\"");
  assert_refused(read({"--model", "m", "--client-weight", "4294967295=2"}), "no user \"4294967295\"");
  assert_refused(read({"--model", "m", "--prefill-delay-percent", "1001"}), "from 0 to 1000");
  assert_refused(read({"--model", "m", "--audit", "1.5"}), "--audit: \"1.5\" is not a number from 0 to 1");
  const ConfigFile weights("model = \"m\"\nclient_weight = [\"root=1\", true]\n");
  assert_refused(read({"--config", weights.path()}), ":2: client_weight: must be a string or a number");
  const ConfigFile unknown("model = \"m\"\npool_size = 1\n");
  assert_refused(read({"--config", unknown.path()}), ":2: no setting \"pool_size\"");
  const ConfigFile misspelt("model = \"m\"\nmax_client = 1\n");
  assert_refused(read({"--config", misspelt.path()}), ":2: no setting \"max_client\"; did you mean max_clients?");
  const ConfigFile nothing_like("model = \"m\"\nzzzzzz = 1\n");
  assert_refused(read({"--config", nothing_like.path()}), "there are: audit, backend, batch_invariant");
  const ConfigFile no_model("threads = 1\n");
  assert_refused(read({"--config", no_model.path()}), "no model");
  const ConfigFile wrong("\nthreads = \"all\"\n");
  assert_refused(read({"--config", wrong.path()}), ":2: threads: \"all\"");
  const ConfigFile list("model = [1]\n");
  assert_refused(read({"--config", list.path()}), "must be a string or a number");
  const ConfigFile broken("model = \n");
  assert_refused(read({"--config", broken.path()}), ":1:");
  assert_refused(read({"--config", "/nonexistent-iokv.toml"}), "/nonexistent-iokv.toml");
}

// Every line "#key = value" of it, with the # taken away, is understood and changes nothing.
void the_default_file_says_what_the_defaults_are(void**) {
  std::istringstream lines(default_file());
  std::string line, taken;
  size_t keys = 0;
  while (std::getline(lines, line)) {
    if (line.size() < 2 || line[0] != '#' || line[1] == ' ') continue;
    line.erase(0, 1);
    keys++;
    taken += line.starts_with("model = ") ? "model = \"m\"\n" : line + "\n";
  }
  assert_int_equal(keys, settings().size());
  const ConfigFile file(taken);
  auto all = read({"--config", file.path()});
  if (!all) fail_msg("%s", all.failure().message.c_str());
  auto none = read({"--model", "m"});
  for (const ConfigChange& change : take_over(none->config, all->config)) fail_msg("%s", change.what.c_str());
}

void a_changed_setting_says_whether_a_running_daemon_takes_it(void**) {
  auto before = read({"--model", "m", "--client-weight", "7=2"});
  auto after = read({"--model", "m", "--log-level", "debug", "--max-clients", "9", "--client-weight", "8=3"});
  std::map<std::string, bool> found;
  for (const ConfigChange& change : take_over(before->config, after->config)) found[change.what] = change.now;
  assert_true(found == (std::map<std::string, bool>{{"log_level: info -> debug", true},
                                                    {"max_clients: 64 -> 9", false},
                                                    {"client_weight: 7=2 -> 8=3", true}}));
  // What could be taken has been, and what could not still differs.
  assert_string_equal(before->config.log_level.c_str(), "debug");
  assert_true(before->config.client_weights == after->config.client_weights);
  assert_int_equal(before->config.max_clients, 64);
  assert_int_equal(take_over(before->config, after->config).size(), 1);
}

void checking_ends_with_what_is_wrong_or_nothing(void**) {
  auto good = read({"--model", "m", "--check-config"});
  assert_int_equal(good->exit.value(), 0);
  assert_refused(read({"--model", "m", "--check-config", "--threads", "x"}), "--threads");
}

void the_nearest_name_is_found_where_one_is_near(void**) {
  const std::vector<std::string> names = {"pool_bytes", "max_clients", "audit", "gpu"};
  assert_string_equal(nearest("pol_byts", names).c_str(), "pool_bytes");
  assert_string_equal(nearest("max_sclients", names).c_str(), "max_clients");
  assert_string_equal(nearest("adit", names).c_str(), "audit");
  assert_string_equal(nearest("entirely_other", names).c_str(), "");
}

void sizes_have_binary_units(void**) {
  assert_int_equal(*parse_bytes("4096"), 4096);
  assert_int_equal(*parse_bytes("512MiB"), 512 << 20);
  assert_int_equal(*parse_bytes("2G"), uint64_t{2} << 30);
  for (const char* wrong : {"", "MiB", "1.5GiB", "-1", "1TB", "99999999999GiB"}) assert_false(static_cast<bool>(parse_bytes(wrong)));
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(options_set_what_they_say),
      cmocka_unit_test(the_command_line_beats_the_file),
      cmocka_unit_test(weights_are_a_users_by_name_or_uid),
      cmocka_unit_test(limits_are_everybodys_or_a_users),
      cmocka_unit_test(mistakes_are_named_with_their_place),
      cmocka_unit_test(the_default_file_says_what_the_defaults_are),
      cmocka_unit_test(a_changed_setting_says_whether_a_running_daemon_takes_it),
      cmocka_unit_test(checking_ends_with_what_is_wrong_or_nothing),
      cmocka_unit_test(the_nearest_name_is_found_where_one_is_near),
      cmocka_unit_test(sizes_have_binary_units),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
