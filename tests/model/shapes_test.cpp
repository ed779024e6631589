// SPDX-License-Identifier: Apache-2.0
// Well-known models by name, against what is published of them.
#include "daemon/model/shapes.h"

#include <cstring>
#include <iterator>

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

// Of a token as K and V, fp16: OPT-6.7B keeps 512 KiB, Llama-3-8B a quarter of Llama-2-7B's.
void a_token_takes_the_bytes_that_it_is_known_for(void**) {
  const struct {
    const char* name;
    uint64_t kv_kib;
    uint32_t head_dim;
  } rows[] = {{"opt-6.7b", 512, 128}, {"opt-13b", 800, 128},    {"opt-30b", 1344, 128},
              {"llama-2-7b", 512, 128}, {"llama-3-8b", 128, 128}, {"llama-3-70b", 320, 128},
              {"opt-66b", 2304, 128}};
  for (const auto& row : rows) {
    Result<ModelSpec> spec = known_shape(row.name);
    assert_true(static_cast<bool>(spec));
    assert_string_equal(spec->name.c_str(), row.name);
    assert_int_equal(uint64_t{2} * 2 * spec->layers * spec->kv_width(), row.kv_kib * 1024);
    assert_int_equal(spec->head_dim, row.head_dim);
    assert_int_equal(spec->q_width(), spec->hidden);
    assert_int_equal(spec->heads % spec->kv_heads, 0);
  }
  assert_int_equal(known_shapes().size(), std::size(rows));
}

void an_unknown_name_lists_those_that_are_known(void**) {
  for (const char* wrong : {"", "OPT-6.7B", "gpt-5"}) {
    Result<ModelSpec> result = known_shape(wrong);
    assert_false(static_cast<bool>(result));
    const std::string& message = result.failure().message;
    assert_non_null(std::strstr(message.c_str(), (std::string("\"") + wrong + "\"").c_str()));
    for (const std::string& name : known_shapes()) assert_non_null(std::strstr(message.c_str(), name.c_str()));
  }
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_token_takes_the_bytes_that_it_is_known_for),
      cmocka_unit_test(an_unknown_name_lists_those_that_are_known),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
