// SPDX-License-Identifier: Apache-2.0
// A weight matrix in panels of 32 outputs, as kernels.h lays them out; the last panel's missing outputs are zeros. One
// copy serves gemm, which streams panels, and embed, which gathers a row from one. Rows that are stored in few bits stay
// so where the backend computes in bf16: decoding is as fast as weights are read, and quants are fewer bytes. Their
// values are the file's, with nothing rounded.
#pragma once

#include <cstdint>
#include <memory>

#include "daemon/backend/backend.h"
#include "daemon/backend/cpu/kernels.h"
#include "daemon/backend/cpu/thread_team.h"

namespace iokv::cpu {

struct FreeMemory {
  void operator()(void* memory) const;
};
using Memory = std::unique_ptr<void, FreeMemory>;

// 64-byte aligned; null when the system refuses.
Memory allocate(size_t bytes);

class PackedMatrix final : public Matrix {
 public:
  // Reads the rows through the team. Fails when there is no memory.
  static Result<std::unique_ptr<Matrix>> load(uint32_t outputs, uint32_t inputs, DType type, const RowSource& source,
                                              ThreadTeam& team);
  // The same into memory of the caller's, always as elements.
  static Status pack(uint32_t outputs, uint32_t inputs, DType type, const RowSource& source, ThreadTeam& team, void* to);
  // Over what is packed at `data`, or will be.
  static std::unique_ptr<Matrix> view(uint32_t outputs, uint32_t inputs, DType type, void* data);
  static Packing packing(uint32_t inputs, DType type);
  // Of what load makes of the rows.
  static size_t load_bytes(uint32_t outputs, uint32_t inputs, DType type, const RowSource& source);

  // Null: of elements.
  const QuantPanels* quants() const { return quants_.bits == 0 ? nullptr : &quants_; }
  // At the panel's first column.
  const void* panel(uint32_t index) const;
  // to[0:k] (+)= row `index`.
  void copy_row(uint32_t index, float* to) const;
  void add_row(uint32_t index, float* to) const;

 private:
  template <typename Use>
  void each_of_row(uint32_t index, const Use& use) const;
  Status fill(const RowSource& source, const QuantForm& form, ThreadTeam& team);
  void pack_row(uint32_t index, const float* row);
  void choose_form(const QuantForm& form);
  void pack_quants(uint32_t index, const QuantRow& row);
  float quant_value(const uint8_t* block, uint32_t column, uint32_t input) const;

  DType type_ = DType::f32;
  QuantPanels quants_;
  size_t panel_bytes_ = 0;
  void* data_ = nullptr;
  Memory memory_;  // null in a view
};

}  // namespace iokv::cpu
