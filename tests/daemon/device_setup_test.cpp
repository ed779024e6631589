// SPDX-License-Identifier: Apache-2.0
// What the daemon makes of settings, a model's shape and a device.
#include "daemon/device_setup.h"

#include <utility>

#include "tests/backend/cpu_fixture.h"
#include "tests/golden/checkpoint.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;
using namespace iokv::test;

namespace {

template <typename T>
T taken(Result<T> result) {
  if (!result) fail_msg("%s", result.failure().message.c_str());
  return *std::move(result);
}

// Of four heads of 16, of which so many share K and V: X has 64 elements a token, K,V 32 a KV head.
Recompute recompute_of(uint32_t kv_heads, RecomputeSetting asked, double link_bytes_per_s) {
  Config config;
  config.model = directory_of("llama_mha");
  config.recompute = asked;
  const ModelFiles files = taken(open_model(config.model));
  ModelSpec spec = files.spec();
  assert_int_equal(spec.hidden, 64);
  assert_int_equal(spec.head_dim, 16);
  spec.kv_heads = kv_heads;
  const auto backend = taken(make_cpu_backend({DType::f32, 1, CpuIsa::automatic, link_bytes_per_s}));
  const HostPool memory = taken(HostPool::create(
      {spec.layers, block_bytes(spec, DType::f32, BlockForm::kv), block_bytes(spec, DType::f32, BlockForm::x)}, 8 << 20));
  const BlockPool blocks(memory.shape());
  return taken(plan_device(config, spec, *backend, memory, blocks)).recompute.mode;
}

void auto_keeps_no_x_that_is_no_smaller_than_kv(void**) {
  const RecomputeSetting automatic{Recompute::automatic, 0};
  assert_int_equal(recompute_of(4, automatic, 1e9), Recompute::automatic);
  assert_int_equal(recompute_of(2, automatic, 1e9), Recompute::never);  // as large
  assert_int_equal(recompute_of(1, automatic, 1e9), Recompute::never);
  // Nor where nothing has to be carried; what is asked for is done.
  assert_int_equal(recompute_of(4, automatic, 0), Recompute::never);
  assert_int_equal(recompute_of(1, {Recompute::always, 0}, 1e9), Recompute::always);
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {cmocka_unit_test(auto_keeps_no_x_that_is_no_smaller_than_kv)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
