// SPDX-License-Identifier: Apache-2.0
// Random weights beside the settings of real files: which tensors, of what size, distributed as they should be.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include <nlohmann/json.hpp>

#include "daemon/base/dtype.h"
#include "daemon/model/model_files.h"
#include "daemon/model/random_tensors.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;
namespace fs = std::filesystem;

namespace {

// A directory with config.json and nothing else.
class Settings {
 public:
  explicit Settings(const nlohmann::json& config) {
    char path[] = "/tmp/iokv-test-XXXXXX";
    path_ = ::mkdtemp(path);
    std::ofstream(path_ + "/config.json") << config.dump();
  }
  ~Settings() { fs::remove_all(path_); }
  Settings(const Settings&) = delete;
  Settings& operator=(const Settings&) = delete;
  ModelFiles open(uint64_t seed) const {
    auto opened = open_model(path_, seed);
    if (!opened) std::fprintf(stderr, "%s\n", opened.failure().message.c_str());
    assert_true(static_cast<bool>(opened));
    return *std::move(opened);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

nlohmann::json llama(uint32_t hidden, uint32_t layers, uint32_t vocab) {
  return {{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}, {"num_hidden_layers", layers},
          {"hidden_size", hidden}, {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"intermediate_size", 2 * hidden}, {"vocab_size", vocab}, {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-5}, {"rope_theta", 10000.0}, {"hidden_act", "silu"}, {"tie_word_embeddings", false},
          {"torch_dtype", "float16"}};
}

std::vector<float> numbers_of(const ModelFiles& files, Role role, uint32_t layer = 0) {
  const RoleShape shape = shape_of(role, files.spec());
  if (shape.columns == 0) return *files.vector(role, layer);
  auto source = *files.matrix(role, layer);
  std::vector<float> numbers(size_t{shape.rows} * shape.columns);
  for (uint32_t i = 0; i < shape.rows; i++) source->read_row(i, numbers.data() + size_t{i} * shape.columns);
  return numbers;
}

void assert_distributed(const std::vector<float>& numbers, double middle, double deviation) {
  double sum = 0, squares = 0;
  for (float number : numbers) {
    sum += number;
    squares += (number - middle) * (number - middle);
  }
  const double n = static_cast<double>(numbers.size()), found = std::sqrt(squares / n);
  if (std::abs(found / deviation - 1) > 0.02 + 3 / std::sqrt(n) || std::abs(sum / n - middle) > 5 * deviation / std::sqrt(n)) {
    fail_msg("%zu numbers around %g, %g apart; wanted %g, %g", numbers.size(), sum / n, found, middle, deviation);
  }
}

// The settings of files that transformers wrote, whose tensors open_model checks one by one in either case.
void every_family_gets_the_tensors_of_its_files(void**) {
  std::vector<std::string> directories{"tests/golden/llama_gqa", "tests/golden/llama_mha", "tests/golden/opt"};
  for (const auto& entry : fs::directory_iterator("tests/golden/families")) directories.push_back(entry.path().string());
  assert_true(directories.size() > 10);
  for (const std::string& directory : directories) {
    auto stored = open_model(directory), random = open_model(directory, 7);
    if (!random) fail_msg("%s: %s", directory.c_str(), random.failure().message.c_str());
    for (const auto& [name, tensor] : random->tensors().tensors()) {
      const TensorView* same = stored->tensors().find(name);
      if (same == nullptr || same->shape != tensor.shape) fail_msg("%s: %s", directory.c_str(), name.c_str());
    }
    for (size_t role = 0; role < kRoles; role++) {
      assert_int_equal(random->has(static_cast<Role>(role)), stored->has(static_cast<Role>(role)));
    }
    assert_memory_not_equal(stored->digest().data(), random->digest().data(), stored->digest().size());
  }
}

void numbers_are_as_wide_as_what_multiplies_them_needs(void**) {
  const ModelFiles files = Settings(llama(256, 2, 300)).open(1);
  assert_distributed(numbers_of(files, Role::down, 1), 0, 1 / std::sqrt(512.0));
  assert_distributed(numbers_of(files, Role::gate, 0), 0, 1 / 16.0);
  for (Role role : {Role::q, Role::k, Role::token_embedding, Role::lm_head}) assert_distributed(numbers_of(files, role), 0, 1.5 / 16);
  for (Role role : {Role::input_norm, Role::final_norm}) assert_distributed(numbers_of(files, role), 1, 0.1);
  const ModelFiles opt = *open_model("tests/golden/opt", 1);
  assert_distributed(numbers_of(opt, Role::up_bias), 0, 0.1);
}

void what_is_stored_as_bf16_is_random_as_bf16(void**) {
  nlohmann::json config = llama(64, 1, 100);
  assert_int_equal(Settings(config).open(1).main_type(), StoredType::f16);
  config.erase("torch_dtype");
  config["dtype"] = "bfloat16";
  const ModelFiles files = Settings(config).open(1);
  assert_int_equal(files.main_type(), StoredType::bf16);
  assert_distributed(numbers_of(files, Role::up), 0, 1 / 8.0);
}

void no_two_rows_and_no_two_tensors_are_the_same(void**) {
  const ModelFiles files = Settings(llama(128, 3, 200)).open(1);
  std::set<std::vector<float>> rows;
  size_t count = 0;
  for (Role role : {Role::q, Role::k, Role::v, Role::o, Role::gate, Role::up}) {
    for (uint32_t layer = 0; layer < 3; layer++) {
      const std::vector<float> numbers = numbers_of(files, role, layer);
      for (auto row = numbers.begin(); row != numbers.end(); row += 128) rows.emplace(row, row + 128);
      count += numbers.size() / 128;
    }
  }
  assert_int_equal(rows.size(), count);
}

void a_seed_repeats_itself_and_nothing_else(void**) {
  const Settings settings(llama(64, 2, 100));
  const ModelFiles first = settings.open(1), again = settings.open(1), other = settings.open(2);
  for (Role role : {Role::v, Role::down, Role::post_norm}) {
    assert_true(numbers_of(first, role, 1) == numbers_of(again, role, 1));
    assert_true(numbers_of(first, role, 1) != numbers_of(other, role, 1));
  }
  assert_true(first.digest() == again.digest());
  assert_true(first.digest() != other.digest());
}

// Embeddings and head lie in one sequence of 65,537 pages, in each of which there are 4 rows of 512 numbers. The table is
// 409.6 MB, more than those 268 MB.
void a_large_table_repeats_only_far_apart(void**) {
  const ModelFiles files = Settings(llama(512, 1, 400'000)).open(1);
  const uint64_t rows_of_block = 65'537ull * 4096 / 1024;
  auto table = *files.matrix(Role::token_embedding);
  std::vector<float> row(512), later(512);
  table->read_row(17, row.data());
  table->read_row(17 + static_cast<uint32_t>(rows_of_block), later.data());
  assert_true(row == later);
  for (uint32_t apart : {1u, 4u, 65'537u, 65'536u, 262'144u}) {
    table->read_row(17 + apart, later.data());
    assert_true(row != later);
  }
}

void files_that_have_no_settings_are_refused(void**) {
  auto gguf = open_model("tests/fuzz/seeds/gguf/llama", 1);
  assert_false(static_cast<bool>(gguf));
  assert_non_null(std::strstr(gguf.failure().message.c_str(), "random weights are for a directory with config.json"));
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_family_gets_the_tensors_of_its_files),
      cmocka_unit_test(numbers_are_as_wide_as_what_multiplies_them_needs),
      cmocka_unit_test(what_is_stored_as_bf16_is_random_as_bf16),
      cmocka_unit_test(no_two_rows_and_no_two_tensors_are_the_same),
      cmocka_unit_test(a_seed_repeats_itself_and_nothing_else),
      cmocka_unit_test(a_large_table_repeats_only_far_apart),
      cmocka_unit_test(files_that_have_no_settings_are_refused),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
