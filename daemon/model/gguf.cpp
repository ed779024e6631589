// SPDX-License-Identifier: Apache-2.0
#include "daemon/model/gguf.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <nlohmann/json.hpp>

namespace iokv {
namespace {

using nlohmann::json;

// Fewest bytes that a metadata entry (key length, type, one byte of value), a tensor's entry (name length, dimensions,
// type, offset), a string and an array can take: what bounds a count by the bytes that are left.
constexpr uint64_t kMinEntryBytes = 8 + 4 + 1, kMinTensorBytes = 8 + 4 + 4 + 8;
constexpr uint64_t kMinStringBytes = 8, kMinArrayBytes = 4 + 8;
// Arrays of arrays exist in the format, but not in models; this bounds the recursion.
constexpr int kMaxNesting = 4;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint32_t kDefaultAlignment = 32, kMaxAlignment = 1u << 20;

struct GgmlType {
  uint32_t number;
  StoredType type;
  std::string_view name;
};

// ggml's numbering. `other` here is refused: a weight that cannot be read is of no use, and its size is not known.
constexpr GgmlType kGgmlTypes[] = {
    {0, StoredType::f32, "F32"},        {1, StoredType::f16, "F16"},        {2, StoredType::q4_0, "Q4_0"},
    {3, StoredType::q4_1, "Q4_1"},      {6, StoredType::q5_0, "Q5_0"},      {7, StoredType::q5_1, "Q5_1"},
    {8, StoredType::q8_0, "Q8_0"},      {9, StoredType::other, "Q8_1"},     {10, StoredType::q2_k, "Q2_K"},
    {11, StoredType::q3_k, "Q3_K"},     {12, StoredType::q4_k, "Q4_K"},     {13, StoredType::q5_k, "Q5_K"},
    {14, StoredType::q6_k, "Q6_K"},     {15, StoredType::other, "Q8_K"},    {16, StoredType::other, "IQ2_XXS"},
    {17, StoredType::other, "IQ2_XS"},  {18, StoredType::other, "IQ3_XXS"}, {19, StoredType::other, "IQ1_S"},
    {20, StoredType::iq4_nl, "IQ4_NL"}, {21, StoredType::other, "IQ3_S"},   {22, StoredType::other, "IQ2_S"},
    {23, StoredType::other, "IQ4_XS"},  {24, StoredType::other, "I8"},      {25, StoredType::other, "I16"},
    {26, StoredType::other, "I32"},     {27, StoredType::other, "I64"},     {28, StoredType::other, "F64"},
    {29, StoredType::other, "IQ1_M"},   {30, StoredType::bf16, "BF16"},     {34, StoredType::other, "TQ1_0"},
    {35, StoredType::other, "TQ2_0"},   {39, StoredType::other, "MXFP4"},
};

// Bytes of a value of a fixed-size type; 0 for strings, arrays and unknown types.
uint64_t size_of(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean: return 1;
    case GgufType::u16:
    case GgufType::i16: return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32: return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64: return 8;
    default: return 0;
  }
}

// A number's value, exact for integers below 2^53: all that a model's settings can sensibly be.
double number_at(GgufType type, const std::byte* from) {
  auto read = [&](auto value) {
    std::memcpy(&value, from, sizeof value);
    return static_cast<double>(value);
  };
  switch (type) {
    case GgufType::u8:
    case GgufType::boolean: return read(uint8_t{});
    case GgufType::i8: return read(int8_t{});
    case GgufType::u16: return read(uint16_t{});
    case GgufType::i16: return read(int16_t{});
    case GgufType::u32: return read(uint32_t{});
    case GgufType::i32: return read(int32_t{});
    case GgufType::f32: return read(float{});
    case GgufType::u64: return read(uint64_t{});
    case GgufType::i64: return read(int64_t{});
    case GgufType::f64: return read(double{});
    default: return 0;
  }
}

// Walks the file's head. Every read is bounded by the file; the first failure is an Error that says where.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return bytes_.size() - position_; }

  Result<std::span<const std::byte>> take(uint64_t count, const char* what) {
    if (count > left()) {
      return error(std::string(what) + " at byte " + std::to_string(position_) + " needs " + std::to_string(count) +
                   " bytes, but the file has " + std::to_string(left()) +
                   " more; it is truncated or corrupt: fetch it again");
    }
    auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  template <typename T>
  Result<T> number(const char* what) {
    IOKV_TRY_ASSIGN(auto from, take(sizeof(T), what));
    T value;
    std::memcpy(&value, from.data(), sizeof value);
    return value;
  }

  // A count of things that take at least min_bytes each.
  Result<uint64_t> count(uint64_t min_bytes, const char* what) {
    IOKV_TRY_ASSIGN(uint64_t value, number<uint64_t>(what));
    if (value > left() / min_bytes) {
      return error(std::string(what) + " of " + std::to_string(value) + " at byte " + std::to_string(position_ - 8) +
                   " is more than the rest of the file can hold; it is truncated or corrupt: fetch it again");
    }
    return value;
  }

  Result<std::string_view> string(const char* what) {
    IOKV_TRY_ASSIGN(uint64_t size, count(1, what));
    IOKV_TRY_ASSIGN(auto text, take(size, what));
    return std::string_view(reinterpret_cast<const char*>(text.data()), text.size());
  }

  // A value of the type, to its last byte; `nesting` arrays are around it.
  Result<GgufValue> value(GgufType type, int nesting) {
    if (type == GgufType::array) return array(nesting);
    if (type == GgufType::string) {
      IOKV_TRY_ASSIGN(std::string_view text, string("a string value"));
      return GgufValue{type, type, 1, std::as_bytes(std::span(text))};
    }
    if (size_of(type) == 0) return error("unknown metadata type " + std::to_string(static_cast<uint32_t>(type)));
    IOKV_TRY_ASSIGN(auto bytes, take(size_of(type), "a value"));
    return GgufValue{type, type, 1, bytes};
  }

 private:
  Result<GgufValue> array(int nesting) {
    if (nesting == kMaxNesting) return error("arrays nested deeper than any model needs");
    IOKV_TRY_ASSIGN(uint32_t number_of_type, number<uint32_t>("an array's type"));
    auto element = static_cast<GgufType>(number_of_type);
    uint64_t element_bytes = size_of(element);
    bool fixed = element_bytes != 0;
    if (element == GgufType::string) element_bytes = kMinStringBytes;
    if (element == GgufType::array) element_bytes = kMinArrayBytes;
    if (element_bytes == 0) return error("unknown metadata type " + std::to_string(number_of_type) + " in an array");
    IOKV_TRY_ASSIGN(uint64_t elements, count(element_bytes, "an array's length"));
    uint64_t begin = position_;
    if (fixed) {
      position_ += elements * element_bytes;
    } else {
      for (uint64_t i = 0; i < elements; ++i) IOKV_TRY(value(element, nesting + 1));
    }
    return GgufValue{GgufType::array, element, elements, bytes_.subspan(begin, position_ - begin)};
  }

  std::span<const std::byte> bytes_;
  uint64_t position_ = 0;
};

struct Counts {
  uint64_t tensors = 0, entries = 0;
};

Result<Counts> read_head(Reader& reader) {
  IOKV_TRY_ASSIGN(auto magic, reader.take(4, "the magic number"));
  if (std::memcmp(magic.data(), "GGUF", 4) != 0) return error("not a GGUF file");
  IOKV_TRY_ASSIGN(uint32_t version, reader.number<uint32_t>("the version"));
  if (version == __builtin_bswap32(2) || version == __builtin_bswap32(3)) {
    return error("a big-endian GGUF file; convert it for little-endian machines");
  }
  if (version != 2 && version != 3) {
    return error("GGUF version " + std::to_string(version) + " is not read, only 2 and 3; convert the model again");
  }
  Counts counts;
  IOKV_TRY_ASSIGN(counts.tensors, reader.count(kMinTensorBytes, "a tensor count"));
  IOKV_TRY_ASSIGN(counts.entries, reader.count(kMinEntryBytes, "a metadata count"));
  return counts;
}

Status read_metadata(Reader& reader, uint64_t entries, GgufFile& file) {
  for (uint64_t i = 0; i < entries; ++i) {
    IOKV_TRY_ASSIGN(std::string_view key, reader.string("a metadata key"));
    IOKV_TRY_ASSIGN(uint32_t type, reader.number<uint32_t>("a metadata type"));
    auto value = reader.value(static_cast<GgufType>(type), 0);
    if (!value) return std::move(value.failure()).within("metadata " + shown(key));
    if (!file.metadata.try_emplace(std::string(key), *value).second) {
      return error("metadata " + shown(key) + " is there twice");
    }
  }
  return {};
}

struct Entry {
  std::string_view name;
  const GgmlType* type = nullptr;
  std::vector<uint64_t> shape;
  uint64_t begin = 0, bytes = 0;  // begin counts from the start of the data
};

Result<const GgmlType*> type_numbered(uint32_t number) {
  const auto* known = std::ranges::find(kGgmlTypes, number, &GgmlType::number);
  if (known != std::end(kGgmlTypes) && known->type != StoredType::other) return known;
  std::string name = known == std::end(kGgmlTypes) ? "an unknown type" : std::string(known->name);
  return error("stored as " + name + " (ggml type " + std::to_string(number) +
               "), which is not read; there are: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K and IQ4_NL; quantise the model as one of them");
}

// The tensor's type, shape and extent, from just behind its name.
Status read_layout(Reader& reader, Entry& entry) {
  IOKV_TRY_ASSIGN(uint32_t dimensions, reader.number<uint32_t>("a dimension count"));
  if (dimensions > kMaxDimensions) return error(std::to_string(dimensions) + " dimensions are more than 4");
  for (uint32_t i = 0; i < dimensions; ++i) {
    IOKV_TRY_ASSIGN(uint64_t size, reader.number<uint64_t>("a dimension"));
    entry.shape.insert(entry.shape.begin(), size);  // the file has the innermost first
  }
  IOKV_TRY_ASSIGN(uint32_t number, reader.number<uint32_t>("a tensor's type"));
  IOKV_TRY_ASSIGN(entry.begin, reader.number<uint64_t>("a tensor's offset"));
  IOKV_TRY_ASSIGN(entry.type, type_numbered(number));
  std::optional<uint64_t> elements = element_count(entry.shape);
  if (!elements) return error("shape " + shape_text(entry.shape) + " is more than any file holds");
  uint32_t block = layout_of(entry.type->type).block_elements;
  if ((entry.shape.empty() ? 1 : entry.shape.back()) % block != 0) {
    return error("rows of shape " + shape_text(entry.shape) + " are no multiple of the " + std::to_string(block) +
                 " elements of a " + std::string(entry.type->name) + " block");
  }
  entry.bytes = stored_bytes_of(entry.type->type, *elements);
  return {};
}

Result<std::vector<Entry>> read_entries(Reader& reader, uint64_t count) {
  std::vector<Entry> entries(count);
  for (Entry& entry : entries) {
    IOKV_TRY_ASSIGN(entry.name, reader.string("a tensor's name"));
    Status read = read_layout(reader, entry);
    if (!read) return std::move(read.failure()).within("tensor " + shown(entry.name));
  }
  return entries;
}

Result<uint64_t> alignment_of(const GgufFile& file) {
  const GgufValue* value = file.find("general.alignment");
  if (value == nullptr) return kDefaultAlignment;
  double alignment = value->type == GgufType::u32 ? number_at(value->type, value->bytes.data()) : 0;
  if (alignment < 8 || alignment > kMaxAlignment || static_cast<uint32_t>(alignment) % 8 != 0) {
    return error("general.alignment is not a multiple of 8 up to " + std::to_string(kMaxAlignment));
  }
  return static_cast<uint64_t>(alignment);
}

// Tensors must lie in the data, aligned, and not overlap; padding between them is the format's.
Status place_tensors(std::vector<Entry> entries, std::span<const std::byte> data, uint64_t alignment,
                     TensorFile& tensors) {
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes);
  });
  uint64_t end = 0;
  for (Entry& entry : entries) {
    auto refuse = [&](const std::string& why) { return error("tensor " + shown(entry.name) + ": " + why); };
    if (entry.begin % alignment != 0) {
      return refuse("offset " + std::to_string(entry.begin) + " is no multiple of " + std::to_string(alignment));
    }
    if (entry.begin > data.size() || entry.bytes > data.size() - entry.begin) {
      return refuse("shape " + shape_text(entry.shape) + " of " + std::string(entry.type->name) + " at offset " +
                    std::to_string(entry.begin) + " needs " + std::to_string(entry.bytes) +
                    " bytes, but the file has " + std::to_string(data.size()) +
                    " bytes of data; it is truncated: fetch it again");
    }
    if (entry.begin < end) return refuse("overlaps the tensor before it");
    end = entry.begin + entry.bytes;
    IOKV_TRY(tensors.add(std::string(entry.name), {entry.type->type, entry.type->name}, std::move(entry.shape),
                         data.subspan(entry.begin, entry.bytes)));
  }
  return {};
}

Status read_file(std::span<const std::byte> bytes, GgufFile& file) {
  Reader reader(bytes);
  IOKV_TRY_ASSIGN(Counts counts, read_head(reader));
  IOKV_TRY(read_metadata(reader, counts.entries, file));
  if (const GgufValue* parts = file.find("split.count"); parts != nullptr && parts->type != GgufType::string &&
                                                          number_at(parts->type, parts->bytes.data()) > 1) {
    return error("one part of a split model; join the parts with llama.cpp's 'gguf-split --merge'");
  }
  IOKV_TRY_ASSIGN(std::vector<Entry> entries, read_entries(reader, counts.tensors));
  IOKV_TRY_ASSIGN(uint64_t alignment, alignment_of(file));
  uint64_t padding = (alignment - reader.position() % alignment) % alignment;
  std::span<const std::byte> data = bytes.subspan(reader.position() + std::min(padding, reader.left()));
  return place_tensors(std::move(entries), data, alignment, file.tensors);
}

}  // namespace

const GgufValue* GgufFile::find(std::string_view key) const {
  auto found = metadata.find(key);
  return found == metadata.end() ? nullptr : &found->second;
}

Result<GgufFile> open_gguf(const std::string& path) {
  GgufFile file;
  IOKV_TRY_ASSIGN(MappedFile mapped, MappedFile::open(path));
  Status read = read_file(file.tensors.keep(std::move(mapped)).bytes(), file);
  if (!read) return std::move(read.failure()).within(path);
  return file;
}

std::string_view text_of(const GgufValue* value) {
  if (value == nullptr || value->type != GgufType::string) return {};
  return {reinterpret_cast<const char*>(value->bytes.data()), value->bytes.size()};
}

std::vector<std::string_view> strings_of(const GgufValue* value) {
  std::vector<std::string_view> strings;
  if (value == nullptr || value->type != GgufType::array || value->element != GgufType::string) return strings;
  strings.reserve(value->count);
  const std::byte* from = value->bytes.data();
  for (uint64_t i = 0; i < value->count; ++i) {
    uint64_t size;
    std::memcpy(&size, from, sizeof size);
    strings.emplace_back(reinterpret_cast<const char*>(from + sizeof size), size);
    from += sizeof size + size;
  }
  return strings;
}

std::vector<double> numbers_of(const GgufValue* value) {
  std::vector<double> numbers;
  if (value == nullptr || value->type != GgufType::array || size_of(value->element) == 0) return numbers;
  numbers.reserve(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    numbers.push_back(number_at(value->element, value->bytes.data() + i * size_of(value->element)));
  }
  return numbers;
}

json settings_of(const GgufFile& file) {
  json settings = json::object();
  for (const auto& [key, value] : file.metadata) {
    json& setting = settings[key];
    if (value.type == GgufType::string) {
      setting = text_of(&value);
    } else if (value.type == GgufType::array) {
      setting = json{{"length", value.count}};
    } else if (value.type == GgufType::boolean) {
      setting = number_at(value.type, value.bytes.data()) != 0;
    } else if (value.type == GgufType::f32 || value.type == GgufType::f64) {
      setting = number_at(value.type, value.bytes.data());
    } else if (value.type == GgufType::u64) {
      uint64_t number;  // may be beyond int64_t, which a conversion by way of double could not hold
      std::memcpy(&number, value.bytes.data(), sizeof number);
      setting = number;
    } else {
      setting = static_cast<int64_t>(number_at(value.type, value.bytes.data()));
    }
  }
  return settings;
}

}  // namespace iokv
