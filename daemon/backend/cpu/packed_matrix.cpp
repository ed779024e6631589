// SPDX-License-Identifier: Apache-2.0
// See packed_matrix.h. Input i of output c of a panel is element i·32 + c (f32) or (i & ~1)·32 + 2·c + (i & 1) (bf16).
#include "daemon/backend/cpu/packed_matrix.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "daemon/backend/cpu/kernels.h"

namespace iokv::cpu {

void FreeMemory::operator()(void* memory) const { std::free(memory); }

Memory allocate(size_t bytes) {
  if (bytes > SIZE_MAX - 64) return nullptr;
  return Memory(std::aligned_alloc(64, bytes == 0 ? 64 : (bytes + 63) / 64 * 64));
}

Packing PackedMatrix::packing(uint32_t inputs, DType type) {
  return {kPanelColumns, panel_elements(inputs, type == DType::bf16) * size_of(type)};
}

std::unique_ptr<Matrix> PackedMatrix::view(uint32_t outputs, uint32_t inputs, DType type, void* data) {
  auto matrix = std::make_unique<PackedMatrix>();
  matrix->n = outputs;
  matrix->k = inputs;
  matrix->type_ = type;
  matrix->panel_bytes_ = packing(inputs, type).group_bytes;
  matrix->data_ = data;
  return matrix;
}

size_t PackedMatrix::load_bytes(uint32_t outputs, uint32_t inputs, DType type, const RowSource& source) {
  PackedMatrix matrix;
  matrix.k = inputs;
  matrix.panel_bytes_ = packing(inputs, type).group_bytes;
  if (const QuantForm form = type == DType::bf16 ? source.quant_form() : QuantForm()) matrix.choose_form(form);
  return ((outputs - 1) / kPanelColumns + 1) * matrix.panel_bytes_;
}

Result<std::unique_ptr<Matrix>> PackedMatrix::load(uint32_t outputs, uint32_t inputs, DType type,
                                                   const RowSource& source, ThreadTeam& team) {
  IOKV_ASSERT(outputs > 0 && inputs > 0);
  std::unique_ptr<Matrix> loaded = view(outputs, inputs, type, nullptr);
  auto& matrix = static_cast<PackedMatrix&>(*loaded);
  const QuantForm form = type == DType::bf16 ? source.quant_form() : QuantForm();
  if (form) matrix.choose_form(form);
  matrix.stored_bytes = load_bytes(outputs, inputs, type, source);
  matrix.memory_ = allocate(matrix.stored_bytes);
  if (matrix.memory_ == nullptr) {
    return error("no memory for a weight matrix of " + std::to_string(outputs) + " x " + std::to_string(inputs) + " (" +
                 std::to_string(matrix.stored_bytes) + " bytes); use a smaller model or free memory");
  }
  matrix.data_ = matrix.memory_.get();
  IOKV_TRY(matrix.fill(source, form, team));
  return loaded;
}

Status PackedMatrix::pack(uint32_t outputs, uint32_t inputs, DType type, const RowSource& source, ThreadTeam& team,
                          void* to) {
  IOKV_ASSERT(outputs > 0 && inputs > 0);
  return static_cast<PackedMatrix&>(*view(outputs, inputs, type, to)).fill(source, {}, team);
}

Status PackedMatrix::fill(const RowSource& source, const QuantForm& form, ThreadTeam& team) {
  std::vector<float> rows;  // of each thread, or scales and minima
  std::vector<uint8_t> quants;
  try {
    rows.resize(size_t{team.threads()} * k);
    if (form) quants.resize(rows.size());
  } catch (const std::bad_alloc&) {
    return error("no memory for rows of " + std::to_string(k) + " weights; free memory");
  }
  team.run((n - 1) / kPanelColumns + 1, [&](uint32_t panel, uint32_t thread) {
    const uint32_t begin = panel * kPanelColumns, end = n - begin < kPanelColumns ? n : begin + kPanelColumns;
    char* first = static_cast<char*>(data_) + panel * panel_bytes_;
    if (form || end - begin < kPanelColumns || k % 2 != 0) std::memset(first, 0, panel_bytes_);
    float* row = rows.data() + size_t{thread} * k;
    for (uint32_t index = begin; index < end; ++index) {
      if (form) {
        const size_t blocks = k / form.block;
        const QuantRow to{{quants.data() + size_t{thread} * k, k}, {row, blocks}, {row + blocks, blocks}};
        source.read_quants(index, to);
        pack_quants(index, to);
        continue;
      }
      source.read_row(index, row);
      pack_row(index, row);
    }
  });
  return {};
}

const void* PackedMatrix::panel(uint32_t index) const {
  return static_cast<const char*>(data_) + index * panel_bytes_;
}

void PackedMatrix::choose_form(const QuantForm& form) {
  IOKV_ASSERT((form.bits == 4 || form.bits == 8) && (form.block == 16 || form.block == 32) && k % form.block == 0);
  const uint32_t scale_bytes = kPanelColumns * (form.halves ? 2 : 4);
  quants_.bits = form.bits;
  quants_.block = form.block;
  quants_.minima = form.minima;
  quants_.halves = form.halves;
  quants_.minima_offset = scale_bytes;
  quants_.quants_offset = scale_bytes * (form.minima ? 2 : 1);
  quants_.block_bytes = quants_.quants_offset + kPanelColumns * form.block * form.bits / 8;
  panel_bytes_ = size_t{k / form.block} * quants_.block_bytes;
  // Whole numbers to 128: bf16 has them.
  for (uint32_t i = 0; i < 32; ++i) quants_.table[i] = f32_to_bf16(static_cast<float>(form.values[i % 16]));
}

namespace {

// Where a quant lies in a block of a panel, from the quants on: a byte, and its bits.
struct QuantPlace {
  size_t byte;
  uint32_t shift;
};
QuantPlace place_of(const QuantPanels& quants, uint32_t column, uint32_t input) {
  const uint32_t half = column / 16, in_half = column % 16;
  if (quants.bits == 8) return {((half * quants.block + input) / 2 * 16 + in_half) * size_t{2} + input % 2, 0};
  const uint32_t word = ((half * quants.block + input) / 8 * 16) + in_half, in_word = input % 8;
  return {size_t{word} * 4 + in_word % 2 * 2 + in_word / 4, in_word / 2 % 2 * 4};
}

float scale_at(const QuantPanels& quants, const uint8_t* scales, uint32_t column) {
  if (quants.halves) {
    uint16_t bits;
    std::memcpy(&bits, scales + 2 * column, sizeof bits);
    return f16_to_f32(bits);
  }
  float value;
  std::memcpy(&value, scales + 4 * column, sizeof value);
  return value;
}

void put_scale(const QuantPanels& quants, uint8_t* scales, uint32_t column, float value) {
  if (!quants.halves) {
    std::memcpy(scales + 4 * column, &value, sizeof value);
    return;
  }
  const uint16_t bits = f32_to_f16(value);
  std::memcpy(scales + 2 * column, &bits, sizeof bits);
}

}  // namespace

// The panel was filled with zeros.
void PackedMatrix::pack_quants(uint32_t index, const QuantRow& row) {
  const uint32_t column = index % kPanelColumns;
  auto* block = static_cast<uint8_t*>(const_cast<void*>(panel(index / kPanelColumns)));
  for (uint32_t b = 0; b < k / quants_.block; ++b, block += quants_.block_bytes) {
    put_scale(quants_, block, column, row.scales[b]);
    if (quants_.minima) put_scale(quants_, block + quants_.minima_offset, column, row.minima[b]);
    for (uint32_t input = 0; input < quants_.block; ++input) {
      const QuantPlace place = place_of(quants_, column, input);
      uint8_t& byte = block[quants_.quants_offset + place.byte];
      byte = static_cast<uint8_t>(byte | row.quants[size_t{b} * quants_.block + input] << place.shift);
    }
  }
}

float PackedMatrix::quant_value(const uint8_t* block, uint32_t column, uint32_t input) const {
  const QuantPlace place = place_of(quants_, column, input);
  const uint8_t byte = block[quants_.quants_offset + place.byte];
  const float quant = quants_.bits == 8 ? static_cast<float>(static_cast<int8_t>(byte))
                                        : bf16_to_f32(quants_.table[byte >> place.shift & 15u]);
  const float value = quant * scale_at(quants_, block, column);
  return quants_.minima ? value + scale_at(quants_, block + quants_.minima_offset, column) : value;
}

void PackedMatrix::pack_row(uint32_t index, const float* row) {
  uint32_t column = index % kPanelColumns;
  void* first = const_cast<void*>(panel(index / kPanelColumns));
  if (type_ == DType::f32) {
    float* to = static_cast<float*>(first) + column;
    for (size_t i = 0; i < k; ++i) to[i * kPanelColumns] = row[i];
    return;
  }
  uint16_t* to = static_cast<uint16_t*>(first) + 2 * column;
  for (size_t i = 0; i < k; ++i) to[(i & ~size_t{1}) * kPanelColumns + (i & 1)] = f32_to_bf16(row[i]);
}

template <typename Use>
void PackedMatrix::each_of_row(uint32_t index, const Use& use) const {
  uint32_t column = index % kPanelColumns;
  const void* first = panel(index / kPanelColumns);
  if (quants_.bits != 0) {
    for (uint32_t i = 0; i < k; ++i) {
      const auto* block = static_cast<const uint8_t*>(first) + size_t{i / quants_.block} * quants_.block_bytes;
      use(i, quant_value(block, column, i % quants_.block));
    }
    return;
  }
  if (type_ == DType::f32) {
    const float* from = static_cast<const float*>(first) + column;
    for (size_t i = 0; i < k; ++i) use(i, from[i * kPanelColumns]);
    return;
  }
  const uint16_t* from = static_cast<const uint16_t*>(first) + 2 * column;
  for (size_t i = 0; i < k; ++i) use(i, bf16_to_f32(from[(i & ~size_t{1}) * kPanelColumns + (i & 1)]));
}

void PackedMatrix::copy_row(uint32_t index, float* to) const {
  each_of_row(index, [to](size_t i, float value) { to[i] = value; });
}

void PackedMatrix::add_row(uint32_t index, float* to) const {
  each_of_row(index, [to](size_t i, float value) { to[i] += value; });
}

}  // namespace iokv::cpu
