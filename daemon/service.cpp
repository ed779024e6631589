// SPDX-License-Identifier: Apache-2.0
#include "daemon/service.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "daemon/base/monotonic.h"
#include "iokv/iokv.h"

namespace iokv {
namespace {

// Looking at the sockets is a system call; a turn without one takes well under a microsecond.
constexpr uint32_t kTurnsBetweenPolls = 32;
// How often a supervisor is told that loading goes on: well within Supervisor::kLoadGraceUs.
constexpr uint64_t kLoadReportMs = 5'000;

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Result<std::unique_ptr<Service>> Service::make(ServiceOptions options, Supervisor supervisor, Listener listener, Offer offer,
                                               BlockPool& blocks, HostPool& memory, DeviceThread::Load load) {
  options.conductor.tuning = options.tuning.conductor;
  std::unique_ptr<Service> service(new Service(std::move(options), std::move(supervisor), std::move(listener),
                                               std::move(offer), blocks, memory));
  IOKV_TRY(service->start(std::move(load)));
  return service;
}

Service::Service(ServiceOptions options, Supervisor supervisor, Listener listener, Offer offer, BlockPool& blocks,
                 HostPool& memory)
    : options_(std::move(options)),
      supervisor_(std::move(supervisor)),
      listener_(std::move(listener)),
      offer_(std::move(offer)),
      memory_(memory),
      exchange_(options_.conductor, offer_.session_limits(), blocks, *this),
      trace_(options_.trace_steps) {}

namespace {

Status require(int status, const char* what) {
  if (status != 0) return error(fmt::format("{}: {}", what, uv_strerror(status)));
  return {};
}

}  // namespace

Status Service::start(DeviceThread::Load load) {
  offer_.counters().set(wire::Counter::start_ns, options_.start_ns);
  IOKV_TRY(require(uv_loop_init(&loop_), "event loop"));
  IOKV_ASSERT(uv_timer_init(&loop_, &timer_) == 0 && uv_timer_init(&loop_, &supervisor_timer_) == 0);
  IOKV_TRY(require(uv_async_init(&loop_, &device_watch_, [](uv_async_t*) {}), "wake-up of the event loop"));
  const uv_signal_cb end = [](uv_signal_t* signal, int) { static_cast<Service*>(signal->data)->request_shutdown(); };
  IOKV_TRY(watch(terminate_, SIGTERM, end));
  IOKV_TRY(watch(interrupt_, SIGINT, end));
  if (options_.reload) {
    IOKV_TRY(watch(hang_up_, SIGHUP, [](uv_signal_t* signal, int) { static_cast<Service*>(signal->data)->reload(); }));
  }
  connections_ = std::make_unique<Connections>(&loop_, listener_, offer_, exchange_, trace_,
                                               options_.conductor.max_clients, options_.tuning.client_weights,
                                               options_.tuning.conductor.access);
  supervisor_.loading(0);
  supervisor_timer_.data = this;
  if (supervisor_.present()) {
    uv_timer_start(&supervisor_timer_, [](uv_timer_t* timer) { static_cast<Service*>(timer->data)->note_progress(); },
                   kLoadReportMs, kLoadReportMs);
  }
  DeviceThread::Load counted = [this, load = std::move(load)](const LoadProgress& progress) {
    return load([&](uint32_t percent) {
      load_reports_.fetch_add(1, std::memory_order_relaxed);
      return progress(percent);
    });
  };
  device_ = std::make_unique<DeviceThread>(std::move(counted), [this] { uv_async_send(&device_watch_); });
  return {};
}

Status Service::watch(uv_signal_t& watch, int number, uv_signal_cb act) {
  IOKV_TRY(require(uv_signal_init(&loop_, &watch), "signals"));
  watch.data = this;
  return require(uv_signal_start(&watch, act, number), "signals");
}

Service::~Service() {
  device_.reset();
  if (connections_) connections_->close_all(IOKV_ESHUTDOWN, "the daemon is stopping");
  for (auto* handle : {reinterpret_cast<uv_handle_t*>(&timer_), reinterpret_cast<uv_handle_t*>(&device_watch_),
                       reinterpret_cast<uv_handle_t*>(&supervisor_timer_), reinterpret_cast<uv_handle_t*>(&terminate_),
                       reinterpret_cast<uv_handle_t*>(&interrupt_), reinterpret_cast<uv_handle_t*>(&hang_up_)}) {
    if (handle->loop != nullptr && uv_is_closing(handle) == 0) uv_close(handle, nullptr);
  }
  uv_run(&loop_, UV_RUN_DEFAULT);
  connections_.reset();
  uv_loop_close(&loop_);
}

Status Service::run() {
  while (!is_over()) turn();
  if (!load_failure_.empty()) return error(load_failure_);
  if (!device_failure_.empty()) return error(device_failure_);
  return {};
}

bool Service::is_over() const {
  if (!load_failure_.empty()) return true;
  return stopping_ && (!loaded_ || (plans_out_ == 0 && exchange_.conductor().quiet()));
}

void Service::turn() {
  take_from_device();
  const uint64_t now_ns = monotonic_ns();
  if (exchange_.pass(now_ns)) {
    spin_until_ns_ = now_ns + options_.tuning.spin_ns;
    publish_counters();
  } else if (is_over()) {
    return;  // what the device has said may have been the last that was to come: nothing would end a sleep
  } else if (plans_out_ > 0 || now_ns >= spin_until_ns_) {
    return sleep();
  }
  pause_core();
  if (++turns_awake_ < kTurnsBetweenPolls) return;
  turns_awake_ = 0;
  uv_run(&loop_, UV_RUN_NOWAIT);
}

void Service::sleep() {
  turns_awake_ = 0;
  const bool arrived = exchange_.arm();
  if (!arrived) {
    const uint64_t timer_ns = exchange_.conductor().next_timer_ns();
    if (timer_ns != 0) {
      uv_update_time(&loop_);
      const uint64_t now_ns = monotonic_ns();
      const uint64_t wait_ms = timer_ns <= now_ns ? 0 : (timer_ns - now_ns + 999'999) / 1'000'000;
      uv_timer_start(&timer_, [](uv_timer_t*) {}, wait_ms, 0);
    }
    uv_run(&loop_, UV_RUN_ONCE);
    uv_timer_stop(&timer_);
    wakeups_++;
  }
  exchange_.disarm();
}

void Service::take_from_device() {
  while (Plan* plan = device_->retired()) {
    plans_out_--;
    plans_retired_++;
    trace_.keep(*plan);
    const std::string failure = plan->failure;
    exchange_.retire(monotonic_ns(), plan);
    if (!failure.empty()) lose_device(failure);
  }
  if (loaded_ || !load_failure_.empty()) return;
  const DeviceThread::State state = device_->state();
  if (state == DeviceThread::State::failed) {
    load_failure_ = device_->failure();
  } else if (state == DeviceThread::State::ready) {
    become_ready();
  } else if (device_->percent() != percent_) {
    percent_ = device_->percent();
    offer_.counters().set(wire::Counter::loading_percent, percent_);
    connections_->set_loading(percent_);
  }
}

void Service::become_ready() {
  loaded_ = true;
  exchange_.know_device(device_->profile());
  CountersPage& page = offer_.counters();
  const LoadTimes& times = device_->load_times();
  const uint64_t ready_after_ns = monotonic_ns() - options_.start_ns;
  page.set(wire::Counter::ready_after_ns, ready_after_ns);
  page.set(wire::Counter::pool_prepared_ns, times.pool_ns);
  page.set(wire::Counter::weights_loaded_ns, times.weights_ns);
  page.set(wire::Counter::profiled_ns, times.profile_ns);
  page.set(wire::Counter::weights_bytes, device_->model().weight_bytes());
  page.set(wire::Counter::loading_percent, 100);
  page.set(wire::Counter::ready, 1);
  spdlog::info("ready after {:.1f} s, of which the pool took {:.1f}, the weights {:.1f} and the profile {:.1f}",
               static_cast<double>(ready_after_ns) / 1e9, static_cast<double>(times.pool_ns) / 1e9,
               static_cast<double>(times.weights_ns) / 1e9, static_cast<double>(times.profile_ns) / 1e9);
  fmt::print("iokvd ready on {}\n", listener_.path());
  std::fflush(stdout);
  uv_timer_stop(&supervisor_timer_);
  if (stopping_) return;
  connections_->set_ready();
  supervisor_.ready("Serving");
  if (supervisor_.watchdog_ns() == 0) return;
  supervisor_.alive();
  // Twice in the time, as sd_watchdog_enabled(3) advises.
  const uint64_t period_ms = std::max<uint64_t>(supervisor_.watchdog_ns() / 2'000'000, 1);
  uv_timer_start(&supervisor_timer_, [](uv_timer_t* timer) {
    auto* service = static_cast<Service*>(timer->data);
    if (service->advances()) service->supervisor_.alive();
  }, period_ms, period_ms);
}

// Loading that no longer reports is left to the supervisor's patience.
void Service::note_progress() {
  const uint64_t reports = load_reports_.load(std::memory_order_relaxed);
  if (std::exchange(load_reports_seen_, reports) != reports) supervisor_.loading(percent_);
}

// Since it was asked last a step has ended; or none runs, and nobody waits for one. A device that hangs, and a conductor
// that leaves work lying, are neither.
bool Service::advances() {
  const bool stepped = std::exchange(plans_retired_seen_, plans_retired_) != plans_retired_;
  const uint64_t waiting = exchange_.conductor().counters()[static_cast<uint32_t>(wire::Counter::waiting)];
  return stepped || (plans_out_ == 0 && waiting == 0);
}

void Service::reload() {
  if (stopping_) return;
  if (loaded_) supervisor_.reloading();
  if (std::optional<Tuning> tuning = options_.reload()) {
    options_.tuning = *std::move(tuning);
    exchange_.retune(monotonic_ns(), options_.tuning.conductor);
  }
  if (loaded_) supervisor_.ready("Serving");
}

// Nothing that was on it can be trusted, nor that it will answer again: a new process begins with it anew.
void Service::lose_device(const std::string& failure) {
  if (device_failure_.empty()) device_failure_ = failure;
  if (std::exchange(stopping_, true)) return;
  supervisor_.stopping(failure);
  spdlog::error("a step failed, and every operation ends with a code: {}", failure);
  exchange_.shut_down(monotonic_ns());
}

void Service::request_shutdown() {
  if (std::exchange(stopping_, true)) return;
  supervisor_.stopping("Ending every operation");
  spdlog::info("stopping: every operation under way ends with a code");
  exchange_.shut_down(monotonic_ns());
}

void Service::issue(Plan* plan) {
  plans_out_++;
  device_->issue(plan);
}

void Service::discarded(uint32_t block, BlockForm form) { memory_.discard(block, form); }

// Once for each correction: whoever shares the link, or slows the device, shows here.
void Service::report_drift() {
  const Conductor::Counters& counters = exchange_.conductor().counters();
  const uint64_t fits = counters[static_cast<uint32_t>(wire::Counter::profile_fits)];
  if (fits == std::exchange(profile_fits_, fits)) return;
  const Drift& drift = *exchange_.conductor().drift();
  drift_log_.log(monotonic_ns(), spdlog::level::info, "steps take another time than predicted: planning now with a link that takes {:.2f} and a device that takes "
               "{:.2f} times as long as measured at the start", drift.link_factor(), drift.device_factor());
}

void Service::audit_failed(const AuditFinding& finding) {
  audit_log_.log(monotonic_ns(), spdlog::level::err, "audit: step {}: sequence {} of client {}: the logits behind position {} "
                    "are not what its tokens give: they differ by {:.2g} of the largest", finding.plan, finding.sequence,
                    connections_->label_of(finding.client), finding.position, finding.difference);
}

// The conductor's counters, and those that only this thread knows.
void Service::publish_counters() {
  CountersPage& page = offer_.counters();
  const Conductor::Counters& counters = exchange_.conductor().counters();
  for (wire::Counter counter : Conductor::kOwnCounters) page.set(counter, counters[static_cast<uint32_t>(counter)]);
  for (const wire::TokenTimes& times : {wire::kFirstToken, wire::kTokenGap}) {
    for (uint32_t i = 0; i <= wire::kTokenTimeBounds + 1; i++) {
      page.set(times.slot(i), counters[static_cast<uint32_t>(times.slot(i))]);
    }
  }
  page.set(wire::Counter::clients_ended, connections_->ended_by_daemon());
  page.set(wire::Counter::doorbells_sent, connections_->doorbells_sent());
  page.set(wire::Counter::doorbells_received, connections_->doorbells_received());
  page.set(wire::Counter::wakeups, wakeups_);
  report_drift();
}

}  // namespace iokv
