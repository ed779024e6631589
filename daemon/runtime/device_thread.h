// SPDX-License-Identifier: Apache-2.0
// The thread of one device: loads the model, then runs Plans in the order of issue. It meets the conductor's thread in
// two bounded single-producer single-consumer queues; neither thread ever waits for the other's lock.
//
// Invariants
//  1. The executor and the backend are used by this thread only, from load to end.
//  2. An idle thread sleeps until the next Plan: it wakes nobody and is woken by nobody.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include <boost/lockfree/spsc_queue.hpp>

#include "daemon/base/result.h"
#include "daemon/runtime/executor.h"
#include "daemon/sched/plan.h"

namespace iokv {

// What loading took the time for.
struct LoadTimes {
  uint64_t pool_ns = 0, weights_ns = 0, profile_ns = 0;
};

struct LoadedDevice {
  std::unique_ptr<DeviceMemory> resident;  // cached tokens that stay on the device, or null; the executor reads them
  std::unique_ptr<Executor> executor;
  Profile profile;
  LoadTimes times;
};

class DeviceThread {
 public:
  // Runs on the new thread; reports percentages on its way.
  using Load = std::function<Result<LoadedDevice>(const LoadProgress& progress)>;
  // Called from the new thread whenever percent(), state() or retired() may have changed.
  using Notify = std::function<void()>;

  DeviceThread(Load load, Notify notify);
  ~DeviceThread();  // interrupts a load, or runs what was issued; then joins

  enum class State : uint8_t { loading, ready, failed };
  State state() const { return state_.load(std::memory_order_acquire); }
  uint32_t percent() const { return percent_.load(std::memory_order_relaxed); }
  // With State::failed: why.
  const std::string& failure() const { return failure_; }
  // With State::ready.
  const Model& model() const { return device_.executor->model(); }
  const Profile& profile() const { return device_.profile; }
  const LoadTimes& load_times() const { return device_.times; }

  // Conductor's thread. At most kQueued Plans may be out.
  void issue(Plan* plan);
  // Conductor's thread: the next Plan that has run, or nullptr.
  Plan* retired();
  static constexpr size_t kQueued = 8;

 private:
  using PlanQueue = boost::lockfree::spsc_queue<Plan*, boost::lockfree::capacity<kQueued>>;

  void run();
  void load();

  Load load_;
  Notify notify_;
  LoadedDevice device_;
  std::string failure_;
  std::atomic<State> state_{State::loading};
  std::atomic<uint32_t> percent_{0};
  PlanQueue issued_, retired_;
  std::atomic<uint32_t> pushed_{0};  // Plans issued, and one more to stop: what the thread sleeps on
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace iokv
