// SPDX-License-Identifier: Apache-2.0
// Dimensions are those of each model's config.json; a row says all that sets it apart, nothing else looks at a name.
#include "daemon/model/shapes.h"

namespace iokv {
namespace {

struct Shape {
  const char* name;
  const char* family;
  uint32_t layers, hidden, heads, kv_heads, ffn, vocab, max_context;
  Activation activation;
  bool tied_embeddings;
};

constexpr Shape kShapes[] = {
    {"opt-6.7b", "opt", 32, 4096, 32, 32, 16384, 50272, 2048, Activation::relu, true},
    {"llama-2-7b", "llama", 32, 4096, 32, 32, 11008, 32000, 4096, Activation::silu_glu, false},
    {"llama-3-8b", "llama", 32, 4096, 32, 8, 14336, 128256, 8192, Activation::silu_glu, false},
    {"opt-13b", "opt", 40, 5120, 40, 40, 20480, 50272, 2048, Activation::relu, true},
    {"opt-30b", "opt", 48, 7168, 56, 56, 28672, 50272, 2048, Activation::relu, true},
    {"opt-66b", "opt", 64, 9216, 72, 72, 36864, 50272, 2048, Activation::relu, true},
    {"llama-3-70b", "llama", 80, 8192, 64, 8, 28672, 128256, 8192, Activation::silu_glu, false},
};

}  // namespace

std::vector<std::string> known_shapes() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

Result<ModelSpec> known_shape(const std::string& name) {
  std::string known;
  for (const Shape& shape : kShapes) {
    known += (known.empty() ? "" : ", ") + std::string(shape.name);
    if (name != shape.name) continue;
    ModelSpec spec;
    spec.family = shape.family;
    spec.name = shape.name;
    spec.layers = shape.layers;
    spec.hidden = shape.hidden;
    spec.heads = shape.heads;
    spec.kv_heads = shape.kv_heads;
    spec.head_dim = shape.hidden / shape.heads;
    spec.ffn = shape.ffn;
    spec.vocab = shape.vocab;
    spec.max_context = shape.max_context;
    spec.activation = shape.activation;
    spec.tied_embeddings = shape.tied_embeddings;
    return spec;
  }
  return error("no model \"" + name + "\"; there are: " + known + ", or the path of a model");
}

}  // namespace iokv
