// SPDX-License-Identifier: Apache-2.0
// Profiles on disk: what is written comes back, and whatever else lies there is refused with a reason.
#include "daemon/runtime/profile_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "daemon/runtime/state_directory.h"
#include "tests/golden/checkpoint.h"
#include "tests/sched/profiles.h"

#include "tests/cmocka_cpp.h"

namespace iokv {
namespace {

constexpr int64_t kNow = 1'800'000'000, kDay = 86400;

ModelSpec spec() {
  ModelSpec made;
  made.family = "llama";
  made.layers = 3;
  made.hidden = 64;
  made.heads = made.kv_heads = 4;
  made.head_dim = 16;
  made.ffn = 96;
  made.vocab = 128;
  made.max_context = 1024;
  return made;
}

DeviceInfo device() {
  DeviceInfo info;
  info.name = "cpu (avx2, 2 threads, link 0.5 GB/s)";
  info.driver = "550.54";
  info.compute = DType::bf16;
  info.paced_bytes_per_s = 0.5e9;
  return info;
}

StoredProfile stored(uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  StoredProfile made;
  made.key = profile_key(device(), spec());
  made.measured_unix_s = kNow;
  made.measured.profile = random_profile(random);
  made.measured.took_ns = 1.25e9;
  made.measured.link_slows_dense = made.measured.profile.link_slowdown = 1.1;
  for (auto& samples : made.measured.samples) {
    for (int i = 0; i < 5; ++i) samples.push_back({static_cast<double>(1 << i), 1e9 / static_cast<double>(random() % 1000 + 1)});
  }
  return made;
}

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void put(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

template <typename T>
void assert_refused(Result<T> result, const char* mentions) {
  assert_false(static_cast<bool>(result));
  if (std::strstr(result.failure().message.c_str(), mentions) != nullptr) return;
  fail_msg("\"%s\" does not mention \"%s\"", result.failure().message.c_str(), mentions);
}

void what_is_written_comes_back_to_the_bit(void**) {
  test::TemporaryDirectory directory;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    const StoredProfile written = stored(seed);
    const std::string path = directory.path() + "/deeper/still/profile.json";  // made on the way
    assert_true(static_cast<bool>(write_profile(path, written)));
    Result<StoredProfile> read = read_profile(path);
    assert_true(static_cast<bool>(read));
    assert_true(read->key == written.key);
    assert_int_equal(read->measured_unix_s, kNow);
    assert_true(profile_hash(read->measured.profile) == profile_hash(written.measured.profile));
    assert_true(read->measured.profile.dense.each_ns == written.measured.profile.dense.each_ns);
    for (const ProfileNumber& named : kProfileNumbers) {
      assert_true(read->measured.profile.*named.number == written.measured.profile.*named.number);
    }
    assert_true(read->measured.took_ns == written.measured.took_ns);
    assert_true(read->measured.link_slows_dense == written.measured.link_slows_dense);
    for (size_t i = 0; i < kProfileCurves.size(); ++i) {
      assert_int_equal(read->measured.samples[i].size(), 5);
      assert_true(read->measured.samples[i][3].ns == written.measured.samples[i][3].ns);
    }
    assert_true(static_cast<bool>(check_profile(*read, profile_key(device(), spec()), kNow + kDay)));
  }
}

void no_byte_can_change_unseen(void**) {
  test::TemporaryDirectory directory;
  const std::string path = directory.path() + "/profile.json";
  assert_true(static_cast<bool>(write_profile(path, stored())));
  const std::string whole = contents(path);
  std::mt19937_64 random(test_seed());
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ (1 + random() % 255));
    put(path, flipped);
    assert_refused(read_profile(path), "corrupt");
  }
  for (size_t length = 0; length < whole.size(); length += 1 + random() % 7) {
    put(path, whole.substr(0, length));
    assert_refused(read_profile(path), "corrupt");
  }
  put(path, whole + "\n");
  assert_refused(read_profile(path), "corrupt");
  put(path, whole + whole);
  assert_refused(read_profile(path), "corrupt");
  put(path, whole);
  assert_true(static_cast<bool>(read_profile(path)));
}

void what_is_no_file_of_ours_is_refused(void**) {
  test::TemporaryDirectory directory;
  const std::string path = directory.path() + "/profile.json";
  assert_refused(read_profile(path), "none yet");
  assert_refused(read_profile(directory.path()), "cannot be read");
  put(path, std::string(2 << 20, ' '));
  assert_refused(read_profile(path), "cannot be read, or is no profile");
  put(path, std::string(1 << 20, '['));
  assert_refused(read_profile(path), "corrupt");
}

// Contents that are wrong under a right checksum: a writer of another version, or of another mind.
void sealed_nonsense_is_refused(void**) {
  test::TemporaryDirectory directory;
  const std::string path = directory.path() + "/profile.json";
  StoredProfile wrong = stored();
  wrong.measured.profile.h2d.each_ns = -1;
  assert_true(static_cast<bool>(write_profile(path, wrong)));
  assert_refused(read_profile(path), "each_ns is out of range");
  wrong = stored();
  wrong.measured.profile.contention = NAN;  // null in JSON
  assert_true(static_cast<bool>(write_profile(path, wrong)));
  assert_refused(read_profile(path), "corrupt");
  wrong = stored();
  wrong.measured.samples[2].resize(kMostSamples + 1, {1, 1});
  assert_true(static_cast<bool>(write_profile(path, wrong)));
  assert_refused(read_profile(path), "too many samples");
}

void another_device_model_or_time_says_so(void**) {
  const ProfileKey key = profile_key(device(), spec());
  assert_true(static_cast<bool>(check_profile(stored(), key, kNow)));
  auto refused = [&](auto change, const char* mentions) {
    StoredProfile other = stored();
    change(other);
    assert_refused(check_profile(other, key, kNow), mentions);
  };
  refused([](StoredProfile& other) { other.key.device = "cpu (avx512, 64 threads)"; }, "from another device, \"cpu (avx512");
  refused([](StoredProfile& other) { other.key.driver = "535.1"; }, "driver \"535.1\"");
  refused([](StoredProfile& other) { other.key.iokv = "0.0.9"; }, "iokv 0.0.9");
  refused([](StoredProfile& other) { other.key.dtype = "f32"; }, "measured in f32");
  refused([](StoredProfile& other) { other.key.ffn = 97; }, "another shape");
  refused([](StoredProfile& other) { other.key.link = false; }, "without a link");
  refused([](StoredProfile& other) { other.key.paced_bytes_per_s = 2e9; }, "a link of another rate");
  refused([](StoredProfile& other) { other.measured_unix_s = kNow - 31 * kDay; }, "stale: measured 31 days ago");
  refused([](StoredProfile& other) { other.measured_unix_s = kNow + 2 * kDay; }, "in the future");
}

void a_failed_write_leaves_what_was_there(void**) {
  test::TemporaryDirectory directory;
  put(directory.path() + "/file", "x");
  assert_refused(write_profile(directory.path() + "/file/profile.json", stored()), "file");
  // A directory in the file's place: the rename fails, and nothing stays behind.
  std::filesystem::create_directory(directory.path() + "/taken");
  assert_refused(write_profile(directory.path() + "/taken", stored()), "taken");
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory.path())) ++files;
  assert_int_equal(files, 2);
}

void equal_profiles_have_equal_hashes(void**) {
  Profile a = stored(1).measured.profile;
  const Profile b = a;
  assert_true(profile_hash(a) == profile_hash(b));
  assert_int_equal(profile_hash(a).size(), 16);
  a.h2d.fixed_ns = std::nextafter(a.h2d.fixed_ns, 1e9);
  assert_true(profile_hash(a) != profile_hash(b));
}

void each_shape_and_kind_of_device_has_its_place(void**) {
  ProfileKey key = profile_key(device(), spec());
  const std::string path = profile_path("/state", key);
  assert_true(path.starts_with("/state/profile-cpu-link0.5-llama-3x64-bf16-"));
  key.paced_bytes_per_s = 2e9;
  assert_true(profile_path("/state", key).starts_with("/state/profile-cpu-link2-llama-3x64-bf16-"));
  key.paced_bytes_per_s = 0.5e9;
  key.device = "cpu (portable, 1 thread)";
  assert_true(profile_path("/state", key) == path);
  key.vocab = 129;
  assert_true(profile_path("/state", key) != path);
  key.device = "NVIDIA/../H200 SXM";
  key.paced_bytes_per_s = 0;
  assert_true(profile_path("/state", key).starts_with("/state/profile-nvidiah200-llama"));
}

void the_state_directory_is_the_first_that_is_named(void**) {
  for (const char* name : {"IOKV_STATE_DIRECTORY", "STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"}) ::unsetenv(name);
  assert_string_equal(choose_state_directory("").c_str(), "");
  ::setenv("HOME", "/home/anna", 1);
  assert_string_equal(choose_state_directory("").c_str(), "/home/anna/.local/state/iokv");
  ::setenv("XDG_STATE_HOME", "relative", 1);
  assert_string_equal(choose_state_directory("").c_str(), "/home/anna/.local/state/iokv");
  ::setenv("XDG_STATE_HOME", "/x", 1);
  assert_string_equal(choose_state_directory("").c_str(), "/x/iokv");
  ::setenv("STATE_DIRECTORY", "/var/lib/iokv:/var/lib/other", 1);
  assert_string_equal(choose_state_directory("").c_str(), "/var/lib/iokv");
  ::setenv("IOKV_STATE_DIRECTORY", "/own", 1);
  assert_string_equal(choose_state_directory("").c_str(), "/own");
  assert_string_equal(choose_state_directory("/set").c_str(), "/set");
}

}  // namespace
}  // namespace iokv

int main() {
  using namespace iokv;
  const CMUnitTest tests[] = {
      cmocka_unit_test(what_is_written_comes_back_to_the_bit),
      cmocka_unit_test(no_byte_can_change_unseen),
      cmocka_unit_test(what_is_no_file_of_ours_is_refused),
      cmocka_unit_test(sealed_nonsense_is_refused),
      cmocka_unit_test(another_device_model_or_time_says_so),
      cmocka_unit_test(a_failed_write_leaves_what_was_there),
      cmocka_unit_test(equal_profiles_have_equal_hashes),
      cmocka_unit_test(each_shape_and_kind_of_device_has_its_place),
      cmocka_unit_test(the_state_directory_is_the_first_that_is_named),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
