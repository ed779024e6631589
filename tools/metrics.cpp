// SPDX-License-Identifier: Apache-2.0
#include "tools/metrics.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "tools/token_times.h"

namespace iokv {
namespace {

constexpr int kRequestMs = 1000;
constexpr size_t kMostRequestBytes = 8192;
// How long to wait when the kernel has no descriptor for another connection.
constexpr int kExhaustedMs = 100;

bool is_token_time(uint32_t index) {
  for (const wire::TokenTimes& times : {wire::kFirstToken, wire::kTokenGap}) {
    if (index >= static_cast<uint32_t>(times.first) && index <= static_cast<uint32_t>(times.sum_ns())) return true;
  }
  return false;
}

std::string without(std::string_view name, std::string_view suffix) {
  if (name.ends_with(suffix)) name.remove_suffix(suffix.size());
  return std::string(name);
}

void append_head(std::string& text, const std::string& name, std::string_view help, std::string_view type) {
  text += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

// Prometheus wants base units: seconds, bytes, ratios.
void append_counter(std::string& text, const CounterSnapshot& snapshot, uint32_t index) {
  const CounterInfo& info = kCounterInfos[index];
  const std::string_view unit = info.unit;
  const bool gauge = wire::is_gauge(static_cast<wire::Counter>(index));
  std::string name = info.name;
  if (unit == "ns") name = without(name, "_ns") + "_seconds";
  if (unit == "1e-6") name = without(without(name, "_ppm"), "_ratio") + "_ratio";
  name = fmt::format("iokv_{}{}", name, gauge || name.ends_with("_total") ? "" : "_total");
  append_head(text, name, info.meaning, gauge ? "gauge" : "counter");
  const uint64_t value = snapshot.values[index];
  if (unit == "ns") {
    text += fmt::format("{} {}.{:09}\n", name, value / 1'000'000'000, value % 1'000'000'000);
  } else if (unit == "1e-6") {
    text += fmt::format("{} {}.{:06}\n", name, value / 1'000'000, value % 1'000'000);
  } else {
    text += fmt::format("{} {}\n", name, value);
  }
}

void append_times(std::string& text, const CounterSnapshot& snapshot, const wire::TokenTimes& times) {
  const std::string name = fmt::format("iokv_{}_seconds", times.name);
  append_head(text, name, fmt::format("time {}", times.meaning), "histogram");
  uint64_t tokens = 0;
  for (uint32_t i = 0; i < wire::kTokenTimeBounds; ++i) {
    tokens += snapshot[times.slot(i)];
    text += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, static_cast<double>(wire::kTokenTimeBounds_ns[i]) / 1e9, tokens);
  }
  tokens += snapshot[times.slot(wire::kTokenTimeBounds)];
  const uint64_t sum_ns = snapshot[times.sum_ns()];
  text += fmt::format("{0}_bucket{{le=\"+Inf\"}} {1}\n{0}_sum {2}.{3:09}\n{0}_count {1}\n", name, tokens,
                      sum_ns / 1'000'000'000, sum_ns % 1'000'000'000);
}

void append_up(std::string& text, bool up) {
  append_head(text, "iokv_up", "whether a daemon answers", "gauge");
  text += fmt::format("iokv_up {}\n", up ? 1 : 0);
}

// The request's head, or nothing: the peer has gone, is too slow or sends too much.
std::optional<std::string> read_request(int socket) {
  std::string request;
  timespec begun{};
  ::clock_gettime(CLOCK_MONOTONIC, &begun);
  while (request.find("\r\n\r\n") == std::string::npos) {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    const auto spent_ms = (now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1'000'000;
    pollfd ready{socket, POLLIN, 0};
    if (spent_ms >= kRequestMs || ::poll(&ready, 1, static_cast<int>(kRequestMs - spent_ms)) <= 0) return std::nullopt;
    char part[1024];
    const ssize_t size = ::recv(socket, part, sizeof part, 0);
    if (size <= 0 || request.size() + static_cast<size_t>(size) > kMostRequestBytes) return std::nullopt;
    request.append(part, static_cast<size_t>(size));
  }
  return request;
}

std::string answer(std::string_view status, std::string_view type, std::string_view body, bool with_body) {
  return fmt::format("HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}", status, type,
                     body.size(), with_body ? body : "");
}

// As much as the peer takes within kRequestMs: it is a few pages, and fits a socket's buffer.
void send_all(int socket, std::string_view text) {
  while (!text.empty()) {
    pollfd ready{socket, POLLOUT, 0};
    if (::poll(&ready, 1, kRequestMs) <= 0) return;
    const ssize_t size = ::send(socket, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (size <= 0) return;
    text.remove_prefix(static_cast<size_t>(size));
  }
}

// The daemon's counters, for as long as there is one.
class Source {
 public:
  explicit Source(std::string socket_path) : socket_path_(std::move(socket_path)) {}

  std::string text() {
    for (int attempt = 0; attempt < 2; ++attempt) {
      if (watch_) {
        if (const auto snapshot = watch_->read()) return metrics_text(*snapshot);
        watch_.reset();
      }
      auto opened = CounterWatch::open(socket_path_);
      if (!opened) break;
      watch_.emplace(*std::move(opened));
    }
    return metrics_text_without_daemon();
  }

 private:
  std::string socket_path_;
  std::optional<CounterWatch> watch_;
};

void answer_one(int socket, Source& source) {
  const std::optional<std::string> request = read_request(socket);
  if (!request) return;
  const std::string_view line = std::string_view(*request).substr(0, request->find("\r\n"));
  const std::string_view method = line.substr(0, line.find(' '));
  std::string_view target = line.substr(std::min(method.size() + 1, line.size()));
  target = target.substr(0, target.find_first_of(" ?"));
  const bool head = method == "HEAD";
  if (method != "GET" && !head) {
    send_all(socket, answer("405 Method Not Allowed", "text/plain", "only GET\n", true));
  } else if (target != "/metrics") {
    send_all(socket, answer("404 Not Found", "text/plain", "there is /metrics\n", !head));
  } else {
    send_all(socket, answer("200 OK", "text/plain; version=0.0.4; charset=utf-8", source.text(), !head));
  }
}

}  // namespace

std::string metrics_text(const CounterSnapshot& snapshot) {
  std::string text;
  append_up(text, true);
  append_head(text, "iokv_daemon_info", "which daemon it is: a random number of its run, and its process id", "gauge");
  text += fmt::format("iokv_daemon_info{{instance_id=\"{}\",pid=\"{}\"}} 1\n", snapshot[wire::Counter::instance],
                      snapshot[wire::Counter::pid]);
  for (uint32_t i = 0; i < std::min(snapshot.known, wire::kCounters); ++i) {
    const auto counter = static_cast<wire::Counter>(i);
    if (counter == wire::Counter::instance || counter == wire::Counter::pid || is_token_time(i)) continue;
    append_counter(text, snapshot, i);
  }
  for (const wire::TokenTimes& times : {wire::kFirstToken, wire::kTokenGap}) {
    if (static_cast<uint32_t>(times.sum_ns()) < snapshot.known) append_times(text, snapshot, times);
  }
  return text;
}

std::string metrics_text_without_daemon() {
  std::string text;
  append_up(text, false);
  return text;
}

Result<Descriptor> listen_for_metrics(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return error(path + ": longer than the path of a socket may be");
  std::memcpy(address.sun_path, path.data(), path.size());
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return error(std::string("socket: ") + std::strerror(errno));
  if (::bind(socket.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const char* advice = errno == EADDRINUSE ? "; remove it if nobody listens there" : "";
    return error(fmt::format("{}: {}{}", path, std::strerror(errno), advice));
  }
  if (::chmod(path.c_str(), 0660) != 0 || ::listen(socket.number(), 16) != 0) {
    return error(fmt::format("{}: {}", path, std::strerror(errno)));
  }
  return socket;
}

Status serve_metrics(const Descriptor& listener, const std::string& socket_path) {
  Source source(socket_path);
  while (true) {
    const Descriptor socket(::accept4(listener.number(), nullptr, nullptr, SOCK_CLOEXEC));
    if (socket) {
      answer_one(socket.number(), source);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      ::poll(nullptr, 0, kExhaustedMs);
    } else if (errno == EINVAL || errno == ENOTSOCK || errno == EBADF || errno == EOPNOTSUPP) {
      return error("what was passed on is no listening stream socket: the .socket unit has to name it with ListenStream=");
    }
  }
}

}  // namespace iokv
