// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/model_files.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "daemon/model/digest.h"
#include "daemon/model/gguf.h"
#include "daemon/model/json_file.h"
#include "daemon/model/random_tensors.h"
#include "daemon/model/safetensors.h"
#include "daemon/model/stored_type.h"

namespace iokv {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::vector<uint64_t> sizes_of(const RoleShape& shape, bool transposed) {
  if (shape.columns == 0) return {shape.rows};
  if (transposed) return {shape.columns, shape.rows};
  return {shape.rows, shape.columns};
}

// Rows of a role, dequantised one at a time.
class StoredRows final : public RowSource {
 public:
  StoredRows(const TensorView& tensor, TensorPart part, uint32_t columns)
      : tensor_(tensor), part_(std::move(part)), columns_(columns) {}

  void read_row(uint32_t index, float* row) const override {
    const uint32_t stored = part_.row_of(index);
    if (part_.transposed) {
      for (uint32_t i = 0; i < columns_; i++) dequantize(uint64_t{i} * part_.rows + stored, 1, row + i);
    } else {
      dequantize(uint64_t{stored} * columns_, columns_, row);
    }
  }

  QuantForm quant_form() const override { return part_.transposed ? QuantForm() : quant_form_of(tensor_.type); }
  void read_quants(uint32_t index, const QuantRow& row) const override {
    const uint64_t row_bytes = stored_bytes_of(tensor_.type, columns_);
    iokv::read_quants(tensor_.type, tensor_.bytes.subspan(part_.row_of(index) * row_bytes, row_bytes), row);
  }

 private:
  // Elements from a block's first one on, and whole blocks.
  void dequantize(uint64_t first, uint32_t count, float* to) const {
    dequantize_row(tensor_.type,
                   tensor_.bytes.subspan(stored_bytes_of(tensor_.type, first), stored_bytes_of(tensor_.type, count)), to,
                   count);
  }

  const TensorView& tensor_;
  const TensorPart part_;
  const uint32_t columns_;
};

}  // namespace

// Fills a ModelFiles step by step.
class ModelOpener {
 public:
  static Result<ModelFiles> open(const std::string& path, std::optional<uint64_t> random_seed) {
    std::error_code failed;
    const fs::file_status status = fs::status(path, failed);
    if (status.type() == fs::file_type::not_found) {
      return error(path + ": no such file or directory; a model is a directory with config.json and *.safetensors, or a .gguf file");
    }
    if (failed) return error(path + ": " + failed.message());
    ModelOpener opener;
    opener.files_.path_ = path;
    opener.random_seed_ = random_seed;
    IOKV_TRY(fs::is_directory(status) ? opener.open_directory(path) : opener.open_gguf_file(path));
    return std::move(opener.files_);
  }

 private:
  Status open_directory(const std::string& directory) {
    const std::string config_path = directory + "/config.json";
    IOKV_TRY_ASSIGN(json config, read_json_object(config_path));
    merge_generation_config(directory, config);
    auto description = describe(Naming::hf, config);
    if (!description) return std::move(description.failure()).within(config_path);
    files_.naming_ = Naming::hf;
    files_.description_ = *std::move(description);
    if (files_.description_.spec.name.empty()) files_.description_.spec.name = directory_name(directory);
    IOKV_TRY(random_seed_ ? make_tensors(config) : open_tensors(directory));
    IOKV_TRY(check_tensors());
    IOKV_TRY_ASSIGN(files_.tokenizer_, export_tokenizer(directory));
    make_digest(config.dump());
    return {};
  }

  // End tokens that generation stops at beside config.json's, such as <|eot_id|>: the file is optional.
  static void merge_generation_config(const std::string& directory, json& config) {
    auto generation = read_json_object(directory + "/generation_config.json");
    if (!generation) return;
    auto end = generation->find("eos_token_id");
    if (end == generation->end() || end->is_null()) return;
    json all = config.contains("eos_token_id") && !config["eos_token_id"].is_null() ? config["eos_token_id"] : json::array();
    if (!all.is_array()) all = json::array({all});
    for (const json& token : end->is_array() ? *end : json::array({*end})) all.push_back(token);
    config["eos_token_id"] = all;
  }

  Status make_tensors(const json& config) {
    // Newer files say dtype.
    const json& named = config.contains("dtype") ? config["dtype"] : config.value("torch_dtype", json());
    const StoredType type = named == "bfloat16" ? StoredType::bf16 : StoredType::f16;
    IOKV_TRY_ASSIGN(files_.tensors_, random_tensors(files_.description_, files_.naming_, type, *random_seed_));
    return {};
  }

  static std::string directory_name(const std::string& directory) {
    const fs::path path = fs::weakly_canonical(directory);
    return path.filename().string();
  }

  Status open_tensors(const std::string& directory) {
    const std::string index = directory + "/model.safetensors.index.json", single = directory + "/model.safetensors";
    if (fs::exists(index)) {
      IOKV_TRY_ASSIGN(files_.tensors_, open_safetensors_index(index));
      return {};
    }
    if (fs::exists(single)) {
      IOKV_TRY_ASSIGN(files_.tensors_, open_safetensors(single));
      return {};
    }
    return error(directory + ": neither model.safetensors nor model.safetensors.index.json is there; other formats " +
                 "(pytorch_model.bin) must be converted first");
  }

  Status open_gguf_file(const std::string& path) {
    if (path.ends_with(".safetensors")) return error(path + ": one file of a model; name its directory instead");
    if (random_seed_) return error(path + ": random weights are for a directory with config.json");
    IOKV_TRY_ASSIGN(GgufFile file, open_gguf(path));
    const json settings = settings_of(file);
    auto description = describe(Naming::gguf, settings);
    if (!description) return std::move(description.failure()).within(path);
    files_.naming_ = Naming::gguf;
    files_.description_ = *std::move(description);
    ModelSpec& spec = files_.description_.spec;
    if (spec.name.empty()) spec.name = fs::path(path).stem().string();
    files_.tokenizer_ = export_tokenizer(file);
    files_.tensors_ = std::move(file.tensors);
    spec.tied_embeddings = !files_.has(Role::lm_head);
    IOKV_TRY(check_tensors());
    IOKV_TRY(apply_rope_factors());
    make_digest(settings.dump(-1, ' ', false, json::error_handler_t::replace));
    return {};
  }

  Status check_tensors() const {
    const Description& description = files_.description_;
    for (size_t number = 0; number < kRoles; number++) {
      if (!description.possible[number]) continue;
      const Role role = static_cast<Role>(number);
      const uint32_t layers = is_per_layer(role) ? description.spec.layers : 1;
      for (uint32_t layer = 0; layer < layers; layer++) {
        Status checked = check_tensor(role, layer, description.required[number]);
        if (!checked) return std::move(checked.failure()).within(files_.path_);
      }
    }
    return {};
  }

  Status check_tensor(Role role, uint32_t layer, bool required) const {
    const auto [tensor, part] = files_.find(role, layer);
    const std::string& name = part.name;
    if (tensor == nullptr) {
      return required ? Status(error("tensor " + shown(name) + " is missing: the model is incomplete")) : Status();
    }
    const std::vector<uint64_t> wanted = sizes_of({part.rows, shape_of(role, files_.spec()).columns}, part.transposed);
    if (tensor->shape != wanted) {
      return error("tensor " + shown(name) + " has shape " + shape_text(tensor->shape) + ", but the settings make it " +
                   shape_text(wanted));
    }
    if (tensor->type == StoredType::other) {
      return error("tensor " + shown(name) + " is stored as " + shown(tensor->type_name) +
                   ", which is not read; convert it to F32, F16 or BF16");
    }
    if (part.transposed && layout_of(tensor->type).block_elements != 1) {
      return error("tensor " + shown(name) + " is stored as " + shown(tensor->type_name) +
                   " by its inputs, of which single ones cannot be read; convert it to F32, F16 or BF16");
    }
    return {};
  }

  Status apply_rope_factors() {
    if (!files_.has(Role::rope_factors)) return {};
    IOKV_TRY_ASSIGN(const std::vector<float> factors, files_.vector(Role::rope_factors));
    std::vector<float>& frequencies = files_.description_.spec.rope_inverse_frequency;
    for (size_t i = 0; i < factors.size(); i++) {
      if (!(factors[i] > 0)) return error(files_.path_ + ": a rope factor is not above zero");
      frequencies[i] /= factors[i];
    }
    return {};
  }

  void make_digest(const std::string& settings) {
    constexpr size_t kSample = 64;
    DigestBuilder digest;
    digest.update(settings);
    for (const auto& [name, tensor] : files_.tensors_.tensors()) {
      digest.update(name);
      digest.update(tensor.type_name);
      digest.update(shape_text(tensor.shape));
      digest.update(std::to_string(tensor.bytes.size()));
      const size_t size = std::min(kSample, tensor.bytes.size());
      for (size_t at : {size_t{0}, (tensor.bytes.size() - size) / 2, tensor.bytes.size() - size}) {
        digest.update({reinterpret_cast<const char*>(tensor.bytes.data()) + at, size});
      }
    }
    files_.digest_ = digest.value();
  }

  ModelFiles files_;
  std::optional<uint64_t> random_seed_;
};

Result<ModelFiles> open_model(const std::string& path, std::optional<uint64_t> random_seed) {
  // The file system and the JSON library throw; nothing passes this edge.
  try {
    return ModelOpener::open(path, random_seed);
  } catch (const std::exception& failure) {
    return error(path + ": " + failure.what());
  }
}

bool ModelFiles::has(Role role, uint32_t layer) const {
  if (!description_.possible[static_cast<size_t>(role)]) return false;
  if (is_per_layer(role) && layer >= spec().layers) return false;
  return find(role, layer).tensor != nullptr;
}

// Without one: the name that it was expected by.
ModelFiles::Found ModelFiles::find(Role role, uint32_t layer) const {
  const std::vector<TensorPart> parts = parts_of(*description_.family, naming_, spec(), role, layer);
  for (const TensorPart& part : parts) {
    if (const TensorView* tensor = tensors_.find(part.name)) return {tensor, part};
  }
  return {nullptr, parts.empty() ? TensorPart() : parts.front()};
}

Result<std::unique_ptr<RowSource>> ModelFiles::matrix(Role role, uint32_t layer) const {
  if (!has(role, layer)) return error(path_ + ": has no " + name_of(role));
  auto [tensor, part] = find(role, layer);
  const uint32_t columns = shape_of(role, spec()).columns;
  IOKV_ASSERT(columns != 0 && part.added == 0);
  return std::unique_ptr<RowSource>(std::make_unique<StoredRows>(*tensor, std::move(part), columns));
}

Result<std::vector<float>> ModelFiles::vector(Role role, uint32_t layer) const {
  if (!has(role, layer)) return error(path_ + ": has no " + name_of(role));
  const auto [tensor, part] = find(role, layer);
  const RoleShape shape = shape_of(role, spec());
  IOKV_ASSERT(shape.columns == 0);
  std::vector<float> stored(part.rows), values(shape.rows);
  dequantize_row(tensor->type, tensor->bytes, stored.data(), stored.size());
  for (uint32_t i = 0; i < values.size(); i++) values[i] = stored[part.row_of(i)] + part.added;
  return values;
}

}  // namespace iokv
