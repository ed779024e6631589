// SPDX-License-Identifier: Apache-2.0
// Which profile the daemon takes: the stored one, or another that is measured and stored.
#include "daemon/runtime/profile_choice.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "daemon/backend/cpu/cpu_backend.h"
#include "daemon/model/model_files.h"
#include "daemon/runtime/profile_file.h"
#include "tests/golden/checkpoint.h"
#include "tests/golden/decoder.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

using test::must;

struct Chooser {
  test::TemporaryDirectory directory;
  std::unique_ptr<Backend> backend = must(make_cpu_backend({DType::f32, 1}));
  ModelFiles files = must(open_model("tests/golden/llama_gqa"));
  Weights weights = must(load_weights(*backend, files, {}));
  ProfileChoice choice;
  std::string path = profile_path(directory.path(), profile_key(backend->info(), files.spec()));

  Chooser() {
    choice.state_directory = directory.path();
    choice.limits.curve_ns = 5'000'000;
    choice.limits.rounds = 2;
  }
  std::string chosen() { return profile_hash(must(profile_for(*backend, files.spec(), weights, choice))); }
  std::string stored() { return profile_hash(must(read_profile(path)).measured.profile); }
};

void a_stored_profile_is_used_until_it_does_not_fit(void**) {
  Chooser chooser;
  const std::string first = chooser.chosen();
  assert_true(chooser.stored() == first);
  assert_true(chooser.chosen() == first);  // the same to the last bit: not measured again
  chooser.choice.mode = ProfileMode::measure;
  const std::string second = chooser.chosen();
  assert_true(second != first && chooser.stored() == second);
  chooser.choice.mode = ProfileMode::automatic;

  std::ofstream(chooser.path, std::ios::in | std::ios::binary).seekp(100).put('!');
  const std::string third = chooser.chosen();
  assert_true(third != second && chooser.stored() == third);

  StoredProfile other = must(read_profile(chooser.path));
  other.key.device = "cpu (another)";
  assert_true(static_cast<bool>(write_profile(chooser.path, other)));
  const std::string fourth = chooser.chosen();
  assert_true(fourth != third && chooser.stored() == fourth);
  assert_true(must(read_profile(chooser.path)).key.device == chooser.backend->info().name);
}

void no_place_to_keep_it_is_no_failure(void**) {
  Chooser chooser;
  const std::string in_the_way = chooser.directory.path() + "/file";
  std::ofstream(in_the_way) << "x";
  chooser.choice.state_directory = in_the_way;
  const std::string first = chooser.chosen();
  assert_true(first != chooser.chosen());
}

void off_knows_nothing(void**) {
  Chooser chooser;
  chooser.choice.mode = ProfileMode::off;
  assert_true(chooser.chosen() == profile_hash(Profile{}));
  assert_false(std::filesystem::exists(chooser.path));
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_stored_profile_is_used_until_it_does_not_fit),
      cmocka_unit_test(no_place_to_keep_it_is_no_failure),
      cmocka_unit_test(off_knows_nothing),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
