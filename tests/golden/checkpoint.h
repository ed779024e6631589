// SPDX-License-Identifier: Apache-2.0
// Checkpoint: one of the committed models of tests/golden as data that a test can alter (scripts/make_golden.py made
// them), and what transformers computed with it. It has a reader and a writer of its own, so that what the daemon reads
// is checked against something else. A missing or malformed file ends the test program with one line.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace iokv::test {

inline constexpr const char* kCheckpoints[] = {"opt", "llama_mha", "llama_gqa"};
// One of each further family (scripts/make_golden_families.py), all but Mistral's as GGUF too.
inline constexpr const char* kFamilies[] = {"families/mistral", "families/qwen2", "families/qwen3",
                                            "families/phi3",    "families/olmo",  "families/gemma2",
                                            "families/gpt2",    "families/gpt_neox", "families/phi"};
// With windows, normed heads and capped scores: what is kept, sent and recomputed must not show there either.
inline constexpr const char* kPagedCheckpoints[] = {"opt",            "llama_mha",      "llama_gqa",      "families/mistral",
                                                    "families/qwen3", "families/phi3",  "families/gemma2"};

// f32, row-major; a vector has one column.
struct Weight {
  size_t rows = 0, columns = 1;
  std::vector<size_t> shape;
  std::vector<float> values;
  float* row(size_t index) { return &values[index * columns]; }
};

struct Checkpoint {
  nlohmann::json config;
  std::map<std::string, Weight> weights;

  static Checkpoint read(const std::string& name);
  void write(const std::string& directory) const;  // config.json and model.safetensors

  // The weights whose names end with `suffix`; at least one.
  std::vector<Weight*> ending(const std::string& suffix);
};

std::string directory_of(const std::string& checkpoint);

struct Golden {
  std::vector<std::vector<int32_t>> prompts;
  std::vector<float> logits;  // [tokens of all prompts, vocab]
};
Golden read_golden(const std::string& checkpoint);

// ‖values − reference‖₂ / ‖reference‖₂, in double; infinite where a value is no number.
double relative_error(const std::vector<float>& values, const std::vector<float>& reference);

// Made empty, removed with what is in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace iokv::test
