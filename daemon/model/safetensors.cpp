// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "daemon/model/json_file.h"

namespace iokv {
namespace {

using nlohmann::json;

// The format's own limit for headers.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

struct ElementType {
  std::string_view name;
  StoredType type;
  uint32_t bits;
};

// Every type of the format. Those that are `other` may lie in a file (buffers, counters), but not serve a role.
constexpr ElementType kElementTypes[] = {
    {"F32", StoredType::f32, 32},     {"F16", StoredType::f16, 16},       {"BF16", StoredType::bf16, 16},
    {"F64", StoredType::other, 64},   {"I64", StoredType::other, 64},     {"U64", StoredType::other, 64},
    {"I32", StoredType::other, 32},   {"U32", StoredType::other, 32},     {"I16", StoredType::other, 16},
    {"U16", StoredType::other, 16},   {"I8", StoredType::other, 8},       {"U8", StoredType::other, 8},
    {"BOOL", StoredType::other, 8},   {"F8_E4M3", StoredType::other, 8},  {"F8_E5M2", StoredType::other, 8},
    {"F8_E8M0", StoredType::other, 8}, {"C64", StoredType::other, 64},    {"F4", StoredType::other, 4},
    {"F6_E2M3", StoredType::other, 6}, {"F6_E3M2", StoredType::other, 6},
};

// A tensor as the header describes it; begin and end count from the first byte after the header.
struct Entry {
  const ElementType* element = nullptr;
  std::vector<uint64_t> shape;
  uint64_t begin = 0, end = 0;
  std::string name;
};

bool read_counts(const json& array, std::vector<uint64_t>& counts) {
  if (!array.is_array()) return false;
  for (const json& count : array) {
    if (!count.is_number_unsigned()) return false;
    counts.push_back(count.get<uint64_t>());
  }
  return true;
}

Result<Entry> read_entry(const std::string& name, const json& value, uint64_t data_bytes) {
  auto refuse = [&](const std::string& why) { return error("tensor " + shown(name) + ": " + why); };
  Entry entry;
  entry.name = name;
  if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") || !value.contains("data_offsets")) {
    return refuse("needs dtype, shape and data_offsets");
  }
  const json& type = value["dtype"];
  for (const ElementType& known : kElementTypes) {
    if (type.is_string() && type.get_ref<const std::string&>() == known.name) entry.element = &known;
  }
  if (entry.element == nullptr) {
    return refuse("unknown type " + (type.is_string() ? shown(type.get_ref<const std::string&>()) : "(not a name)"));
  }
  std::vector<uint64_t> offsets;
  if (!read_counts(value["shape"], entry.shape)) return refuse("its shape is not a list of sizes");
  if (!read_counts(value["data_offsets"], offsets) || offsets.size() != 2 || offsets[0] > offsets[1]) {
    return refuse("its data_offsets are not [begin, end]");
  }
  entry.begin = offsets[0];
  entry.end = offsets[1];
  if (entry.end > data_bytes) {
    return refuse("ends at data byte " + std::to_string(entry.end) + ", but the file has " +
                  std::to_string(data_bytes) + "; it is truncated: fetch it again");
  }
  std::optional<uint64_t> elements = element_count(entry.shape);
  // At most 2^59 elements of 64 bits: the product in bits could overflow, so whole bytes of elements are compared.
  if (!elements || *elements > uint64_t{1} << 57 || (*elements * entry.element->bits + 7) / 8 != entry.end - entry.begin) {
    return refuse("shape " + shape_text(entry.shape) + " of " + std::string(entry.element->name) + " does not take its " +
                  std::to_string(entry.end - entry.begin) + " bytes");
  }
  return entry;
}

// The header's tensors in the order of their bytes, which must cover [0, data_bytes) exactly.
Result<std::vector<Entry>> read_entries(const json& header, uint64_t data_bytes) {
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") continue;
    IOKV_TRY_ASSIGN(Entry entry, read_entry(name, value, data_bytes));
    entries.push_back(std::move(entry));
  }
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t covered = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != covered) {
      return error("tensor " + shown(entry.name) + " begins at data byte " + std::to_string(entry.begin) +
                   (entry.begin < covered ? ", inside the tensor before it, which ends at "
                                          : ", leaving a gap after the tensor before it, which ends at ") +
                   std::to_string(covered));
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    return error(std::to_string(data_bytes - covered) + " bytes after the last tensor belong to none");
  }
  return entries;
}

Status add_file(const std::string& path, TensorFile& tensors) {
  IOKV_TRY_ASSIGN(MappedFile mapped, MappedFile::open(path));
  std::span<const std::byte> bytes = tensors.keep(std::move(mapped)).bytes();
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes) return error(path + ": too short to be a safetensors file");
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  bytes = bytes.subspan(sizeof header_bytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size()) {
    return error(path + ": a header of " + std::to_string(header_bytes) + " bytes does not fit the file; it is " +
                 "truncated or not safetensors");
  }
  std::span<const char> text(reinterpret_cast<const char*>(bytes.data()), header_bytes);
  IOKV_TRY_ASSIGN(json header, parse_json_object(text, path + ": header"));
  bytes = bytes.subspan(header_bytes);
  auto entries = read_entries(header, bytes.size());
  if (!entries) return std::move(entries.failure()).within(path);
  for (Entry& entry : *entries) {
    Status added = tensors.add(std::move(entry.name), {entry.element->type, entry.element->name},
                               std::move(entry.shape), bytes.subspan(entry.begin, entry.end - entry.begin));
    if (!added) return std::move(added.failure()).within(path);
  }
  return {};
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace

Result<TensorFile> open_safetensors(const std::string& path) {
  TensorFile tensors;
  IOKV_TRY(add_file(path, tensors));
  return tensors;
}

Result<TensorFile> open_safetensors_index(const std::string& index_path) {
  IOKV_TRY_ASSIGN(json index, read_json_object(index_path));
  if (!index.contains("weight_map") || !index["weight_map"].is_object()) {
    return error(index_path + ": needs a weight_map from tensor names to file names");
  }
  std::set<std::string> shards;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    if (!shard.is_string() || !is_plain_name(shard.get_ref<const std::string&>())) {
      return error(index_path + ": the file of tensor " + shown(name) + " is not a plain name in this directory");
    }
    shards.insert(shard.get<std::string>());
  }
  TensorFile tensors;
  for (const std::string& shard : shards) {
    IOKV_TRY(add_file((std::filesystem::path(index_path).parent_path() / shard).string(), tensors));
  }
  for (const auto& [name, shard] : index["weight_map"].items()) {
    if (tensors.find(name) == nullptr) {
      return error(index_path + ": tensor " + shown(name) + " is not in " + shown(shard.get_ref<const std::string&>()));
    }
  }
  return tensors;
}

}  // namespace iokv
