// SPDX-License-Identifier: Apache-2.0
// A weight matrix in panels of 32 outputs, as kernels.h lays them out; the last panel's missing outputs are zeros. One
// copy serves gemm, which streams panels, and embed, which gathers a row from one.
#pragma once

#include <cstdint>
#include <memory>

#include "daemon/backend/backend.h"
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
  // The same into memory of the caller's.
  static Status pack(uint32_t outputs, uint32_t inputs, DType type, const RowSource& source, ThreadTeam& team, void* to);
  // Over what is packed at `data`, or will be.
  static std::unique_ptr<Matrix> view(uint32_t outputs, uint32_t inputs, DType type, void* data);
  static Packing packing(uint32_t inputs, DType type);

  // At the panel's first column.
  const void* panel(uint32_t index) const;
  // to[0:k] (+)= row `index`.
  void copy_row(uint32_t index, float* to) const;
  void add_row(uint32_t index, float* to) const;

 private:
  template <typename Use>
  void each_of_row(uint32_t index, const Use& use) const;
  void pack_row(uint32_t index, const float* row);

  DType type_ = DType::f32;
  void* data_ = nullptr;
  Memory memory_;  // null in a view
};

}  // namespace iokv::cpu
