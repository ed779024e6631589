// SPDX-License-Identifier: Apache-2.0
// What the tests of the CPU backend share: every ISA of this machine with each compute type, tensors of that type that
// are read back as double, and a seeded source of numbers. References are computed in double, in the tests, from the
// values that the tensors hold.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "daemon/backend/cpu/cpu_backend.h"

// Last, and after every standard header: it makes a macro of fail.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

namespace iokv::test {

inline uint64_t seed() {
  static const uint64_t value = [] {
    const char* given = std::getenv("IOKV_TEST_SEED");
    uint64_t chosen = given != nullptr ? std::strtoull(given, nullptr, 10) : 20261;
    std::printf("seed %llu (IOKV_TEST_SEED chooses another)\n", static_cast<unsigned long long>(chosen));
    return chosen;
  }();
  return value;
}

class Numbers {
 public:
  explicit Numbers(uint64_t stream) : engine_(seed() * 1000003 + stream) {}
  float normal(float deviation = 1.0f) { return deviation * distribution_(engine_); }
  uint32_t below(uint32_t limit) { return static_cast<uint32_t>(engine_() % limit); }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> distribution_;
};

// Elements of the compute type.
class Tensor {
 public:
  Tensor(DType type, size_t count) : type_(type), bytes_(count * size_of(type), uint8_t{0xff}) {}
  static Tensor random(DType type, size_t count, Numbers& numbers, float deviation = 1.0f) {
    Tensor tensor(type, count);
    for (size_t i = 0; i < count; ++i) tensor.set(i, numbers.normal(deviation));
    return tensor;
  }

  void set(size_t i, float value) {
    if (type_ == DType::f32) {
      std::memcpy(at(i), &value, 4);
    } else {
      uint16_t bits = type_ == DType::bf16 ? f32_to_bf16(value) : ::iokv::f32_to_f16(value);
      std::memcpy(at(i), &bits, 2);
    }
  }
  double operator[](size_t i) const {
    float value;
    uint16_t bits;
    if (type_ == DType::f32) return std::memcpy(&value, at(i), 4), double{value};
    std::memcpy(&bits, at(i), 2);
    return double{type_ == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits)};
  }
  void* at(size_t i = 0) { return bytes_.data() + i * size_of(type_); }
  const void* at(size_t i = 0) const { return bytes_.data() + i * size_of(type_); }
  size_t size() const { return bytes_.size() / size_of(type_); }
  DType type() const { return type_; }
  bool operator==(const Tensor& other) const { return bytes_ == other.bytes_; }
  bool same(size_t i, const Tensor& other, size_t j, size_t count) const {
    return std::memcmp(at(i), other.at(j), count * size_of(type_)) == 0;
  }

 private:
  DType type_;
  std::vector<uint8_t> bytes_;
};

struct Variant {
  CpuIsa isa;
  DType compute;
  // Largest error of storing a value: half a unit in the last place, with room for what led to it.
  double rounding() const { return compute == DType::bf16 ? 0x1.02p-8 : 0x1p-22; }
  std::unique_ptr<Backend> backend(uint32_t threads = 2) const {
    auto made = make_cpu_backend({compute, threads, isa});
    if (!made) std::printf("%s\n", made.failure().message.c_str());
    assert_true(static_cast<bool>(made));
    return *std::move(made);
  }
};

template <typename Test>
void each_variant(const Test& test) {
  for (CpuIsa isa : {CpuIsa::portable, CpuIsa::avx2, CpuIsa::avx512, CpuIsa::avx512_bf16}) {
    for (DType compute : {DType::f32, DType::bf16}) {
      if (!cpu_supports(isa)) {
        std::printf("%s: not on this machine\n", name_of(isa));
        continue;
      }
      test(Variant{isa, compute});
    }
  }
}

// Rows of a matrix of f32 numbers.
struct Rows final : RowSource {
  uint32_t columns;
  std::vector<float> values;
  Rows(uint32_t rows, uint32_t row_columns, Numbers& numbers, float deviation = 1.0f)
      : columns(row_columns), values(size_t{rows} * row_columns) {
    for (float& value : values) value = numbers.normal(deviation);
  }
  void read_row(uint32_t index, float* row) const override {
    std::memcpy(row, &values[size_t{index} * columns], columns * sizeof(float));
  }
  // As the backend keeps it.
  double stored(DType compute, size_t row, size_t column) const {
    float value = values[row * columns + column];
    return compute == DType::bf16 ? double{bf16_to_f32(f32_to_bf16(value))} : double{value};
  }
};

inline std::unique_ptr<Matrix> load(Backend& backend, uint32_t n, const Rows& rows) {
  auto matrix = backend.load(n, rows.columns, rows);
  assert_true(static_cast<bool>(matrix));
  return *std::move(matrix);
}

// |value − reference| <= bound, and neither is a NaN.
inline void assert_near(double value, double reference, double bound) {
  if (!(std::fabs(value - reference) <= bound)) {
    std::printf("%.9g is %.3g from %.9g, more than %.3g\n", value, std::fabs(value - reference), reference, bound);
    fail();
  }
}

}  // namespace iokv::test
