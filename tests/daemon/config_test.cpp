// SPDX-License-Identifier: Apache-2.0
// The command line and the file: the same settings by the same names, and what is wrong with a wrong one.
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "daemon/config.h"

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

void mistakes_are_named_with_their_place(void**) {
  assert_refused(read({}), "--model");
  assert_refused(read({"--model", "m", "--pool-bytes", "many"}), "--pool-bytes: \"many\"");
  assert_refused(read({"--model", "m", "--dtype", "f64"}), "bf16");
  assert_refused(read({"--model", "m", "--backend", "tpu"}), "cpu, cuda");
  assert_refused(read({"--model", "m", "--staging-bytes", "0"}), "--staging-bytes");
  assert_refused(read({"--model", "m", "--max-clients", "0"}), "from 1 to");
  assert_refused(read({"--model", "m", "--nonsense"}), "nonsense");
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
  const ConfigFile wrong("\nthreads = \"all\"\n");
  assert_refused(read({"--config", wrong.path()}), ":2: threads: \"all\"");
  const ConfigFile list("model = [1]\n");
  assert_refused(read({"--config", list.path()}), "must be a string or a number");
  const ConfigFile broken("model = \n");
  assert_refused(read({"--config", broken.path()}), ":1:");
  assert_refused(read({"--config", "/nonexistent-iokv.toml"}), "/nonexistent-iokv.toml");
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
      cmocka_unit_test(mistakes_are_named_with_their_place),
      cmocka_unit_test(sizes_have_binary_units),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
