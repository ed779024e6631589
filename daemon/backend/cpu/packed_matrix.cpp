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
  matrix->data_ = data;
  return matrix;
}

Result<std::unique_ptr<Matrix>> PackedMatrix::load(uint32_t outputs, uint32_t inputs, DType type,
                                                   const RowSource& source, ThreadTeam& team) {
  const size_t bytes = packing(inputs, type).bytes(outputs);
  Memory memory = allocate(bytes);
  if (memory == nullptr) {
    return error("no memory for a weight matrix of " + std::to_string(outputs) + " x " + std::to_string(inputs) + " (" +
                 std::to_string(bytes) + " bytes); use a smaller model or free memory");
  }
  IOKV_TRY(pack(outputs, inputs, type, source, team, memory.get()));
  std::unique_ptr<Matrix> matrix = view(outputs, inputs, type, memory.get());
  matrix->stored_bytes = bytes;
  static_cast<PackedMatrix&>(*matrix).memory_ = std::move(memory);
  return matrix;
}

Status PackedMatrix::pack(uint32_t outputs, uint32_t inputs, DType type, const RowSource& source, ThreadTeam& team,
                          void* to) {
  IOKV_ASSERT(outputs > 0 && inputs > 0);
  const std::unique_ptr<Matrix> target = view(outputs, inputs, type, to);
  auto& matrix = static_cast<PackedMatrix&>(*target);
  const size_t panel_bytes = packing(inputs, type).group_bytes;
  std::vector<float> rows;
  try {
    rows.resize(size_t{team.threads()} * inputs);
  } catch (const std::bad_alloc&) {
    return error("no memory for rows of " + std::to_string(inputs) + " weights; free memory");
  }
  team.run((outputs - 1) / kPanelColumns + 1, [&](uint32_t panel, uint32_t thread) {
    uint32_t begin = panel * kPanelColumns, end = outputs - begin < kPanelColumns ? outputs : begin + kPanelColumns;
    char* first = static_cast<char*>(to) + panel * panel_bytes;
    if (end - begin < kPanelColumns || inputs % 2 != 0) std::memset(first, 0, panel_bytes);
    float* row = rows.data() + size_t{thread} * inputs;
    for (uint32_t index = begin; index < end; ++index) {
      source.read_row(index, row);
      matrix.pack_row(index, row);
    }
  });
  return {};
}

const void* PackedMatrix::panel(uint32_t index) const {
  return static_cast<const char*>(data_) + index * packing(k, type_).group_bytes;
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
