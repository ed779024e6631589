// SPDX-License-Identifier: Apache-2.0
#include "daemon/log.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/sinks/stdout_sinks.h>

namespace iokv {
namespace {

// sd-daemon(3): SD_ERR and its like, which are those of syslog.
const char* priority_of(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::critical: return "<2>";
    case spdlog::level::err: return "<3>";
    case spdlog::level::warn: return "<4>";
    case spdlog::level::info: return "<6>";
    default: return "<7>";
  }
}

class PriorityFlag final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    const std::string_view priority = priority_of(message.level);
    out.append(priority.data(), priority.data() + priority.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return spdlog::details::make_unique<PriorityFlag>(); }
};

// The text, on one line whatever is in it: nobody can add lines of his own.
class LineFlag final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    for (const char letter : message.payload) out.push_back(static_cast<unsigned char>(letter) < ' ' ? ' ' : letter);
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return spdlog::details::make_unique<LineFlag>(); }
};

bool to_journal() { return is_journal(fileno(stderr), std::getenv("JOURNAL_STREAM")); }

}  // namespace

std::unique_ptr<spdlog::formatter> log_formatter(bool journal) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<PriorityFlag>('P').add_flag<LineFlag>('L');
  formatter->set_pattern(journal ? "%P%L" : "%Y-%m-%d %H:%M:%S.%e %l %L");
  return formatter;
}

bool is_journal(int descriptor, const char* journal_stream) {
  struct stat status {};
  if (journal_stream == nullptr || ::fstat(descriptor, &status) != 0) return false;
  return fmt::format("{}:{}", status.st_dev, status.st_ino) == journal_stream;
}

void start_log(const std::string& level) {
  spdlog::set_default_logger(to_journal() ? spdlog::stderr_logger_mt("iokvd") : spdlog::stderr_color_mt("iokvd"));
  spdlog::set_formatter(log_formatter(to_journal()));
  set_log_level(level);
}

void set_log_level(const std::string& level) { spdlog::set_level(spdlog::level::from_str(level)); }

void log_failure(const std::string& message) {
  if (to_journal()) return spdlog::critical("{}", message);
  fmt::print(stderr, "iokvd: {}\n", message);
}

bool LogRate::take(uint64_t now_ns) {
  const uint64_t refills = (now_ns - refilled_ns_) / kIntervalNs;
  left_ = static_cast<uint32_t>(std::min<uint64_t>(left_ + refills, kBurst));
  refilled_ns_ += refills * kIntervalNs;
  if (left_ == 0) {
    hidden_++;
    return false;
  }
  left_--;
  return true;
}

}  // namespace iokv
