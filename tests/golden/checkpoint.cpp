// SPDX-License-Identifier: Apache-2.0
// See checkpoint.h.
#include "tests/golden/checkpoint.h"

#include <stdlib.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

namespace iokv::test {
namespace {

void require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), path + " cannot be read; run the tests in the repository's root");
  return {std::istreambuf_iterator<char>(file), {}};
}

nlohmann::json read_json(const std::string& path) { return nlohmann::json::parse(read_file(path)); }

// BF16 is the upper half of f32.
std::string widened(const std::string& bytes) {
  std::string wide;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) wide.append(2, '\0').append(bytes, i, 2);
  return wide;
}

void append_floats(const std::string& bytes, std::vector<float>& values) {
  size_t first = values.size();
  values.resize(first + bytes.size() / sizeof(float));
  std::memcpy(&values[first], bytes.data(), (values.size() - first) * sizeof(float));
}

}  // namespace

std::string directory_of(const std::string& checkpoint) { return "tests/golden/" + checkpoint; }

Checkpoint Checkpoint::read(const std::string& name) {
  Checkpoint checkpoint;
  checkpoint.config = read_json(directory_of(name) + "/config.json");
  std::string file = read_file(directory_of(name) + "/model.safetensors");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  nlohmann::json header = nlohmann::json::parse(file.substr(8, header_bytes));
  for (const auto& [key, entry] : header.items()) {
    if (key == "__metadata__") continue;
    const bool wide = entry.at("dtype") == "F32";
    require(wide || entry.at("dtype") == "BF16", key + " is neither F32 nor BF16");
    Weight weight;
    weight.shape = entry.at("shape").get<std::vector<size_t>>();
    weight.rows = weight.shape.at(0);
    if (weight.shape.size() == 2) weight.columns = weight.shape[1];
    size_t begin = entry.at("data_offsets").at(0), end = entry.at("data_offsets").at(1);
    const std::string stored = file.substr(8 + header_bytes + begin, end - begin);
    append_floats(wide ? stored : widened(stored), weight.values);
    require(weight.values.size() == weight.rows * weight.columns, key + " has another size than its shape");
    checkpoint.weights[key] = std::move(weight);
  }
  return checkpoint;
}

void Checkpoint::write(const std::string& directory) const {
  std::ofstream(directory + "/config.json") << config;
  nlohmann::json header;
  size_t offset = 0;
  for (const auto& [name, weight] : weights) {
    size_t end = offset + weight.values.size() * sizeof(float);
    header[name] = {{"dtype", "F32"}, {"shape", weight.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  uint64_t header_bytes = text.size();
  std::ofstream file(directory + "/model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&header_bytes), sizeof header_bytes);
  file << text;
  for (const auto& [name, weight] : weights) {
    file.write(reinterpret_cast<const char*>(weight.values.data()),
               static_cast<std::streamsize>(weight.values.size() * sizeof(float)));
  }
  file.flush();
  require(file.good(), directory + " cannot be written");
}

std::vector<Weight*> Checkpoint::ending(const std::string& suffix) {
  std::vector<Weight*> found;
  for (auto& [name, weight] : weights) {
    if (name.ends_with(suffix)) found.push_back(&weight);
  }
  require(!found.empty(), "no weight's name ends with " + suffix);
  return found;
}

Golden read_golden(const std::string& checkpoint) {
  Golden golden;
  golden.prompts = read_json(directory_of(checkpoint) + "/prompts.json").get<std::vector<std::vector<int32_t>>>();
  append_floats(read_file(directory_of(checkpoint) + "/logits.f32"), golden.logits);
  return golden;
}

double relative_error(const std::vector<float>& values, const std::vector<float>& reference) {
  require(values.size() == reference.size() && !values.empty(), "as many logits as the reference has");
  double difference = 0, norm = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) return std::numeric_limits<double>::infinity();
    difference += (double{values[i]} - reference[i]) * (double{values[i]} - reference[i]);
    norm += double{reference[i]} * reference[i];
  }
  return std::sqrt(difference / norm);
}

TemporaryDirectory::TemporaryDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "iokv-golden-XXXXXX").string();
  require(::mkdtemp(pattern.data()) != nullptr, pattern + " cannot be made");
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace iokv::test
