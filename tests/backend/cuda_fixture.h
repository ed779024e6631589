// SPDX-License-Identifier: Apache-2.0
// What the tests of the CUDA backend share: a backend of each compute type, tensors that are written on the host and
// read back as double, and the skip where there is no GPU. References are computed in double, in the tests, from the
// values that the tensors hold.
#pragma once

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/backend/cuda/cuda_backend.h"
#include "tests/backend/cpu_fixture.h"

namespace iokv::test {

inline constexpr int kSkipped = 77;  // SKIP_RETURN_CODE in CMakeLists.txt

// Round to nearest even.
inline uint16_t f32_to_f16(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::fabs(double{value});
  if (std::isnan(value)) return sign | 0x7e00;
  if (size == 0) return sign;
  if (size >= 65520) return sign | 0x7c00;
  int exponent = 0;
  (void)std::frexp(size, &exponent);
  // Units of the last place: 2^-24 for the smallest numbers, 2^(exponent - 11) above.
  const int unit = std::max(exponent - 11, -24);
  const auto count = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, -unit)));
  // A carry into the next exponent comes out right: fractions run on into exponents.
  return static_cast<uint16_t>(sign | (unit == -24 ? count : (static_cast<uint32_t>(unit + 24) << 10) + count));
}

inline Result<std::unique_ptr<Backend>> open_gpu(DType compute, bool batch_invariant = true) {
  CudaOptions options;
  options.compute = compute;
  options.batch_invariant = batch_invariant;
  return make_cuda_backend_here(options);
}

// Whether the tests of this program can run; if not, says why. IOKV_REQUIRE_GPU makes that a failure.
inline bool has_gpu() {
  auto made = open_gpu(DType::f16);
  if (made) {
    std::printf("%s, %s\n", (*made)->info().name.c_str(), (*made)->info().driver.c_str());
    return true;
  }
  std::printf("skipped for want of a GPU: %s\n", made.failure().message.c_str());
  if (std::getenv("IOKV_REQUIRE_GPU") != nullptr) std::exit(1);
  return false;
}

inline void finish(Backend& backend, Queue queue = Queue::dense) {
  auto reached = backend.poll(backend.record(queue), true);
  if (!reached) std::printf("%s\n", reached.failure().message.c_str());
  assert_true(reached && *reached);
}

// Elements of a type in device memory, and what the host has put there or read.
class Array {
 public:
  // Of 0xff bytes: NaNs.
  Array(Backend& backend, DType type, size_t count)
      : backend_(&backend), type_(type), bytes_(std::max<size_t>(1, count) * size_of(type), uint8_t{0xff}), count_(count) {
    auto made = backend.alloc(bytes_.size());
    assert_true(static_cast<bool>(made));
    memory_ = *std::move(made);
    put();
  }
  static Array random(Backend& backend, DType type, size_t count, Numbers& numbers, float deviation = 1.0f) {
    Array array(backend, type, count);
    for (size_t i = 0; i < count; ++i) array.set(i, numbers.normal(deviation));
    array.put();
    return array;
  }
  static Array of(Backend& backend, const std::vector<float>& values) {
    Array array(backend, DType::f32, values.size());
    std::memcpy(array.bytes_.data(), values.data(), values.size() * sizeof(float));
    array.put();
    return array;
  }

  void set(size_t i, float value) {
    uint8_t* to = &bytes_[i * size_of(type_)];
    if (type_ == DType::f32) {
      std::memcpy(to, &value, 4);
    } else {
      const uint16_t bits = type_ == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
      std::memcpy(to, &bits, 2);
    }
  }
  double operator[](size_t i) const {
    const uint8_t* from = &bytes_[i * size_of(type_)];
    float value = 0;
    uint16_t bits = 0;
    if (type_ == DType::f32) return std::memcpy(&value, from, 4), double{value};
    std::memcpy(&bits, from, 2);
    return double{type_ == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits)};
  }
  // To the device, and from it after the dense and the recompute queue.
  void put() {
    backend_->copy(Queue::h2d, memory_->data(), bytes_.data(), bytes_.size());
    finish(*backend_, Queue::h2d);
  }
  Array& get() {
    finish(*backend_, Queue::dense);
    finish(*backend_, Queue::recompute);
    backend_->copy(Queue::d2h, bytes_.data(), memory_->data(), bytes_.size());
    finish(*backend_, Queue::d2h);
    return *this;
  }
  void* at(size_t i = 0) const { return static_cast<uint8_t*>(memory_->data()) + i * size_of(type_); }
  float* floats() const { return static_cast<float*>(memory_->data()); }
  size_t size() const { return count_; }
  DType type() const { return type_; }
  bool same(size_t i, const Array& other, size_t j, size_t count) const {
    return std::memcmp(&bytes_[i * size_of(type_)], &other.bytes_[j * size_of(type_)], count * size_of(type_)) == 0;
  }
  bool operator==(const Array& other) const { return bytes_ == other.bytes_; }

 private:
  Backend* backend_;
  DType type_;
  std::vector<uint8_t> bytes_;
  size_t count_;
  std::unique_ptr<DeviceMemory> memory_;
};

// ‖values − reference‖₂ / ‖reference‖₂ of the pairs that were added; a NaN never passes.
class RelativeError {
 public:
  void add(double value, double reference) {
    difference_ += (value - reference) * (value - reference);
    norm_ += reference * reference;
  }
  double value() const { return std::sqrt(difference_ / norm_); }

 private:
  double difference_ = 0, norm_ = 0;
};

constexpr double largest_error(DType compute) { return compute == DType::f16 ? 2e-3 : 1.5e-2; }

inline void assert_small(const char* what, const RelativeError& error, double bound) {
  if (error.value() <= bound) return;
  std::printf("%s: relative error %.3g, more than %.3g\n", what, error.value(), bound);
  fail();
}

// test(backend) for each compute type, with a backend that lives as long as the program.
template <typename Test>
void each_compute_type(const Test& test) {
  static std::array<std::unique_ptr<Backend>, 2> backends;
  for (DType compute : {DType::f16, DType::bf16}) {
    auto& backend = backends[compute == DType::f16 ? 0 : 1];
    if (backend == nullptr) {
      auto made = open_gpu(compute);
      assert_true(static_cast<bool>(made));
      backend = *std::move(made);
    }
    test(*backend);
  }
}

// As the device keeps a weight.
inline double stored(const Rows& rows, DType compute, size_t row, size_t column) {
  const float value = rows.values[row * rows.columns + column];
  return compute == DType::f16 ? double{f16_to_f32(f32_to_f16(value))} : double{bf16_to_f32(f32_to_bf16(value))};
}

}  // namespace iokv::test
