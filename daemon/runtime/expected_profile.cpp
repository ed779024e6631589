// SPDX-License-Identifier: Apache-2.0
// A product of m rows with n·k weights is 2·m·n·k operations and reads n·k elements; attention to a token reads its K,V.
#include "daemon/runtime/expected_profile.h"

namespace iokv {
namespace {

uint64_t layer_weights(const ModelSpec& spec) {
  const uint64_t h = spec.hidden, projections = spec.activation == Activation::silu_glu ? 3 : 2;
  return h * spec.q_width() * 2 + h * spec.kv_width() * 2 + h * spec.ffn * projections;
}

// The output projection; the embedding before the first layer is a table, of which a step reads a row a token.
uint64_t head_weights(const ModelSpec& spec) { return uint64_t{spec.vocab} * spec.hidden; }

// Products of some rows with so many weights. One launch: an operation is launched while the one before runs, so that
// only the first is waited for.
Curve products(const Hardware& hardware, uint64_t weights, uint32_t element_bytes) {
  const double elements = static_cast<double>(weights);
  Curve curve;
  curve.least_ns = hardware.launch_ns + elements * element_bytes / hardware.memory_bytes_per_s * 1e9;
  curve.fixed_ns = hardware.launch_ns;
  curve.each_ns = 2 * elements / hardware.matrix_flop_per_s * 1e9;
  return curve;
}

}  // namespace

CacheShape cache_shape_of(const ModelSpec& spec, uint32_t element_bytes) {
  return {spec.layers, spec.hidden * element_bytes, 2 * spec.kv_width() * element_bytes};
}

uint64_t layer_weight_bytes(const ModelSpec& spec, uint32_t element_bytes) {
  return layer_weights(spec) * element_bytes;
}

uint64_t weight_bytes(const ModelSpec& spec, uint32_t element_bytes) {
  const uint64_t tables = spec.tied_embeddings ? 1 : 2;
  return (spec.layers * layer_weights(spec) + tables * head_weights(spec)) * element_bytes;
}

Profile expected_profile(const Hardware& hardware, const ModelSpec& spec, uint32_t element_bytes) {
  Profile profile;
  profile.h2d = {0, hardware.copy_ns, 1e9 / hardware.h2d_bytes_per_s};
  profile.d2h = {0, hardware.copy_ns, 1e9 / hardware.d2h_bytes_per_s};
  profile.duplex = hardware.duplex;
  profile.recompute = products(hardware, uint64_t{2} * spec.hidden * spec.kv_width(), element_bytes);
  const double kv_bytes = cache_shape_of(spec, element_bytes).kv_bytes;
  profile.attend = {0, hardware.launch_ns, kv_bytes / hardware.memory_bytes_per_s * 1e9};
  profile.dense = products(hardware, layer_weights(spec), element_bytes);
  profile.head = products(hardware, head_weights(spec), element_bytes);
  profile.contention = hardware.contention;
  return profile;
}

}  // namespace iokv
