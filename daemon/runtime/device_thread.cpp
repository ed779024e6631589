// SPDX-License-Identifier: Apache-2.0
#include "daemon/runtime/device_thread.h"

#include <pthread.h>

#include <utility>

namespace iokv {

DeviceThread::DeviceThread(Load load, Notify notify) : load_(std::move(load)), notify_(std::move(notify)) {
  thread_ = std::thread([this] { run(); });
}

DeviceThread::~DeviceThread() {
  stopping_.store(true, std::memory_order_relaxed);
  pushed_.fetch_add(1, std::memory_order_release);
  pushed_.notify_one();
  thread_.join();
}

void DeviceThread::issue(Plan* plan) {
  IOKV_ASSERT(issued_.push(plan));
  // Release: with the acquire in run(); the Plan's contents went through the queue's own.
  pushed_.fetch_add(1, std::memory_order_release);
  pushed_.notify_one();
}

Plan* DeviceThread::retired() {
  Plan* plan = nullptr;
  return retired_.pop(plan) ? plan : nullptr;
}

void DeviceThread::run() {
  ::pthread_setname_np(::pthread_self(), "iokvd-device");
  load();
  if (device_.executor == nullptr) return;
  // Only this thread takes from the queue: what is seen at its front stays there.
  const Pipeline::Next next = [this]() -> const Plan* { return issued_.read_available() > 0 ? issued_.front() : nullptr; };
  for (uint32_t seen = 0;;) {
    // The count is loaded before the queue is looked at, so that a Plan pushed in between ends the wait at once.
    const uint32_t pushed = pushed_.load(std::memory_order_acquire);
    Plan* plan = nullptr;
    while (issued_.pop(plan)) {
      device_.executor->run(*plan, next);
      IOKV_ASSERT(retired_.push(plan));
      notify_();
    }
    if (stopping_.load(std::memory_order_relaxed)) return;
    if (pushed == seen) pushed_.wait(seen, std::memory_order_acquire);
    seen = pushed;
  }
}

void DeviceThread::load() {
  auto loaded = load_([this](uint32_t percent) {
    percent_.store(percent, std::memory_order_relaxed);
    notify_();
    return !stopping_.load(std::memory_order_relaxed);
  });
  load_ = nullptr;
  if (loaded) {
    device_ = *std::move(loaded);
  } else {
    failure_ = loaded.failure().message;
  }
  // Release: with the acquire in state(), for device_ and failure_.
  state_.store(loaded ? State::ready : State::failed, std::memory_order_release);
  notify_();
}

}  // namespace iokv
