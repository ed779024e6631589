// SPDX-License-Identifier: Apache-2.0
// The inner loops of attention on the host, one table of them for each ISA and element type: the query heads of one KV
// head and one row against one block of 64 tokens. A kernel runs on the calling thread and allocates nothing.
//
// Invariants
//  1. A result is a fixed function of the block's numbers, of the state before it and of `begin` and `end`: the order of
//     its sums is the same whatever else there is.
//  2. K and V of tokens outside [begin, end) do not reach the result and may be anything, NaNs too. Those of a block are
//     there to be read.
//  3. The files that implement this are compiled for machines that may not be the one at hand. They use no inline
//     function of another header, whose copy the linker could otherwise pick for everybody; hence the plain pointers.
//
// Element: float, or f16 or bf16 as uint16_t. Query rows: the `group` heads that share a KV head.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace iokv::host {

// As attend_state_floats of backend.h lays a query row's state out: weighted sums of V, padded; at [padded] the sum of
// weights, at [padded + 1] the largest score.
constexpr size_t state_padded_dim(size_t head_dim) { return (head_dim + 15) / 16 * 16; }
constexpr size_t state_floats(size_t head_dim) { return state_padded_dim(head_dim) + 16; }

struct DecodeBlock {
  const void* q = nullptr;      // as pack_queries leaves them
  const void* k = nullptr;      // [64][d] elements; V, likewise, is behind them
  const void* next = nullptr;   // the K that will be attended to after this block: asked for ahead of time. null: unknown
  uint32_t begin = 0, end = 0;  // the tokens of the block that are seen; begin < end <= 64
  uint32_t group = 0, head_dim = 0;
  float scale = 1.0f;
  float score_cap = 0;          // 0: none
  float* state = nullptr;       // [group][state_floats(d)]: continued
  float* scores = nullptr;      // [group][64] of scratch memory, 64-byte aligned
};

// A packed query is at most as many f32, of whole vectors; or, in tiles of 16 queries, bf16.
constexpr size_t packed_query_bytes(size_t group, size_t head_dim) {
  const size_t wide = group * 4, tiled = (group + 15) / 16 * 16 * 2;
  return (wide > tiled ? wide : tiled) * ((head_dim + 31) / 32 * 32);
}

struct Kernels {
  // q: [group][d] elements, contiguous; packed: packed_query_bytes(...), 64-byte aligned.
  void (*pack_queries)(const void* q, uint32_t group, uint32_t head_dim, void* packed);
  // Nothing attended to yet: no sums, no weights and a largest score of minus infinity.
  void (*clear)(float* state, uint32_t group, uint32_t head_dim);
  // A thread enters before it attends to blocks of a group and head size, and leaves after the last: in between, registers
  // of its own are set up for them.
  void (*enter)(uint32_t group, uint32_t head_dim);
  void (*attend)(const DecodeBlock& block);
  void (*leave)(uint32_t group, uint32_t head_dim);
  // state ⊕ other by log-sum-exp, of each query row; either has seen a token.
  void (*fold)(float* state, const float* other, uint32_t group, uint32_t head_dim);
};

// All but the portable ones exist on x86-64 only.
enum class Element : uint8_t { f32, f16, bf16 };
const Kernels* portable_kernels(Element element);
const Kernels* avx2_kernels(Element element);
const Kernels* avx512_kernels(Element element);
const Kernels* avx512_bf16_kernels(Element element);
const Kernels* amx_bf16_kernels(Element element);

}  // namespace iokv::host
