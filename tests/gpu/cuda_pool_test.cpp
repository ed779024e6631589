// SPDX-License-Identifier: Apache-2.0
// The host pool as a GPU has it: prepared on the GPU's node, pinned, and copied from and to; and memory that is pinned in
// parts. IOKV_TEST_POOL_GIB makes the pool as large as one wants to see, and holds it to 64 GiB in 25 s.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <cuda_runtime_api.h>

#include "daemon/backend/cuda/copier.h"
#include "daemon/base/monotonic.h"
#include "daemon/pool/host_pool.h"
#include "tests/backend/cuda_fixture.h"

namespace iokv::test {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;

double seconds_since(uint64_t begun_ns) { return static_cast<double>(monotonic_ns() - begun_ns) / 1e9; }

// GB/s of copies of 64 MiB to or from the device, of up to 8 GiB of the pool.
double link_rate(Backend& backend, const HostPool& pool, Queue queue, DeviceMemory& device) {
  const size_t piece = device.size_bytes(), all = std::min(pool.bytes(), uint64_t{8} << 30) / piece * piece;
  const Ticket begin = backend.record(queue);
  for (size_t at = 0; at < all; at += piece) {
    if (queue == Queue::h2d) backend.copy(queue, device.data(), pool.base() + at, piece);
    if (queue == Queue::d2h) backend.copy(queue, pool.base() + at, device.data(), piece);
  }
  const Ticket end = backend.record(queue);
  assert_true(static_cast<bool>(backend.poll(end, true)));
  return static_cast<double>(all) / static_cast<double>(backend.reached_ns(end) - backend.reached_ns(begin));
}

void a_prepared_pool_is_pinned_and_copied_at_the_links_rate(void**) {
  const char* asked = std::getenv("IOKV_TEST_POOL_GIB");
  const uint64_t bytes = (asked != nullptr ? std::strtoull(asked, nullptr, 10) : 1) << 30;
  auto backend = *open_gpu(DType::f16);
  auto made = HostPool::create({32, 1 << 20, 1 << 19}, bytes);
  assert_true(static_cast<bool>(made));
  const HostPool& pool = *made;
  PoolPreparation how;
  how.numa_node = backend->info().numa_node;
  how.warn = [](const std::string& line) { std::printf("%s\n", line.c_str()); };
  how.progress = [](const PoolProgress& progress) {
    std::printf("%.1f of %.1f GiB touched, %.1f GiB/s, %.0f s left\n", static_cast<double>(progress.touched_bytes) / kGiB,
                static_cast<double>(progress.total_bytes) / kGiB, progress.bytes_per_second() / kGiB, progress.seconds_left());
  };
  const uint64_t begun_ns = monotonic_ns();
  Status ready = pool.prepare(how);
  if (!ready) std::printf("%s\n", ready.failure().message.c_str());
  assert_true(static_cast<bool>(ready));
  const double touched = seconds_since(begun_ns);
  Status pinned = backend->pin(pool.base(), pool.bytes());
  if (!pinned) std::printf("%s\n", pinned.failure().message.c_str());
  assert_true(static_cast<bool>(pinned));
  const double whole = seconds_since(begun_ns), gib = static_cast<double>(pool.bytes()) / kGiB;

  // What is written comes back at another place: from the beginning, over the middle, and at the end.
  auto device = *backend->alloc(size_t{64} << 20);
  Numbers numbers(901);
  const size_t piece = device->size_bytes();
  for (const uint64_t at : {uint64_t{0}, pool.bytes() / 2 - piece / 2, pool.bytes() - piece}) {
    const uint64_t back = at == 0 ? piece : 0;
    for (size_t i = 0; i < piece; i += 4093) pool.base()[at + i] = static_cast<std::byte>(numbers.below(256));
    backend->copy(Queue::h2d, device->data(), pool.base() + at, piece);
    backend->wait(Queue::d2h, backend->record(Queue::h2d));
    backend->copy(Queue::d2h, pool.base() + back, device->data(), piece);
    finish(*backend, Queue::d2h);
    assert_memory_equal(pool.base() + back, pool.base() + at, piece);
  }
  const double up = link_rate(*backend, pool, Queue::h2d, *device), down = link_rate(*backend, pool, Queue::d2h, *device);
  std::printf("%.1f GiB on node %d by %u cores: touched in %.2f s (%.1f GiB/s), pinned in %.2f s (%.1f GiB/s), ready in %.2f s; "
              "then %.1f GB/s to the device, %.1f GB/s from it\n",
              gib, how.numa_node, std::thread::hardware_concurrency(), touched, gib / touched, whole - touched,
              gib / (whole - touched), whole, up, down);
  const uint64_t unpin_ns = monotonic_ns();
  backend->unpin(pool.base());
  std::printf("unpinned in %.2f s\n", seconds_since(unpin_ns));
  if (asked != nullptr) assert_true(whole <= 25 * gib / 64);
}

// Bytes of the host, pinned in parts, and as many on the device.
struct Parts {
  static constexpr size_t kBytes = 1 << 20, kPart = 1 << 16;

  Parts() {
    host = static_cast<uint8_t*>(::mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    assert_true(host != MAP_FAILED);
    assert_int_equal(cudaMalloc(reinterpret_cast<void**>(&device), kBytes), cudaSuccess);
    assert_int_equal(cudaMemset(device, 0, kBytes), cudaSuccess);
    assert_int_equal(cudaStreamCreate(&stream), cudaSuccess);
    assert_true(static_cast<bool>(copier.pin(host, 2 * kBytes, kPart)));
    Numbers numbers(902);
    for (size_t i = 0; i < kBytes; ++i) host[i] = static_cast<uint8_t>(1 + numbers.below(255));
  }
  ~Parts() {
    copier.unpin(host);
    (void)cudaStreamDestroy(stream);
    (void)cudaFree(device);
    (void)::munmap(host, 2 * kBytes);
  }
  uint8_t* back() const { return host + kBytes; }

  // To the device and back, to as much further in `back` as it was in the host's memory.
  void there_and_back(const std::vector<CopyRun>& up) {
    std::vector<CopyRun> down;
    for (const CopyRun& run : up) {
      CopyRun other = run;
      std::swap(other.to_pitch_bytes, other.from_pitch_bytes);
      other.from = run.to;
      other.to = back() + (static_cast<const uint8_t*>(run.from) - host);
      down.push_back(other);
    }
    copier.copy(stream, cuda::Copier::Host::from, up, failure);
    copier.copy(stream, cuda::Copier::Host::to, down, failure);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    if (failure.happened()) std::printf("%s\n", failure.error().message.c_str());
    assert_false(failure.happened());
  }

  uint8_t* host = nullptr;
  uint8_t* device = nullptr;
  cudaStream_t stream = nullptr;
  cuda::Copier copier;
  cuda::Failure failure;
};

void runs_cross_the_edges_of_what_was_pinned_in_parts(void**) {
  Parts whole;
  whole.there_and_back({{whole.device, whole.host, Parts::kBytes}});
  assert_memory_equal(whole.back(), whole.host, Parts::kBytes);

  Parts scattered;
  std::vector<CopyRun> runs;
  for (size_t i = 0; i + 1 < 10; ++i) {  // each over an edge, the last byte of one part to the first of the next but one
    const size_t from = (i + 1) * Parts::kPart - 1;
    runs.push_back({scattered.device + from, scattered.host + from, i % 3 == 0 ? Parts::kPart + 2 : 2});
    i += i % 3 == 0;
  }
  scattered.there_and_back(runs);
  for (const CopyRun& run : runs) {
    const auto from = static_cast<size_t>(static_cast<const uint8_t*>(run.from) - scattered.host);
    assert_memory_equal(scattered.back() + from, scattered.host + from, run.bytes);
  }

  Parts pitched;  // a row begins in one part and ends in the next; rows are in several parts
  pitched.there_and_back({{pitched.device, pitched.host + 1000, 3000, 100, 3000, 5000}});
  for (size_t row = 0; row < 100; ++row) {
    assert_memory_equal(pitched.back() + 1000 + row * 5000, pitched.host + 1000 + row * 5000, 3000);
    for (size_t i = 0; i < 2000; ++i) assert_int_equal(pitched.back()[1000 + row * 5000 + 3000 + i], 0);
  }
}

void what_is_unpinned_can_be_pinned_again(void**) {
  Parts parts;
  for (const size_t part : {Parts::kPart, 2 * Parts::kBytes, Parts::kPart / 2}) {
    parts.copier.unpin(parts.host);
    assert_true(static_cast<bool>(parts.copier.pin(parts.host, 2 * Parts::kBytes, part)));
    parts.there_and_back({{parts.device, parts.host, Parts::kBytes}});
  }
  // Of what is pinned already nothing is pinned by a call that fails.
  assert_false(static_cast<bool>(parts.copier.pin(parts.host, 2 * Parts::kBytes)));
  parts.there_and_back({{parts.device, parts.host, Parts::kBytes}});
}

}  // namespace
}  // namespace iokv::test

int main() {
  using namespace iokv::test;
  if (!has_gpu()) return kSkipped;
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_prepared_pool_is_pinned_and_copied_at_the_links_rate),
      cmocka_unit_test(runs_cross_the_edges_of_what_was_pinned_in_parts),
      cmocka_unit_test(what_is_unpinned_can_be_pinned_again),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
