// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/cuda/host_queue.h"

#include <string>
#include <utility>

namespace iokv::cuda {
namespace {

constexpr size_t kWordsBytes = 4096;  // a page, so that nothing else is near the words that threads spin on

template <typename Function>
Status find(const char* name, unsigned version, Function& function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult answer = cudaDriverEntryPointSymbolNotFound;
  IOKV_CUDA_TRY(cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &answer));
  if (answer != cudaDriverEntryPointSuccess || found == nullptr) return error(std::string("the driver has no ") + name);
  function = reinterpret_cast<Function>(found);
  return {};
}

}  // namespace

Result<std::unique_ptr<HostQueue>> HostQueue::make(int device, DType compute, std::span<const int> cpus) {
  std::unique_ptr<HostQueue> queue(new HostQueue());
  IOKV_TRY(queue->open(device));
  HostLaneOptions options;
  options.threads = static_cast<uint32_t>(cpus.size());
  options.cpus.assign(cpus.begin(), cpus.end());
  options.type = compute;
  options.reached_word = queue->words_ + kApart;
  IOKV_TRY_ASSIGN(queue->lane_, HostLane::make(options));
  return queue;
}

Status HostQueue::open(int device) {
  int same_addresses = 0;
  IOKV_CUDA_TRY(cudaDeviceGetAttribute(&same_addresses, cudaDevAttrCanUseHostPointerForRegisteredMem, device));
  if (same_addresses == 0) return error("the GPU does not see pinned host memory where the host does");
  constexpr unsigned kVersion = 12000;  // in which streams can do so whatever the driver's settings
  IOKV_TRY(find("cuStreamWriteValue32", kVersion, write_value_));
  IOKV_TRY(find("cuStreamWaitValue32", kVersion, wait_value_));
  IOKV_TRY(find("cuGetErrorName", kVersion, error_name_));
  IOKV_CUDA_TRY(cudaHostAlloc(reinterpret_cast<void**>(&words_), kWordsBytes, cudaHostAllocMapped));
  for (size_t i = 0; i < kWordsBytes / sizeof(uint32_t); ++i) words_[i] = 0;
  return {};
}

HostQueue::~HostQueue() {
  lane_.reset();
  if (words_ != nullptr) (void)cudaFreeHost(words_);
}

bool HostQueue::check(const char* what, CUresult result, Failure& failure) const {
  if (result == CUDA_SUCCESS) return true;
  const char* name = nullptr;
  (void)error_name_(result, &name);
  failure.note(error(std::string(what) + ": " + (name == nullptr ? "error " + std::to_string(result) : name)));
  return false;
}

void HostQueue::wait_for(cudaStream_t stream, Failure& failure) {
  const auto word = reinterpret_cast<CUdeviceptr>(words_);
  if (failure.happened() || !check("cuStreamWriteValue32", write_value_(stream, word, ++handed_, 0), failure)) return;
  lane_->wait(words_, handed_);
}

void HostQueue::make_wait(cudaStream_t stream, uint64_t ticket, Failure& failure) {
  IOKV_ASSERT(ticket <= recorded_);
  if (failure.happened() || lane_->reached(ticket)) return;
  const auto word = reinterpret_cast<CUdeviceptr>(words_ + kApart);
  check("cuStreamWaitValue32", wait_value_(stream, word, static_cast<uint32_t>(ticket), CU_STREAM_WAIT_VALUE_GEQ), failure);
}

}  // namespace iokv::cuda
