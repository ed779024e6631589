// SPDX-License-Identifier: Apache-2.0
// The service joins the parts into a daemon: one libuv loop on the conductor's thread that runs passes of the exchange,
// hands Plans to the device's thread and takes them back, and sleeps when there is nothing to do.
//
// Invariants
//  1. The loop never spins while a Plan is out (the CPU backend needs the cores), nor longer than spin_us after the last
//     work; it sleeps only after every session was armed and nothing had arrived (session.h, arm).
//  2. Asleep with nothing to do it has no timer: an idle daemon makes no wake-ups, but for a supervisor's watchdog.
//  3. After SIGTERM or SIGINT, and once the device is lost, every admitted operation completes, with IOKV_ESHUTDOWN if need be, before run returns.
//  4. The supervisor is told READY once the model is loaded and its self-test has passed, and that the daemon is alive only
//     while steps advance or nothing waits for one (advances).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <uv.h>

#include "daemon/base/monotonic.h"
#include "daemon/base/result.h"
#include "daemon/connections.h"
#include "daemon/exchange.h"
#include "daemon/log.h"
#include "daemon/offer.h"
#include "daemon/pool/host_pool.h"
#include "daemon/runtime/device_thread.h"
#include "daemon/session/listener.h"
#include "daemon/step_trace.h"
#include "daemon/supervisor.h"

namespace iokv {

// What a running daemon can be told anew.
struct Tuning {
  ConductorTuning conductor;
  uint64_t spin_ns = 20'000;
  std::map<uint32_t, uint32_t> client_weights;  // by uid, of clients that are yet to come; others: 1
};

struct ServiceOptions {
  ConductorConfig conductor;
  Tuning tuning;
  uint32_t trace_steps = 0;  // that are kept for iokv trace
  uint64_t start_ns = monotonic_ns();  // when the process began
  // On SIGHUP: what the configuration says now; nothing: it cannot be taken, and whoever reads the log knows why.
  std::function<std::optional<Tuning>()> reload;
};

class Service final : private ExchangePorts {
 public:
  // Listens at once; clients wait until `load` has made the model ready. The pool outlives the service.
  static Result<std::unique_ptr<Service>> make(ServiceOptions options, Supervisor supervisor, Listener listener, Offer offer,
                                               BlockPool& blocks, HostPool& memory, DeviceThread::Load load);
  ~Service();

  // Serves until SIGTERM or SIGINT. Error: the model could not be loaded, or the device was lost meanwhile: every
  // operation has then ended with a code, and a new process can take the device anew.
  Status run();

 private:
  Service(ServiceOptions options, Supervisor supervisor, Listener listener, Offer offer, BlockPool& blocks, HostPool& memory);
  Status start(DeviceThread::Load load);
  Status watch(uv_signal_t& watch, int number, uv_signal_cb act);
  bool is_over() const;
  void turn();
  void take_from_device();
  void become_ready();
  void note_progress();
  bool advances();
  void reload();
  void lose_device(const std::string& failure);
  void sleep();
  void request_shutdown();
  void publish_counters();
  void report_drift();

  void ring(ClientId client) override { connections_->ring(client); }
  void ended(ClientId client, int32_t code, const std::string& reason) override {
    connections_->ended(client, code, reason);
  }
  void issue(Plan* plan) override;
  void discarded(uint32_t block, BlockForm form) override;
  void audit_failed(const AuditFinding& finding) override;

  ServiceOptions options_;
  Supervisor supervisor_;
  Listener listener_;
  Offer offer_;
  HostPool& memory_;
  uv_loop_t loop_{};
  uv_async_t device_watch_{};
  uv_signal_t terminate_{}, interrupt_{}, hang_up_{};
  uv_timer_t timer_{};
  uv_timer_t supervisor_timer_{};  // while loading: has it advanced? Then, if the supervisor counts: alive()
  Exchange exchange_;
  StepTrace trace_;
  std::unique_ptr<Connections> connections_;
  std::unique_ptr<DeviceThread> device_;

  bool loaded_ = false;
  uint32_t percent_ = 0;
  std::atomic<uint64_t> load_reports_{0};  // by the device's thread
  uint64_t load_reports_seen_ = 0;
  uint64_t plans_retired_ = 0, plans_retired_seen_ = 0;
  std::string load_failure_;
  std::string device_failure_;
  bool stopping_ = false;
  uint32_t plans_out_ = 0;
  uint64_t spin_until_ns_ = 0;
  uint32_t turns_awake_ = 0;  // since the sockets were last looked at
  uint64_t wakeups_ = 0;
  uint64_t profile_fits_ = 0;
  LogRate audit_log_, drift_log_;
};

}  // namespace iokv
