// SPDX-License-Identifier: Apache-2.0
// A product of m rows with n·k weights is 2·m·n·k operations and reads n·k elements. Attention reads a token's K,V once for
// a sequence's rows; for each of them it takes 2·h operations for the scores and as many for the sums, h the width of a
// row's queries.
#include "daemon/runtime/expected_profile.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <span>

#include "daemon/backend/modelled/modelled_backend.h"

namespace iokv {
namespace {

// Elements of the matrices of a layer that rows go through one after the other.
std::array<uint64_t, 4> layer_matrices(const ModelSpec& spec) {
  const uint64_t h = spec.hidden, gates = is_gated(spec.activation) ? 2 : 1;
  return {h * (spec.q_width() + 2 * spec.kv_width()), h * spec.q_width(), h * spec.ffn * gates, h * spec.ffn};
}

uint64_t layer_weights(const ModelSpec& spec) {
  const auto matrices = layer_matrices(spec);
  return std::accumulate(matrices.begin(), matrices.end(), uint64_t{0});
}

// The output projection; the embedding before the first layer is a table, of which a step reads a row a token.
uint64_t head_weights(const ModelSpec& spec) { return uint64_t{spec.vocab} * spec.hidden; }

// Products of some rows with each of the matrices, and operations beside them that take a launch.
Curve products(const Hardware& hardware, std::span<const uint64_t> matrices, uint32_t element_bytes, uint32_t launches) {
  Curve curve;
  curve.least_ns = curve.fixed_ns = launches * hardware.launch_ns;
  for (uint64_t weights : matrices) {
    const double elements = static_cast<double>(weights);
    curve.least_ns += std::max(hardware.launch_ns, elements * element_bytes / hardware.memory_bytes_per_s * 1e9);
    curve.each_ns += 2 * elements / hardware.matrix_flop_per_s * 1e9;
  }
  return curve;
}

}  // namespace

CacheShape cache_shape_of(const ModelSpec& spec, uint32_t element_bytes) {
  return {spec.layers, spec.hidden * element_bytes, 2 * spec.kv_width() * element_bytes, 2 * spec.kv_heads};
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
  profile.piece_ns = kFurtherPieceNs;
  profile.duplex = hardware.duplex;
  const auto matrices = layer_matrices(spec);
  const std::array<uint64_t, 1> key_value{uint64_t{2} * spec.hidden * spec.kv_width()}, head{head_weights(spec)};
  profile.recompute = products(hardware, key_value, element_bytes, 0);
  const double kv_bytes = cache_shape_of(spec, element_bytes).kv_bytes;
  profile.attend = {hardware.launch_ns, 0, kv_bytes / hardware.memory_bytes_per_s * 1e9};
  profile.attend_rows = {hardware.launch_ns, 0, 4.0 * spec.q_width() / hardware.matrix_flop_per_s * 1e9};
  // The norm before attention and the one behind it.
  profile.dense = products(hardware, matrices, element_bytes, 2);
  const double project_ns = products(hardware, std::span(matrices).first(1), element_bytes, 1).least_ns;
  profile.project_share = project_ns / profile.dense.least_ns;
  // Embedding, norm and draws.
  profile.head = products(hardware, head, element_bytes, 3);
  profile.embed_ns = hardware.launch_ns;
  profile.keep_x = {hardware.launch_ns, 0, 2 / hardware.memory_bytes_per_s * 1e9};  // read and written
  profile.contention = hardware.contention;
  if (hardware.host_attend_bytes_per_s > 0) {
    profile.host_attend = {0, hardware.host_attend_ns, kv_bytes / hardware.host_attend_bytes_per_s * 1e9};
    // A row's queries to host memory, and the partial sums of its heads back.
    const double row_bytes = static_cast<double>(spec.q_width()) * element_bytes +
                             static_cast<double>(spec.heads * attend_state_floats(spec.head_dim) * sizeof(float));
    profile.exchange = {0, 2 * hardware.launch_ns, row_bytes / hardware.h2d_bytes_per_s * 1e9};
    profile.host_slows_link = hardware.host_slows_link;
  }
  return profile;
}

}  // namespace iokv
