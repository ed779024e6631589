// SPDX-License-Identifier: Apache-2.0
// Reads roles from ModelFiles, fuses those that one product serves, and hands them to the backend; see weights.h.
#include "daemon/model/weights.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include "daemon/model/model_files.h"

namespace iokv {
namespace {

// The rows of several matrices of the same width, one after the other.
// With `as_elements` they are never had in the few bits in which they may be stored.
class FusedRows final : public RowSource {
 public:
  explicit FusedRows(bool as_elements) : as_elements_(as_elements) {}
  void append(std::unique_ptr<RowSource> source, uint32_t rows) {
    form_ = parts_.empty() ? source->quant_form() : common_form(form_, source->quant_form());
    parts_.push_back({std::move(source), rows_});
    rows_ += rows;
  }
  uint32_t rows() const { return rows_; }

  void read_row(uint32_t index, float* row) const override {
    const Part& part = part_of(index);
    part.source->read_row(index - part.first_row, row);
  }

  QuantForm quant_form() const override { return as_elements_ ? QuantForm() : form_; }
  void read_quants(uint32_t index, const QuantRow& row) const override {
    const Part& part = part_of(index);
    const QuantForm form = part.source->quant_form();
    const size_t blocks = row.quants.size() / form.block;
    part.source->read_quants(index - part.first_row, {row.quants, row.scales.first(blocks), row.minima.first(blocks)});
    widen(form, form_, row);
  }

 private:
  struct Part {
    std::unique_ptr<RowSource> source;
    uint32_t first_row;
  };
  const Part& part_of(uint32_t index) const {
    auto after = std::upper_bound(parts_.begin(), parts_.end(), index,
                                  [](uint32_t wanted, const Part& part) { return wanted < part.first_row; });
    return *std::prev(after);
  }

  bool as_elements_;
  std::vector<Part> parts_;
  uint32_t rows_ = 0;
  QuantForm form_;  // of all of them
};

class Loader {
 public:
  Loader(Backend& backend, const ModelFiles& files, const LoadProgress& progress, const WeightPlacement& placement)
      : backend_(backend), files_(files), spec_(files.spec()), progress_(progress), placement_(placement) {}

  Result<Weights> load() {
    Weights weights;
    total_elements_ = count_elements();
    IOKV_TRY_ASSIGN(weights.embedding, matrix({Role::token_embedding}));
    if (files_.has(Role::position_embedding)) {
      IOKV_TRY_ASSIGN(weights.positions, matrix({Role::position_embedding}));
    }
    if (placement_.layers.streamed > 0) {
      IOKV_TRY_ASSIGN(weights.stream, WeightStream::make(backend_, spec_, placement_));
      stored_bytes_ += weights.stream->device_bytes();
      stream_ = weights.stream.get();
    }
    weights.layers.resize(spec_.layers);
    for (uint32_t layer = 0; layer < spec_.layers; ++layer) {
      IOKV_TRY(load_layer(layer, weights.layers[layer]));
    }
    IOKV_TRY_ASSIGN(weights.final_norm, norm(Role::final_norm, Role::final_norm_bias));
    if (!spec_.tied_embeddings) {
      IOKV_TRY_ASSIGN(weights.own_head, matrix({Role::lm_head}));
    }
    IOKV_TRY_ASSIGN(weights.head_bias, vector({Role::lm_head_bias}, 0));
    weights.stored_bytes = stored_bytes_;
    return weights;
  }

 private:
  using Roles = std::initializer_list<Role>;

  Status load_layer(uint32_t layer, LayerWeights& weights) {
    IOKV_TRY_ASSIGN(weights.attention_norm, norm(Role::input_norm, Role::input_norm_bias, layer));
    IOKV_TRY_ASSIGN(weights.qkv,
                    linear(LayerMatrix::qkv, {Role::q, Role::k, Role::v}, {Role::q_bias, Role::k_bias, Role::v_bias}, layer));
    IOKV_TRY_ASSIGN(weights.q_norm, vector({Role::q_norm}, layer));
    IOKV_TRY_ASSIGN(weights.k_norm, vector({Role::k_norm}, layer));
    IOKV_TRY_ASSIGN(weights.o, linear(LayerMatrix::o, {Role::o}, {Role::o_bias}, layer));
    IOKV_TRY_ASSIGN(weights.attention_out_norm.weight, vector({Role::attention_out_norm}, layer));
    if (!spec_.norm_weights || files_.has(Role::post_norm, layer)) {
      IOKV_TRY_ASSIGN(weights.mlp_norm, norm(Role::post_norm, Role::post_norm_bias, layer));
    }
    if (gated()) {
      IOKV_TRY_ASSIGN(weights.gate_up,
                      linear(LayerMatrix::gate_up, {Role::gate, Role::up}, {Role::gate_bias, Role::up_bias}, layer));
    } else {
      IOKV_TRY_ASSIGN(weights.gate_up, linear(LayerMatrix::gate_up, {Role::up}, {Role::up_bias}, layer));
    }
    IOKV_TRY_ASSIGN(weights.down, linear(LayerMatrix::down, {Role::down}, {Role::down_bias}, layer));
    IOKV_TRY_ASSIGN(weights.mlp_out_norm.weight, vector({Role::mlp_out_norm}, layer));
    return placement_.layers.streams(layer) ? stream_->pin(layer) : Status();
  }

  Result<LinearWeights> linear(LayerMatrix matrix_of_layer, Roles roles, Roles bias_roles, uint32_t layer) {
    LinearWeights weights;
    if (placement_.layers.streams(layer)) {
      IOKV_TRY(pack(matrix_of_layer, roles, layer));
    } else {
      IOKV_TRY_ASSIGN(weights.matrix, matrix(roles, layer));
    }
    IOKV_TRY_ASSIGN(weights.bias, vector(bias_roles, layer));
    return weights;
  }

  Result<FusedRows> fused_rows(Roles roles, uint32_t layer) {
    // Weights cross the link as elements; those that stay have to give the same tokens.
    FusedRows rows(stream_ != nullptr);
    for (Role role : roles) {
      IOKV_TRY_ASSIGN(auto source, files_.matrix(role, layer));
      rows.append(std::move(source), shape_of(role, spec_).rows);
    }
    return rows;
  }

  // Of a layer that streams: to its image on the host.
  Status pack(LayerMatrix matrix, Roles roles, uint32_t layer) {
    IOKV_TRY_ASSIGN(const FusedRows rows, fused_rows(roles, layer));
    if (Status packed = stream_->pack(layer, matrix, rows); !packed) {
      return std::move(packed.failure()).within(where(*roles.begin(), layer));
    }
    if (!advance(uint64_t{rows.rows()} * shape_of(*roles.begin(), spec_).columns)) return error("loading was interrupted");
    return {};
  }

  Result<std::unique_ptr<Matrix>> matrix(Roles roles, uint32_t layer = 0) {
    IOKV_TRY_ASSIGN(const FusedRows rows, fused_rows(roles, layer));
    uint32_t columns = shape_of(*roles.begin(), spec_).columns;
    auto loaded = backend_.load(rows.rows(), columns, rows);
    if (!loaded) return std::move(loaded.failure()).within(where(*roles.begin(), layer));
    stored_bytes_ += (*loaded)->stored_bytes;
    if (!advance(uint64_t{rows.rows()} * columns)) return error("loading was interrupted");
    return *std::move(loaded);
  }

  // One vector of all the roles', zeros for one that there is not; null where there is none at all.
  Result<std::unique_ptr<DeviceMemory>> vector(Roles roles, uint32_t layer) {
    auto exists = [&](Role role) { return files_.has(role, layer); };
    if (std::none_of(roles.begin(), roles.end(), exists)) return std::unique_ptr<DeviceMemory>();
    std::vector<float> fused;
    for (Role role : roles) {
      size_t end = fused.size() + shape_of(role, spec_).rows;
      if (exists(role)) {
        IOKV_TRY_ASSIGN(auto bias, files_.vector(role, layer));
        fused.insert(fused.end(), bias.begin(), bias.end());
      }
      fused.resize(end);
    }
    return upload(fused, *roles.begin(), layer);
  }

  Result<NormWeights> norm(Role weight_role, Role bias_role, uint32_t layer = 0) {
    NormWeights weights;
    std::vector<float> weight(spec_.hidden, 1.0f);
    if (spec_.norm_weights) {
      IOKV_TRY_ASSIGN(weight, files_.vector(weight_role, layer));
    }
    IOKV_TRY_ASSIGN(weights.weight, upload(weight, weight_role, layer));
    IOKV_TRY_ASSIGN(weights.bias, vector({bias_role}, layer));
    return weights;
  }

  Result<std::unique_ptr<DeviceMemory>> upload(const std::vector<float>& values, Role role, uint32_t layer) {
    size_t bytes = values.size() * sizeof(float);
    auto memory = backend_.alloc(bytes);
    if (!memory) return std::move(memory.failure()).within(where(role, layer));
    backend_.copy(Queue::h2d, (*memory)->data(), values.data(), bytes);
    IOKV_TRY(backend_.poll(backend_.record(Queue::h2d), true));
    stored_bytes_ += bytes;
    return *std::move(memory);
  }

  bool gated() const { return is_gated(spec_.activation); }

  // Numbers of all matrices; vectors are too few to be seen in a percentage.
  uint64_t count_elements() const {
    auto elements = [&](Role role) {
      RoleShape shape = shape_of(role, spec_);
      return uint64_t{shape.rows} * shape.columns;
    };
    uint64_t layer = elements(Role::q) + elements(Role::k) + elements(Role::v) + elements(Role::o) +
                     elements(Role::up) + elements(Role::down) + (gated() ? elements(Role::gate) : 0);
    return elements(Role::token_embedding) + layer * spec_.layers +
           (files_.has(Role::position_embedding) ? elements(Role::position_embedding) : 0) +
           (spec_.tied_embeddings ? 0 : elements(Role::lm_head));
  }

  // false: the caller wants no more.
  bool advance(uint64_t elements) {
    loaded_elements_ += elements;
    IOKV_ASSERT(loaded_elements_ <= total_elements_);
    auto percent = static_cast<uint32_t>(loaded_elements_ * 100 / total_elements_);
    if (percent <= percent_) return true;
    percent_ = percent;
    return !progress_ || progress_(percent);
  }

  static std::string where(Role role, uint32_t layer) {
    return "loading " + std::string(name_of(role)) + (is_per_layer(role) ? " of layer " + std::to_string(layer) : "");
  }

  Backend& backend_;
  const ModelFiles& files_;
  const ModelSpec& spec_;
  const LoadProgress& progress_;
  const WeightPlacement& placement_;
  WeightStream* stream_ = nullptr;  // of the weights that are being made
  uint64_t total_elements_ = 0, loaded_elements_ = 0;
  uint64_t stored_bytes_ = 0;
  uint32_t percent_ = 0;
};

}  // namespace

// The same matrices and vectors as Loader's, whose bytes it counts instead.
Result<WeightNeed> weight_need(const Backend& backend, const ModelFiles& files, const WeightPlacement& placement) {
  const ModelSpec& spec = files.spec();
  WeightNeed need;
  need.file_bytes = files.stored_bytes();
  bool as_elements = false;
  auto add_matrix = [&](std::initializer_list<Role> roles, uint32_t layer) -> Status {
    FusedRows rows(as_elements);
    for (Role role : roles) {
      if (!files.has(role, layer)) continue;
      IOKV_TRY_ASSIGN(auto source, files.matrix(role, layer));
      rows.append(std::move(source), shape_of(role, spec).rows);
    }
    if (rows.rows() > 0) need.device_bytes += backend.load_bytes(rows.rows(), shape_of(*roles.begin(), spec).columns, rows);
    return {};
  };
  IOKV_TRY(add_matrix({Role::token_embedding}, 0));
  IOKV_TRY(add_matrix({Role::position_embedding}, 0));
  as_elements = placement.layers.streamed > 0;
  if (!spec.tied_embeddings) IOKV_TRY(add_matrix({Role::lm_head}, 0));
  const LayerImage image = layer_image(backend, spec);
  for (uint32_t layer = 0; layer < spec.layers; ++layer) {
    if (placement.layers.streams(layer)) {
      need.host_bytes += image.host_stride_bytes();
      continue;
    }
    IOKV_TRY(add_matrix({Role::q, Role::k, Role::v}, layer));
    IOKV_TRY(add_matrix({Role::o}, layer));
    if (is_gated(spec.activation)) {
      IOKV_TRY(add_matrix({Role::gate, Role::up}, layer));
    } else {
      IOKV_TRY(add_matrix({Role::up}, layer));
    }
    IOKV_TRY(add_matrix({Role::down}, layer));
  }
  auto add_vector = [&](std::initializer_list<Role> roles, uint32_t layer, bool made = false) {
    uint64_t elements = 0;
    for (Role role : roles) elements += shape_of(role, spec).rows;
    const bool exists = std::any_of(roles.begin(), roles.end(), [&](Role role) { return files.has(role, layer); });
    if (exists || made) need.device_bytes += elements * sizeof(float);
  };
  const bool ones = !spec.norm_weights;
  for (uint32_t layer = 0; layer < spec.layers; ++layer) {
    for (Role norm : {Role::input_norm, Role::post_norm}) add_vector({norm}, layer, ones);
    for (Role role : {Role::input_norm_bias, Role::post_norm_bias, Role::q_norm, Role::k_norm, Role::o_bias,
                      Role::attention_out_norm, Role::down_bias, Role::mlp_out_norm}) {
      add_vector({role}, layer);
    }
    add_vector({Role::q_bias, Role::k_bias, Role::v_bias}, layer);
    if (is_gated(spec.activation)) {
      add_vector({Role::gate_bias, Role::up_bias}, layer);
    } else {
      add_vector({Role::up_bias}, layer);
    }
  }
  add_vector({Role::final_norm}, 0, ones);
  add_vector({Role::final_norm_bias}, 0);
  add_vector({Role::lm_head_bias}, 0);
  return need;
}

uint64_t fixed_weight_bytes(const Backend& backend, const ModelSpec& spec) {
  const Packing packing = backend.packing(spec.hidden);
  const bool learned = spec.positions == PositionKind::learned;
  uint64_t bytes = packing.bytes(spec.vocab) * (spec.tied_embeddings ? 1 : 2);
  if (learned) bytes += packing.bytes(spec.max_context + spec.learned_position_offset);
  uint64_t vectors = uint64_t{4} * spec.hidden;  // two norms with biases
  for (LayerMatrix matrix : {LayerMatrix::qkv, LayerMatrix::o, LayerMatrix::gate_up, LayerMatrix::down}) {
    vectors += shape_of(matrix, spec).outputs;
  }
  return bytes + (spec.layers * vectors + 2 * spec.hidden) * sizeof(float);
}

Result<Weights> load_weights(Backend& backend, const ModelFiles& files, const LoadProgress& progress,
                             const WeightPlacement& placement) {
  return Loader(backend, files, progress, placement).load();
}

}  // namespace iokv
